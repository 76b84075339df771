"""The report of a measurement, as Markdown and as a page: its scores, cost and settings."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from tenner.budget.ledger_rows import SpendRow
from tenner.core import spending
from tenner.core.provenance import recorded
from tenner.core.recipe import Experiment
from tenner.core.records import Completion, Question, Score, Setting
from tenner.core.run_folder import RunFolder
from tenner.evaluation.benchmarks import benchmark_of
from tenner.evaluation.report import page, published
from tenner.evaluation.report.markdown import fenced, markdown_table, without_html
from tenner.evaluation.report.score_tables import (
    evaluation_usd,
    provenance_table,
    published_tables,
    score_tables,
    settings_table,
    spend_table,
)
from tenner.evaluation.report.tables import Table


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
    parts = [f"# tenner: {facts.title}", without_html(_note(facts))]
    for section in _sections(facts):
        parts += [f"## {section.heading}", *filter(None, [section.paragraph]), *map(markdown_table, section.tables)]
    parts.append(f"<details><summary>Measurement</summary>\n\n{fenced(facts.measurement_toml, 'toml')}\n\n</details>")
    return "\n\n".join(parts) + "\n"


def render_html(facts: MeasurementFacts) -> str:
    """The same report as one page that opens offline."""
    return page.render("measurement.html.jinja", facts=facts, note=_note(facts), sections=_sections(facts))


class _Section(NamedTuple):
    heading: str
    paragraph: str
    tables: Sequence[Table]


def _note(facts: MeasurementFacts) -> str:
    return (
        f"{facts.questions:,} questions of {facts.benchmark}. Intervals are 95 %, with questions as clusters; unparsed "
        "answers count as not correct, missing ones as neither."
    )


def _sections(facts: MeasurementFacts) -> list[_Section]:
    beside = [_Section("Beside other models", published.NOTE, published_tables(facts))] if facts.published else []
    return [
        *beside,
        _Section("Scores", "", score_tables(facts)),
        _Section("What it cost", "", [spend_table(facts)]),
        _Section("Where it comes from", "", [provenance_table(facts), settings_table(facts)]),
    ]
