"""Finds the word n-grams that texts share with a benchmark."""

from collections.abc import Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tenner.core.records import Question
from tenner.data.text_hashing import Hashed, Hashes, fingerprints, hashed, windows

FILTER_BITS = 22


class Grams(NamedTuple):
    """The n-grams to look up; a filter of 2^FILTER_BITS flags rules most others out without a search."""

    size: int
    values: Hashes
    """Shape (n-grams,). Sorted, unique."""
    seen: NDArray[np.bool_]
    """Shape (2^FILTER_BITS,). Whether any n-gram has these lowest bits."""

    def matches(self, text_words: Hashed) -> "Matches":
        """Where these n-grams occur in texts."""
        found = windows(text_words, self.size)
        # 1. The windows that pass the filter. 2. Binary search for their n-gram. 3. Drop those that are different.
        at = np.flatnonzero(self.seen[_low(found.values)])
        gram = np.minimum(np.searchsorted(self.values, found.values[at]), max(0, len(self.values) - 1))
        if len(self.values):
            right = self.values[gram] == found.values[at]
            at, gram = at[right], gram[right]
        # Window `at` belongs to the last text that starts at or before it.
        text = np.searchsorted(found.starts, at, side="right") - 1
        return Matches(text, at - found.starts[text], gram)


class Matches(NamedTuple):
    """Occurrences of n-grams, in ascending order of text and start. Each array has shape (matches,)."""

    text: NDArray[np.int64]
    start: NDArray[np.int64]
    """The place in the text, in words."""
    gram: NDArray[np.int64]
    """Its index in `Grams.values`."""


class Benchmark:
    """The questions that must not be trained on, and their n-grams."""

    def __init__(self, questions: Sequence[Question], *, ngram_words: int) -> None:
        self.questions = questions
        text = hashed([q.question for q in questions])
        self.by_identity = {int(f): i for i, f in reversed(list(enumerate(fingerprints(text))))}
        found = windows(text.words(), ngram_words)
        # `gram` is the index in `values` of each window of the benchmark.
        values, gram = np.unique(found.values, return_inverse=True)
        seen = np.zeros(1 << FILTER_BITS, bool)
        seen[_low(values)] = True
        self.grams = Grams(ngram_words, values, seen)
        owner = np.repeat(np.arange(len(questions)), found.lengths)
        # Each n-gram with each of its questions once, as one number, sorted by n-gram.
        pairs = np.unique(gram.astype(np.int64) * max(1, len(questions)) + owner)
        self._gram_of_pair, self._owner_of_pair = np.divmod(pairs, max(1, len(questions)))

    @cached_property
    def owners_count(self) -> NDArray[np.int64]:
        """The number of questions that hold each n-gram. Shape: (n-grams,)."""
        return np.bincount(self._gram_of_pair, minlength=len(self.grams.values))

    def owners(self, gram: int) -> list[int]:
        """The indices of the questions that hold an n-gram."""
        low, high = np.searchsorted(self._gram_of_pair, [gram, gram + 1])
        return [int(i) for i in self._owner_of_pair[low:high]]


def _low(values: Hashes) -> NDArray[np.int64]:
    """The lowest FILTER_BITS bits."""
    return (values & np.uint64((1 << FILTER_BITS) - 1)).astype(np.int64)
