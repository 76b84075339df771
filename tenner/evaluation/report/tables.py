"""How the report writes numbers, and the tables that hold them."""

from collections.abc import Sequence
from typing import NamedTuple

from tenner.core.policy_text import waits
from tenner.core.records import Policy, Score, Share

NBSP, DASH = "\u00a0", "\u2013"
NAMES = {"base": "untrained", "distilled": "distilled", "distilled-random": "distilled (random)"}
"""The display names of a run's students."""


class Table(NamedTuple):
    """Cells as text; `align` has an l or r for every column, `total` is the last row where there is one."""

    caption: str
    align: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    total: Sequence[str] = ()


def name_of(student: str) -> str:
    """The display name of a student; models behind APIs have their own."""
    return NAMES.get(student, student)


def called(student: str) -> str:
    """The display name within a sentence."""
    return f"{NAMES[student]} student" if student in NAMES else student


def percent(share: float) -> str:
    """A share of 1 as a percentage with one decimal."""
    return f"{100 * share:.1f}{NBSP}%"


def interval(score: Score | Share) -> str:
    """The 95 % interval of a score."""
    return between(score.ci_low, score.ci_high)


def between(low: float, high: float) -> str:
    """An interval of shares, as percentages."""
    return f"{100 * low:.1f}{DASH}{100 * high:.1f}{NBSP}%"


def points(difference: float) -> str:
    """A difference of shares in percentage points, with its sign."""
    return f"{100 * difference:+.1f}"


def p_value(p: float) -> str:
    """A p-value, or "< 0.001"."""
    return f"p{NBSP}<{NBSP}0.001" if p < 0.001 else f"p{NBSP}={NBSP}{p:.3f}"


def mean_tokens(mean: float | None) -> str:
    """A mean number of tokens, where it is known."""
    return DASH if mean is None else f"{mean:.1f}"


def limit(policy: Policy) -> str:
    """A policy's bounds on thinking tokens."""
    least = f"≥ {policy.thinking_tokens_min}, " if policy.thinking_tokens_min else ""
    most = "no limit" if policy.thinking_tokens_max is None else f"≤ {policy.thinking_tokens_max}"
    return least + most + "".join(f", {way}" for way in ways_to_stop(policy))


def ways_to_stop(policy: Policy) -> list[str]:
    """How a policy may end thinking before its budget is used up, in words."""
    ways = {"early exit": policy.early_exit, "grace": policy.grace}
    return [name for name, way in ways.items() if way is not None]


def setting(policy: Policy) -> str:
    """A policy's bounds, and its waits where it has any."""
    return f"{limit(policy)}, {waits(policy)}" if policy.waits else limit(policy)
