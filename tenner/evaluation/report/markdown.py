"""The report of a run as Markdown, and the parts of Markdown that other reports need too."""

import re
from itertools import groupby

from tenner.evaluation.report import published, selection_worth, teachers
from tenner.evaluation.report.answers import Example
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
    comparison_note,
    compute_note,
    forcing_note,
    headline,
    next_commands,
    spend_note,
    training_note,
)
from tenner.evaluation.report.tables import Table

TAG = re.compile(r"<(?=[a-zA-Z/!?])")


def render_markdown(facts: RunFacts) -> str:
    """The report; its chart is the file `accuracy.svg` beside it."""
    parts = [
        f"# tenner: {facts.title}",
        without_html(headline(facts)),
        without_html(comparison_note(facts)),
        "## Accuracy by thinking budget",
        "![Accuracy by thinking budget, untrained and distilled student](accuracy.svg)",
        without_html(chart_note(facts)),
        *map(markdown_table, score_tables(facts)),
        *(("## Beside what is published", published.NOTE) if facts.published else ()),
        *map(markdown_table, published_tables(facts)),
        "## What thinking buys",
        *filter(None, [without_html(forcing_note(facts))]),
        compute_note(facts),
        *map(markdown_table, compute_tables(facts)),
        *(("## By family", *map(markdown_table, families)) if (families := family_tables(facts)) else ()),
        *(("## What selection was worth", without_html(worth)) if (worth := selection_worth.note(facts)) else ()),
        *map(markdown_table, selection_worth.tables(facts)),
        "## Where the questions went",
        f"{facts.counterfactual}.",
        markdown_table(funnel_table(facts)),
        markdown_table(source_table(facts)),
        "## What it cost",
        spend_note(facts),
        markdown_table(spend_table(facts)),
        *((markdown_table(planned),) if (planned := plan_table(facts)).rows else ()),
        *(text for table in teachers.tables(facts) for text in (teachers.NOTE, markdown_table(table))),
        "## How it thinks",
        "Between ⟦ and ⟧ stands what budget forcing put in; everything else the student wrote itself.",
        *(_markdown_example(example) for example in facts.examples),
        "## Training",
        training_note(facts),
        "## Where it comes from",
        markdown_table(provenance_table(facts)),
        markdown_table(settings_table(facts)),
        "## What next",
        fenced("\n".join(f"{command}  # {what}" for command, what in next_commands(facts)), "sh"),
        f"<details><summary>Recipe</summary>\n\n{fenced(facts.recipe_toml, 'toml')}\n\n</details>",
    ]
    return "\n\n".join(parts) + "\n"


def _markdown_example(example: Example) -> str:
    text = "".join(f"⟦{s.text}⟧" if s.forced else s.text for s in example.segments)
    facts = f"{example.verdict}; {example.policy_label}; reference: {inline(example.reference)}"
    return f"**{inline(example.question)}**\n\n{facts}\n\n{fenced(text)}"


def markdown_table(table: Table) -> str:
    """A table in GitHub's Markdown, under its caption."""
    rule = ["---:" if a == "r" else "---" for a in table.align]
    rows = [[inline(cell) for cell in row] for row in (table.header, *table.rows)]
    total = [[f"**{inline(cell)}**" if cell else "" for cell in table.total]] if table.total else []
    lines = [f"| {' | '.join(row)} |" for row in (rows[0], rule, *rows[1:], *total)]
    return "\n".join((f"{inline(table.caption)}:", "", *lines))


def without_html(text: str) -> str:
    """A paragraph in which no tag of HTML begins: names in it may be anybody's."""
    return TAG.sub("&lt;", text)


def fenced(text: str, language: str = "") -> str:
    """A Markdown code block that no text can break out of."""
    longest = max((len(list(run)) for char, run in groupby(text) if char == "`"), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text.rstrip()}\n{fence}"


def inline(text: str) -> str:
    """Text as Markdown that stays on its line and in its cell, and is no markup."""
    for char in "\\`*_[]|~$":
        text = text.replace(char, f"\\{char}")
    return " ".join(text.replace("&", "&amp;").replace("<", "&lt;").splitlines())
