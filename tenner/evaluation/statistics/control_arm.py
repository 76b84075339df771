"""The student of selected questions against that of random ones, on the same benchmark and under the same policies."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from tenner.core.records import Completion, Score
from tenner.evaluation.statistics import scores as stats
from tenner.evaluation.statistics.paired import Comparison


class Worth(NamedTuple):
    """What selection was worth under one policy."""

    selected: Score
    random: Score
    comparison: Comparison
    """From `random` to `selected`."""


def at_each_policy(scores: Iterable[Score], completions: Sequence[Completion]) -> list[Worth]:
    """Of one benchmark, in the order of its scores; empty for a run without a control arm."""
    whole = [s for s in scores if s.domain is None]
    selected = {s.policy: s for s in whole if s.student == "distilled"}
    return [
        Worth(selected[s.policy], s, stats.compare(completions, s, selected[s.policy]))
        for s in whole
        if s.student == "distilled-random" and s.policy in selected
    ]
