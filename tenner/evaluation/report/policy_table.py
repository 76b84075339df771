"""The table of a tuning: accuracy against thinking tokens, for every policy that was tried on held-out questions."""

from collections.abc import Sequence

from tenner.core import policy_text
from tenner.core.default_policy import DefaultPolicy
from tenner.evaluation.report.tables import DASH, NBSP, Table, between, percent, points
from tenner.evaluation.statistics.policy_choice import Candidate


def table(candidates: Sequence[Candidate], chosen: DefaultPolicy) -> Table:
    """A row for each policy, the cheapest first."""
    full = next(c for c in candidates if c.policy == chosen.full)
    rows = []
    for c in sorted(candidates, key=lambda c: c.tokens):
        verdict = "full" if c is full else "yes" if c.is_no_worse else "no"
        rows.append((
            policy_text.words(c.policy), f"{c.tokens:.1f}", _change(c, full),
            percent(c.accuracy), between(*c.ci), str(c.n),
            f"{points(c.difference.mean)} ({points(c.difference.ci.low)} to {points(c.difference.ci.high)})",
            verdict + (", chosen" if c.policy == chosen.policy else ""),
        ))  # fmt: skip
    within = f"within {100 * chosen.margin:g}"
    header = ("policy", "tokens", "change", "accuracy", "95 % interval", "n", "points (interval)", within)
    caption = f"Thinking policies on {chosen.n:,} held-out questions, trial answers counted as tokens"
    return Table(caption, "lrrrrrrl", header, rows)


def _change(candidate: Candidate, full: Candidate) -> str:
    """Of the tokens, against the full budget's."""
    return f"{100 * (candidate.tokens / full.tokens - 1):+.0f}{NBSP}%" if full.tokens else DASH
