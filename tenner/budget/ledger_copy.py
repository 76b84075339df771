"""The books of a fork: all that its run paid to others, and the machine time of the stages that it takes over."""

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from tenner.budget.ledger_database import sqlite_errors
from tenner.budget.prices import MICROUSD_PER_USD
from tenner.core.errors import TennerError


def refuse_waiting_batches(path: Path) -> None:
    """Raise TennerError where calls are waiting at a provider: two runs would collect, and pay for, the same ones."""
    if not path.is_file():
        return
    with sqlite_errors(path), closing(sqlite3.connect(path)) as db:
        (waiting,) = db.execute("SELECT count(*) FROM reservations WHERE batch IS NOT NULL").fetchone()
    if waiting:
        raise TennerError(
            f"{waiting:,} calls of {path.parent} are waiting in batches at a provider",
            hint=f"let them come in first: tenner run {path.parent}",
        )


def copy(source: Path, target: Path, *, without_machine_time_of: Sequence[str]) -> float:
    """Copy a ledger, and return what the copy has booked, in dollars.

    Responses and what was paid for them are all copied. What a killed process left unbooked, calls in flight and
    machine time, stays with `source`, which books it when it goes on. Only for the holder of its folder's lock.
    """
    if not source.is_file():
        return 0.0
    with sqlite_errors(target), closing(sqlite3.connect(source)) as old, closing(sqlite3.connect(target)) as new:
        old.backup(new)
        marks = ", ".join("?" * len(without_machine_time_of))
        with new:
            new.execute("DELETE FROM reservations")
            new.execute("DELETE FROM heartbeats")
            new.execute(
                f"DELETE FROM spends WHERE machine_seconds IS NOT NULL AND stage IN ({marks})", without_machine_time_of
            )
        (microusd,) = new.execute("SELECT coalesce(sum(microusd), 0) FROM spends").fetchone()
    return float(microusd) / MICROUSD_PER_USD
