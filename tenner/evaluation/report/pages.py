"""The report: the facts of a finished run as one page that opens offline, and the same facts as Markdown."""

from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Literal, NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from tenner.budget.ledger import SpendRow
from tenner.core.formats import ThinkFormat
from tenner.core.records import Score, Setting, SourceCount, TrainStep
from tenner.evaluation.report import published
from tenner.evaluation.report.charts import accuracy_chart, training_chart
from tenner.evaluation.report.score_tables import (
    fenced,
    inline,
    is_own,
    markdown_table,
    payee,
    provenance_table,
    published_tables,
    score_tables,
    settings_table,
    spend_table,
)
from tenner.evaluation.report.tables import DASH, NBSP, Table, interval, limit, p_value, percent, points, usd
from tenner.evaluation.statistics import test_time_compute
from tenner.evaluation.statistics.paired import Comparison
from tenner.evaluation.statistics.scores import before_and_after


class FunnelRow(NamedTuple):
    """What went into a stage, what came out, and how many left for which reason."""

    stage: str
    items_in: int
    items_out: int
    reasons: Mapping[str, int]


class Segment(NamedTuple):
    """A stretch of a completion; `forced` was put in by the forcing machine and not chosen by the student."""

    text: str
    part: Literal["thinking", "answer"]
    forced: bool


class Example(NamedTuple):
    """One completion to look at."""

    question: str
    reference: str
    segments: Sequence[Segment]
    verdict: str
    policy_label: str


class SourceRow(NamedTuple):
    """A source of questions, and what of it is trained on."""

    source: SourceCount
    trained_on: int
    origins: Mapping[str, int]
    """Of the questions that are trained on: where the source has them from."""


class RunFacts(NamedTuple):
    """Everything that the report and the model card say; whoever reads the run folder fills it."""

    title: str
    """The name of the recipe."""
    base_model: str
    """Where the untrained student comes from, as its users know it: a hub id."""
    license: str
    """The base model's, as an SPDX-like identifier of the hub (`apache-2.0`): the student inherits it."""
    think_format: ThinkFormat
    system_prompt: str | None
    recipe_toml: str
    provenance: Mapping[str, str]
    funnel: Sequence[FunnelRow]
    counterfactual: str
    """What the other order of selecting and buying would have cost, in a sentence."""
    sources: Sequence[SourceRow]
    spend: Sequence[SpendRow]
    budget_usd: float | None
    seconds: float
    """Wall-clock time of all stages."""
    samples_count: int
    scores: Sequence[Score]
    """Of one task, whole and by domain."""
    comparison: Comparison
    """Of the two scores that `stats.before_and_after` picks."""
    sweeps: Sequence[test_time_compute.Sweep]
    answer_prices: Sequence[test_time_compute.AnswerPrice]
    votes: Sequence[test_time_compute.Vote]
    """Empty where each question was answered once."""
    published: Sequence[published.Beside]
    """Empty where no benchmark of the run is one that others have published results of, or were asked."""
    settings: Sequence[Setting]
    """How the answers came about, by student."""
    training: Sequence[TrainStep]
    examples: Sequence[Example]


