"""The engine: what runs a student under forcing policies, whatever it is built on."""

from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple, Protocol

from tenner.errors import NoRoom
from tenner.formats import ThinkFormat, Tokenizer
from tenner.records import Intervention, Policy, Sampling
from tenner.think.forcing import ForcingMachine, FormatIds, Phase

Part = Literal["thinking", "answer"]


class Prompt(NamedTuple):
    """A rendered chat up to where the assistant speaks."""

    id: str
    text: str


class Request(NamedTuple):
    """One answer that is asked for."""

    prompt: Prompt
    policy: Policy
    fmt: ThinkFormat
    answer_tokens_max: int
    sampling: Sampling = Sampling()


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
        self._machine = machine
        self._tokenizer = tokenizer
        self._shown: dict[Part, int] = {"thinking": 0, "answer": 0}
        self._anchor: dict[Part, int] = {"thinking": 0, "answer": 0}

    def fresh(self) -> Iterator[Piece]:
        """The pieces that have come since the last call. What may still be taken back waits until it stands."""
        machine = self._machine
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
        return any(i.position <= position < i.position + i.tokens for i in self._machine.interventions)


class Engine(Protocol):
    """A student that answers. The text that replaces a suppressed end of thinking is the engine's own setting."""

    @property
    def tokenizer(self) -> Tokenizer: ...

    def sweep(
        self, prompts: Sequence[Prompt], policies: Sequence[Policy], fmt: ThinkFormat, *, answer_tokens_max: int
    ) -> Iterator[Generation]:
        """Every prompt under every policy, each yielded as it is done."""
        ...

    def stream(self, prompt: Prompt, policy: Policy, fmt: ThinkFormat, *, answer_tokens_max: int) -> Iterator[Piece]:
        """One answer, piece by piece."""
        ...


def thinking_room(
    prompt: Prompt, prompt_tokens: int, format_ids: FormatIds, answer_tokens_max: int, context: int
) -> int:
    """The tokens that the context leaves for thinking when the delimiters and the whole answer must still fit.

    Raise NoRoom where that is less than nothing.
    """
    room = context - prompt_tokens - format_ids.injected_tokens_max - answer_tokens_max
    if room < 0:
        raise NoRoom(
            f"prompt {prompt.id} has {prompt_tokens} tokens: {-room} too many for the context of {context} tokens "
            f"and an answer of {answer_tokens_max}",
            hint="shorten the question, or lower answer_tokens_max",
        )
    return room
