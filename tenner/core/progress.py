"""What a person sees while a run is under way: progress and log on stderr, so that stdout stays data."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

from tenner.core.terminal import say

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

LINE_EVERY_SECONDS = 15.0  # where there is no terminal to redraw


class Bar(Protocol):
    """A bar to move."""

    def update(self, done: int, note: str = "", *, total: int | None = None) -> None: ...


class Screen:
    """Progress on stderr: a moving bar in a terminal, now and then a line elsewhere."""

    def __init__(self) -> None:
        from tenner.core.console import SafeConsole  # 50 ms that `tenner --help` does not need

        self.console = SafeConsole(stderr=True, highlight=False, soft_wrap=True)

    def say(self, text: str) -> None:
        """One line of log."""
        self.console.print(text, markup=False)

    @contextmanager
    def bar(self, label: str, total: int, *, expected_seconds: float | None = None) -> Iterator[Bar]:
        """Show the way to `total`, and how long it is, at first by what was expected; gone when the block ends."""
        time_left = _TimeLeft(expected_seconds)
        if not self.console.is_terminal:
            yield _LineBar(label, total, time_left)
            return
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[left]}", style="cyan"),
            TextColumn("{task.fields[note]}", style="dim"),
        )
        with Progress(*columns, console=self.console, transient=True) as progress:
            task = progress.add_task(label, total=total, note="", left=time_left.left(0, total))
            yield _RichBar(progress, task, total, time_left)


class _TimeLeft:
    """The time that is left: at first as it was expected, and the more is done, the more by the speed so far."""

    def __init__(self, expected_seconds: float | None) -> None:
        self._expected_seconds, self._began = expected_seconds, time.monotonic()
        self._first: tuple[int, float] | None = None

    def left(self, done: int, total: int) -> str:
        """For people; empty while nothing is known. What was done before this session does not count."""
        now = time.monotonic()
        if self._first is None and done:
            self._first = done, now
        before, since = self._first or (0, now)
        if done >= total or (done <= before and self._expected_seconds is None):
            return ""
        share = (done - before) / (total - before)
        by_speed = (now - since) / share * (1 - share) if share > 0 else 0.0
        expected = by_speed
        if self._expected_seconds is not None and self._expected_seconds > now - self._began:
            expected = self._expected_seconds - (now - self._began)
        elif share <= 0:  # it takes longer than was expected, and how much longer cannot be said yet
            return ""
        return f"{((1 - share) * expected + share * by_speed) / 60:.1f} min left"


class _RichBar:
    def __init__(self, progress: "Progress", task: "TaskID", total: int, time_left: _TimeLeft) -> None:
        self._progress, self._task, self._total, self._time_left = progress, task, total, time_left

    def update(self, done: int, note: str = "", *, total: int | None = None) -> None:
        self._total = total or self._total
        left = self._time_left.left(done, self._total)
        self._progress.update(self._task, completed=done, note=note, total=self._total, left=left)


class _LineBar:
    def __init__(self, label: str, total: int, time_left: _TimeLeft) -> None:
        self._label, self._total, self._time_left = label, total, time_left
        self._next = time.monotonic() + LINE_EVERY_SECONDS

    def update(self, done: int, note: str = "", *, total: int | None = None) -> None:
        self._total = total or self._total
        left = self._time_left.left(done, self._total)
        if (now := time.monotonic()) >= self._next:
            said = f"{self._label} {done}/{self._total} {note}".rstrip()
            say(f"{said}  {left}".rstrip(), file=sys.stderr)
            self._next = now + LINE_EVERY_SECONDS