def render_html(facts: RunFacts) -> str:
    """The report as one HTML file: styles and pictures inside, nothing fetched, no script."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    shown = _shown(facts)
    return environment.get_template("page.html.jinja").render(
        facts=facts,
        headline=headline(facts),
        comparison=comparison_note(facts),
        accuracy_wide=Markup(accuracy_chart(shown)),
        accuracy_narrow=Markup(accuracy_chart(shown, width="narrow")),
        chart_note=chart_note(facts),
        score_tables=score_tables(facts),
        compute_tables=_compute_tables(facts),
        compute_note=test_time_compute.note(facts.votes),
        published_tables=published_tables(facts),
        published_note=published.NOTE,
        family_table=family_table(facts),
        funnel_table=funnel_table(facts),
        source_table=source_table(facts),
        spend_note=spend_note(facts),
        spend_table=spend_table(facts),
        examples=[(e, [(part, list(run)) for part, run in groupby(e.segments, lambda s: s.part)])
                  for e in facts.examples],
        training_wide=Markup(training_chart(facts.training)),
        training_narrow=Markup(training_chart(facts.training, width="narrow")),
        training_note=training_note(facts),
        provenance_table=provenance_table(facts),
        settings_table=settings_table(facts),
    )  # fmt: skip


def render_markdown(facts: RunFacts) -> str:
    """The same facts as Markdown; the chart is `accuracy.svg` beside it (see `accuracy_svg`)."""
    parts = [
        f"# tenner: {facts.title}",
        headline(facts),
        comparison_note(facts),
        "## Accuracy by thinking budget",
        "![Accuracy by thinking budget, untrained and distilled student](accuracy.svg)",
        chart_note(facts),
        *map(markdown_table, score_tables(facts)),
        *(("## Beside what is published", published.NOTE) if facts.published else ()),
        *map(markdown_table, published_tables(facts)),
        "## What thinking buys",
        test_time_compute.note(facts.votes),
        *map(markdown_table, _compute_tables(facts)),
        "## By family",
        markdown_table(family_table(facts)),
        "## Where the questions went",
        f"{facts.counterfactual}.",
        markdown_table(funnel_table(facts)),
        markdown_table(source_table(facts)),
        "## What it cost",
        spend_note(facts),
        markdown_table(spend_table(facts)),
        "## How it thinks",
        "Between ⟦ and ⟧ stands what budget forcing put in; everything else the student wrote itself.",
        *(_markdown_example(example) for example in facts.examples),
        "## Training",
        training_note(facts),
        "## Where it comes from",
        markdown_table(provenance_table(facts)),
        markdown_table(settings_table(facts)),
        f"<details><summary>Recipe</summary>\n\n{fenced(facts.recipe_toml, 'toml')}\n\n</details>",
    ]
    return "\n\n".join(parts) + "\n"


def accuracy_svg(facts: RunFacts) -> str:
    """The chart of the report as a file of its own."""
    return accuracy_chart(_shown(facts))


def headline(facts: RunFacts) -> str:
    """The whole run in one sentence."""
    before, after = before_and_after(facts.scores)
    cost = usd(sum(row.cost_usd for row in facts.spend))
    return (
        f"{facts.base_model.rsplit('/', 1)[-1]} answered {percent(before.accuracy)} of the {before.task} questions "
        f"(95{NBSP}% interval {interval(before)}, n{NBSP}={NBSP}{before.n}) before and {percent(after.accuracy)} "
        f"({interval(after)}, n{NBSP}={NBSP}{after.n}) after it had learned from {facts.samples_count:,} reasoning "
        f"traces, for {cost} and in {facts.seconds / 60:.1f} minutes."
    )


def comparison_note(facts: RunFacts) -> str:
    """The paired test behind the headline, and what it could have seen."""
    c = facts.comparison
    if c.test == "McNemar":
        split = (
            f"{c.both} were right both times, {c.more_after} only after, {c.more_before} only before and {c.neither} "
            f"never (exact McNemar test, {p_value(c.p_value)})"
        )
    else:
        split = (
            f"{c.more_after} were right more often after and {c.more_before} more often before "
            f"(bootstrap over questions, {p_value(c.p_value)})"
        )
    return (
        f"Of the {c.n} questions that both answered, {split}. The difference is {points(c.difference)} points "
        f"(95{NBSP}% interval {points(c.ci.low)} to {points(c.ci.high)}); one of {100 * c.least_seen:.1f} would have "
        "been found four times out of five."
    )


def chart_note(facts: RunFacts) -> str:
    """How to read the chart, and by which rule the headline was picked from it."""
    before, after = before_and_after(facts.scores)
    counts = sorted(s.n for s in _shown(facts))
    clusters = " with questions as clusters" if any(s.samples > 1 for s in _shown(facts)) else ""
    n = f"{counts[0]}" if counts[0] == counts[-1] else f"{counts[0]} to {counts[-1]}"
    return (
        f"Bars are 95{NBSP}% Wilson intervals{clusters}, n{NBSP}={NBSP}{n} questions at every point. Before is the "
        f"untrained student at its best (prompt “{before.prompt}”, {limit(before.policy)} thinking tokens, "
        f"{before.policy.waits} waits); after is the distilled one at its largest limit without waits "
        f"({limit(after.policy)}). Unparsed answers count as not correct."
    )


def spend_note(facts: RunFacts) -> str:
    """The total against the cap, and openly what was free."""
    cost, machine = (sum(r.cost_usd for r in rows) for rows in (facts.spend, [r for r in facts.spend if is_own(r)]))
    cap = "There was no cap" if facts.budget_usd is None else f"The cap was {usd(facts.budget_usd)}"
    free = [
        f"The teacher {payee(r)} was free: {r.price}. Its {r.calls:,} traces tell nothing about what bought ones cost."
        for r in facts.spend if not is_own(r) and r.cost_usd == 0
    ]  # fmt: skip
    return " ".join((f"{usd(cost)} in all, {usd(machine)} of it for machine time. {cap}.", *free))


def training_note(facts: RunFacts) -> str:
    """What training came to, in one sentence."""
    rows = facts.training
    tokens = sum(row.tokens for row in rows)
    seconds = sum(row.tokens / row.tokens_per_second for row in rows)
    return (
        f"{len(rows)} steps over {facts.samples_count:,} samples: {tokens:,} tokens, {tokens / seconds:,.0f} a second; "
        f"loss {rows[0].loss:.3f} at the first step and {rows[-1].loss:.3f} at the last."
    )


def family_table(facts: RunFacts) -> Table:
    """The headline's two scores, family by family."""
    before, after = (
        {s.domain: s for s in facts.scores if s.domain is not None and _asked(s) == _asked(whole)}
        for whole in before_and_after(facts.scores)
    )
    rows = [
        (str(domain), *(cell for side in (before, after) for cell in _score_cells(side.get(domain))))
        for domain in sorted(before | after, key=str)
    ]
    header = ("family", "untrained", "95 % interval", "n", "distilled", "95 % interval", "n")
    return Table("Accuracy by family, at the policies of the headline", "lrrrrrr", header, rows)


