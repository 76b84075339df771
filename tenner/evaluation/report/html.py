"""The report of a run as one HTML page that opens offline."""

from itertools import groupby
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from tenner.evaluation.report import published
from tenner.evaluation.report.charts import accuracy_chart, training_chart
from tenner.evaluation.report.facts import RunFacts
from tenner.evaluation.report.run_tables import compute_tables, family_tables, funnel_table, plan_table, source_table
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
    headline,
    next_commands,
    spend_note,
    title,
    totals,
    training_note,
)


def render_html(facts: RunFacts) -> str:
    """The page: styles and charts are inside, nothing is fetched, there is no script."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    scores = charted_scores(facts)
    return environment.get_template("page.html.jinja").render(
        facts=facts,
        title=title(facts),
        figures=[(b.name if len(facts.benchmarks) > 1 else "", figures(b)) for b in facts.benchmarks],
        totals=totals(facts),
        next_commands=next_commands(facts),
        headline=headline(facts),
        comparison=comparison_note(facts),
        accuracy_wide=Markup(accuracy_chart(scores)),
        accuracy_narrow=Markup(accuracy_chart(scores, width="narrow")),
        chart_note=chart_note(facts),
        score_tables=score_tables(facts),
        compute_tables=compute_tables(facts),
        compute_note=compute_note(facts),
        published_tables=published_tables(facts),
        published_note=published.NOTE,
        family_tables=family_tables(facts),
        funnel_table=funnel_table(facts),
        source_table=source_table(facts),
        spend_note=spend_note(facts),
        spend_table=spend_table(facts),
        plan_table=plan_table(facts),
        examples=[(e, [(part, list(run)) for part, run in groupby(e.segments, lambda s: s.part)])
                  for e in facts.examples],
        training_wide=Markup(training_chart(facts.training)),
        training_narrow=Markup(training_chart(facts.training, width="narrow")),
        training_note=training_note(facts),
        provenance_table=provenance_table(facts),
        settings_table=settings_table(facts),
    )  # fmt: skip
