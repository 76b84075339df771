"""The engine interface: decode a student under forcing policies, and the base classes of its implementations."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

from tenner.core import turn_end
from tenner.core.errors import TennerError
from tenner.core.formats import ThinkFormat, Tokenizer
from tenner.core.records import Intervention, Policy, Sampling
from tenner.inference.forcing import ForcingMachine, Phase
from tenner.inference.job import GREEDY, Job, Prompt, Request
from tenner.inference.stop_strings import StopStrings

Part = Literal["thinking", "answer"]


class Generation(NamedTuple):
    """One completion of one prompt under one policy. The texts are decoded with special tokens."""

    prompt_id: str
    policy: Policy
    thinking: str
    answer: str
    token_ids: tuple[int, ...]
    """All ids after the prompt, injected ones included, without the end of text."""
    thinking_tokens: int
    answer_tokens: int
    truncated: bool
    interventions: tuple[Intervention, ...]
    trial_tokens: int = 0
    """Tokens sampled in trial answers of early exit that are no part of the completion."""

    @classmethod
    def of(cls, prompt_id: str, machine: ForcingMachine, tokenizer: Tokenizer) -> "Generation":
        """The outcome of a machine that is done."""
        return cls(
            prompt_id=prompt_id,
            policy=machine.policy,
            thinking=tokenizer.decode(machine.thinking_ids, skip_special_tokens=False),
            answer=tokenizer.decode(machine.answer_ids, skip_special_tokens=False),
            token_ids=tuple(machine.ids),
            thinking_tokens=machine.thinking_tokens,
            answer_tokens=machine.answer_tokens,
            truncated=machine.truncated,
            interventions=machine.interventions,
            trial_tokens=machine.trial_tokens,
        )


class Piece(NamedTuple):
    """A piece of text of a stream; `forced`: it was injected. Delimiters are left out.

    The pieces of a part, joined, are the text of that part of the Generation.
    """

    text: str
    part: Part
    forced: bool


class Transcript:
    """The text of a running machine, as pieces, up to the first stop string in what is sampled of the answer."""

    def __init__(self, machine: ForcingMachine, tokenizer: Tokenizer, stop: Sequence[str] = ()) -> None:
        self.machine = machine
        self._tokenizer = tokenizer
        self._stop = StopStrings(stop)
        self._answer = ""
        self._shown: dict[Part, int] = {"thinking": 0, "answer": 0}
        self._anchor: dict[Part, int] = {"thinking": 0, "answer": 0}

    @property
    def done(self) -> bool:
        """Whether the machine is done, or a stop string was found: `fresh` then has no more to give."""
        return self.machine.phase is Phase.DONE or self._stop.found

    def fresh(self) -> Iterator[Piece]:
        """The pieces since the last call. An undecided start of the closing delimiter or of a stop string is held back.

        A stop string counts in the text that the student samples: a cue that contains one stops nothing.
        """
        machine = self.machine
        thinking = machine.thinking_ids[: machine.settled - machine.thinking_start]
        yield from self._part("thinking", thinking, machine.thinking_start, machine.phase is not Phase.THINKING)
        for piece in self._part("answer", machine.answer_ids, machine.answer_start, machine.phase is Phase.DONE):
            text = piece.text if piece.forced else self._stop.feed(piece.text)
            if text:
                self._answer += text
                yield piece._replace(text=text)
        if machine.phase is Phase.DONE and (text := self._stop.flush()):
            self._answer += text
            yield Piece(text, "answer", forced=False)

    def generation(self, prompt_id: str) -> Generation:
        """The outcome of a transcript that is done, its answer without the stop string and what follows it."""
        whole = Generation.of(prompt_id, self.machine, self._tokenizer)
        return whole._replace(answer=self._answer, truncated=False) if self._stop.found else whole

    def _part(self, part: Part, ids: list[int], start: int, over: bool) -> Iterator[Piece]:
        """`ids` is the part so far, which begins at position `start` of the completion."""
        for end in range(self._shown[part] + 1, len(ids) + 1):
            # Decoded together with the piece before it: some tokenizers decode the first id of a text differently.
            anchor, shown = self._anchor[part], self._shown[part]
            before = self._tokenizer.decode(ids[anchor:shown], skip_special_tokens=False)
            text = self._tokenizer.decode(ids[anchor:end], skip_special_tokens=False)
            if text.endswith("\N{REPLACEMENT CHARACTER}") and not (over and end == len(ids)):
                continue  # an incomplete multi-byte character
            self._anchor[part], self._shown[part] = shown, end
            yield Piece(text[len(before) :], part, self._forced(start + end - 1))

    def _forced(self, position: int) -> bool:
        return any(i.position <= position < i.position + i.tokens for i in self.machine.interventions)


class EngineInfo(NamedTuple):
    """What an engine computes with: recorded beside every result."""

    name: str
    precision: str | None
    """The dtype of weights and products, such as `bfloat16`; None: not known, as behind a URL."""
    device: str | None
    packages: tuple[str, ...] = ()
    """Further packages whose versions are recorded."""


class Engine(Protocol):
    """A student that completes prompts. The text that replaces a suppressed end is a setting of the engine."""

    @property
    def tokenizer(self) -> Tokenizer: ...

    def sweep(
        self,
        prompts: Sequence[Prompt],
        policies: Sequence[Policy],
        fmt: ThinkFormat,
        *,
        answer_tokens_max: int,
        sampling: Sampling = GREEDY,
    ) -> Iterator[Generation]:
        """Every prompt under every policy, each yielded as it is done; policies of a prompt share their thinking.

        Raise TennerError, before anything is decoded, where a prompt leaves no room for its answer.
        """
        ...

    def stream(
        self,
        prompt: Prompt,
        policy: Policy,
        fmt: ThinkFormat,
        *,
        answer_tokens_max: int,
        sampling: Sampling = GREEDY,
    ) -> Iterator[Piece]:
        """One answer, piece by piece."""
        ...


class Batch(Protocol):
    """A continuous batch: jobs may join and leave between any two steps. One thread at a time."""

    def submit(self, job: Job) -> None: ...

    def cancel(self, job: Job) -> None:
        """Drop a job and free its rows at once; no effect on a job that is done."""
        ...

    def step(self) -> list[tuple[Prompt, ForcingMachine]] | None:
        """Decode a token for every row. Return the completions that finished; None where there is no work."""
        ...


class JobEngine(ABC):
    """Base of all engines: turns prompts and policies into jobs. A subclass decodes the jobs. It satisfies Engine."""

    def __init__(
        self, tokenizer: Tokenizer, *, wait_text: str, context_tokens: int, model_dir: Path | None = None
    ) -> None:
        """`context_tokens` is the most that a prompt and its completion may have together.

        `model_dir` is where the model's configuration names further ends of a turn; None: only the tokenizer's.
        """
        self.tokenizer = tokenizer
        self._wait_text = wait_text
        self.context_tokens = context_tokens
        self._model_dir = model_dir

    @cached_property
    def end_ids(self) -> frozenset[int]:
        """All ids that end a turn. Read on first use: a chat template may be set after loading."""
        return frozenset() if self._model_dir is None else turn_end.end_ids(self._model_dir, self.tokenizer)

    @property
    @abstractmethod
    def info(self) -> EngineInfo: ...

    @property
    def exits_early(self) -> bool:
        """Whether it decodes policies of early exit, which need trial answers beside the completion."""
        return False

    @property
    def measures(self) -> bool:
        """Whether it knows the distribution of each token, as grace and a probability of early exit need."""
        return True

    def refuse(self, policy: Policy) -> None:
        """Raise TennerError where the engine cannot decode a policy with this model."""
        early_exit = policy.early_exit
        if early_exit is not None and not self.exits_early:
            raise TennerError(
                f"the engine {self.info.name} cannot end thinking early with this model",
                hint="leave early_exit out, or decode a model without recurrent layers",
            )
        if policy.grace is not None and not self.measures:
            raise TennerError(
                f"the engine {self.info.name} cannot give grace: it does not see the probabilities",
                hint="leave grace out, or take engine hf or vllm",
            )
        if early_exit is not None and early_exit.probability is not None and not self.measures:
            raise TennerError(
                f"the engine {self.info.name} has no early_exit.probability: it does not see the probabilities",
                hint="let agree trials decide alone, or take engine hf or vllm",
            )

    @abstractmethod
    def _decode(self, jobs: Sequence[Job]) -> Iterator[Generation]:
        """Run all policies of all jobs, and yield each completion as it is done."""

    @abstractmethod
    def _decode_stream(self, job: Job, transcript: Transcript) -> Iterator[Piece]:
        """Run a job of one policy, and yield the pieces of its transcript."""

    def prepare(self, request: Request) -> Job:
        """Encode and check a request. Thread-safe. Raise TennerError where the prompt leaves no room."""
        job = self._job(request.prompt, [request.policy], request.fmt, request.answer_tokens_max, request.sampling)
        job.stop = request.stop
        return job

    def sweep(
        self,
        prompts: Sequence[Prompt],
        policies: Sequence[Policy],
        fmt: ThinkFormat,
        *,
        answer_tokens_max: int,
        sampling: Sampling = GREEDY,
    ) -> Iterator[Generation]:
        """Every prompt under every policy; see `Engine.sweep`."""
        if policies:
            yield from self._decode(
                [self._job(prompt, policies, fmt, answer_tokens_max, sampling) for prompt in prompts]
            )

    def stream(
        self,
        prompt: Prompt,
        policy: Policy,
        fmt: ThinkFormat,
        *,
        answer_tokens_max: int,
        sampling: Sampling = GREEDY,
    ) -> Iterator[Piece]:
        """One answer, piece by piece."""
        job = self._job(prompt, [policy], fmt, answer_tokens_max, sampling)
        (machine,) = job.waiting
        yield from self._decode_stream(job, Transcript(machine, self.tokenizer))

    def _job(
        self,
        prompt: Prompt,
        policies: Sequence[Policy],
        fmt: ThinkFormat,
        answer_tokens_max: int,
        sampling: Sampling,
    ) -> Job:
        for policy in policies:
            self.refuse(policy)
        return Job.of(
            self.tokenizer, prompt, policies, fmt,
            answer_tokens_max=answer_tokens_max, sampling=sampling, wait_text=self._wait_text,
            context_tokens=self.context_tokens, end_ids=self.end_ids,
        )  # fmt: skip


class LocalEngine(JobEngine):
    """An engine in this process, whose batch others can join, as a server needs.

    The same prompts, policies and sampling give the same tokens, provided that the arithmetic of a row does not depend
    on the other rows. Thinking is decoded once for all policies of a prompt.
    """

    @abstractmethod
    def batch(self) -> Batch: ...

    def _decode(self, jobs: Sequence[Job]) -> Iterator[Generation]:
        batch = self.batch()
        try:
            for job in jobs:
                batch.submit(job)
            while (finished := batch.step()) is not None:
                for prompt, machine in finished:
                    yield Generation.of(prompt.id, machine, self.tokenizer)
        finally:  # a caller that stops iterating leaves nothing running
            for job in jobs:
                batch.cancel(job)

    def _decode_stream(self, job: Job, transcript: Transcript) -> Iterator[Piece]:
        batch = self.batch()
        try:
            batch.submit(job)
            while batch.step() is not None:
                yield from transcript.fresh()
        finally:
            batch.cancel(job)


def vllm_not_installed() -> TennerError:
    """The error where vLLM is chosen and not installed."""
    return TennerError("vLLM is not installed here", hint="pip install vllm, or scripts/install_vllm.sh")
