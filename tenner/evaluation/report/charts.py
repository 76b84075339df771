"""The report's two charts as SVG text: accuracy by thinking budget, and the training loss."""

import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from html import escape
from io import StringIO
from typing import Any, Literal, NamedTuple

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tenner.core.records import Policy, Score, TrainStep
from tenner.evaluation.report.tables import NAMES, waits, ways_to_stop
from tenner.evaluation.statistics.scores import policy_order

Width = Literal["wide", "narrow"]
WIDTH_PT: dict[Width, float] = {"wide": 520, "narrow": 300}

MARKERS = {"base": "s", "distilled": "o"}  # told apart by shape as well as by colour
NO_METADATA = dict.fromkeys(("Date", "Creator", "Format", "Type"))  # nothing that differs between identical runs


class Ink(NamedTuple):
    """A colour as matplotlib draws it (light paper) and its name and dark twin in the SVG's style sheet."""

    light: str
    name: str
    dark: str


TEXT = Ink("#3a3d42", "text", "#c6c9ce")
RULE = Ink("#dcdee1", "rule", "#34383e")
BASE = Ink("#9a6412", "base", "#d9a55a")
DISTILLED = Ink("#1259b8", "distilled", "#78b0ff")
INKS = (TEXT, RULE, BASE, DISTILLED)
STUDENT_INKS = {"base": BASE, "distilled": DISTILLED}

STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text: searchable, and in the reader's own font
    "svg.hashsalt": "tenner",  # the same run gives the same bytes
    "font.family": ["DejaVu Sans"],  # measured with the font that comes with matplotlib
    "font.size": 10,
    "text.color": TEXT.light,
    "axes.labelcolor": TEXT.light,
    "axes.edgecolor": RULE.light,
    "xtick.color": TEXT.light,
    "ytick.color": TEXT.light,
    "axes.spines.left": False,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.axisbelow": True,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
}


def accuracy_chart(scores: Sequence[Score], *, width: Width = "wide") -> str:
    """Accuracy with its 95 % interval at every thinking budget: a panel for each benchmark, a line for each student.

    `scores` are of whole benchmarks, with one prompt for each student. Budgets stand at equal distances, since they
    usually double and may begin at 0. Policies with waits stand apart, to the right, and behind them those that stop
    early, with the mean of the tokens of thinking and trials that they took.
    """
    panels = {task: [s for s in scores if s.task == task] for task in dict.fromkeys(s.task for s in scores)}
    titles = ["accuracy, %"] if len(panels) == 1 else [f"{task}: accuracy, %" for task in panels]
    draws = [partial(_draw_accuracy, shown, title) for shown, title in zip(panels.values(), titles, strict=True)]
    facts = [
        (f"{task}, " if len(panels) > 1 else "") + _described(s)
        for task, shown in panels.items()
        for s in sorted(shown, key=lambda s: (s.student, policy_order(s.policy)))
    ]
    title = "Accuracy by thinking budget, untrained and distilled student"
    return _svg(f"accuracy-{width}", draws, WIDTH_PT[width], 260, title=title, description="; ".join(facts) + ".")


def _described(score: Score) -> str:
    """A point of the chart in words, for screen readers."""
    return (
        f"{NAMES[score.student]}, {_spoken(score.policy)}: {100 * score.accuracy:.1f} % "
        f"(95 % interval {100 * score.ci_low:.1f} to {100 * score.ci_high:.1f}, n = {score.n})"
    )


def _draw_accuracy(scores: Sequence[Score], title: str, axes: Axes) -> None:
    policies = sorted({s.policy for s in scores}, key=policy_order)
    parts = {
        "limit of thinking tokens": [p for p in policies if not p.waits and not p.stops_early],
        "waits": [p for p in policies if p.waits and not p.stops_early],
        "stopped early": [p for p in policies if p.stops_early],
    }
    shown = [part for part in parts.values() if part]
    gaps = {policy: 0.4 * number for number, part in enumerate(shown) for policy in part}  # they set the parts apart
    place = {policy: i + gap for i, (policy, gap) in enumerate(gaps.items())}

    axes.set_ylim(0, 104)
    axes.set_yticks(range(0, 101, 25))
    axes.yaxis.grid(True, color=RULE.light, linewidth=0.8)
    axes.set_xlim(-0.4, max(place.values()) + 0.4)
    axes.set_xticks(list(place.values()), [_tick(policy, scores) for policy in place])
    axes.set_title(title, loc="left", fontsize=10, x=0)
    for label, part in parts.items():
        if part:
            middle = (place[part[0]] + place[part[-1]]) / 2
            axes.annotate(label, (middle, 0), (0, -20), textcoords="offset points", ha="center", va="top")
    ends = {}
    for student in ("base", "distilled"):
        run = {s.policy: s for s in scores if s.student == student}
        assert len(run) == sum(s.student == student for s in scores), f"two scores of one policy for {student}"
        for part in shown:
            style = "-" if part is parts["limit of thinking tokens"] else "none"
            _draw_run(axes, place, [run[p] for p in part if p in run], style)
        last = max(run, key=place.__getitem__)
        ends[student] = 100 * run[last].accuracy
    for student, y in _apart(ends, 9).items():
        name, beside = NAMES[student], ("axes fraction", "data")
        colour = STUDENT_INKS[student].light
        axes.annotate(name, (1, y), (2, 0), beside, "offset points", color=colour, va="center", fontweight="bold")


