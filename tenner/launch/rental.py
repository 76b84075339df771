"""A rented machine under the run's cap: charged from the start of its rental, and its job ended before the cap.

The job is a process of its own. Whatever it does, train, load a model or wait for a teacher, the machine costs; so did
starting it. This process only charges, keeps reserved what the job needs to save its state, and copies the run folder.
"""

import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import NamedTuple

from tenner.budget.ledger import Ledger
from tenner.core.errors import BudgetReached, Preempted, TennerError
from tenner.core.recipe import Recipe
from tenner.core.run import RENTED, cap_in_force, stored_recipe
from tenner.core.run_folder import RunFolder
from tenner.core.terminal import say
from tenner.launch.folder_copy import FolderCopy

TICK_SECONDS = 5.0
COPY_SECONDS = 60.0
AHEAD_SECONDS = 120.0
"""Reserved beyond the grace: calls that wait for their replies may take it for a while, and a rental that ends without
notice is booked with it."""
SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Rental(NamedTuple):
    """What a machine costs, and since when."""

    since: float
    """When the rental began, in seconds since 1970."""
    price_usd_per_hour: float
    cap_usd: float
    grace_seconds: float
    """What the job is given to save its state, when it is ended for the cap or the machine is taken away."""


def rental_of(path: Path, described: Recipe, *, since: float, grace_seconds: float, named_usd: float | None) -> Rental:
    """The rental for a run in `path`, under the cap that is in force there or that the command line names.

    Raises TennerError for a rental that has not begun, and for no grace.
    """
    if since > time.time():
        raise TennerError(f"--rented-since {since:g} is in the future", hint="give the seconds of date +%s")
    if grace_seconds <= 0:
        raise TennerError(f"--grace-seconds {grace_seconds:g} leaves no time to save anything", hint="raise it")
    folder = RunFolder(path)
    found = stored_recipe(folder)
    recipe_usd = folder.state().recipe_budget_usd
    cap_usd = cap_in_force(found, described, recipe_usd, named_usd=named_usd)
    return Rental(since, described.machine.price_usd_per_hour, cap_usd, grace_seconds)


def supervise(
    command: Sequence[str], path: Path, stages: Sequence[str], rental: Rental, *, copy: FolderCopy | None = None
) -> int:
    """Run a job that works on the run in `path`, charge the machine to it, and return the job's exit code.

    While the cap still allows the grace, the job is asked to end (SIGTERM), and killed after the grace. Signals to this
    process are handed on; a job that they have ended counts as preempted. `copy` is brought up to date as time passes.

    Raises BudgetReached where the cap has ended the job, or allows none.
    """
    meter = _RentalMeter(path, stages, rental)
    meter.begin()
    job = subprocess.Popen(command, env={**os.environ, RENTED: "1"})
    reached: BudgetReached | None = None
    with _handed_on(job) as asked:
        try:
            while not _ended(job, asked, rental.grace_seconds):
                try:
                    meter.charge()
                except BudgetReached as e:
                    if reached is None:
                        job.terminate()
                        asked.at = asked.at or time.monotonic()
                    reached = e
                if copy is not None and reached is None:
                    _update(copy)
        finally:  # an error of this process' own must not leave a job that nobody pays for
            if job.poll() is None:
                job.terminate()
                _wait(job, rental.grace_seconds)
            meter.end()
            if copy is not None:
                copy.finish()
    if job.returncode in (0, BudgetReached.exit_code):
        return job.returncode
    if reached is not None:
        raise reached
    if asked.by is not None:
        return Preempted.exit_code if asked.by == signal.SIGTERM else 128 + asked.by
    return job.returncode if job.returncode > 0 else 128 - job.returncode


def _update(copy: FolderCopy) -> None:
    """Have the copy updated; what has failed of it is told, and tried again in a minute."""
    try:
        copy.update_beside(every_seconds=COPY_SECONDS)
    except (OSError, TennerError, sqlite3.Error) as e:
        say(f"the run folder could not be copied, which is tried again: {e}", file=sys.stderr)


class _Asked:
    """Whether and when the job was asked to end, and by which signal to this process."""

    def __init__(self) -> None:
        self.at: float | None = None
        self.by: int | None = None


@contextmanager
def _handed_on(job: "subprocess.Popen[bytes]") -> Iterator[_Asked]:
    """Within the block signals to this process go to the job."""
    asked = _Asked()

    def hand_on(number: int, _frame: FrameType | None) -> None:
        asked.at, asked.by = asked.at or time.monotonic(), asked.by or number
        job.send_signal(number)

    before = {number: signal.signal(number, hand_on) for number in SIGNALS}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _ended(job: "subprocess.Popen[bytes]", asked: _Asked, grace_seconds: float) -> bool:
    """Wait for the end of the job for the length of a tick; kill it when its grace is over."""
    if asked.at is None:
        return _wait(job, TICK_SECONDS, kill=False)
    left = asked.at + grace_seconds - time.monotonic()
    return _wait(job, max(0.0, min(left, TICK_SECONDS)), kill=left <= TICK_SECONDS)


def _wait(job: "subprocess.Popen[bytes]", seconds: float, *, kill: bool = True) -> bool:
    try:
        job.wait(seconds)
    except subprocess.TimeoutExpired:
        if kill:
            job.kill()
            job.wait()
    return job.returncode is not None


class _RentalMeter:
    """Charges the rental to the stage that is under way; what came before there was a run folder, to the first."""

    def __init__(self, path: Path, stages: Sequence[str], rental: Rental) -> None:
        self._folder, self._stages, self._rental = RunFolder(path), stages, rental
        self._charged_until = rental.since

    def begin(self) -> None:
        """Book an earlier rental that ended without notice at its worst case, and what this one has cost so far.

        What an earlier job on the same machine has been charged for is not charged again.
        """
        if self._database.exists():
            with closing(self._ledger()) as ledger:
                self._charged_until = max(self._charged_until, ledger.machine_charged_until() or 0.0)
                ledger.lose_rental()
        self.charge()

    def charge(self) -> None:
        """Charge what has passed. Raises BudgetReached where the cap does not allow the grace any more."""
        self._charge(self._rental.grace_seconds, self._rental.grace_seconds + AHEAD_SECONDS)

    def end(self) -> None:
        """Charge the rest."""
        if self._database.exists():
            with suppress(BudgetReached):  # it is booked all the same, and the job has ended
                self._charge(0.0, 0.0)
            with closing(self._ledger()) as ledger:
                ledger.release_machine()

    def _charge(self, ahead_min: float, ahead_max: float) -> None:
        now, price = time.time(), self._rental.price_usd_per_hour
        passed = max(0.0, now - self._charged_until)
        stage = next((name for name in self._stages if not self._folder.done(name)), self._stages[-1])
        if not self._database.exists():
            cost_usd = (passed + ahead_min) * price / 3600
            if cost_usd > self._rental.cap_usd:
                raise BudgetReached(
                    f"the cap of ${self._rental.cap_usd:g} is reached in {stage}: the machine has cost "
                    f"${passed * price / 3600:.4f} since it was rented",
                    hint="raise the cap with --budget-usd",
                )
            return
        with closing(self._ledger()) as ledger:
            self._charged_until = now
            ledger.rent_machine(stage, passed, price, ahead_min=ahead_min, ahead_max=ahead_max)

    @property
    def _database(self) -> Path:
        return self._folder.path / "run.db"

    def _ledger(self) -> Ledger:
        return Ledger(self._database, budget_usd=self._rental.cap_usd)
