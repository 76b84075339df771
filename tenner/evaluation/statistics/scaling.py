"""s1's three numbers for a way of making a model think longer: Control, Scaling and Performance.

Source: N. Muennighoff et al., s1: Simple test-time scaling (arXiv 2501.19393 v3), section 3.2. Equation 2 does not say
in which units a slope is measured; the paper's Table 3 is reproduced by percentage points per doubling of the tokens.
"""

from collections.abc import Sequence
from itertools import combinations
from math import inf, log2
from typing import NamedTuple


class Point(NamedTuple):
    """One setting of the method on one benchmark: mean thinking tokens, and the share of the questions it got right."""

    thinking_tokens: float
    accuracy: float


class Bounded(NamedTuple):
    """The mean thinking tokens of a setting, and the bounds that its policy set."""

    thinking_tokens: float
    most: float = inf
    least: float = 0.0


def control(settings: Sequence[Bounded]) -> float:
    """The share of the settings, of 1, that stayed within their bounds. Raises ValueError for none."""
    if not settings:
        raise ValueError("no settings: nothing to control")
    return sum(s.least <= s.thinking_tokens <= s.most for s in settings) / len(settings)


def scaling(points: Sequence[Point]) -> float:
    """The mean slope over all pairs of points, in percentage points of accuracy per doubling of the thinking tokens.

    Raises:
        ValueError: fewer than two points, two with the same number of tokens, or one without any: no slope is defined.
    """
    if len(points) < 2:
        raise ValueError("a slope needs two points")
    ordered = sorted(points)
    if ordered[0].thinking_tokens <= 0:
        raise ValueError("no tokens cannot be doubled")
    pairs = list(combinations(ordered, 2))
    if any(log2(a.thinking_tokens) == log2(b.thinking_tokens) for a, b in pairs):
        raise ValueError("two points have the same number of thinking tokens")
    slopes = (100 * (b.accuracy - a.accuracy) / (log2(b.thinking_tokens) - log2(a.thinking_tokens)) for a, b in pairs)
    return sum(slopes) / len(pairs)


def performance(points: Sequence[Point]) -> float:
    """The best accuracy, of 1. Raises ValueError for no points."""
    return max(p.accuracy for p in points)
