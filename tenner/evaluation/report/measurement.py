"""The report of a measurement as Markdown: its scores, cost and settings."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from tenner.budget.ledger import SpendRow
from tenner.core import spending
from tenner.core.provenance import recorded
from tenner.core.recipe import Experiment
from tenner.core.records import Completion, Question, Score, Setting
from tenner.core.run_folder import RunFolder
from tenner.evaluation.benchmarks import benchmark_of
from tenner.evaluation.report import published
from tenner.evaluation.report.markdown import fenced, markdown_table, without_html
from tenner.evaluation.report.score_tables import (
    evaluation_usd,
    provenance_table,
    published_tables,
    score_tables,
    settings_table,
    spend_table,
)


class MeasurementFacts(NamedTuple):
    """Everything that the report states."""

    title: str
    base_model: str
    """The student's address; empty where only models behind APIs answered."""
    measurement_toml: str
    questions: int
    benchmark: str
    scores: Sequence[Score]
    published: Sequence[published.Beside]
    spend: Sequence[SpendRow]
    settings: Sequence[Setting]
    provenance: Mapping[str, str]


def collect(folder: RunFolder, described: Experiment) -> MeasurementFacts:
    """The facts of a measurement whose questions are answered."""
    benchmark, completions = folder.read("benchmark", Question), folder.read("completions", Completion)
    spend = spending.read(folder)
    return MeasurementFacts(
        title=described.name,
        base_model=described.student.model if described.student else "",
        measurement_toml=described.to_toml(),
        questions=len(benchmark),
        benchmark=benchmark_of(benchmark[0]),
        scores=folder.read("scores", Score),
        published=published.beside(
            benchmark, completions, samples=described.evaluate.samples, machine_usd=evaluation_usd(spend)
        ),
        spend=spend,
        settings=folder.read("settings", Setting),
        provenance=recorded(folder),
    )


def render_markdown(facts: MeasurementFacts) -> str:
    """The report."""
    parts = [
        f"# tenner: {facts.title}",
        f"{facts.questions:,} questions of {without_html(facts.benchmark)}. Intervals are 95 %, with questions as "
        "clusters; unparsed answers count as not correct, missing ones as neither.",
        *(("## Beside other models", published.NOTE) if facts.published else ()),
        *map(markdown_table, published_tables(facts)),
        "## Scores",
        *map(markdown_table, score_tables(facts)),
        "## What it cost",
        markdown_table(spend_table(facts)),
        "## Where it comes from",
        markdown_table(provenance_table(facts)),
        markdown_table(settings_table(facts)),
        f"<details><summary>Measurement</summary>\n\n{fenced(facts.measurement_toml, 'toml')}\n\n</details>",
    ]
    return "\n\n".join(parts) + "\n"
