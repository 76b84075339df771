"""Which of several teachers to buy from, by the traces that they wrote of the same questions."""

from collections.abc import Sequence
from typing import NamedTuple

from tenner.evaluation.statistics.paired import ALPHA, mcnemar


class Asked(NamedTuple):
    """What one teacher made of the questions: whether the trace of each is verified, and the dollars of all."""

    verified: Sequence[bool]
    usd: float


class Choice(NamedTuple):
    """The place of the chosen teacher, and each one's p-value against the one with the most verified traces."""

    place: int
    p_values: Sequence[float]


def choose(asked: Sequence[Asked]) -> Choice:
    """Of the teachers that the exact McNemar test (5 %) does not find worse than the best, the one whose verified
    traces cost the least.

    The best is the one with the most verified traces. Of equals in cost the one with more verified traces is chosen, of
    equals in both the earlier one. Raises ValueError where no trace is verified.
    """
    counts = [sum(one.verified) for one in asked]
    if not any(counts):
        raise ValueError("no trace is verified")
    best = asked[counts.index(max(counts))].verified
    p_values = [_p_value(best, one.verified) for one in asked]
    able = [place for place, p in enumerate(p_values) if p > ALPHA and counts[place]]
    return Choice(min(able, key=lambda place: (asked[place].usd / counts[place], -counts[place])), p_values)


def _p_value(best: Sequence[bool], other: Sequence[bool]) -> float:
    pairs = list(zip(best, other, strict=True))
    return mcnemar(sum(a and not b for a, b in pairs), sum(b and not a for a, b in pairs))
