"""A job: the ids of one prompt, and the policies that are still to be decoded for it."""

from collections.abc import Sequence
from typing import NamedTuple

from tenner.core.chat_template import PromptText, Span, encode_prompt
from tenner.core.errors import NoRoom
from tenner.core.formats import ThinkFormat, Tokenizer
from tenner.core.records import Policy, Sampling
from tenner.inference.forcing import ForcingMachine, Phase
from tenner.inference.format_ids import FormatIds
from tenner.inference.rng import PositionalRNG
from tenner.inference.sentence_ends import sentence_ends

GREEDY = Sampling()


class Prompt(NamedTuple):
    """A rendered chat that ends where the assistant's turn begins."""

    id: str
    text: str
    literal: tuple[Span, ...] = ()
    """Where a control token in the text is what somebody wrote (see `PromptText`)."""


class Request(NamedTuple):
    """One completion to decode."""

    prompt: Prompt
    policy: Policy
    fmt: ThinkFormat
    answer_tokens_max: int
    sampling: Sampling = GREEDY
    stop: tuple[str, ...] = ()
    """The answer ends before the first of these strings that the student writes in it."""


class Job:
    """One prompt and the machines that wait for a row. They share every token that one of them has sampled."""

    def __init__(
        self,
        prompt: Prompt,
        prompt_ids: list[int],
        rng: PositionalRNG,
        waiting: list[ForcingMachine],
        stop: tuple[str, ...] = (),
    ) -> None:
        self.prompt = prompt
        self.prompt_ids = prompt_ids
        self.rng = rng
        self.waiting = waiting
        self.stop = stop
        """See `Request.stop`."""

    @classmethod
    def of(
        cls,
        tokenizer: Tokenizer,
        prompt: Prompt,
        policies: Sequence[Policy],
        fmt: ThinkFormat,
        *,
        answer_tokens_max: int,
        sampling: Sampling,
        wait_text: str,
        context_tokens: int,
        end_ids: frozenset[int] = frozenset(),
    ) -> "Job":
        """The thinking is not opened where the prompt ends with the format's opening; `end_ids` end a turn, too.

        Raise NoRoom where `context_tokens` cannot hold the prompt, the delimiters and the whole answer, and
        TennerError where the prompt opens the thinking in another format, or closes it.
        """
        at_sentences = any(p.early_exit is not None and p.early_exit.at == "sentence" for p in policies)
        format_ids = FormatIds.resolve(
            tokenizer, fmt.after(prompt.text), wait_text, end_ids,
            sentence_ends=sentence_ends(tokenizer) if at_sentences else frozenset(),
        )  # fmt: skip
        prompt_ids = encode_prompt(tokenizer, PromptText(prompt.text, prompt.literal))
        assert prompt_ids, "a rendered prompt is never empty"
        room = context_tokens - len(prompt_ids) - format_ids.injected_tokens_max - answer_tokens_max
        if room < 0:
            raise NoRoom(
                f"prompt {prompt.id} has {len(prompt_ids)} tokens: {-room} too many for the context of "
                f"{context_tokens} tokens and an answer of {answer_tokens_max}",
                hint="shorten the question, or lower answer_tokens_max",
            )
        first = ForcingMachine(format_ids, policies[0], answer_tokens_max=answer_tokens_max, thinking_room=room)
        waiting = [first, *(first.replay(policy) for policy in policies[1:])]
        return cls(prompt, prompt_ids, PositionalRNG(sampling, prompt_ids), waiting)

    def sampled(self, sampling: Sampling) -> "Job":
        """The same request with another sampling; the prompt is not encoded again. Nothing may be decoded yet."""
        waiting = [machine.anew() for machine in self.waiting]
        return Job(self.prompt, self.prompt_ids, PositionalRNG(sampling, self.prompt_ids), waiting, self.stop)

    def take_done(self) -> list[ForcingMachine]:
        """Remove and return the machines that the tokens sampled so far have completed."""
        for machine in self.waiting:
            machine.recall()
        done = [m for m in self.waiting if m.phase is Phase.DONE]
        self.waiting = [m for m in self.waiting if m.phase is not Phase.DONE]
        return done
