"""The tables of a run's report that a measurement has not: domains, funnel, sources, test-time compute."""

from tenner.core.dollars import usd
from tenner.core.records import Score
from tenner.evaluation.report import policy_table
from tenner.evaluation.report.facts import BenchmarkFacts, RunFacts
from tenner.evaluation.report.score_tables import benchmark_caption
from tenner.evaluation.report.tables import DASH, Table, interval, percent
from tenner.evaluation.statistics import forcing_effects, test_time_compute


def family_tables(facts: RunFacts) -> list[Table]:
    """The headline's two scores of each benchmark by domain; no table where its questions have none."""
    return [t for b in facts.benchmarks if (t := _family_table(facts, b)).rows]


def compute_tables(facts: RunFacts) -> list[Table]:
    """What forcing did, s1's three numbers, prices of right answers and votes for each benchmark, and the tuning."""
    tuned = [policy_table.table(facts.tuning, facts.own_policy)] if facts.own_policy and facts.tuning else []
    return [
        table._replace(caption=benchmark_caption(facts, b.name, table.caption))
        for b in facts.benchmarks
        for table in (
            *([forcing_effects.table(b.effects)] if b.effects else []),
            *test_time_compute.tables(b.sweeps, b.answer_prices, b.votes),
        )
    ] + tuned


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


def plan_table(facts: RunFacts) -> Table:
    """What each stage was expected to take before the run began, and what it took; no rows where nothing was said."""
    rows = []
    for stage in facts.plan:
        own = [row for row in facts.spend if row.stage == stage.stage]
        spent, charged = sum(row.cost_usd for row in own), sum(row.machine_seconds for row in own)
        if not (stage.seconds or spent or (stage.usd and stage.usd.high)):
            continue
        took = charged or facts.stage_seconds.get(stage.stage, 0.0)
        times = [f"{seconds:,.0f}" for seconds in stage.seconds] if stage.seconds else [DASH, DASH]
        money = [usd(each) for each in stage.usd] if stage.usd else [DASH, DASH]
        rows.append((
            stage.stage,
            times[1], f"{times[0]}{DASH}{times[-1]}" if stage.seconds else DASH, f"{took:,.0f}",
            money[1], f"{money[0]}{DASH}{money[-1]}" if stage.usd else DASH, usd(spent),
        ))  # fmt: skip
    header = ("stage", "seconds expected", "low to high", "taken", "cost expected", "low to high", "spent")
    return Table("What each stage was expected to take before the run began, and took", "lrrrrrr", header, rows)


def _family_table(facts: RunFacts, benchmark: BenchmarkFacts) -> Table:
    before, after = (
        {s.domain: s for s in benchmark.scores if s.domain is not None and _group(s) == _group(whole)}
        for whole in (benchmark.before, benchmark.after)
    )
    rows = [
        (str(domain), *(cell for side in (before, after) for cell in _score_cells(side.get(domain))))
        for domain in sorted(before | after, key=str)
    ]
    header = ("family", "untrained", "95 % interval", "n", "distilled", "95 % interval", "n")
    caption = benchmark_caption(facts, benchmark.name, "Accuracy by family, at the policies of the headline")
    return Table(caption, "lrrrrrr", header, rows)


def _group(score: Score) -> tuple[object, ...]:
    return score.student, score.prompt, score.policy


def _score_cells(score: Score | None) -> tuple[str, str, str]:
    """Only one of the students may have answered questions of the domain: answers of an API may be missing."""
    return (DASH, DASH, "0") if score is None else (percent(score.accuracy), interval(score), str(score.n))
