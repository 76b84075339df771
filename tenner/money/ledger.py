"""Every cent of a run: reserved before it is spent, settled after, under one cap, in integer micro-dollars.

The database also keeps the raw response of every call, committed together with its cost, so that nothing that was
paid for is lost or bought again.
"""

import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import NamedTuple

from tenner.errors import BudgetReached
from tenner.money.prices import MICROUSD_PER_USD, ceil_microusd
from tenner.records import Usage
from tenner.runfolder import disk_errors

SCHEMA = """
CREATE TABLE IF NOT EXISTS spends (
    id INTEGER PRIMARY KEY,
    stage TEXT NOT NULL,
    provider TEXT NOT NULL,
    model TEXT NOT NULL,
    input_tokens INTEGER,
    output_tokens INTEGER,
    reasoning_tokens INTEGER,
    machine_seconds REAL,
    microusd INTEGER NOT NULL,
    price TEXT NOT NULL,          -- the price row or hourly rate that was used
    spent_at REAL NOT NULL        -- seconds since 1970, UTC
);
CREATE TABLE IF NOT EXISTS reservations (
    id INTEGER PRIMARY KEY,
    stage TEXT NOT NULL,
    microusd INTEGER NOT NULL
);
CREATE TABLE IF NOT EXISTS responses (
    key TEXT PRIMARY KEY,         -- digest of provider, model, parameters, messages and sample index
    request TEXT NOT NULL,
    body BLOB NOT NULL,           -- raw, as it arrived, before anything parsed it
    spend_id INTEGER NOT NULL REFERENCES spends (id),
    received_at REAL NOT NULL
);
"""


class SpendRow(NamedTuple):
    """What one stage spent with one provider."""

    stage: str
    provider: str
    model: str
    calls: int
    input_tokens: int
    output_tokens: int
    machine_seconds: float
    cost_usd: float
    price: str


class StoredResponse(NamedTuple):
    """A response that was bought before."""

    body: bytes
    spend_id: int


