"""Which successions of n words a pool shares with a benchmark."""

from collections.abc import Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tenner.core.records import Question
from tenner.data.text_hashing import Hashed, Hashes, fingerprints, hashed, windows

FILTER_BITS = 22


class Grams(NamedTuple):
    """n-grams to be looked up."""

    size: int
    values: Hashes
    """Sorted, without repeats."""
    seen: NDArray[np.bool_]
    """By the lowest bits of the values: what is not seen here need not be looked up."""

    def matches(self, text_words: Hashed) -> "Matches":
        """Where these n-grams occur in texts."""
        found = windows(text_words, self.size)
        at = np.flatnonzero(self.seen[_low(found.values)])
        gram = np.minimum(np.searchsorted(self.values, found.values[at]), max(0, len(self.values) - 1))
        if len(self.values):
            right = self.values[gram] == found.values[at]
            at, gram = at[right], gram[right]
        text = np.searchsorted(found.starts, at, side="right") - 1
        return Matches(text, at - found.starts[text], gram)


class Matches(NamedTuple):
    """Occurrences of n-grams, by text and place in it (in words)."""

    text: NDArray[np.int64]
    start: NDArray[np.int64]
    gram: NDArray[np.int64]
    """Its index in `Grams.values`."""


class Benchmark:
    """The questions that must not be learned from, and their n-grams."""

    def __init__(self, questions: Sequence[Question], *, ngram_words: int) -> None:
        self.questions = questions
        text = hashed([q.question for q in questions])
        self.by_identity = {int(f): i for i, f in reversed(list(enumerate(fingerprints(text))))}
        found = windows(text.words(), ngram_words)
        values, gram = np.unique(found.values, return_inverse=True)
        seen = np.zeros(1 << FILTER_BITS, bool)
        seen[_low(values)] = True
        self.grams = Grams(ngram_words, values, seen)
        owner = np.repeat(np.arange(len(questions)), found.lengths)
        pairs = np.unique(gram.astype(np.int64) * max(1, len(questions)) + owner)
        self._gram_of_pair, self._owner_of_pair = np.divmod(pairs, max(1, len(questions)))

    @cached_property
    def owners_count(self) -> NDArray[np.int64]:
        """How many of the questions hold each n-gram."""
        return np.bincount(self._gram_of_pair, minlength=len(self.grams.values))

    def owners(self, gram: int) -> list[int]:
        """The questions that hold an n-gram, by their index."""
        low, high = np.searchsorted(self._gram_of_pair, [gram, gram + 1])
        return [int(i) for i in self._owner_of_pair[low:high]]


def _low(values: Hashes) -> NDArray[np.int64]:
    return (values & np.uint64((1 << FILTER_BITS) - 1)).astype(np.int64)
