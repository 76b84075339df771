"""The continuous batch of the embedded engine: rows that decode under forcing machines, and their scheduling.

A row of the batch holds one completion and, in the decoder, the state of the ids fed so far. When a completion is
done, its row continues with another policy of the same prompt and keeps the state of the common prefix. So each prompt
is prefilled once and its thinking sampled once, however many policies share it. Free rows take new prompts; when none
are left, they take a waiting policy of a busy row, with a copy of the state of the common prefix. (A decoder that
cannot shorten a state keeps that of the prompt, and is fed the common ids again.)

A trial answer of early exit is decoded in the row of its completion, whose state is then shortened to the thinking.

Shape suffixes: R rows, V vocabulary.
"""

from collections import deque

import torch

from tenner.inference.forcing import ForcingMachine, Measured, Phase
from tenner.inference.hf.decoder import Decoder, RowFeed
from tenner.inference.job import Job, Prompt
from tenner.inference.sampling import draw, measure

PREFILL_TOKENS_MAX = 8192
"""No further prompt joins a step that already feeds this many prompt tokens."""


class _Row:
    """One running completion. The decoder has cached the first `cached` ids of prompt and completion."""

    def __init__(
        self, job: Job, machine: ForcingMachine, cached: int, *, thinking: ForcingMachine | None = None
    ) -> None:
        self.job = job
        self.machine = machine
        self.cached = cached
        self.thinking = thinking
        """The machine that the row goes on with after a trial answer; None: this is none."""

    @property
    def unfed(self) -> RowFeed:
        """The ids that the next step must feed."""
        prompt_tokens = len(self.job.prompt_ids)
        if self.cached >= prompt_tokens:
            return RowFeed(self.machine.ids[self.cached - prompt_tokens :], self.cached)
        restart_at = prompt_tokens if self.job.waiting else 0
        return RowFeed(self.job.prompt_ids[self.cached :] + self.machine.ids, self.cached, restart_at)

    def shared(self, machine: ForcingMachine) -> int:
        """How many cached ids another machine of the prompt can reuse; its last id is always fed, for its logits."""
        prompt_tokens = len(self.job.prompt_ids)
        ids = self.machine.ids[: max(0, self.cached - prompt_tokens)]
        same = next((i for i, (a, b) in enumerate(zip(ids, machine.ids, strict=False)) if a != b), None)
        common = min(self.cached, prompt_tokens) + (min(len(ids), len(machine.ids)) if same is None else same)
        return min(common, prompt_tokens + len(machine.ids) - 1)

    def uniform(self) -> float:
        """The random number of the next token; 0.0 in greedy decoding."""
        rng = self.job.rng
        return rng.uniform(len(self.machine.ids)) if rng.sampling.temperature > 0 else 0.0

    def push(self, token: int, measured: Measured | None) -> None:
        """Take the token sampled after all ids, which are now cached."""
        self.cached = len(self.job.prompt_ids) + len(self.machine.ids)
        self.machine.push(token, measured)
        self.machine.recall()


