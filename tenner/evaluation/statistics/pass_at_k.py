"""pass@k and maj@k: the chance that one of k answers is right, and that the most frequent of k is."""

from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from math import comb

from tenner.core.records import Grade
from tenner.evaluation.grading.text import same_answer

RIGHT = "right"
"""The vote of every answer that the grader finds right, however it is written."""


def pass_at(k: int, *, correct: int, n: int) -> float:
    """The chance that at least one of k answers is right, without bias from n ≥ k answers of which `correct` are.

    Source: M. Chen et al., Evaluating large language models trained on code (arXiv 2107.03374), equation 1:
    1 - C(n - correct, k) / C(n, k). Raises ValueError for k outside 1 to n.
    """
    _check(k, n)
    if not 0 <= correct <= n:
        raise ValueError(f"{correct} of {n} answers cannot be right")
    return 1 - comb(n - correct, k) / comb(n, k)


def majority_at(k: int, votes: Sequence[Hashable | None], right: Hashable) -> float:
    """The chance that the most frequent answer among k of the n given ones is the right one.

    Exact: the mean over all C(n, k) choices of k answers, not over the first k. Equally frequent answers share the
    vote. None is an answer that could not be read: it takes one of the k places and votes for nothing. Where nothing
    was voted for, nothing is right. Raises ValueError for k outside 1 to n.
    """
    n = len(votes)
    _check(k, n)
    # 1. Count the answers: right, wrong by what they state, unread.
    counts = Counter(vote for vote in votes if vote is not None)
    mine = counts.pop(right, 0)
    unread = n - mine - counts.total()
    won = 0.0
    # 2. For each number `got` of right answers among the k drawn:
    for got in range(1, min(mine, k) + 1):
        # 2a. ways[t][d]: the choices of d wrong answers in which none has more than `got` votes and t have exactly as
        # many. It starts with nothing drawn, and takes in one kind of wrong answer at a time.
        ways = [[1] + [0] * (k - got)]
        for count in counts.values():
            ways = _with_another(ways, count, got)
        # 2b. Unread answers fill the other places; with t ties the right answer wins one time in t + 1.
        for tied, by_drawn in enumerate(ways):
            rest = sum(w * comb(unread, k - got - drawn) for drawn, w in enumerate(by_drawn))
            won += comb(mine, got) * rest / comb(n, k) / (tied + 1)
    return won


def votes(grades: Iterable[Grade]) -> list[str | tuple[str] | None]:
    """The vote of each answer: RIGHT, a wrong answer (equal ones vote together), or None where it is unread."""
    wrong: list[str] = []
    found: list[str | tuple[str] | None] = []
    for grade in grades:
        if grade.verdict == "correct":
            found.append(RIGHT)
        elif grade.verdict == "unparsed" or grade.extracted is None:
            found.append(None)
        else:
            stated = next((w for w in wrong if same_answer(w, grade.extracted)), None)
            if stated is None:
                wrong.append(stated := grade.extracted)
            found.append((stated,))  # a wrong answer may well be the word "right"
    return found


def _with_another(ways: list[list[int]], count: int, most: int) -> list[list[int]]:
    """`ways` with one more kind of answer, of which there are `count` and of which at most `most` may be drawn."""
    places = len(ways[0])
    found = [[0] * places for _ in range(len(ways) + (count >= most))]
    for tied, by_drawn in enumerate(ways):
        for drawn, w in enumerate(by_drawn):
            for more in range(min(count, most, places - 1 - drawn) + 1) if w else ():
                found[tied + (more == most)][drawn + more] += w * comb(count, more)
    return found


def _check(k: int, n: int) -> None:
    if not 1 <= k <= n:
        raise ValueError(f"{n} answers do not tell about {k}")
