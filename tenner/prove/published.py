"""Published results of known models, dated and sourced, to stand beside measured ones and never among them."""

import datetime
import re
import tomllib
from collections.abc import Iterable, Sequence
from functools import cache
from importlib import resources
from typing import Literal, NamedTuple

from tenner.prove.chart import NAMES
from tenner.prove.stats import before_and_after, score
from tenner.prove.table import DASH, Table, interval, percent
from tenner.records import Completion, Question, Score

Standing = Literal["published", "third party"]
STANDING = {"published": "published", "third party": "published by a third party"}


class Published(NamedTuple):
    """One published accuracy."""

    model: str
    benchmark: str
    accuracy: float
    """Of 1."""
    standing: Standing
    """Whether those who made the model, or compare themselves with it, say so, or somebody who had no part in it."""
    source: str
    date: datetime.date


class Beside(NamedTuple):
    """One benchmark: what this run measured of both students, and what others have published."""

    benchmark: str
    before: Score
    after: Score
    published: Sequence[Published]


@cache
def load() -> tuple[Published, ...]:
    """All rows of `published.toml`."""
    reports = tomllib.loads((resources.files("tenner.prove") / "published.toml").read_text("utf-8"))["report"]
    return tuple(
        Published(model, benchmark, percent_ / 100, report["standing"], report["source"], report["date"])
        for report in reports
        for model, results in report["percent"].items()
        for benchmark, percent_ in results.items()
    )


def beside(benchmark: Iterable[Question], completions: Sequence[Completion], *, samples: int) -> list[Beside]:
    """The benchmarks of a run that others have published results of, by name; capitals and hyphens do not matter.

    Both students are scored on the questions of that benchmark alone, and by the headline's rule.
    """
    known = {_plain(row.benchmark): row.benchmark for row in load()}
    asked: dict[str, dict[str, str | None]] = {}
    for q in benchmark:
        if (name := known.get(_plain(q.source))) is not None:
            asked.setdefault(name, {})[q.id] = None
    found = []
    for name, ids in asked.items():
        before, after = before_and_after(score([c for c in completions if c.question_id in ids], ids, samples=samples))
        rows = sorted((r for r in load() if r.benchmark == name), key=lambda r: (-r.accuracy, r.model))
        found.append(Beside(name, before, after, rows))
    return found


def table(found: Beside, *, student: str) -> Table:
    """The measured rows first, then the published ones from the best down; `student` is the model of this run."""
    measured = [
        (f"{NAMES[s.student]} student", percent(s.accuracy), interval(s), str(s.n), "measured", f"this run, {student}")
        for s in (found.after, found.before)
    ]
    published = [
        (r.model, percent(r.accuracy), DASH, DASH, STANDING[r.standing], f"{r.source}, {r.date:%Y-%m-%d}")
        for r in found.published
    ]
    header = ("model", "accuracy", "95 % interval", "n", "standing", "source")
    return Table(f"{found.benchmark}, beside what is published", "lrrrll", header, [*measured, *published])


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.casefold())
