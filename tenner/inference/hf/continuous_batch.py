"""The continuous batch of the embedded engine: rows that decode under forcing machines, and who takes one next.

A row of the batch holds one completion and, in its slot of the cache, the keys and values of the ids fed so far. When
a completion is done its row goes on with another policy of the same prompt: what the two have in common is kept, and
only the tail is forgotten. So a prompt is fed once and thought through once, however many policies it serves. Rows
without work take new prompts; when there are none left they take a waiting policy off a busy row, with a copy of the
common prefix.

Letters in names: R rows, T tokens fed in a step, V vocabulary.
"""

from collections import deque

import torch
from transformers import PreTrainedModel

from tenner.inference.forcing import ForcingMachine, Phase
from tenner.inference.hf.kv_cache import KVCache
from tenner.inference.job import Job, Prompt
from tenner.inference.sampling import draw

PREFILL_TOKENS_MAX = 8192
"""No further prompt joins a step that feeds this many prompt tokens."""


class _Row:
    """One completion in the making. The row's slot holds the first `cached` ids of prompt and completion."""

    def __init__(self, job: Job, machine: ForcingMachine, cached: int) -> None:
        self.job = job
        self.machine = machine
        self.cached = cached

    @property
    def unfed(self) -> list[int]:
        beyond_prompt = self.cached - len(self.job.prompt_ids)
        if beyond_prompt >= 0:
            return self.machine.ids[beyond_prompt:]
        return self.job.prompt_ids[self.cached :] + self.machine.ids

    def shared(self, machine: ForcingMachine) -> int:
        """How many ids in the slot another machine of the same prompt could use; the last id is always fed anew."""
        prompt_tokens = len(self.job.prompt_ids)
        ids = self.machine.ids[: max(0, self.cached - prompt_tokens)]
        same = next((i for i, (a, b) in enumerate(zip(ids, machine.ids, strict=False)) if a != b), None)
        common = min(self.cached, prompt_tokens) + (min(len(ids), len(machine.ids)) if same is None else same)
        return min(common, prompt_tokens + len(machine.ids) - 1)

    def uniform(self) -> float:
        """The random number of the next token; greedy decoding asks for none."""
        rng = self.job.rng
        return rng.uniform(len(self.machine.ids)) if rng.sampling.temperature > 0 else 0.0

    def push(self, token: int) -> None:
        """Take the token sampled after all ids, which have been fed."""
        self.cached = len(self.job.prompt_ids) + len(self.machine.ids)
        self.machine.push(token)
        self.machine.recall()


class ContinuousBatch:
    """The rows being decoded, row i in slot i, and the jobs that wait for a row."""

    def __init__(self, model: PreTrainedModel, *, rows_max: int, vocabulary: int) -> None:
        self._model = model
        self._slots = KVCache(model, rows_max=rows_max)
        self._queue: deque[Job] = deque()
        self._rows: list[_Row] = []
        self._rows_max = rows_max
        self._vocabulary = vocabulary

    def submit(self, job: Job) -> None:
        """Let a job wait for a row."""
        self._queue.append(job)

    @torch.inference_mode()  # a row that moves up is copied in the cache
    def cancel(self, job: Job) -> None:
        """Forget a job and free its rows at once; nothing happens where it is done already."""
        if job in self._queue:
            self._queue.remove(job)
        for i in reversed(range(len(self._rows))):
            if self._rows[i].job is job:
                self._free(i)

    @torch.inference_mode()
    def step(self) -> list[tuple[Prompt, ForcingMachine]] | None:
        """Decode a token for every row. Give the completions that this has finished; None where there is no work."""
        self._fill()
        if not self._rows:
            return None
        for row, token in zip(self._rows, self._sample(), strict=True):
            row.push(token)
        finished = []
        for i in reversed(range(len(self._rows))):  # from the end: a row that moves up has been looked at
            row = self._rows[i]
            if row.machine.phase is Phase.DONE:
                finished += [(row.job.prompt, machine) for machine in (row.machine, *row.job.take_done())]
                self._go_on(i)
        return finished

    def _sample(self) -> list[int]:
        """The token after each row's ids."""
        unfed = [row.unfed for row in self._rows]
        feed = self._slots.feed([len(ids) for ids in unfed], [row.cached for row in self._rows])
        ids_T = torch.tensor([token for ids in unfed for token in ids], device=self._model.device)
        logits_1RV = self._model(
            input_ids=ids_T[None],
            position_ids=feed.position_T[None],
            use_cache=False,
            logits_to_keep=feed.last_R,
            slots=self._slots,
            feed=feed,
        ).logits
        # Rows of the embedding beyond the tokenizer's ids are padding: never trained, and not to be decoded.
        return draw(
            logits_1RV[0, :, : self._vocabulary],
            [row.job.rng.sampling for row in self._rows],
            [row.uniform() for row in self._rows],
        )

    def _go_on(self, i: int) -> None:
        """Give a row that is done the next policy of its prompt, the one that shares most with it; or free it."""
        row = self._rows[i]
        if following := self._startable(row.job, but=row):
            machine = max(following, key=row.shared)
            row.job.waiting.remove(machine)
            self._rows[i] = _Row(row.job, machine, row.shared(machine))
            return
        self._free(i)

    def _free(self, i: int) -> None:
        """Take row i away; the last row moves into its slot."""
        last = self._rows.pop()
        if i < len(self._rows):
            self._slots.copy(len(self._rows), i, last.cached)
            self._rows[i] = last

    def _startable(self, job: Job, *, but: _Row | None = None) -> list[ForcingMachine]:
        """The waiting machines that no other row is working for: one with the same ids samples the same tokens."""
        working = [row.machine.ids for row in self._rows if row.job is job and row is not but]
        return [machine for machine in job.waiting if machine.ids not in working]

    def _fill(self) -> None:
        """Put work into the free rows: new prompts, then waiting policies of prompts in the batch."""
        prefill_tokens = 0
        while self._queue and len(self._rows) < self._rows_max and prefill_tokens < PREFILL_TOKENS_MAX:
            job = self._queue.popleft()
            self._rows.append(_Row(job, job.waiting.pop(0), cached=0))
            prefill_tokens += len(job.prompt_ids)
        if self._queue:
            return
        for source in list(self._rows):
            if source.cached == 0:
                continue  # its prompt goes through the model in the coming step, and only once
            for machine in source.job.waiting:
                machine.recall()
            while len(self._rows) < self._rows_max and (startable := self._startable(source.job)):
                self._fork(source.job, startable[0])

    def _fork(self, job: Job, machine: ForcingMachine) -> None:
        """A new row for a waiting machine, with a copy of the longest prefix that a row of its prompt has cached."""
        source = max(
            (i for i, row in enumerate(self._rows) if row.job is job), key=lambda i: self._rows[i].shared(machine)
        )
        cached = self._rows[source].shared(machine)
        self._slots.copy(source, len(self._rows), cached)
        job.waiting.remove(machine)
        self._rows.append(_Row(job, machine, cached))
