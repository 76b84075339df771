"""The sentences of the report: what was reached, how surely, how to read the chart, what it cost."""

from typing import NamedTuple

from tenner.core.dollars import usd
from tenner.core.policy_text import waits
from tenner.core.records import Score
from tenner.evaluation.report.facts import BenchmarkFacts, RunFacts
from tenner.evaluation.report.score_tables import is_own, payee
from tenner.evaluation.report.tables import NBSP, interval, limit, p_value, percent, points
from tenner.evaluation.statistics import forcing_effects, test_time_compute

CUT_SHARE_TOLD = 0.1
"""From which share of cut answers on the baseline is said to be in doubt."""


class Figure(NamedTuple):
    """A large number of the headline, and what stands above and below it."""

    label: str
    number: str
    note: str


def title(facts: RunFacts) -> str:
    """What the report is about."""
    return f"{facts.base_model.rsplit('/', 1)[-1]}, before and after {facts.samples_count:,} reasoning traces"


def figures(benchmark: BenchmarkFacts) -> list[Figure]:
    """The headline's two accuracies of a benchmark, each with interval and n."""
    return [
        Figure(label, percent(s.accuracy), f"95{NBSP}% interval {interval(s)}, n{NBSP}={NBSP}{s.n}")
        for label, s in (("before", benchmark.before), ("after", benchmark.after))
    ]


def totals(facts: RunFacts) -> list[Figure]:
    """Cost and time of the whole run."""
    cap = "no cap" if facts.budget_usd is None else f"of {usd(facts.budget_usd)} at most"
    return [
        Figure("cost", usd(sum(row.cost_usd for row in facts.spend)), cap),
        Figure("time", f"{facts.seconds / 60:.1f}{NBSP}min", "all stages"),
    ]


def next_commands(facts: RunFacts) -> list[tuple[str, str]]:
    """What one may do with the run now: commands, and what they do."""
    run = facts.folder
    return [
        (f"tenner chat {run}", "talk to the student"),
        (f"tenner serve {run}", "put it behind OpenAI's chat completions, with a page to talk to it"),
        (f"tenner show {run} --why ID", "why a question is trained on, or at which step it fell"),
        (f"tenner measure {run} --task NAME", "ask it another benchmark"),
        (
            f"tenner fork {run} --set train.epochs=N",
            "train with other settings, and buy nothing twice",
        ),
        (f"tenner compare {run} OTHER", "test whether two runs differ"),
        (f"tenner export {run} --format sft --out DIR", "the training samples as chats for other trainers"),
    ]


def headline(facts: RunFacts) -> str:
    """The whole run in one sentence, with the accuracy on each benchmark before and after."""
    cost = usd(sum(row.cost_usd for row in facts.spend))
    accuracies = "; ".join(
        f"{percent(b.before.accuracy)} of the {b.name} questions "
        f"(95{NBSP}% interval {interval(b.before)}, n{NBSP}={NBSP}{b.before.n}) before and {percent(b.after.accuracy)} "
        f"({interval(b.after)}, n{NBSP}={NBSP}{b.after.n}) after"
        for b in facts.benchmarks
    )
    return (
        f"{facts.base_model.rsplit('/', 1)[-1]} answered {accuracies} it had learned from {facts.samples_count:,} "
        f"reasoning traces, for {cost} and in {facts.seconds / 60:.1f} minutes."
    )


def comparison_note(facts: RunFacts) -> str:
    """The paired test behind each accuracy of the headline, and the difference that it could have detected."""
    return " ".join(_named(facts, b, _comparison(b)) for b in facts.benchmarks)


def chart_note(facts: RunFacts) -> str:
    """How to read the chart, and by which rule the headline's scores were chosen."""
    notes = [_named(facts, b, _chart_facts(b)) for b in facts.benchmarks]
    return " ".join([*notes, "Unparsed answers count as not correct.", *filter(None, [facts.older_benchmarks])])


def charted(benchmark: BenchmarkFacts) -> list[Score]:
    """What the chart shows: scores of the whole benchmark, each student in the prompt form of the headline."""
    chosen = {(s.student, s.prompt) for s in (benchmark.before, benchmark.after)}
    return [s for s in benchmark.scores if s.domain is None and (s.student, s.prompt) in chosen]


def charted_scores(facts: RunFacts) -> list[Score]:
    """What the charts of all benchmarks show."""
    return [score for b in facts.benchmarks for score in charted(b)]


