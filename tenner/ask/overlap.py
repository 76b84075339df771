"""Duplicates in a pool, and what it shares with a benchmark: every hit with its witness."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from tenner.records import Drop, Question


class Cleaned(NamedTuple):
    """What is left of a pool, and who fell out and why."""

    kept: list[Question]
    dropped: list[Drop]


def normalise(text: str) -> str:
    """Case, punctuation and spacing taken away; digits and letters of any script kept."""
    return " ".join(re.findall(r"\w+", text.casefold()))


def drop_duplicates(questions: Sequence[Question]) -> Cleaned:
    """Keep the first of the questions that are equal after normalisation."""
    first: dict[str, str] = {}
    kept, dropped = [], []
    for q in questions:
        owner = first.setdefault(normalise(q.question), q.id)
        if owner == q.id:
            kept.append(q)
        else:
            dropped.append(Drop(id=q.id, reason="duplicate", evidence=f"same words as {owner}"))
    return Cleaned(kept, dropped)


def drop_benchmark_overlap(
    questions: Sequence[Question], benchmark: Sequence[Question], *, ngram_words: int, boilerplate_questions: int
) -> Cleaned:
    """Drop what equals a benchmark question, or shares an n-gram of words with one that is not boilerplate.

    An n-gram that at least `boilerplate_questions` of the pool contain is wording of a template and proves nothing.
    A question shorter than an n-gram is compared whole.
    """
    whole = {normalise(b.question): b.id for b in benchmark}
    owner: dict[str, str] = {}
    for b in benchmark:
        for gram in _ngrams(b.question, ngram_words):
            owner.setdefault(gram, b.id)
    shared = defaultdict(list)
    for q in questions:
        shared[q.id] = [gram for gram in _ngrams(q.question, ngram_words) if gram in owner]
    how_common = Counter(gram for grams in shared.values() for gram in set(grams))
    kept, dropped = [], []
    for q in questions:
        witness = next((gram for gram in shared[q.id] if how_common[gram] < boilerplate_questions), None)
        if twin := whole.get(normalise(q.question)):
            dropped.append(Drop(id=q.id, reason="in the benchmark", evidence=f"same words as {twin}"))
        elif witness is not None:
            dropped.append(Drop(id=q.id, reason="overlaps the benchmark", evidence=f"{owner[witness]}: “{witness}”"))
        else:
            kept.append(q)
    return Cleaned(kept, dropped)


def _ngrams(text: str, words: int) -> Iterator[str]:
    parts = normalise(text).split()
    for i in range(len(parts) - words + 1):
        yield " ".join(parts[i : i + words])