def training_chart(training: Sequence[TrainStep], *, width: Width = "wide") -> str:
    """The training loss by step."""
    steps, losses = [row.step for row in training], [row.loss for row in training]

    def draw(axes: Axes) -> None:
        axes.plot(steps, losses, color=DISTILLED.light, linewidth=1.4, clip_on=False)
        axes.set_ylim(0, max(losses) * 1.05)
        axes.set_xlim(steps[0], max(steps[-1], steps[0] + 1))
        axes.locator_params(nbins=4, integer=False, axis="y")
        axes.locator_params(nbins=6, integer=True, axis="x")
        axes.yaxis.grid(True, color=RULE.light, linewidth=0.8)
        axes.set_title("loss, nats per trained token", loc="left", fontsize=10, x=0)
        axes.set_xlabel("step")
        last, end, colour = f"{losses[-1]:.3f}", (steps[-1], losses[-1]), DISTILLED.light
        axes.annotate(last, end, (5, 0), textcoords="offset points", color=colour, va="center", fontweight="bold")

    facts = f"From {losses[0]:.3f} at step {steps[0]} to {losses[-1]:.3f} at step {steps[-1]}."
    return _svg(f"training-{width}", [draw], WIDTH_PT[width], 170, title="Training loss by step", description=facts)


def _draw_run(axes: Axes, place: Mapping[Policy, float], run: Sequence[Score], line_style: str) -> None:
    """One student's points with their intervals; the students are a little apart, so that neither hides the other."""
    if not run:
        return
    student = run[0].student
    aside = -0.06 if student == "base" else 0.06
    axes.errorbar(
        [place[s.policy] + aside for s in run],
        [100 * s.accuracy for s in run],
        yerr=[[100 * (s.accuracy - s.ci_low) for s in run], [100 * (s.ci_high - s.accuracy) for s in run]],
        color=STUDENT_INKS[student].light,
        linestyle=line_style,
        linewidth=1.8,
        elinewidth=1.2,
        marker=MARKERS[student],
        markersize=5,
        clip_on=False,
    )


def _apart(ends: Mapping[str, float], least: float) -> dict[str, float]:
    """Move two labels apart to `least` per cent of accuracy where they would touch."""
    low, high = sorted(ends, key=ends.__getitem__)
    push = max(0.0, least - (ends[high] - ends[low])) / 2
    return {low: ends[low] - push, high: ends[high] + push}


def _svg(
    name: str, draws: Sequence[Callable[[Axes], None]], width_pt: float, panel_height_pt: float, *, title: str,
    description: str,
) -> str:  # fmt: skip
    """Draw panels below each other into an SVG that scales, follows the light or dark mode, and can be read aloud."""
    height_pt = panel_height_pt * len(draws)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(width_pt / 72, height_pt / 72), layout="constrained")
        for number, draw in enumerate(draws, 1):
            draw(figure.add_subplot(len(draws), 1, number))
        out = StringIO()
        figure.savefig(out, format="svg", transparent=True, metadata=NO_METADATA)
    drawing = out.getvalue()
    drawing = drawing[drawing.index("<svg") :]
    drawing = drawing.replace("'DejaVu Sans'", "system-ui, sans-serif")
    # On a page with other charts: no shared ids, and no style that reaches beyond the chart.
    drawing = drawing.replace('<style type="text/css">*{', "<style>.chart * {")
    drawing = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", drawing)
    for ink in INKS:
        drawing = drawing.replace(ink.light, f"var(--chart-{ink.name})")
    light = "; ".join(f"--chart-{ink.name}: {ink.light}" for ink in INKS)
    dark = "; ".join(f"--chart-{ink.name}: {ink.dark}" for ink in INKS)
    head = (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'class="chart" viewBox="0 0 {width_pt:g} {height_pt:g}" '
        f'role="img" aria-labelledby="{name}-title {name}-desc">\n'
        f' <title id="{name}-title">{escape(title)}</title>\n'
        f' <desc id="{name}-desc">{escape(description)}</desc>\n'
        f" <style>.chart {{ {light} }} @media (prefers-color-scheme: dark) {{ .chart {{ {dark} }} }}</style>"
    )
    return head + drawing[drawing.index(">") + 1 :]


def _tick(policy: Policy, scores: Sequence[Score]) -> str:
    if policy.stops_early:
        own = [s for s in scores if s.policy == policy]
        means = [(s.thinking_tokens_mean or 0) + s.trial_tokens_mean for s in own if s.student == "distilled"]
        return "\n".join([*ways_to_stop(policy), *(f"≈ {mean:.0f}" for mean in means)])
    if policy.waits:
        return f"+{policy.waits}"
    return "none" if policy.thinking_tokens_max is None else str(policy.thinking_tokens_max)


def _spoken(policy: Policy) -> str:
    limit = "no limit" if policy.thinking_tokens_max is None else f"at most {policy.thinking_tokens_max} tokens"
    return ", ".join([limit, *([waits(policy)] if policy.waits else []), *ways_to_stop(policy)])
