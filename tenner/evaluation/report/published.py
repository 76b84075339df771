"""Published results of known models, with date and source, shown beside measured ones."""

import datetime
import re
import tomllib
from collections.abc import Iterable, Sequence
from functools import cache
from importlib import resources
from typing import Literal, NamedTuple

from tenner.core.records import Completion, Question, Score
from tenner.evaluation.benchmarks import by_benchmark
from tenner.evaluation.report.tables import DASH, NAMES, Table, called, interval, percent
from tenner.evaluation.statistics import scores as stats
from tenner.evaluation.statistics import test_time_compute

Standing = Literal["published", "third party"]
STANDING = {"published": "published", "third party": "published by a third party"}


NOTE = (
    "What was measured here stands first, with its interval and its number of questions. The rest is as published by "
    "the source named, with other prompts, graders, engines and numbers of answers: a small difference means nothing."
)


class Published(NamedTuple):
    """One published accuracy."""

    model: str
    benchmark: str
    accuracy: float
    """Of 1."""
    standing: Standing
    """`published`: by the makers of the model or of a competitor; `third party`: by anyone else."""
    source: str
    date: datetime.date


class Measured(NamedTuple):
    """What was measured here of one student or model."""

    score: Score
    tokens_mean: float
    """Of an answer with its thinking."""
    usd: float
    """The cost of all of its answers."""


class Beside(NamedTuple):
    """One benchmark of the run: what was measured here, and what others have published, if anything."""

    benchmark: str
    measured: Sequence[Measured]
    published: Sequence[Published]


@cache
def load() -> tuple[Published, ...]:
    """All rows of `published.toml`."""
    reports = tomllib.loads((resources.files("tenner.evaluation.report") / "published.toml").read_text("utf-8"))[
        "report"
    ]
    return tuple(
        Published(model, benchmark, percent_ / 100, report["standing"], report["source"], report["date"])
        for report in reports
        for model, results in report["percent"].items()
        for benchmark, percent_ in results.items()
    )


def beside(
    benchmark: Iterable[Question], completions: Sequence[Completion], *, samples: int, machine_usd: float = 0.0
) -> list[Beside]:
    """The benchmarks that have published results (case and punctuation of their names do not matter), and those that a
    model behind an API answered too.

    Each is scored on its own questions, and by the headline's rule. `machine_usd` is the cost of the evaluation's
    machine time.
    """
    per_token = test_time_compute.usd_per_token(completions, machine_usd)
    found = []
    for name, questions in by_benchmark(benchmark).items():
        here = [c for c in completions if c.task == name]
        rows = [r for r in load() if _plain(r.benchmark) == _plain(name)]
        rows.sort(key=lambda r: (-r.accuracy, r.model))
        if rows or any(c.student not in NAMES for c in here):
            scores = stats.measured(stats.score(here, dict.fromkeys(q.id for q in questions), samples=samples))
            found.append(Beside(name, [_measured(s, here, per_token) for s in scores], rows))
    return found


def table(found: Beside, *, student: str) -> Table:
    """The measured rows first, then the published ones from the best down; `student` is the model of this run."""
    measured = [
        (
            called(m.score.student), percent(m.score.accuracy), interval(m.score), str(m.score.n),
            f"{m.tokens_mean:,.1f}", f"${m.usd:.6f}",
            "measured", f"this run, {student}" if m.score.student in NAMES else "this run",
        )
        for m in found.measured
    ]  # fmt: skip
    published = [
        (
            r.model, percent(r.accuracy), DASH, DASH, DASH, DASH,
            STANDING[r.standing], f"{r.source}, {r.date:%Y-%m-%d}",
        )
        for r in found.published
    ]  # fmt: skip
    header = ("model", "accuracy", "95 % interval", "n", "tokens", "spend", "standing", "source")
    caption = f"{found.benchmark}, beside what is published" if published else f"{found.benchmark}: all models"
    return Table(caption, "lrrrrrll", header, [*measured, *published])


def _measured(score: Score, completions: Iterable[Completion], usd_per_token: float) -> Measured:
    scored = score.student, score.prompt, score.policy
    given = [c for c in completions if (c.student, c.prompt, c.policy) == scored]
    tokens_mean = sum(map(test_time_compute.generated, given)) / len(given)
    return Measured(score, tokens_mean, test_time_compute.spent_usd(given, usd_per_token))


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.casefold())