class ContinuousBatch:
    """The active rows and the queue of jobs that wait for a row."""

    def __init__(self, decoder: Decoder, *, rows_max: int, vocabulary: int) -> None:
        self._decoder = decoder
        self._queue: deque[Job] = deque()
        self._rows: list[_Row] = []
        self._rows_max = rows_max
        self._vocabulary = vocabulary

    def submit(self, job: Job) -> None:
        """Queue a job."""
        self._queue.append(job)

    @torch.inference_mode()  # moving a row copies its state
    def cancel(self, job: Job) -> None:
        """Drop a job and free its rows at once; no effect on a job that is done."""
        if job in self._queue:
            self._queue.remove(job)
        for i in reversed(range(len(self._rows))):
            if self._rows[i].job is job:
                self._free(i)

    @torch.inference_mode()
    def step(self) -> list[tuple[Prompt, ForcingMachine]] | None:
        """Decode a token for every row. Return the completions that finished; None where there is no work."""
        # 1. Admit prompts and waiting policies to free rows.
        self._fill()
        if not self._rows:
            return None
        for i, row in enumerate(self._rows):
            if row.machine.trial_due:
                self._switch(i, row.machine.trial(), thinking=row.machine)
        # 2. Forward pass, one token for each row, pushed to its forcing machine.
        for row, (token, measured) in zip(self._rows, self._sample(), strict=True):
            row.push(token, measured)
        # 3. Collect finished completions, and give their rows to other policies.
        finished = []
        for i in reversed(range(len(self._rows))):  # from the end: a row that moves to slot i has been visited
            row = self._rows[i]
            if row.machine.trial_due:
                row.machine.recall()  # another row of the prompt may have decoded the end of the trial in this step
            if row.thinking is not None and row.machine.phase is Phase.DONE:
                row.thinking.conclude(row.machine)
                row.thinking.recall()
                row = self._switch(i, row.thinking)
            if row.machine.phase is Phase.DONE:
                finished += [(row.job.prompt, machine) for machine in (row.machine, *row.job.take_done())]
                self._continue(i)
        return finished

    def _sample(self) -> list[tuple[int, Measured | None]]:
        """Feed all rows and sample the next token of each; what is measured of it, where a policy of its job asks."""
        logits_RV = self._decoder.feed([row.unfed for row in self._rows])
        # Embedding rows beyond the tokenizer's vocabulary are untrained padding, and are cut off.
        logits_RV = logits_RV[:, : self._vocabulary]
        tokens = draw(
            logits_RV, [row.job.rng.sampling for row in self._rows], [row.uniform() for row in self._rows]
        )  # fmt: skip
        measured: list[Measured | None] = [None] * len(tokens)
        if measuring := [i for i, row in enumerate(self._rows) if row.machine.measures]:
            ends = [self._rows[i].machine.format_ids.ends for i in measuring]
            if len(measuring) < len(tokens):
                logits_RV = logits_RV[measuring]
            found = measure(logits_RV, [tokens[i] for i in measuring], ends)
            for i, one in zip(measuring, found, strict=True):
                measured[i] = one
        return list(zip(tokens, measured, strict=True))

    def _continue(self, i: int) -> None:
        """Continue a finished row with the policy of its prompt that shares the longest prefix, or free the row."""
        row = self._rows[i]
        if startable := self._startable(row.job, but=row):
            machine = max(startable, key=row.shared)
            row.job.waiting.remove(machine)
            self._switch(i, machine)
            return
        self._free(i)

    def _switch(self, i: int, machine: ForcingMachine, *, thinking: ForcingMachine | None = None) -> _Row:
        """Go on in row i with another machine of its prompt, which keeps the state of the common prefix."""
        row = self._rows[i]
        cached = self._decoder.fork(i, i, row.shared(machine))
        self._rows[i] = _Row(row.job, machine, cached, thinking=thinking)
        return self._rows[i]

    def _free(self, i: int) -> None:
        """Remove row i; the last row takes its place."""
        last = self._rows.pop()
        if i < len(self._rows):
            self._decoder.move(len(self._rows), i, last.cached)
            self._rows[i] = last

    def _startable(self, job: Job, *, but: _Row | None = None) -> list[ForcingMachine]:
        """The waiting machines whose ids no other row has: a row with the same ids samples the same tokens for both.

        One that a trial answer has completed is collected with the next row of its job that is done.
        """
        working = [row.machine.ids for row in self._rows if row.job is job and row is not but]
        return [m for m in job.waiting if m.phase is not Phase.DONE and m.ids not in working]

    def _fill(self) -> None:
        """Fill the free rows: new prompts first, then waiting policies of prompts in the batch."""
        prefill_tokens = 0
        while self._queue and len(self._rows) < self._rows_max and prefill_tokens < PREFILL_TOKENS_MAX:
            job = self._queue.popleft()
            self._rows.append(_Row(job, job.waiting.pop(0), cached=0))
            prefill_tokens += len(job.prompt_ids)
        if self._queue:
            return
        for source in list(self._rows):
            if source.cached == 0:
                continue  # not prefilled yet: forking it now would prefill the prompt twice
            for machine in source.job.waiting:
                machine.recall()
            while len(self._rows) < self._rows_max and (startable := self._startable(source.job)):
                self._fork(source.job, startable[0])

    def _fork(self, job: Job, machine: ForcingMachine) -> None:
        """A new row for a waiting machine, with a copy of the longest prefix that a row of its prompt has cached."""
        source = max(
            (i for i, row in enumerate(self._rows) if row.job is job), key=lambda i: self._rows[i].shared(machine)
        )
        cached = self._decoder.fork(source, len(self._rows), self._rows[source].shared(machine))
        job.waiting.remove(machine)
        self._rows.append(_Row(job, machine, cached))
