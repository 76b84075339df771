"""`tenner watch RUN`: a view of a run that moves with it, which can be left and joined at any time."""

import argparse
import math
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from rich.console import Group, RenderableType
from rich.live import Live
from rich.text import Text

from tenner.budget.ledger_database import read_spend
from tenner.budget.ledger_rows import SpendRow
from tenner.core.console import SafeConsole, by_column, fitting_table
from tenner.core.followed_file import FollowedFile
from tenner.core.recipe import Description, stored
from tenner.core.records import StagePlan, TrainStep
from tenner.core.run_folder import RunFolder
from tenner.core.terminal import visible, write_rendered

LOOK_EVERY_SECONDS = 1.0
IDLE_SECONDS = 60.0
"""A run whose files have not changed for so long is not called at work."""
OUTPUTS = {
    "gather": "questions", "clean": "clean", "attempt": "attempts", "select": "selected", "trace": "traces",
    "verify": "samples", "train": "training", "control": "control/training", "evaluate": "completions",
}  # fmt: skip
"""The file that each stage fills."""
STEPS_KEPT, SAMPLES_SHOWN, SAMPLE_CHARACTERS = 4000, 3, 240
BARS = "▁▂▃▄▅▆▇█"
CURVE_CHARACTERS = 24


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of the verb."""
    parser.add_argument("run", metavar="RUN", type=Path, help="a run's folder; it is only read")
    parser.add_argument("--once", action="store_true", help="print the view as it is now, and leave")


def main(args: argparse.Namespace) -> None:
    """Show the run until it ends or Ctrl-C; where there is no terminal, once. The run does not notice."""
    view, console = View(args.run), SafeConsole(highlight=False)
    if args.once or not console.is_terminal or view.is_finished():
        with console.capture() as captured:
            console.print(view.render(console.width))
        write_rendered(captured.get().rstrip())
        return
    try:
        with Live(view.render(console.width), console=console, auto_refresh=False) as live:
            while not view.is_finished():
                time.sleep(LOOK_EVERY_SECONDS)
                live.update(view.render(console.width), refresh=True)
    except KeyboardInterrupt:
        console.print(f"left; the run is as it was. tenner watch {args.run} joins again", style="dim", soft_wrap=True)


class View:
    """What is known of a run at the moment. Raises TennerError for a folder that is none."""

    def __init__(self, path: Path) -> None:
        self._folder = RunFolder.existing(path)
        described = stored(self._folder)
        assert described is not None, "RunFolder.existing has seen it"
        self._described: Description = described
        files = {stage: OUTPUTS[stage] for stage in described.stages if stage in OUTPUTS}
        self._files = {
            stage: FollowedFile(path / f"{name}.jsonl", keep=STEPS_KEPT if stage == "train" else SAMPLES_SHOWN)
            for stage, name in files.items()
        }

    def is_finished(self) -> bool:
        """Whether every stage is done."""
        return all(self._folder.done(stage) for stage in self._described.stages)

    def render(self, width: int) -> RenderableType:
        """The view as it is now, `width` characters wide."""
        for file in self._files.values():
            file.update()
        spend = read_spend(self._folder.path / "run.db")
        plan = {row.stage: row for row in self._folder.read("plan", StagePlan)}
        parts: list[RenderableType] = [self._heading(spend), Text(), self._stages(spend, plan, width)]
        if (training := self._files.get("train")) and (steps := list(steps_in(training.last))):
            parts += [Text(), training_line(steps)]
        return Group(*parts, *self._last_samples())

    def _current(self) -> str | None:
        return next((stage for stage in self._described.stages if not self._folder.done(stage)), None)

    def _heading(self, spend: Sequence[SpendRow]) -> Text:
        cap, spent = self._described.budget_usd, sum(row.cost_usd for row in spend)
        of = "no cap" if cap is None else f"of ${cap:,.2f} at most"
        if (current := self._current()) is None:
            state = "finished"
        else:
            idle = self._idle_seconds()
            state = f"{current}, at work" if idle < IDLE_SECONDS else f"{current}; nothing written for {_ago(idle)}"
        heading = Text(self._described.name, style="bold")
        return heading.append(f"  {self._folder.path}  {state}  ${spent:,.4f} {of}", style="not bold")

    def _idle_seconds(self) -> float:
        paths = [*(file.path for file in self._files.values()), self._folder.path / "run.db-wal"]
        changed = [path.stat().st_mtime for path in (*paths, self._folder.path / "run.json") if path.exists()]
        return max(0.0, time.time() - max(changed, default=0.0))

    def _stages(self, spend: Sequence[SpendRow], plan: dict[str, StagePlan], width: int) -> RenderableType:
        rows, current = [], self._current()
        for stage in self._described.stages:
            done, file = self._folder.done(stage), self._files.get(stage)
            state = "done" if done else "now" if stage == current else ""
            written = f"{file.count:,}" if file and file.count else ""
            seconds = done.seconds if done else self._folder.begun_seconds(stage)
            expected = plan[stage].seconds if stage in plan else None
            cost = sum(row.cost_usd for row in spend if row.stage == stage)
            rows.append([
                stage, state, f"{done.items_out:,}" if done else written, "" if seconds is None else f"{seconds:,.0f}",
                f"{expected[1]:,.0f}" if expected else "", f"{cost:.4f}" if cost else "",
            ])  # fmt: skip
        names = ("stage", "state", "out", "seconds", "expected", "$")
        columns = by_column(names, rows)
        styles = ["bold" if state == "now" else "" for state in columns["state"]]
        return fitting_table(columns, width=width, left=names[:2], styles=styles)

    def _last_samples(self) -> list[RenderableType]:
        """The last answers of the last stage that has written any."""
        kinds = {"evaluate": ("question_id", "grade"), "trace": ("question_id", "outcome")}
        for stage, (name, verdict) in kinds.items():
            if (file := self._files.get(stage)) and file.last:
                lines = [sample_line(row, name, verdict) for row in file.last]
                return [Text(), Text(f"last answers of {stage}", style="dim"), *lines]
        return []


def steps_in(rows: Iterable[dict[str, Any]]) -> Iterator[TrainStep]:
    """The lines that are steps of a training: this is a look, which passes over a line that is damaged."""
    for row in rows:
        with suppress(ValidationError, OverflowError):
            step = TrainStep.model_validate(row)
            if all(map(math.isfinite, (step.loss, step.tokens_per_second or 0, step.tokens_left or 0))):
                yield step


def training_line(steps: Sequence[TrainStep]) -> Text:
    """The step, the loss with its curve, the speed and the time that is left."""
    last = steps[-1]
    text = Text(f"step {last.step + 1:,} of {last.steps:,}  loss {last.loss:.3f}  ")
    text.append(curve([step.loss for step in steps]), style="cyan")
    measured = [step.validation_loss for step in steps if step.validation_loss is not None]
    if measured:
        text.append(f"  of held-out samples {measured[-1]:.3f}, lowest {min(measured):.3f}")
    if speed := last.tokens_per_second:
        text.append(f"  {speed:,.0f} tokens/s")
        if last.tokens_left:
            text.append(f"  {last.tokens_left / speed / 60:.1f} min left")
    return text


def curve(values: Sequence[float]) -> str:
    """The values as bars from 0 to the highest one, each of them a mean where there are many."""
    width = min(len(values), CURVE_CHARACTERS)
    cuts = [i * len(values) // width for i in range(width + 1)]
    means = [sum(values[a:b]) / (b - a) for a, b in pairwise(cuts)]
    top = max(means)
    return "".join(BARS[round(mean / top * (len(BARS) - 1))] if top > 0 else BARS[0] for mean in means)


def sample_line(row: dict[str, Any], name: str, verdict: str) -> Text:
    """An answer on few lines: its question's id, its verdict, and the end of what was said."""
    judged = row.get(verdict)
    shown = judged.get("verdict") if isinstance(judged, dict) else judged
    said = " ".join(f"{row.get('thinking', '')} {row.get('answer', '')}".split())
    cut = f"…{said[-SAMPLE_CHARACTERS:]}" if len(said) > SAMPLE_CHARACTERS else said
    return Text(visible(f"{row.get(name)} ")).append(f"{shown}  ", style="bold").append(visible(cut), style="dim")


def _ago(seconds: float) -> str:
    minutes, hours = seconds / 60, seconds / 3600
    return f"{minutes:.0f} minutes" if minutes < 120 else f"{hours:.0f} hours"
