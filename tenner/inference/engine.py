"""The engine: what runs a student under forcing policies, whatever it is built on."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple, Protocol

from tenner.core.formats import ThinkFormat, Tokenizer
from tenner.core.records import Intervention, Policy, Sampling
from tenner.core.sections import EngineName
from tenner.inference.forcing import ForcingMachine, Phase
from tenner.inference.job import GREEDY, Job, Prompt, Request

Part = Literal["thinking", "answer"]


class Generation(NamedTuple):
    """What a student said to one prompt under one policy. The texts are decoded as they are, special tokens too."""

    prompt_id: str
    policy: Policy
    thinking: str
    answer: str
    token_ids: tuple[int, ...]
    """All that came after the prompt, injected ids too, without the end of text."""
    thinking_tokens: int
    answer_tokens: int
    truncated: bool
    interventions: tuple[Intervention, ...]

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
        )


class Piece(NamedTuple):
    """A bit of text as it comes; `forced` is what the policy put in. Delimiters are not shown.

    The pieces of a part, joined, are that part's text of the Generation.
    """

    text: str
    part: Part
    forced: bool


class Transcript:
    """What a running machine has said so far, as pieces."""

    def __init__(self, machine: ForcingMachine, tokenizer: Tokenizer) -> None:
        self.machine = machine
        self._tokenizer = tokenizer
        self._shown: dict[Part, int] = {"thinking": 0, "answer": 0}
        self._anchor: dict[Part, int] = {"thinking": 0, "answer": 0}

    def fresh(self) -> Iterator[Piece]:
        """The pieces that have come since the last call. What may still be taken back waits until it stands."""
        machine = self.machine
        thinking = machine.thinking_ids[: machine.settled - machine.thinking_start]
        yield from self._part("thinking", thinking, machine.thinking_start, machine.phase is not Phase.THINKING)
        yield from self._part("answer", machine.answer_ids, machine.answer_start, machine.phase is Phase.DONE)

    def _part(self, part: Part, ids: list[int], start: int, over: bool) -> Iterator[Piece]:
        """`ids` is the part so far, which begins at `start` of the completion."""
        for end in range(self._shown[part] + 1, len(ids) + 1):
            # Decoded together with the piece before it, since a tokenizer may treat the first id of a text otherwise.
            anchor, shown = self._anchor[part], self._shown[part]
            before = self._tokenizer.decode(ids[anchor:shown], skip_special_tokens=False)
            text = self._tokenizer.decode(ids[anchor:end], skip_special_tokens=False)
            if text.endswith("\N{REPLACEMENT CHARACTER}") and not (over and end == len(ids)):
                continue  # a character of several bytes, not complete yet
            self._anchor[part], self._shown[part] = shown, end
            yield Piece(text[len(before) :], part, self._forced(start + end - 1))

    def _forced(self, position: int) -> bool:
        return any(i.position <= position < i.position + i.tokens for i in self.machine.interventions)


class EngineInfo(NamedTuple):
    """What an engine is, for whoever wants to know where an answer comes from."""

    name: EngineName
    precision: str
    """Of its weights and products, as `bfloat16`."""
    device: str
    packages: tuple[str, ...] = ()
    """Whose versions matter, besides those that every engine is built on."""


class Engine(Protocol):
    """A student that answers. The text that replaces a suppressed end of thinking is the engine's own setting."""

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
        """Every prompt under every policy, each yielded as it is done. A prompt is thought through once for all.

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
        """Forget a job and free its row at once; nothing happens where it is done already."""
        ...

    def step(self) -> list[tuple[Prompt, ForcingMachine]] | None:
        """Decode a token for every row. Give the completions that this has finished; None where there is no work."""
        ...


class LocalEngine(ABC):
    """An engine of this machine, whose batch others can join: what a server needs. It satisfies Engine.

    The same prompts, policies and sampling give the same tokens, as far as the arithmetic is the same in another
    company of rows. A prompt is thought through once for all its policies.
    """

    def __init__(self, tokenizer: Tokenizer, *, wait_text: str, context_tokens: int) -> None:
        self.tokenizer = tokenizer
        self._wait_text = wait_text
        self._context_tokens = context_tokens

    @abstractmethod
    def batch(self) -> Batch: ...

    @property
    @abstractmethod
    def info(self) -> EngineInfo: ...

    def prepare(self, request: Request) -> Job:
        """Encode and check. Any thread may call it. Raise TennerError where the prompt leaves no room."""
        return self._job(request.prompt, [request.policy], request.fmt, request.answer_tokens_max, request.sampling)

    def sweep(
        self,
        prompts: Sequence[Prompt],
        policies: Sequence[Policy],
        fmt: ThinkFormat,
        *,
        answer_tokens_max: int,
        sampling: Sampling = GREEDY,
    ) -> Iterator[Generation]:
        """Every prompt under every policy, each yielded as it is done.

        Raise TennerError, before anything is decoded, where a prompt leaves no room for its answer.
        """
        if policies:
            jobs = [self._job(prompt, policies, fmt, answer_tokens_max, sampling) for prompt in prompts]
            yield from _decode(self.batch(), jobs, self.tokenizer)

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
        yield from _stream(self.batch(), job, self.tokenizer)

    def _job(
        self,
        prompt: Prompt,
        policies: Sequence[Policy],
        fmt: ThinkFormat,
        answer_tokens_max: int,
        sampling: Sampling,
    ) -> Job:
        return Job.of(
            self.tokenizer, prompt, policies, fmt,
            answer_tokens_max=answer_tokens_max, sampling=sampling, wait_text=self._wait_text,
            context_tokens=self._context_tokens,
        )  # fmt: skip


def _decode(batch: Batch, jobs: Sequence[Job], tokenizer: Tokenizer) -> Iterator[Generation]:
    """Bring jobs to their end in a batch of their own."""
    try:
        for job in jobs:
            batch.submit(job)
        while (finished := batch.step()) is not None:
            for prompt, machine in finished:
                yield Generation.of(prompt.id, machine, tokenizer)
    finally:  # whoever reads no further leaves nothing running
        for job in jobs:
            batch.cancel(job)


def _stream(batch: Batch, job: Job, tokenizer: Tokenizer) -> Iterator[Piece]:
    """Bring one job of one policy to its end in a batch of its own, piece by piece."""
    (machine,) = job.waiting
    transcript = Transcript(machine, tokenizer)
    try:
        batch.submit(job)
        while batch.step() is not None:
            yield from transcript.fresh()
    finally:
        batch.cancel(job)
