"""What is launched elsewhere: the command of a job on a rented machine, and how long the cap pays for it."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from tenner.budget.ledger_database import read_spend
from tenner.core.dollars import in_dollars
from tenner.core.errors import BudgetReached, TennerError
from tenner.core.recipe import Recipe
from tenner.core.sections import Device

GRACE_SECONDS = 120.0
"""What a job is given to save its state before the cap, or when the machine is taken away."""


class Job(NamedTuple):
    """A run on machines that somebody else starts."""

    described: Recipe
    recipe: str
    """The built-in recipe's name, or the file."""
    run_dir: str
    """Of the run, on the machine."""
    overrides: Sequence[str] = ()
    budget_usd: float | None = None
    """A cap that the command line names."""
    device: Device | None = None
    processes: int | None = None
    """On each node; None: as many as it has GPUs."""
    nodes: int = 1
    gpus: str | None = None
    """Of each node: a number, or TYPE:NUMBER."""
    hours: float | None = None
    """The longest that it may take."""
    grace_seconds: float = GRACE_SECONDS
    options: Sequence[str] = ()
    """KEY=VALUE, for the engine that starts the machines."""

    def words(self) -> list[str]:
        """The command on each node but for what only the node knows; `tenner` is put before it."""
        words = ["launch", self.recipe, "--on", "local", "--run-dir", self.run_dir]
        for override in self.overrides:
            words += ["--set", override]
        words += [] if self.budget_usd is None else ["--budget-usd", f"{self.budget_usd:.15g}"]
        words += [] if self.device is None else ["--device", self.device]
        words += [] if self.processes is None else ["--processes", str(self.processes)]
        words += [] if self.nodes == 1 else ["--nodes", str(self.nodes)]
        return [*words, "--grace-seconds", f"{self.grace_seconds:.15g}"]

    def gpu_count(self) -> int | None:
        """The GPUs of each node; None where none are asked for. Raises TennerError for what is no number."""
        if self.gpus is None:
            return None
        count = self.gpus.rpartition(":")[2]
        if not count.isdigit() or int(count) < 1:
            raise TennerError(f"--gpus {self.gpus} is not a number of GPUs", hint="write --gpus 8, or --gpus H100:8")
        return int(count)

    def seconds(self, cap_usd: float, run_dir: Path) -> float:
        """How long the machines may be rented: what the cap leaves after the spend so far, and no more than `hours`.

        Raises:
            TennerError: neither a price nor `hours` says so, or `hours` are no more than what is kept for saving.
            BudgetReached: that is not enough to begin.
        """
        price = self.described.machine.price_usd_per_hour
        left_usd = cap_usd - sum(row.cost_usd for row in read_spend(run_dir / "run.db"))
        by_cap = left_usd / price * 3600 if price else None
        by_hours = None if self.hours is None else self.hours * 3600
        known = [seconds for seconds in (by_cap, by_hours) if seconds is not None]
        if not known:
            raise TennerError(
                "machine.price_usd_per_hour is 0, so the cap sets no end to the job", hint="set it, or give --hours"
            )
        if by_hours is not None and by_hours <= self.grace_seconds:
            raise TennerError(
                f"--hours {self.hours:g} are {by_hours:g} s, and a job needs more than the {self.grace_seconds:g} s "
                "that are kept for saving",
                hint="raise --hours, or lower --grace-seconds",
            )
        if by_cap is not None and by_cap <= self.grace_seconds:
            raise BudgetReached(
                f"${left_usd:.4f} are left under the cap of ${cap_usd:g}: {max(0.0, by_cap):.0f} s of machines at "
                f"{in_dollars(price)} an hour, and a job needs more than the {self.grace_seconds:g} s "
                "that are kept for saving",
                hint="raise the cap with --budget-usd, or lower --grace-seconds",
            )
        return min(known)
