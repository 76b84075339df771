"""The charts of a student's accuracy by thinking budget and of its training, as SVG text."""

from collections.abc import Mapping, Sequence
from functools import partial

from matplotlib.axes import Axes

from tenner.core.policy_text import waits
from tenner.core.records import Policy, Score, TrainStep
from tenner.evaluation.report.svg import BASE, DISTILLED, RULE, STUDENT_INKS, Width, plain_axes, svg
from tenner.evaluation.report.tables import NAMES, ways_to_stop
from tenner.evaluation.statistics.scores import policy_order

MARKERS = {"base": "s", "distilled": "o"}  # told apart by shape as well as by colour


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
    return svg("accuracy", draws, width, [260] * len(draws), title=title, description="; ".join(facts) + ".")


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
    """The training loss by step, with that of held-out samples where it was measured, and below it the learning rate
    and the norm of the gradient where they are known."""
    steps, losses = [row.step for row in training], [row.loss for row in training]
    measured = {row.step: row.validation_loss for row in training if row.validation_loss is not None}
    curves = {"loss, nats per trained token": losses, "learning rate": [row.lr for row in training]}
    norms = [row.grad_norm for row in training if row.grad_norm is not None]
    if len(norms) == len(training):
        curves["norm of the gradient before clipping"] = norms
    draws = [partial(_draw_curve, steps, values, name) for name, values in curves.items()]
    draws[0] = partial(_draw_losses, steps, losses, measured)
    draws[-1] = partial(_draw_curve, steps, list(curves.values())[-1], list(curves)[-1], xlabel="step")
    facts = f"From {losses[0]:.3f} at step {steps[0]} to {losses[-1]:.3f} at step {steps[-1]}."
    if measured:
        facts += f" Of held-out samples: {', '.join(f'{loss:.3f} at step {step}' for step, loss in measured.items())}."
    heights = [170, *[110] * (len(draws) - 1)]
    return svg("training", draws, width, heights, title="Training loss by step", description=facts)


def _draw_losses(steps: Sequence[int], losses: Sequence[float], measured: Mapping[int, float], axes: Axes) -> None:
    heading = "loss, nats per trained token"
    if not measured:
        _draw_curve(steps, losses, heading, axes)
        return
    _draw_curve(steps, losses, f"{heading}; ◆ held-out samples", axes)
    axes.plot(
        [*measured], [*measured.values()], color=BASE.light, linewidth=1.2, marker="D", markersize=3.5, clip_on=False
    )
    axes.set_ylim(0, max(*losses, *measured.values()) * 1.05)


def _draw_curve(steps: Sequence[int], values: Sequence[float], heading: str, axes: Axes, xlabel: str = "") -> None:
    colour = DISTILLED.light
    axes.plot(steps, values, color=colour, linewidth=1.4, clip_on=False)
    axes.set_ylim(0, max(values) * 1.05 or 1)
    axes.set_xlim(steps[0], max(steps[-1], steps[0] + 1))
    axes.locator_params(nbins=4, integer=False, axis="y")
    axes.locator_params(nbins=6, integer=True, axis="x")
    plain_axes(axes, heading)
    axes.set_xlabel(xlabel)
    last, end = f"{values[-1]:.3f}" if values[-1] >= 0.001 else f"{values[-1]:.1e}", (steps[-1], values[-1])
    axes.annotate(last, end, (5, 0), textcoords="offset points", color=colour, va="center", fontweight="bold")


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
