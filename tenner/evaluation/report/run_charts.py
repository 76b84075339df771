"""The charts of what a run took and gave: accuracy for its price, thinking lengths, funnel, plan against spend."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, PercentFormatter

from tenner.budget.estimate import Estimate
from tenner.core.dollars import usd
from tenner.evaluation.report.answers import Answered
from tenner.evaluation.report.charts import MARKERS
from tenner.evaluation.report.facts import BenchmarkFacts, FunnelRow, RunFacts
from tenner.evaluation.report.sentences import charted
from tenner.evaluation.report.svg import BASE, DISTILLED, RULE, STUDENT_INKS, TEXT, Width, plain_axes, svg
from tenner.evaluation.report.tables import NAMES
from tenner.evaluation.statistics.scores import policy_order
from tenner.evaluation.statistics.test_time_compute import AnswerPrice

BAR_PT = 26
FUNNEL_PT = 40
LENGTH_BINS = 24
ANSWERS_MIN = 10
"""A distribution of fewer lengths is no picture."""


def compute_chart(benchmarks: Sequence[BenchmarkFacts], *, width: Width = "wide") -> str | None:
    """Accuracy against mean thinking tokens and against dollars, both to scale; None where no student was asked at
    two lengths.
    """
    draws, facts = [], []
    for b in benchmarks:
        shown = [p for p in b.answer_prices if p.score in charted(b) and p.score.thinking_tokens_mean is not None]
        if len({p.score.thinking_tokens_mean for p in shown}) < 2:
            continue
        name = f"{b.name}: " if len(benchmarks) > 1 else ""
        draws.append(partial(_draw_points, shown, _tokens, f"{name}accuracy, % by mean thinking tokens"))
        if any(p.usd_per_answer for p in shown):
            draws.append(partial(_draw_points, shown, _dollars, f"{name}accuracy, % by dollars for 1,000 answers"))
        facts += [f"{name}{NAMES[p.score.student]}, {100 * p.score.accuracy:.1f} % at {_tokens(p):.1f} tokens and "
                  f"${_dollars(p):.4f} for 1,000 answers" for p in shown]  # fmt: skip
    if not draws:
        return None
    title = "Accuracy by mean thinking tokens and by dollars, untrained and distilled student"
    return svg("compute", draws, width, [210] * len(draws), title=title, description="; ".join(facts) + ".")


def _tokens(price: AnswerPrice) -> float:
    return price.score.thinking_tokens_mean or 0.0


def _dollars(price: AnswerPrice) -> float:
    return 1000 * (price.usd_per_answer or 0.0)


def _draw_points(prices: Sequence[AnswerPrice], x_of: Callable[[AnswerPrice], float], heading: str, axes: Axes) -> None:
    """Each student's scores: joined by a line without waits, alone and hollow with them."""
    for student in dict.fromkeys(p.score.student for p in prices):
        own = sorted((p for p in prices if p.score.student == student), key=lambda p: policy_order(p.score.policy))
        colour = STUDENT_INKS[student].light
        for waiting in (False, True):
            if not (part := [p for p in own if bool(p.score.policy.waits) == waiting]):
                continue
            xs, ys = [x_of(p) for p in part], [100 * p.score.accuracy for p in part]
            errors = [
                [100 * (p.score.accuracy - p.score.ci_low) for p in part],
                [100 * (p.score.ci_high - p.score.accuracy) for p in part],
            ]
            axes.errorbar(
                xs, ys, yerr=errors, color=colour, linestyle="none" if waiting else "-", linewidth=1.6,
                elinewidth=0.9, marker=MARKERS[student], markersize=5, clip_on=False,
                markerfacecolor="none" if waiting else colour,
                label=NAMES[student] + (", with waits" if waiting else ""),
            )  # fmt: skip
    axes.set_xlim(left=0)
    highest = max(100 * p.score.ci_high for p in prices)
    axes.set_ylim(0, min(104, highest * 1.1 + 1))
    axes.locator_params(nbins=5, axis="x")
    axes.locator_params(nbins=5, axis="y")
    plain_axes(axes, heading)
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False, fontsize=9, labelcolor=TEXT.light)


