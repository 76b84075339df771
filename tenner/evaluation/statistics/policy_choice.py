"""The choice of a thinking policy: the cheapest that is shown to lose no more accuracy than a margin."""

from collections.abc import Iterable, Sequence
from math import floor, sqrt
from statistics import fmean
from typing import NamedTuple

from tenner.core.records import Completion, Policy
from tenner.evaluation.statistics import paired
from tenner.evaluation.statistics.intervals import Z_95, Interval, clustered
from tenner.evaluation.statistics.scores import by_policy, verdicts

SAME_TOKENS = 0.01
"""Policies are equally cheap where their tokens differ by no more than this share."""


class Candidate(NamedTuple):
    """A policy beside the full budget, on the same questions."""

    policy: Policy
    n: int
    accuracy: float
    ci: Interval
    tokens: float
    """Mean thinking tokens of an answer, trial answers counted."""
    difference: paired.Difference
    """The policy minus the full budget."""
    is_no_worse: bool
    """The 95 % interval of the difference lies above minus the margin: the usual test of non-inferiority, at 2.5 %."""


def candidates(completions: Iterable[Completion], full: Policy, margin: float) -> list[Candidate]:
    """A candidate for each policy, the full budget included, in the order of a sweep. `margin` is a share of 1."""
    groups = by_policy(completions)
    right = {policy: verdicts(given) for policy, given in groups.items()}
    found = []
    for policy, own in right.items():
        shares = [sum(given) / len(given) for given in own.values()]
        difference = paired.difference(right[full], own)
        found.append(Candidate(
            policy, len(own), fmean(shares), clustered(shares),
            fmean((c.thinking_tokens or 0) + c.trial_tokens for c in groups[policy]), difference,
            is_no_worse=policy == full or difference.ci.low > -margin,
        ))  # fmt: skip
    return found


def choose(found: Sequence[Candidate], full: Policy) -> Candidate:
    """The cheapest that is no worse; the full budget, which always is good enough, where none is cheaper.

    Of equally cheap ones a plain budget is taken first: what is measured of a token takes time that tokens do not show.
    Then the more accurate, then the first.
    """
    good = [c for c in found if c.is_no_worse]
    limit = (1 + SAME_TOKENS) * min(c.tokens for c in good)
    cheapest = [c for c in good if c.tokens <= limit]
    return min(cheapest, key=lambda c: (c.policy != full, c.policy.stops_early, -c.accuracy, c.tokens))


def questions_needed(margin: float) -> int:
    """How many questions it takes to find a policy no worse that gives the very same verdicts; with fewer, none is.

    Then Bonett and Price's interval is ±z √2 / (n + 2).
    """
    return max(1, floor(Z_95 * sqrt(2) / margin) - 1)
