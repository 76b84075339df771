"""The tables of a run's report that a measurement has not: domains, funnel, sources, test-time compute."""

from tenner.core.records import Score
from tenner.evaluation.report.facts import BenchmarkFacts, RunFacts
from tenner.evaluation.report.score_tables import benchmark_caption
from tenner.evaluation.report.tables import DASH, Table, interval, percent
from tenner.evaluation.statistics import test_time_compute


def family_tables(facts: RunFacts) -> list[Table]:
    """The headline's two scores of each benchmark by domain; no table where its questions have none."""
    return [t for b in facts.benchmarks if (t := _family_table(facts, b)).rows]


def compute_tables(facts: RunFacts) -> list[Table]:
    """s1's three numbers, the price of a right answer and votes, for each benchmark."""
    return [
        table._replace(caption=benchmark_caption(facts, b.name, table.caption))
        for b in facts.benchmarks
        for table in test_time_compute.tables(b.sweeps, b.answer_prices, b.votes)
    ]


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
