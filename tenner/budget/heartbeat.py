"""Writes down how much machine time has passed since the last charge, so that a kill does not lose it."""

import sqlite3
import threading
import time
from contextlib import closing, suppress

from tenner.budget.ledger import HEARTBEAT_SECONDS, Ledger
from tenner.budget.ledger_database import BUSY_SECONDS


class Heartbeat:
    """Charges machine time to a ledger; a thread keeps the time in between in the row of `heartbeats`.

    The next session that opens the ledger books what a killed one has left there (`Ledger.charge_orphans`). Time that
    costs nothing needs no thread. Without a price the time is measured and not booked.
    """

    def __init__(self, ledger: Ledger, stage: str, price_usd_per_hour: float | None) -> None:
        self._ledger, self._stage, self._price_usd_per_hour = ledger, stage, price_usd_per_hour
        self._row: int | None = None
        self._last = time.monotonic()
        self._lock = threading.Lock()  # between reading the clock and writing, so that nothing is booked twice
        self._ended = threading.Event()
        if price_usd_per_hour:
            self._row = ledger.begin_heartbeat(stage, price_usd_per_hour)
            self._thread = threading.Thread(target=self._beat, daemon=True)
            self._thread.start()

    def charge(self) -> float:
        """Book the time since the last charge; return its seconds."""
        with self._lock:
            now = time.monotonic()
            seconds, self._last = now - self._last, now
            if self._price_usd_per_hour is not None:
                self._ledger.charge_machine(self._stage, seconds, self._price_usd_per_hour, heartbeat=self._row)
        return seconds

    def end(self) -> None:
        """Book what is left, and stop."""
        try:
            self.charge()
        finally:
            if self._row is not None:
                self._ended.set()
                self._thread.join()
        if self._row is not None:
            self._ledger.end_heartbeat(self._row)

    def _beat(self) -> None:
        with closing(sqlite3.connect(self._ledger.path, isolation_level=None, timeout=BUSY_SECONDS)) as db:
            db.execute("PRAGMA synchronous = NORMAL")  # no fsync: a kill loses nothing that the system was given
            while not self._ended.wait(HEARTBEAT_SECONDS):
                # What keeps a beat from being written, such as a full disk, keeps the next charge, which says so.
                with self._lock, suppress(sqlite3.OperationalError):
                    seconds = time.monotonic() - self._last
                    db.execute("UPDATE heartbeats SET seconds = ? WHERE id = ?", (seconds, self._row))
