"""The token ids that end a sentence: a switch point of early exit."""

from functools import lru_cache
from typing import Any, cast

from tenner.core.formats import Tokenizer

MARKS = (".", "!", "?", "\u3002", "\uff01", "\uff1f")
"""Full stops, exclamation and question marks, the full-width ones too."""


@lru_cache(maxsize=4)  # a large vocabulary takes seconds
def sentence_ends(tokenizer: Tokenizer) -> frozenset[int]:
    """The ids whose text ends with a mark or a line break, but for spaces behind it. Control tokens do not count.

    One id decides, so the point of "3.14" ends a sentence, too: that costs a trial, and changes nothing else.
    """

    def ends(text: str) -> bool:
        words = text.rstrip()
        return words.endswith(MARKS) or "\n" in text[len(words) :]

    ids = range(len(cast(Any, tokenizer)))
    return frozenset(i for i in ids if ends(tokenizer.decode([i], skip_special_tokens=True)))
