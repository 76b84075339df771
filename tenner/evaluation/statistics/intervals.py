"""95 % intervals of accuracies: of single answers, and of questions that were answered several times."""

from collections.abc import Sequence
from math import sqrt
from typing import NamedTuple

Z_95 = 1.959963984540054  # the 97.5 % point of the standard normal distribution
PRIOR_VARIANCE = 0.25  # of one question that a coin decides: the most that a share can vary


class Interval(NamedTuple):
    low: float
    high: float


def wilson(correct: float, n: float) -> Interval:
    """The 95 % score interval of a proportion; unlike the normal one it holds for few questions and near 0 and 1.

    Source: E. B. Wilson, Probable inference, the law of succession, and statistical inference, JASA 22 (1927), 209-212:
    (p + z²/2n ± z √(p(1-p)/n + z²/4n²)) / (1 + z²/n). Raises ValueError when there is nothing to estimate from.
    """
    if not 0 <= correct <= n or n == 0:
        raise ValueError(f"no interval for {correct} correct of {n}")
    p, z2 = correct / n, Z_95**2
    centre = (p + z2 / (2 * n)) / (1 + z2 / n)
    half_width = Z_95 * sqrt(max(0.0, p * (1 - p)) / n + z2 / (4 * n * n)) / (1 + z2 / n)
    # At 0 and 1 the bound is exactly the proportion; rounding must not push it past.
    return Interval(min(p, max(0.0, centre - half_width)), max(p, min(1.0, centre + half_width)))


def clustered(shares: Sequence[float]) -> Interval:
    """The 95 % interval of the mean over all questions of this kind, given the share of right answers to each.

    Questions are what is drawn at random; answers to one question are not independent of each other. This is Wilson's
    interval with the effective number of questions n / d, where the design effect d is how much the shares vary, in
    terms of p(1-p), which is how much they would if a single answer decided each. So for one answer a question it is
    Wilson's interval itself. Sources: L. Kish, Survey Sampling (1965), for the design effect; N. Dean and M. Pagano,
    Evaluating confidence interval methods for binomial proportions in clustered surveys, J. Survey Statistics and
    Methodology 3 (2015), 484-503, who find this one to hold. Near 0 and 1 few shares vary at all and d would come out
    too small by chance: one question with the greatest variance, 1/4, is added to both sides of the ratio.

    Chosen by simulation: `bench/interval_coverage.py` prints its coverage beside those of others. Raises ValueError for
    no shares and for what is no share.
    """
    if not shares or not all(0 <= share <= 1 for share in shares):
        raise ValueError(f"no interval for the shares {list(shares)}")
    n = len(shares)
    p = sum(shares) / n
    varied = sum((share - p) ** 2 for share in shares)
    design_effect = (varied + PRIOR_VARIANCE) / (n * p * (1 - p) + PRIOR_VARIANCE)
    return wilson(p * n / design_effect, n / design_effect)
