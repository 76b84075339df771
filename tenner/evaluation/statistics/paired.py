"""Two runs on the same questions: how far they differ, how surely, and what difference could have been seen at all."""

from collections.abc import Mapping, Sequence
from functools import cache
from math import comb, sqrt
from statistics import fmean
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tenner.core.seeds import digest
from tenner.evaluation.statistics.intervals import Z_95, Interval

Z_POWER = 0.8416212335729143  # the 80 % point of the standard normal distribution
ALPHA, POWER = 0.05, 0.8
RESAMPLES = 4000
ROUNDING = 1e-12


class Comparison(NamedTuple):
    """The questions that both runs have answered; `difference` is the later one's mean share of right answers minus the
    earlier one's, of 1.
    """

    test: Literal["McNemar", "bootstrap"]
    both: int
    """Questions that both got right, every time where there are several answers."""
    neither: int
    """Questions that neither ever got right."""
    more_before: int
    """Questions that the earlier run got right more often."""
    more_after: int
    n: int
    accuracy_before: float
    """The mean share of right answers over these questions."""
    accuracy_after: float
    difference: float
    ci: Interval
    p_value: float
    least_seen: float
    """The smallest difference, of 1, that a comparison like this one finds four times out of five."""
    missing_before: Sequence[str]
    """Ids of questions that only the later run has answered."""
    missing_after: Sequence[str]


class Difference(NamedTuple):
    """How far two runs differ on the questions that both have answered, the later one minus the earlier one, of 1."""

    n: int
    mean: float
    ci: Interval
    p_value: float


Answers = Mapping[str, Sequence[bool]]
"""Which of the answers to each question are right, by its id."""


def difference(before: Answers, after: Answers, *, seed: int = 0) -> Difference:
    """The difference alone, by the tests of `compare`. Raises ValueError where no question is common."""
    shares = list(_common_shares(before, after).values())
    differences = [b - a for a, b in shares]
    if _is_single(before, after):
        ci = bonett_price(differences)
        p_value = mcnemar(sum(d < 0 for d in differences), sum(d > 0 for d in differences))
    else:
        p_value, ci, _ = bootstrap(differences, seed=seed)
    return Difference(len(differences), fmean(differences), ci, p_value)


def compare(before: Answers, after: Answers, *, seed: int = 0) -> Comparison:
    """Compare two runs by question: its id, and which of its answers were right.

    With one answer a question, p is McNemar's and the interval Bonett and Price's; with several, both come from a
    bootstrap over questions, which takes all answers to a question together. What only one run has answered is missing,
    not wrong. Raises ValueError where no question is common.
    """
    shares = list(_common_shares(before, after).values())
    differences = [b - a for a, b in shares]
    more_before, more_after = sum(d < 0 for d in differences), sum(d > 0 for d in differences)
    single = _is_single(before, after)
    n, mean = len(differences), fmean(differences)
    if single:
        p_value, ci = mcnemar(more_before, more_after), bonett_price(differences)
        least_seen = least_seen_single(n, 2 * (min(more_before, more_after) + 1) / (n + 2))
    else:
        p_value, ci, least_seen = bootstrap(differences, seed=seed)
    return Comparison(
        test="McNemar" if single else "bootstrap",
        both=shares.count((1, 1)),
        neither=shares.count((0, 0)),
        more_before=more_before,
        more_after=more_after,
        n=n,
        accuracy_before=fmean(a for a, _ in shares),
        accuracy_after=fmean(b for _, b in shares),
        difference=mean,
        ci=ci,
        p_value=p_value,
        least_seen=least_seen,
        missing_before=sorted(after.keys() - before.keys()),
        missing_after=sorted(before.keys() - after.keys()),
    )


def _common_shares(before: Answers, after: Answers) -> dict[str, tuple[float, float]]:
    """The shares of right answers to each question that both have answered, in the order of the ids."""
    common = sorted(before.keys() & after.keys())
    if not common:
        raise ValueError("no question was answered by both")
    return {q: (sum(before[q]) / len(before[q]), sum(after[q]) / len(after[q])) for q in common}


def _is_single(before: Answers, after: Answers) -> bool:
    """Whether each common question was answered once by either."""
    return all(len(run[q]) == 1 for run in (before, after) for q in before.keys() & after.keys())


def mcnemar(only_a: int, only_b: int) -> float:
    """The exact two-sided p-value that two runs are equally good, from the questions that only one of them got right.

    Source: Q. McNemar, Note on the sampling error of the difference between correlated proportions, Psychometrika 12
    (1947), 153-157, with the binomial distribution in place of its normal approximation.
    """
    discordant = only_a + only_b
    tail = sum(comb(discordant, k) for k in range(min(only_a, only_b) + 1))
    return min(1.0, 2 * tail / (1 << discordant))


