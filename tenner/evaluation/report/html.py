"""The report of a run as one HTML page that opens offline."""

from collections.abc import Callable, Mapping
from itertools import groupby
from typing import Any

from markupsafe import Markup

from tenner.evaluation.report import published, run_charts, selection_worth, teachers
from tenner.evaluation.report.charts import accuracy_chart, training_chart
from tenner.evaluation.report.facts import RunFacts
from tenner.evaluation.report.page import HERE, render
from tenner.evaluation.report.run_tables import compute_tables, family_tables, funnel_table, plan_table, source_table
from tenner.evaluation.report.sample_browser import browser
from tenner.evaluation.report.score_tables import (
    provenance_table,
    published_tables,
    score_tables,
    settings_table,
    spend_table,
)
from tenner.evaluation.report.sentences import (
    chart_note,
    charted_scores,
    comparison_note,
    compute_note,
    figures,
    forcing_note,
    headline,
    next_commands,
    spend_note,
    title,
    totals,
    training_note,
)

Both = tuple[Markup, Markup] | None
"""A chart for wide and for narrow screens; None where there is nothing to draw."""
SECTIONS: Mapping[str, tuple[str, str | None]] = {
    "accuracy": ("Accuracy by thinking budget", None),
    "published": ("Beside what is published", "published_tables"),
    "compute": ("What thinking buys", "compute_tables"),
    "families": ("By family", "family_tables"),
    "selection": ("What selection was worth", "selection_tables"),
    "funnel": ("Where the questions went", None),
    "spend": ("What it cost", None),
    "examples": ("How it thinks", "examples"),
    "samples": ("All samples", "browser"),
    "training": ("Training", None),
    "provenance": ("Where it comes from", None),
    "next": ("What next", None),
}
"""The sections by id: their heading, and the value without which they are left out."""


def render_html(facts: RunFacts) -> str:
    """The page: styles, charts and data are inside, nothing is fetched, and its one script is named by its hash."""
    scores, samples = charted_scores(facts), browser(facts)
    values: dict[str, Any] = {
        "facts": facts,
        "title": title(facts),
        "figures": [(b.name if len(facts.benchmarks) > 1 else "", figures(b)) for b in facts.benchmarks],
        "totals": totals(facts),
        "next_commands": next_commands(facts),
        "headline": headline(facts),
        "comparison": comparison_note(facts),
        "accuracy": _both_widths(accuracy_chart, scores),
        "chart_note": chart_note(facts),
        "score_tables": score_tables(facts),
        "compute": _both_widths(run_charts.compute_chart, facts.benchmarks),
        "lengths": _both_widths(run_charts.lengths_chart, facts.answered, facts.benchmarks),
        "compute_tables": compute_tables(facts),
        "compute_note": compute_note(facts),
        "forcing_note": forcing_note(facts),
        "published_tables": published_tables(facts),
        "published_note": published.NOTE,
        "family_tables": family_tables(facts),
        "selection_note": selection_worth.note(facts),
        "selection_tables": selection_worth.tables(facts),
        "funnel": _both_widths(run_charts.funnel_chart, facts.funnel),
        "funnel_table": funnel_table(facts),
        "source_table": source_table(facts),
        "spend_note": spend_note(facts),
        "spend_table": spend_table(facts),
        "teacher_note": teachers.NOTE,
        "teacher_tables": teachers.tables(facts),
        "plan": _both_widths(run_charts.plan_chart, facts),
        "plan_table": plan_table(facts),
        "examples": [(e, [(part, list(run)) for part, run in groupby(e.segments, lambda s: s.part)])
                     for e in facts.examples],
        "browser": samples,
        "training": _both_widths(training_chart, facts.training) if facts.training else None,
        "training_note": training_note(facts),
        "provenance_table": provenance_table(facts),
        "settings_table": settings_table(facts),
    }  # fmt: skip
    values |= {"headings": {name: heading for name, (heading, _) in SECTIONS.items()}, "contents": _contents(values)}
    return render(
        "page.html.jinja", script=(HERE / "sample_browser.js").read_text("utf-8") if samples else "", **values
    )


def _contents(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The sections of the page that this run fills: their ids and headings."""
    return [(name, heading) for name, (heading, needs) in SECTIONS.items() if needs is None or values[needs]]


def _both_widths(chart: Callable[..., str | None], *facts: Any) -> Both:
    """A chart for wide and for narrow screens; None where there is nothing to draw."""
    drawn = chart(*facts), chart(*facts, width="narrow")
    return None if drawn[0] is None or drawn[1] is None else (Markup(drawn[0]), Markup(drawn[1]))
