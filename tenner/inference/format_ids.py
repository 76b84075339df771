"""What forcing knows of a tokenizer: the ids of the delimiters, of the wait text, and of all ends of a turn."""

from dataclasses import dataclass
from typing import Self

from tenner.core.errors import TennerError
from tenner.core.formats import ThinkFormat, Tokenizer


@dataclass(frozen=True, slots=True)
class FormatIds:
    """A think format and the wait text as ids, each text encoded on its own."""

    open: tuple[int, ...]
    close: tuple[int, ...]
    cue: tuple[int, ...]
    wait: tuple[int, ...]
    eos: frozenset[int]
    """All ids that end a turn."""
    own_eos: int | None = None
    """The tokenizer's end of text; None: the smallest of `eos`."""
    sentence_ends: frozenset[int] = frozenset()
    """The ids that end a sentence; known only where a policy asks for them."""

    @classmethod
    def resolve(
        cls, tokenizer: Tokenizer, fmt: ThinkFormat, wait_text: str, end_ids: frozenset[int] = frozenset(),
        *, sentence_ends: frozenset[int] = frozenset(),
    ) -> Self:  # fmt: skip
        """`end_ids` are the model's beside the tokenizer's own (see `core/turn_end.py`).

        Raise TennerError where the wait text has no ids: then a suppressed end would only be sampled again.
        """
        opening, close, cue, wait = (
            tuple(tokenizer.encode(text, add_special_tokens=False))
            for text in (fmt.open, fmt.close, fmt.cue, wait_text)
        )
        if not wait:
            raise TennerError("the wait text is empty", hint='give a text to continue from, such as "Wait"')
        own = tokenizer.eos_token_id
        eos = end_ids if own is None else end_ids | {own}
        if not eos:
            raise TennerError(
                "the student's tokenizer names no end of text", hint="set eos_token in its tokenizer_config.json"
            )
        return cls(opening, close, cue, wait, eos, own, sentence_ends)

    @property
    def end_of_text(self) -> int:
        """The end that an engine is made to emit: every one stops at the tokenizer's own."""
        return min(self.eos) if self.own_eos is None else self.own_eos

    @property
    def ends(self) -> frozenset[int]:
        """The ids that begin an end of thinking."""
        return self.eos.union(self.close[:1])

    @property
    def injected_tokens_max(self) -> int:
        """The largest number of ids that are neither thinking nor sampled answer: the delimiters and the cue."""
        return len(self.open) + len(self.close) + len(self.cue)