def bonett_price(differences: Sequence[float]) -> Interval:
    """The 95 % interval of the mean of differences between -1 and 1, as if each were one of -1, 0 and 1.

    Source: D. G. Bonett and R. M. Price, Adjusted Wald confidence interval for a difference of binomial proportions
    based on paired data, J. Educational and Behavioral Statistics 37 (2012), 479-488: one question more on either side.
    """
    n = len(differences) + 2
    mean, error = sum(differences) / n, _single_error(differences)
    return Interval(max(-1.0, mean - Z_95 * error), min(1.0, mean + Z_95 * error))


def bootstrap(differences: Sequence[float], *, seed: int) -> tuple[float, Interval, float]:
    """p, the 95 % interval and the smallest difference that could have been seen, by resampling questions.

    The symmetric bootstrap-t (P. Hall, On symmetric bootstrap confidence intervals, J. Royal Statistical Society B 50
    (1988), 35-45): the distance of each resample's mean from the observed one, in units of its own standard error,
    takes the place of Student's. A bootstrap by percentiles calls too many equal runs different
    (`bench/interval_coverage.py`). Where too few questions differ to resample from, the interval reaches no further
    than Bonett and Price's: several answers to a question say no less than one.
    """
    observed = np.asarray(differences)
    n, mean = len(observed), float(observed.mean())
    single, outer = _single_error(differences), bonett_price(differences)
    error = float(observed.std()) / sqrt(max(1, n - 1))
    if error < ROUNDING:  # all questions differ by the same: there is nothing to resample, and signs alone decide
        return mcnemar(0, n) if abs(mean) > ROUNDING else 1.0, outer, min(1.0, (Z_95 + Z_POWER) * single)
    rng = np.random.default_rng(int(digest(seed, "paired bootstrap"), 16))
    resampled = observed[rng.integers(0, n, (RESAMPLES, n))]
    errors = resampled.std(axis=1) / sqrt(n - 1)
    distances = np.abs(resampled.mean(axis=1) - mean)
    far = np.divide(distances, errors, out=np.full(RESAMPLES, np.inf), where=errors > ROUNDING)
    p_value = (1 + int((far >= abs(mean) / error).sum())) / (1 + RESAMPLES)
    critical = float(np.sort(far)[int(np.ceil((1 - ALPHA) * RESAMPLES)) - 1])
    half_width = min(critical * error, max(mean - outer.low, outer.high - mean))
    ci = Interval(max(-1.0, mean - half_width), min(1.0, mean + half_width))
    return p_value, ci, min(1.0, min(critical * error, Z_95 * single) + Z_POWER * min(error, single))


def least_seen_single(n: int, churn: float) -> float:
    """The smallest difference that the exact McNemar test finds in 80 % of comparisons over n questions, at 5 %.

    `churn` is the share of the questions that only one of the runs gets right, but for the difference itself: as many
    each way. Where no difference would be found so often, the result is 1.
    """
    low, high = 0.0, 1.0
    while high - low > 1e-4:
        middle = (low + high) / 2
        if mcnemar_power(n, min(1.0, churn + middle), middle) < POWER:
            low = middle
        else:
            high = middle
    return high


def mcnemar_power(n: int, discordant: float, difference: float) -> float:
    """How often the exact test over n questions finds a difference at 5 %, and in the right direction.

    `discordant` is the share of the questions that only one of the runs gets right.
    """
    favoured = (discordant + difference) / (2 * discordant)
    likely = _binomial(n, discordant)
    power = 0.0
    for d in map(int, np.flatnonzero(likely > 1e-9)):
        power += likely[d] * _binomial(d, favoured)[_least_significant(d) :].sum()
    return float(power)


@cache
def _least_significant(discordant: int) -> int:
    """How many of the discordant questions one run must win for p ≤ 5 %; where not even all suffice, one more."""
    tails = np.cumsum(_binomial(discordant, 0.5)[::-1])  # of all heads, one less and more, …
    return discordant + 1 - int((2 * tails <= ALPHA).sum())


def _binomial(n: int, p: float) -> NDArray[np.float64]:
    """The chances of 0 to n successes."""
    if p >= 1:
        return np.append(np.zeros(n), 1.0)
    logs = np.concatenate(([0.0], np.cumsum(np.log(np.arange(1, n + 1)))))
    successes = np.arange(n + 1)
    chances: NDArray[np.float64] = np.exp(
        logs[n] - logs - logs[::-1] + successes * np.log(p) + (n - successes) * np.log1p(-p)
    )
    return chances


def _single_error(differences: Sequence[float]) -> float:
    """Bonett and Price's standard error: an upper bound for differences of several answers."""
    n = len(differences) + 2
    return sqrt((sum(map(abs, differences)) + 2) / n - (sum(differences) / n) ** 2) / sqrt(n)