def lengths_chart(answered: Sequence[Answered], benchmarks: Sequence[BenchmarkFacts], *, width: Width = "wide") -> (
    str | None
):  # fmt: skip
    """How long both students thought at the policies of the headline; None where there is nothing to distribute."""
    policies = {b.name: (b.before.policy, b.after.policy) for b in benchmarks}
    lengths: dict[str, list[int]] = {"base": [], "distilled": []}
    for q in answered:
        for student, side, policy in zip(lengths, (q.before, q.after), policies[q.task], strict=True):
            lengths[student] += [a.thinking_tokens for a in side if a.policy == policy]
    most = max((n for own in lengths.values() for n in own), default=0)
    if min(map(len, lengths.values())) < ANSWERS_MIN or not most:
        return None

    def draw(axes: Axes) -> None:
        for student, own in lengths.items():
            colour = STUDENT_INKS[student].light
            weights = [1 / len(own)] * len(own)
            axes.hist(
                own, bins=LENGTH_BINS, range=(0, most), weights=weights, histtype="step", color=colour,
                linewidth=1.6, linestyle="--" if student == "base" else "-", label=NAMES[student],
            )  # fmt: skip
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=" %"))
        axes.set_xlim(0, most)
        axes.set_xlabel("thinking tokens")
        plain_axes(axes, "share of the answers by their thinking tokens")
        axes.legend(loc="upper center", frameon=False, fontsize=9, labelcolor=TEXT.light)

    medians = "; ".join(f"{NAMES[s]}: median {sorted(own)[len(own) // 2]} tokens" for s, own in lengths.items())
    return svg("lengths", [draw], width, [180], title="Thinking tokens of an answer", description=f"{medians}.")


def funnel_chart(funnel: Sequence[FunnelRow], *, width: Width = "wide") -> str | None:
    """What each stage gave on, and what it dropped; None where nothing went in."""
    rows = [row for row in funnel if row.items_in]
    if not rows:
        return None

    def draw(axes: Axes) -> None:
        for y, row in enumerate(rows):
            axes.barh(y, row.items_in, height=0.36, color=RULE.light)
            axes.barh(y, row.items_out, height=0.36, color=DISTILLED.light)
            reasons = ", ".join(f"{name} {count:,}" for name, count in row.reasons.items())
            told = f"{row.items_out:,}" + (f"  (dropped: {reasons})" if reasons and width == "wide" else "")
            axes.annotate(told, (0, y - 0.22), (0, 2), textcoords="offset points", va="bottom", fontsize=9)
        axes.set_yticks(range(len(rows)), [row.stage for row in rows])
        axes.set_ylim(len(rows) - 0.7, -0.75)
        axes.set_xlim(0, max(row.items_in for row in rows))
        axes.set_xticks([])

    facts = "; ".join(f"{row.stage}: {row.items_out:,} of {row.items_in:,}" for row in rows)
    height = FUNNEL_PT * len(rows) + 8
    return svg("funnel", [draw], width, [height], title="What every stage gave on", description=f"{facts}.")


class _Planned(NamedTuple):
    stage: str
    expected: Estimate
    actual: float


def plan_chart(facts: RunFacts, *, width: Width = "wide") -> str | None:
    """Expected and actual seconds and dollars by stage; None where nothing was expected."""
    seconds, dollars = [], []
    for planned in facts.plan:
        own = [row for row in facts.spend if row.stage == planned.stage]
        charged = sum(row.machine_seconds for row in own)
        if planned.seconds:
            taken = charged or facts.stage_seconds.get(planned.stage, 0.0)
            seconds.append(_Planned(planned.stage, planned.seconds, taken))
        if planned.usd and (planned.usd.high or any(row.cost_usd for row in own)):
            dollars.append(_Planned(planned.stage, planned.usd, sum(row.cost_usd for row in own)))
    named: Mapping[str, tuple[list[_Planned], Callable[[float], str]]] = {
        "seconds": (seconds, lambda x: f"{x:,.0f}"), "dollars": (dollars, usd),
    }  # fmt: skip
    draws, heights, told = [], [], []
    for unit, (rows, shown) in named.items():
        if rows:
            draws.append(partial(_draw_plan, rows, f"{unit}: expected (line) and actual (dot)", shown))
            heights.append(BAR_PT * len(rows) + 52.0)
            told += [f"{r.stage}: {shown(r.expected[1])} {unit} expected, {shown(r.actual)} taken" for r in rows]
    if not draws:
        return None
    return svg("plan", draws, width, heights, title="Expected and actual by stage", description="; ".join(told) + ".")


def _draw_plan(rows: Sequence[_Planned], heading: str, shown: Callable[[float], str], axes: Axes) -> None:
    for y, row in enumerate(rows):
        low, middle, high = row.expected
        axes.plot([low, high], [y, y], color=BASE.light, linewidth=2, solid_capstyle="round")
        axes.plot([middle], [y], marker="|", markersize=11, markeredgewidth=2, color=BASE.light)
        axes.plot([row.actual], [y], marker="o", markersize=6, color=DISTILLED.light, clip_on=False, zorder=3)
    axes.set_yticks(range(len(rows)), [row.stage for row in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlim(left=0)
    axes.locator_params(nbins=4, axis="x")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: shown(x)))
    plain_axes(axes, heading, grid="x")
