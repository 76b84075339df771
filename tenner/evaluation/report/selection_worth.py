"""What selection was worth: the sentence and the tables of a run with a control arm."""

from tenner.evaluation.report.facts import BenchmarkFacts, ControlArm, RunFacts
from tenner.evaluation.report.score_tables import benchmark_caption
from tenner.evaluation.report.tables import NBSP, Table, limit, p_value, percent, points
from tenner.evaluation.statistics.control_arm import Worth
from tenner.evaluation.statistics.paired import ALPHA, Comparison


def note(facts: RunFacts) -> str:
    """What selection was worth on each benchmark, at the policy of the headline; empty without a control arm."""
    arm = facts.control
    if arm is None:
        return ""
    return " ".join(filter(None, (_worth(facts, b, arm) for b in facts.benchmarks))) + (
        f" The random questions were drawn from all that could be selected; {arm.common:,} of {arm.questions:,} are "
        "among the selected ones, too."
    )


def tables(facts: RunFacts) -> list[Table]:
    """Both students under each policy, a table for each benchmark; none without a control arm."""
    return [_table(facts, b) for b in facts.benchmarks if b.control]


def _worth(facts: RunFacts, benchmark: BenchmarkFacts, arm: ControlArm) -> str:
    found = next((worth for worth in benchmark.control if worth.selected == benchmark.after), None)
    if found is None:
        return ""
    c, name = found.comparison, f" on {benchmark.name}" if len(facts.benchmarks) > 1 else ""
    return (
        f"What selection was worth{name}: {points(c.difference)} points ({_interval(c)}, {p_value(c.p_value)}). Of "
        f"n{NBSP}={NBSP}{c.n} questions the student of {facts.questions_count:,} selected questions answered "
        f"{percent(c.accuracy_after)}, one that was trained and asked alike with {arm.questions:,} random ones "
        f"{percent(c.accuracy_before)} ({limit(found.selected.policy)} thinking tokens).{_doubt(c)}"
    )


def _doubt(c: Comparison) -> str:
    """What a difference that chance can explain says."""
    if c.p_value <= ALPHA:
        return ""
    return (
        " Chance alone may make such a difference; of as many questions, a real one of "
        f"{100 * c.least_seen:.1f} points is found four times out of five."
    )


def _interval(c: Comparison) -> str:
    return f"95{NBSP}% interval {points(c.ci.low)} to {points(c.ci.high)}"


def _table(facts: RunFacts, benchmark: BenchmarkFacts) -> Table:
    header = ("limit", "waits", "selected", "random", "n", "selected minus random (95 % interval)")
    caption = benchmark_caption(facts, benchmark.name, "Trained on selected questions, and on random ones")
    return Table(caption, "lrrrrl", header, [_row(worth) for worth in benchmark.control])


def _row(worth: Worth) -> tuple[str, ...]:
    c, policy = worth.comparison, worth.selected.policy
    return (
        limit(policy), str(policy.waits), percent(c.accuracy_after), percent(c.accuracy_before), str(c.n),
        f"{points(c.difference)} ({points(c.ci.low)} to {points(c.ci.high)}), {p_value(c.p_value)}",
    )  # fmt: skip