class Ledger:
    """The money of one run. One process writes at a time (the run folder's lock sees to that)."""

    def __init__(self, path: Path, *, budget_usd: float) -> None:
        self.path = path
        self.cap_microusd = int(budget_usd * MICROUSD_PER_USD + 1e-6)  # 0.29 * 1e6 is 289999.99…
        with disk_errors(path):
            self._db = sqlite3.connect(path, isolation_level=None, timeout=30)
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = FULL")
            self._db.executescript(SCHEMA)

    def close(self) -> None:
        """Fold the write-ahead log back into the file."""
        self._db.close()

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """All or nothing, and alone: IMMEDIATE takes the write lock before the cap is looked at."""
        with disk_errors(self.path):
            try:
                self._db.execute("BEGIN IMMEDIATE")
                yield self._db
                self._db.execute("COMMIT")
            except BaseException as e:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                if isinstance(e, sqlite3.OperationalError) and "full" in str(e):
                    raise OSError(28, str(e)) from e  # SQLITE_FULL is ENOSPC
                raise

    # -- calls ---------------------------------------------------------------------------------------------------

    def forget_reservations(self) -> None:
        """Drop what a killed process had reserved; only for who holds the run folder's lock, before the first call."""
        with self._transaction() as db:
            db.execute("DELETE FROM reservations")

    def reserve(self, stage: str, microusd: int) -> int:
        """Set the worst case of a spend aside. Raises BudgetReached, and reserves nothing, over the cap."""
        with self._transaction() as db:
            self._refuse_over_cap(stage, microusd)
            cursor = db.execute("INSERT INTO reservations (stage, microusd) VALUES (?, ?)", (stage, microusd))
            assert cursor.lastrowid is not None
            return cursor.lastrowid

    def release(self, reservation: int) -> None:
        """Give a reservation back: the call was not made, or cost nothing."""
        with self._transaction() as db:
            db.execute("DELETE FROM reservations WHERE id = ?", (reservation,))

    def keep(
        self,
        reservation: int,
        *,
        key: str,
        request: str,
        body: bytes,
        stage: str,
        provider: str,
        model: str,
        price: str,
    ) -> int:
        """Keep a response that has come, before anything parses it, and charge all that was reserved for it.

        Returns the spend's id, for `settle`. If the process ends before that, the worst case stays on the books.
        """
        with self._transaction() as db:
            (microusd,) = db.execute("SELECT microusd FROM reservations WHERE id = ?", (reservation,)).fetchone()
            db.execute("DELETE FROM reservations WHERE id = ?", (reservation,))
            spend_id = self._spend(db, stage, provider, model, None, microusd, price)
            db.execute("INSERT INTO responses VALUES (?, ?, ?, ?, ?)", (key, request, body, spend_id, time.time()))
            return spend_id

    def settle(self, spend_id: int, usage: Usage, microusd: int) -> None:
        """Correct a kept response's charge to what it really was."""
        tokens = (usage.input_tokens, usage.output_tokens, usage.reasoning_tokens)
        with self._transaction() as db:
            db.execute(
                "UPDATE spends SET input_tokens = ?, output_tokens = ?, reasoning_tokens = ?, microusd = ? "
                "WHERE id = ?",
                (*tokens, microusd, spend_id),
            )

    def response(self, key: str) -> StoredResponse | None:
        """The stored response of a key, if it was bought before."""
        row = self._db.execute("SELECT body, spend_id FROM responses WHERE key = ?", (key,)).fetchone()
        return StoredResponse(*row) if row else None

    # -- machine time --------------------------------------------------------------------------------------------

    def charge_machine(self, stage: str, seconds: float, price_usd_per_hour: float) -> None:
        """Record machine time that has passed."""
        microusd = ceil_microusd(seconds * price_usd_per_hour / 3600 * MICROUSD_PER_USD)
        with self._transaction() as db:
            self._spend(db, stage, "machine", "local", seconds, microusd, f"${price_usd_per_hour:g} an hour")

    def check_machine(self, stage: str, seconds_ahead: float, price_usd_per_hour: float) -> None:
        """Raise BudgetReached if `seconds_ahead` more of this machine would cross the cap."""
        ahead = ceil_microusd(seconds_ahead * price_usd_per_hour / 3600 * MICROUSD_PER_USD)
        self._refuse_over_cap(stage, ahead)

    # -- sums ----------------------------------------------------------------------------------------------------

    def spent_usd(self) -> float:
        """All that was spent so far."""
        return self._sum("spends") / MICROUSD_PER_USD

    def rows(self) -> list[SpendRow]:
        """Spend by stage and provider, in the order of the first spend."""
        return spend_rows(self._db)

    def _sum(self, table: str) -> int:
        return int(self._db.execute(f"SELECT COALESCE(SUM(microusd), 0) FROM {table}").fetchone()[0])

    def _refuse_over_cap(self, stage: str, microusd: int) -> None:
        held = self._sum("spends") + self._sum("reservations")
        if held + microusd > self.cap_microusd:
            cap_usd, held_usd, next_usd = (amount / MICROUSD_PER_USD for amount in (self.cap_microusd, held, microusd))
            raise BudgetReached(
                f"the cap of ${cap_usd:.4f} is reached in {stage}: ${held_usd:.4f} is spent or reserved and the next "
                f"step may cost ${next_usd:.4f}",
                hint="nothing is lost: the same command with a higher --budget-usd goes on from here",
            )

    def _spend(
        self, db: sqlite3.Connection, stage: str, provider: str, model: str,
        machine_seconds: float | None, microusd: int, price: str,
    ) -> int:  # fmt: skip
        cursor = db.execute(
            "INSERT INTO spends (stage, provider, model, machine_seconds, microusd, price, spent_at) "
            "VALUES (?, ?, ?, ?, ?, ?, ?)",
            (stage, provider, model, machine_seconds, microusd, price, time.time()),
        )
        assert cursor.lastrowid is not None
        return cursor.lastrowid


def spend_rows(db: sqlite3.Connection) -> list[SpendRow]:
    """Spend by stage and provider."""
    query = """
        SELECT stage, provider, model, COUNT(*), COALESCE(SUM(input_tokens), 0), COALESCE(SUM(output_tokens), 0),
               COALESCE(SUM(machine_seconds), 0), SUM(microusd), price
        FROM spends GROUP BY stage, provider, model, price ORDER BY MIN(id)
    """
    rows = [SpendRow(*row) for row in db.execute(query)]
    return [row._replace(cost_usd=row.cost_usd / MICROUSD_PER_USD) for row in rows]


def read_spend(path: Path) -> list[SpendRow]:
    """The spend of a run that may be under way in another process; nothing is written. Empty without a database."""
    if not path.exists():
        return []
    with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=30)) as db:
        has_table = db.execute("SELECT 1 FROM sqlite_master WHERE name = 'spends'").fetchone()
        return spend_rows(db) if has_table else []
