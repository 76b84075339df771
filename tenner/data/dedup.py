"""Finds exact and near duplicates within a pool.

Candidates for near duplicates come from MinHash (Broder 1997) over pairs of words, with signatures cut into bands, and
are checked by their exact Jaccard similarity. Questions with different numbers or different answers are never
duplicates, however alike they read: they share a template.

Shapes: N texts, P = BANDS * ROWS permutations.
"""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tenner.core.records import Drop, Question
from tenner.data.text_hashing import ODD, Hashed, Hashes, fingerprints, mixed, normalise, sums, windows, words

SHINGLE_WORDS = 2
BANDS, ROWS = 16, 4  # at a similarity of 0.8, one pair in 5,000 shares no band
PERMUTATIONS = BANDS * ROWS
NEAR_WORDS_MIN = 8
"""Shorter questions are never near duplicates: one different word changes too much of them."""
ESTIMATE_SLACK = 0.2  # the signatures' estimate has a standard deviation of 0.05 at a similarity of 0.8
_INDICES_P = np.arange(1, PERMUTATIONS + 1, dtype=np.uint64)
_FACTORS_P, _OFFSETS_P = mixed(_INDICES_P * ODD) | np.uint64(1), mixed(~_INDICES_P * ODD)


class Sketches(NamedTuple):
    """What is kept of each text to find its duplicates."""

    identity: Hashes
    """Shape (N,). Equal for texts that differ only in case, punctuation and spacing."""
    numbers: Hashes
    """Shape (N,). Equal for texts with the same numbers, in any order."""
    words: NDArray[np.int32]
    """Shape (N,). The number of words."""
    signature_NP: NDArray[np.uint32]
    """The smallest hash of the shingles under each permutation."""


def sketch(text: Hashed, text_words: Hashed, *, near: bool) -> Sketches:
    """The sketches of texts; `text_words` are the same texts without operators.

    Signatures are computed only if `near` duplicates are wanted; else they have P = 0.
    """
    numbers = text_words.numbers()
    number_sums = sums(mixed(numbers.values), numbers.starts)
    lengths = text_words.lengths.astype(np.int32)
    signature_NP = np.zeros((len(lengths), 0), np.uint32)
    if near:
        signature_NP = _signatures(windows(text_words, SHINGLE_WORDS))
    return Sketches(fingerprints(text), number_sums, lengths, signature_NP)


def concatenate(parts: Sequence[Sketches]) -> Sketches:
    """The sketches of successive chunks in one."""
    return Sketches(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))


def find(questions: Sequence[Question], sketches: Sketches, *, near_similarity: float) -> list[Drop | None]:
    """Why each question is dropped, or None for those that stay. Of duplicates the first stays."""
    drops: list[Drop | None] = [None] * len(questions)
    first: dict[int, int] = {}
    for i, identity in enumerate(sketches.identity.tolist()):
        owner = first.setdefault(identity, i)
        if owner != i:
            evidence = f"same words as {questions[owner].id}"
            drops[i] = Drop(id=questions[i].id, reason="duplicate", evidence=evidence)
    if near_similarity < 1:
        alone = np.array([drop is None for drop in drops], dtype=bool) & (sketches.words >= NEAR_WORDS_MIN)
        for i, j in _candidates(sketches, alone, near_similarity):
            a, b = questions[i], questions[j]
            if drops[i] or drops[j] or not _may_have_one_answer(a, b):
                continue
            similarity = jaccard(a.question, b.question)
            if similarity >= near_similarity:
                drops[j] = Drop(id=b.id, reason="near duplicate", evidence=f"{similarity:.2f} alike with {a.id}")
    return drops


def jaccard(a: str, b: str) -> float:
    """The Jaccard similarity of two texts' sets of word pairs: shared pairs over all pairs."""
    pairs_a, pairs_b = _shingles(a), _shingles(b)
    return len(pairs_a & pairs_b) / max(1, len(pairs_a | pairs_b))


def _signatures(shingles: Hashed) -> NDArray[np.uint32]:
    """MinHash signatures, shape (N, P); 0 for texts without shingles, which are too short to be candidates."""
    signature_NP = np.zeros((len(shingles.lengths), PERMUTATIONS), np.uint32)
    filled = np.flatnonzero(shingles.lengths)
    if len(filled):
        starts = shingles.starts[filled]
        for k in range(PERMUTATIONS):
            # Multiply-shift hashing to 32 bits, then the minimum over the shingles of each text.
            permuted = ((shingles.values * _FACTORS_P[k] + _OFFSETS_P[k]) >> np.uint64(32)).astype(np.uint32)
            signature_NP[filled, k] = np.minimum.reduceat(permuted, starts)
    return signature_NP


def _candidates(sketches: Sketches, eligible: NDArray[np.bool_], near_similarity: float) -> Iterator[tuple[int, int]]:
    """Pairs i < j with the same numbers and similar signatures, ordered by j.

    In the bucket of a band, each question is paired only with the first one and with the one before it, so that the
    cost is linear in the size of the bucket, not quadratic.
    """
    chosen = np.flatnonzero(eligible)
    signature_NP, numbers, n = sketches.signature_NP, sketches.numbers, len(sketches.numbers)
    found = []
    for band in range(BANDS):
        # 1. The bucket of each chosen question: a hash of its numbers and of the rows of this band. Shape (chosen,).
        key = numbers[chosen]
        for column in range(band * ROWS, (band + 1) * ROWS):
            key = mixed(key * ODD + signature_NP[chosen, column])
        # 2. Sort by bucket. `same` are the places whose key equals that of the place before.
        order = np.argsort(key, kind="stable")
        sorted_key = key[order]
        same = np.flatnonzero(sorted_key[1:] == sorted_key[:-1]) + 1
        bucket_start = np.maximum.accumulate(
            np.where(np.concatenate(([True], sorted_key[1:] != sorted_key[:-1])), np.arange(len(order)), 0)
        )
        # 3. Pair each with the first of its bucket and with the one before it; a pair (i, j) is the number j * n + i.
        second = chosen[order[same]]
        for first in (chosen[order[bucket_start[same]]], chosen[order[same - 1]]):
            found.append(second * n + first)
    pairs = np.unique(np.concatenate(found)) if found else np.zeros(0, np.int64)
    # 4. Keep the pairs whose signatures agree in enough of the P places, in chunks to bound memory.
    for start in range(0, len(pairs), 100_000):
        j, i = np.divmod(pairs[start : start + 100_000], n)
        alike = (signature_NP[i] == signature_NP[j]).mean(axis=1) >= near_similarity - ESTIMATE_SLACK
        yield from zip(i[alike].tolist(), j[alike].tolist(), strict=True)


def _may_have_one_answer(a: Question, b: Question) -> bool:
    return a.answer is None or b.answer is None or normalise(a.answer) == normalise(b.answer)


@lru_cache(maxsize=4096)
def _shingles(text: str) -> frozenset[tuple[str, ...]]:
    found = words(text)
    return frozenset(zip(*(found[k:] for k in range(SHINGLE_WORDS)), strict=False))