def forcing_note(facts: RunFacts) -> str:
    """What cutting, waits and early ends did to the accuracy on each benchmark, and which policy is the student's own;
    empty for a single policy.
    """
    told = [b for b in facts.benchmarks if b.effects]
    notes = [_named(facts, b, forcing_effects.note(b.effects, samples=b.after.samples)) for b in told]
    return " ".join([*notes, *filter(None, [own_policy_note(facts)])])


def own_policy_note(facts: RunFacts) -> str:
    """The student's own thinking policy and why it is; empty where none was chosen."""
    if facts.own_policy is None:
        return ""
    return f"The student's own thinking policy, chosen by `tenner tune`: {facts.own_policy.sentence}."


def compute_note(facts: RunFacts) -> str:
    """How to read the tables of test-time compute."""
    return test_time_compute.note([vote for b in facts.benchmarks for vote in b.votes])


def _named(facts: RunFacts, benchmark: BenchmarkFacts, sentences: str) -> str:
    """The sentences, after the benchmark's name where the run has several."""
    return sentences if len(facts.benchmarks) == 1 else f"{benchmark.name}: {sentences}"


def _comparison(benchmark: BenchmarkFacts) -> str:
    c = benchmark.comparison
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
        f"(95{NBSP}% interval {points(c.ci.low)} to {points(c.ci.high)}); of as many questions, a real difference of "
        f"{100 * c.least_seen:.1f} points is found four times out of five."
    )


def _chart_facts(benchmark: BenchmarkFacts) -> str:
    before, after, shown = benchmark.before, benchmark.after, charted(benchmark)
    counts = sorted(s.n for s in shown)
    clusters = " with questions as clusters" if any(s.samples > 1 for s in shown) else ""
    n = f"{counts[0]}" if counts[0] == counts[-1] else f"{counts[0]} to {counts[-1]}"
    return (
        f"Bars are 95{NBSP}% Wilson intervals{clusters}, n{NBSP}={NBSP}{n} questions at every point. Before is the "
        f"untrained student at its best (prompt “{before.prompt}”, {limit(before.policy)} thinking tokens, "
        f"{waits(before.policy)}); after is the distilled one at its largest limit without waits "
        f"({limit(after.policy)}). {_cut(before.truncated)} of the untrained student's answers there and "
        f"{_cut(after.truncated)} of the distilled one's were cut at the limit of an answer.{_unfair(before)}"
    )


def _unfair(before: Score) -> str:
    """What many cut answers of the untrained student mean for the difference; empty where few were."""
    share = before.truncated / (before.n * before.samples)
    if share < CUT_SHARE_TOLD:
        return ""
    return (
        f" With {share:.0%} of its answers cut, the untrained student might do better with more room, and the "
        "difference is then smaller."
    ).replace("%", f"{NBSP}%", 1)


def _cut(answers: int) -> str:
    return f"{answers:,}" if answers else "none"


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
    """What training came to, and how far the student says what the service says that trained it."""
    return " ".join(filter(None, (_loss_note(facts), _memory_note(facts), _service_note(facts))))


def _memory_note(facts: RunFacts) -> str:
    """The memory that was taken, beside what was expected before the run began; empty where that is not known."""
    expected = next((stage.memory_bytes for stage in facts.plan if stage.stage == "train"), None)
    taken = max((row.memory_bytes or 0 for row in facts.training), default=0)
    if not (expected and taken):
        return ""
    return f"It took at most {taken / 1e9:.2f} GB of memory; {expected / 1e9:.2f} GB were expected."


def _service_note(facts: RunFacts) -> str:
    if not facts.service:
        return ""
    same = sum(row.same_tokens == row.tokens for row in facts.service)
    tokens, same_tokens = (sum(getattr(row, name) for row in facts.service) for name in ("tokens", "same_tokens"))
    return (
        f"The merged student gave the same greedy answer as the service to {same:,} of {len(facts.service):,} "
        f"questions, and {same_tokens:,} of {tokens:,} tokens before the first difference."
    )


def _loss_note(facts: RunFacts) -> str:
    rows = facts.training
    if not rows:
        return "The service that trained did not tell the loss."
    tokens = sum(row.tokens for row in rows)
    timed = [(row.tokens, row.tokens / row.tokens_per_second) for row in rows if row.tokens_per_second]
    seconds = sum(took for _, took in timed)
    speed = f"{sum(counted for counted, _ in timed) / seconds:,.0f} a second" if timed else "not timed"
    return (
        f"{len(rows)} steps over {facts.samples_count:,} samples: {tokens:,} tokens, {speed}; "
        f"loss {rows[0].loss:.3f} at the first step and {rows[-1].loss:.3f} at the last."
    )