def funnel_table(facts: RunFacts) -> Table:
    """What every stage took in and gave out."""
    rows = [
        (
            row.stage, f"{row.items_in:,}", f"{row.items_out:,}",
            ", ".join(f"{reason} {count:,}" for reason, count in row.reasons.items()) or DASH,
        )
        for row in facts.funnel
    ]  # fmt: skip
    return Table("What every stage took in and gave out", "lrrl", ("stage", "in", "out", "left for"), rows)


def source_table(facts: RunFacts) -> Table:
    """Where the questions come from, under which licence, and how many of them are trained on."""
    rows = [
        (
            s.source.source, s.source.where, s.source.license or "unknown", f"{s.source.questions:,}",
            DASH if s.source.published is None else f"{s.source.published:,}", f"{s.trained_on:,}",
            ", ".join(f"{origin} {count:,}" for origin, count in s.origins.items()) or DASH,
        )
        for s in facts.sources
    ]  # fmt: skip
    header = ("source", "where", "licence", "questions", "published", "trained on", "of these")
    return Table("Where the questions come from", "lllrrrl", header, rows)


def _compute_tables(facts: RunFacts) -> list[Table]:
    return test_time_compute.tables(facts.sweeps, facts.answer_prices, facts.votes)


def _shown(facts: RunFacts) -> list[Score]:
    """What the chart shows: the whole task, each student in the prompt form of the headline."""
    chosen = {(s.student, s.prompt) for s in before_and_after(facts.scores)}
    return [s for s in facts.scores if s.domain is None and (s.student, s.prompt) in chosen]


def _asked(score: Score) -> tuple[object, ...]:
    return score.task, score.student, score.prompt, score.policy


def _score_cells(score: Score | None) -> tuple[str, str, str]:
    """A family may have been met by one student only, in a run whose evaluation is unfinished."""
    return (DASH, DASH, "0") if score is None else (percent(score.accuracy), interval(score), str(score.n))


def _markdown_example(example: Example) -> str:
    text = "".join(f"⟦{s.text}⟧" if s.forced else s.text for s in example.segments)
    facts = f"{example.verdict}; {example.policy_label}; reference: {inline(example.reference)}"
    return f"**{inline(example.question)}**\n\n{facts}\n\n{fenced(text)}"
