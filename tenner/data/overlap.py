"""Cleans a pool: drops duplicates and questions that overlap a benchmark, with the shared text as evidence."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tenner.core.records import Drop, Hit, Question
from tenner.core.sections import Clean
from tenner.data import dedup
from tenner.data.boilerplate import is_evidence
from tenner.data.dedup import NEAR_WORDS_MIN, Sketches, concatenate, jaccard, sketch
from tenner.data.ngrams import Benchmark, Grams, Matches
from tenner.data.text_hashing import hashed, joined, words
from tenner.data.workers import LocalWorkers, Workers

REASONS = {"exact": "in the benchmark", "near": "near a benchmark question", "ngram": "overlaps the benchmark"}


class Cleaned(NamedTuple):
    """The questions that are left, those that were dropped and why, and all overlaps with the benchmark."""

    kept: list[Question]
    dropped: list[Drop]
    hits: list[Hit]


class _Scan(NamedTuple):
    """The sketches of texts, and the n-grams that they share with the benchmark."""

    sketches: Sketches
    matches: Matches


def clean(
    questions: Sequence[Question], benchmark: Sequence[Question], rules: Clean, workers: Workers | None = None
) -> Cleaned:
    """Drop all but the first of duplicates, then the questions that leak a benchmark question."""
    against = Benchmark(benchmark, ngram_words=rules.ngram_words)
    scan = _scan(questions, against, workers or LocalWorkers(), near=rules.near_similarity < 1)
    drops = dedup.find(questions, scan.sketches, near_similarity=rules.near_similarity)
    hits = list(_hits(questions, against, scan, rules, np.array([drop is None for drop in drops], dtype=bool)))
    leaks = {hit.question_id: hit for hit in reversed(hits) if hit.kind != "boilerplate"}
    kept, dropped = [], []
    for q, drop in zip(questions, drops, strict=True):
        if drop is None and (hit := leaks.get(q.id)):
            evidence = f"{hit.benchmark_id}: “{hit.shared}”"
            drop = Drop(id=q.id, reason=REASONS[hit.kind], evidence=evidence)
        if drop is None:
            kept.append(q)
        else:
            dropped.append(drop)
    return Cleaned(kept, dropped, hits)


def compare(
    questions: Sequence[Question], benchmark: Sequence[Question], rules: Clean, workers: Workers | None = None
) -> list[Hit]:
    """All overlaps of questions with a benchmark, in the order of the questions."""
    against = Benchmark(benchmark, ngram_words=rules.ngram_words)
    scan = _scan(questions, against, workers or LocalWorkers(), near=False)
    return list(_hits(questions, against, scan, rules, np.ones(len(questions), dtype=bool)))


def scan_chunk(texts: list[str], *, grams: Grams, near: bool) -> _Scan:
    """Scan one chunk; runs in worker processes."""
    text = hashed(texts)
    text_words = text.words()
    return _Scan(sketch(text, text_words, near=near), grams.matches(text_words))


def _scan(questions: Sequence[Question], against: Benchmark, workers: Workers, *, near: bool) -> _Scan:
    texts = [q.question for q in questions]
    parts = list(workers.map(partial(scan_chunk, grams=against.grams, near=near), texts))
    if not parts:
        return scan_chunk([], grams=against.grams, near=near)
    # Text indices in matches count from the start of their chunk: shift them to count from the start of the pool.
    sizes = np.cumsum([0, *(len(part.sketches.words) for part in parts)])
    matches = Matches(
        np.concatenate([part.matches.text + size for part, size in zip(parts, sizes, strict=False)]),
        np.concatenate([part.matches.start for part in parts]),
        np.concatenate([part.matches.gram for part in parts]),
    )
    return _Scan(concatenate([part.sketches for part in parts]), matches)


def _hits(
    questions: Sequence[Question], against: Benchmark, scan: _Scan, rules: Clean, wanted: NDArray[np.bool_]
) -> Iterator[Hit]:
    """The overlaps of the `wanted` questions.

    An n-gram in at least `boilerplate_questions` questions is wording of a template and no evidence. A rarer one is
    evidence if it has content (see `boilerplate.is_evidence`).
    """
    matches = Matches(*(array[wanted[scan.matches.text]] for array in scan.matches))
    is_common = _is_common(matches, against, rules.boilerplate_questions)
    # `matches.text` ascends, so the matches of question i are those from bounds[i] to bounds[i + 1].
    bounds = np.searchsorted(matches.text, np.arange(len(questions) + 1)).tolist()
    for i in np.flatnonzero(wanted).tolist():
        q, first, end = questions[i], bounds[i], bounds[i + 1]
        twin = against.by_identity.get(int(scan.sketches.identity[i]))
        if twin is not None:
            b = against.questions[twin]
            yield Hit(kind="exact", question_id=q.id, benchmark_id=b.id, shared=joined(words(q.question)))
        if first < end:
            found = zip(matches.start[first:end].tolist(), matches.gram[first:end].tolist(), strict=True)
            for owner, starts, is_rare in _owners(found, against, is_common):
                if owner != twin:
                    yield _hit(q, against.questions[owner], starts, rules, is_rare=is_rare)


def _is_common(matches: Matches, against: Benchmark, boilerplate_questions: int) -> NDArray[np.bool_]:
    """Whether so many questions, of pool and benchmark together, hold each n-gram. Shape: (n-grams,)."""
    n = len(against.grams.values)
    # One number per pair of a text and an n-gram in it, so that an n-gram counts once per text.
    holders = np.unique(matches.text * n + matches.gram) % max(1, n)
    counts: NDArray[np.int64] = np.bincount(holders, minlength=n) + against.owners_count
    return counts >= boilerplate_questions


def _owners(
    found: Iterable[tuple[int, int]], against: Benchmark, is_common: NDArray[np.bool_]
) -> Iterator[tuple[int, list[int], bool]]:
    """The benchmark questions that share n-grams with a question: (owner, starts in the question, is rare).

    All owners of rare n-grams; if there are none, the one owner with the most common ones.
    """
    rare: dict[int, list[int]] = defaultdict(list)
    common: dict[int, list[int]] = defaultdict(list)
    for start, gram in found:
        for owner in against.owners(gram):
            (common if is_common[gram] else rare)[owner].append(start)
    if rare:
        yield from ((owner, starts, True) for owner, starts in rare.items())
    elif common:
        likeliest = max(common, key=lambda owner: (len(common[owner]), -owner))
        yield likeliest, common[likeliest], False


def _hit(q: Question, b: Question, starts: list[int], rules: Clean, *, is_rare: bool) -> Hit:
    q_words = words(q.question)
    runs = [q_words[start:end] for start, end in _runs(starts, rules.ngram_words)]
    kind: Literal["near", "ngram", "boilerplate"] = "boilerplate"
    if _is_near(q, b, q_words, rules.benchmark_similarity):
        kind = "near"
    elif is_rare and is_evidence(runs):
        kind = "ngram"
    return Hit(kind=kind, question_id=q.id, benchmark_id=b.id, shared=" … ".join(map(joined, runs)))


def _runs(starts: list[int], size: int) -> list[tuple[int, int]]:
    """The runs of words, as (start, end), that n-grams of `size` words at ascending `starts` cover."""
    runs: list[tuple[int, int]] = []
    for start in starts:
        if runs and start <= runs[-1][1]:
            runs[-1] = (runs[-1][0], start + size)
        else:
            runs.append((start, start + size))
    return runs


def _is_near(q: Question, b: Question, q_words: list[str], similarity: float) -> bool:
    """Whether two questions have the same numbers and nearly the same words."""
    if len(q_words) < NEAR_WORDS_MIN or similarity == 1:
        return False
    return _numbers(q_words) == _numbers(words(b.question)) and jaccard(q.question, b.question) >= similarity


def _numbers(found: list[str]) -> list[str]:
    return sorted(word for word in found if word.isdigit())
