"""The ledger of a run: spends and reservations under one cap, in integer micro-dollars.

The worst case of a call is reserved before it is sent, and its actual cost is settled afterwards. The database also
stores the raw response of every call, committed together with its cost, so that nothing paid is lost or bought twice.
"""

import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path

from tenner.budget import ledger_database
from tenner.budget.ledger_database import sqlite_errors
from tenner.budget.ledger_rows import BatchRow, Line, Payee, SpendRow, StoredResponse, WaitingLine
from tenner.budget.prices import MICROUSD_PER_USD, ceil_microusd
from tenner.core.dollars import in_dollars
from tenner.core.errors import BudgetReached
from tenner.core.records import Usage

MACHINE = "machine"
"""The provider of machine time."""
HEARTBEAT_SECONDS = 0.25
"""How often machine time is written down between two charges: a kill loses no more, and as much is booked for it."""


class Ledger:
    """The spends, reservations and stored responses of one run.

    Processes may share it: every change is one transaction of its database.
    """

    def __init__(self, path: Path, *, budget_usd: float) -> None:
        self.path = path
        self.cap_microusd = int(budget_usd * MICROUSD_PER_USD + 1e-6)  # 0.29 * 1e6 is 289999.99…
        self._db = ledger_database.connect(path)

    def close(self) -> None:
        """Fold the write-ahead log back into the file."""
        self._db.close()

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """One transaction. IMMEDIATE takes the write lock before the cap is read."""
        if self._db.in_transaction:  # of `together`, which commits it
            yield self._db
            return
        with sqlite_errors(self.path):
            try:
                self._db.execute("BEGIN IMMEDIATE")
                yield self._db
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise

    @contextmanager
    def together(self) -> Iterator[None]:
        """Make all changes of the block in one transaction."""
        with self._transaction():
            yield

    # -- calls ---------------------------------------------------------------------------------------------------

    def reserve(self, payee: Payee, microusd: int) -> int:
        """Reserve the worst case of a spend, and return the reservation's id.

        Where replies of this model have cost more than their worst case, as much more is reserved (see `overrun`).
        Raises BudgetReached, and reserves nothing, where that would cross the cap.
        """
        with self._transaction() as db:
            microusd += self.overrun_microusd(payee)
            self._refuse_over_cap(payee.stage, microusd)
            cursor = db.execute(
                "INSERT INTO reservations (stage, provider, model, microusd, price) VALUES (?, ?, ?, ?, ?)",
                (payee.stage, payee.provider, payee.model, microusd, payee.price),
            )
            assert cursor.lastrowid is not None
            return cursor.lastrowid

    def release(self, reservation: int) -> None:
        """Delete a reservation: the call was not made, or cost nothing."""
        with self._transaction() as db:
            db.execute("DELETE FROM reservations WHERE id = ?", (reservation,))

    def lose(self, reservation: int) -> None:
        """Book the worst case of a call that was sent and has no usable response: it may have been charged."""
        with self._transaction() as db:
            self._book(db, reservation)

    def lose_orphans(self) -> int:
        """Book the calls that a killed process had in flight at their worst case, and return their number.

        Only for the holder of the run folder's lock. Calls in batches stay reserved: the provider works on them; and so
        does the time of a rental that is under way.
        """
        with self._transaction() as db:
            orphans = [
                row[0]
                for row in db.execute("SELECT id FROM reservations WHERE batch IS NULL AND provider != ?", (MACHINE,))
            ]
            for reservation in orphans:
                self._book(db, reservation)
            return len(orphans)

    def keep(self, reservation: int, *, key: str, request: str, body: bytes, content_type: str) -> int:
        """Store a response, unparsed, and book all that was reserved for it. Returns the spend's id, for `settle`.

        If the process ends before `settle`, the worst case stays booked. A key that another process has bought
        meanwhile keeps its first response; both were paid, and both are booked.
        """
        with self._transaction() as db:
            spend_id = self._book(db, reservation)
            db.execute(
                "INSERT INTO responses (key, request, body, content_type, spend_id, received_at) "
                "VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
                (key, request, body, content_type, spend_id, time.time()),
            )
            return spend_id

    def settle(self, spend_id: int, usage: Usage, microusd: int, *, finish_reason: str | None = None) -> None:
        """Replace the worst case of a stored response by its actual cost."""
        with self._transaction() as db:
            db.execute(
                "UPDATE spends SET input_tokens = ?, cached_input_tokens = ?, output_tokens = ?, "
                "reasoning_tokens = ?, microusd = ?, settled = 1 WHERE id = ?",
                (
                    usage.input_tokens, usage.cached_input_tokens, usage.output_tokens,
                    usage.reasoning_tokens, microusd, spend_id,
                ),
            )  # fmt: skip
            db.execute("UPDATE responses SET finish_reason = ? WHERE spend_id = ?", (finish_reason, spend_id))

    def booked_microusd(self, spend_id: int) -> int:
        """What a spend is booked at."""
        (microusd,) = self._db.execute("SELECT microusd FROM spends WHERE id = ?", (spend_id,)).fetchone()
        return int(microusd)

    def has_settled(self, payee: Payee) -> bool:
        """Whether a reply of this model was settled at its actual cost."""
        row = self._db.execute(
            "SELECT 1 FROM spends WHERE provider = ? AND model = ? AND settled AND output_tokens > 0 LIMIT 1",
            (payee.provider, payee.model),
        ).fetchone()
        return row is not None

    def overrun(self, payee: Payee, microusd: int) -> None:
        """A reply cost so much more than its worst case: all open and all later reservations of its model grow by it.

        The cap may be crossed by that: then no further call is made.
        """
        with self._transaction() as db:
            model = (payee.provider, payee.model)
            db.execute(
                "INSERT INTO overruns VALUES (?, ?, ?) "
                "ON CONFLICT DO UPDATE SET microusd = microusd + excluded.microusd",
                (*model, microusd),
            )
            db.execute("UPDATE reservations SET microusd = microusd + ? WHERE provider = ? AND model = ?",
                       (microusd, *model))  # fmt: skip

    def overrun_microusd(self, payee: Payee) -> int:
        """By how much the worst case of a call to this model is known to be too low."""
        row = self._db.execute(
            "SELECT microusd FROM overruns WHERE provider = ? AND model = ?", (payee.provider, payee.model)
        ).fetchone()
        return row[0] if row else 0

    def response(self, key: str) -> StoredResponse | None:
        """The stored response of a key, if it was bought before."""
        with sqlite_errors(self.path):
            row = self._db.execute(
                "SELECT body, content_type, spend_id, microusd, received_at, settled "
                "FROM responses JOIN spends ON spends.id = spend_id WHERE key = ?",
                (key,),
            ).fetchone()
        return StoredResponse(*row)._replace(settled=bool(row[-1])) if row else None

    # -- batches -------------------------------------------------------------------------------------------------

    def reserve_batch(self, payee: Payee, token: str, lines: Sequence[Line]) -> int:
        """Reserve the worst cases of the first lines as a batch, of as many as fit under the cap, and return how many.

        Raises BudgetReached, and reserves nothing, where the first does not fit.
        """
        with self._transaction() as db:
            self._refuse_over_cap(payee.stage, lines[0].microusd)
            left = self.cap_microusd - sum(self._totals())
            fitting = [line for line, sum_microusd in zip(lines, accumulate(x.microusd for x in lines), strict=True)
                       if sum_microusd <= left]  # fmt: skip
            db.execute(
                "INSERT INTO batches (token, stage, provider, model, state) VALUES (?, ?, ?, ?, 'reserved')",
                (token, payee.stage, payee.provider, payee.model),
            )
            db.executemany(
                "INSERT INTO reservations (stage, provider, model, microusd, price, batch, key, request) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    (
                        payee.stage,
                        payee.provider,
                        payee.model,
                        line.microusd,
                        payee.price,
                        token,
                        line.key,
                        line.request,
                    )
                    for line in fitting
                ),
            )
            return len(fitting)

    def open_batches(self, payee: Payee) -> list[BatchRow]:
        """The batches that are not closed, the oldest first; only for the holder of the run folder's lock."""
        rows = self._db.execute(
            "SELECT token, batch_id, state, submitted_at FROM batches "
            "WHERE state != 'closed' AND stage = ? AND provider = ? AND model = ? ORDER BY rowid",
            (payee.stage, payee.provider, payee.model),
        )
        return [BatchRow(*row) for row in rows]

    def waiting_lines(self, token: str) -> list[WaitingLine]:
        """The calls of a batch whose responses are not stored yet."""
        rows = self._db.execute(
            "SELECT id, key, request, microusd FROM reservations WHERE batch = ? ORDER BY id", (token,)
        )
        return [WaitingLine(*row) for row in rows]

    def mark_batch(self, batch: BatchRow) -> None:
        """Store the state of a batch."""
        with self._transaction() as db:
            db.execute(
                "UPDATE batches SET batch_id = ?, state = ?, submitted_at = ? WHERE token = ?",
                (batch.batch_id, batch.state, batch.submitted_at, batch.token),
            )

    def close_batch(self, token: str) -> None:
        """Close a batch that has no more results, and delete what is still reserved for it."""
        with self._transaction() as db:
            db.execute("DELETE FROM reservations WHERE batch = ?", (token,))
            db.execute("UPDATE batches SET state = 'closed' WHERE token = ?", (token,))

    # -- machine time --------------------------------------------------------------------------------------------

    def charge_machine(
        self, stage: str, seconds: float, price_usd_per_hour: float, *, heartbeat: int | None = None
    ) -> None:
        """Book machine time that has passed, and set the heartbeat's time back to none in the same transaction."""
        microusd = ceil_microusd(seconds * price_usd_per_hour / 3600 * MICROUSD_PER_USD)
        with self._transaction() as db:
            db.execute(
                "INSERT INTO spends (stage, provider, model, machine_seconds, microusd, settled, price, spent_at) "
                "VALUES (?, ?, 'local', ?, ?, 1, ?, ?)",
                (stage, MACHINE, seconds, microusd, f"{in_dollars(price_usd_per_hour)} an hour", time.time()),
            )
            if heartbeat is not None:
                db.execute("UPDATE heartbeats SET seconds = 0 WHERE id = ?", (heartbeat,))

    def check_machine(self, stage: str, seconds_ahead: float, price_usd_per_hour: float) -> None:
        """Raise BudgetReached if `seconds_ahead` more of this machine would cross the cap.

        What a rental has reserved of its time is there to be used.
        """
        ahead = ceil_microusd(seconds_ahead * price_usd_per_hour / 3600 * MICROUSD_PER_USD)
        self._refuse_over_cap(stage, max(0, ahead - self._machine_reserved()))

    def rent_machine(
        self, stage: str, passed_seconds: float, price_usd_per_hour: float, *, ahead_min: float, ahead_max: float
    ) -> None:
        """Book the time of a rented machine that has passed, and reserve the seconds ahead that it may still take.

        That is up to `ahead_max`; of these calls to models may take what is above `ahead_min`, until they are settled.
        Raises BudgetReached where `ahead_min` does not fit under the cap; what has passed is booked, and what is left
        reserved.
        """
        low, high = (
            ceil_microusd(seconds * price_usd_per_hour / 3600 * MICROUSD_PER_USD) for seconds in (ahead_min, ahead_max)
        )
        with self._transaction() as db:
            self.release_machine()
            self.charge_machine(stage, passed_seconds, price_usd_per_hour)
            held = sum(self._totals())
            room = max(0, min(high, self.cap_microusd - held))
            db.execute(
                "INSERT INTO reservations (stage, provider, model, microusd, price) VALUES (?, ?, 'local', ?, ?)",
                (stage, MACHINE, room, f"{in_dollars(price_usd_per_hour)} an hour"),
            )
        if room < low:
            self._refuse_over_cap(stage, low - room)

    def machine_charged_until(self) -> float | None:
        """When machine time was last booked, in seconds since 1970; None: never."""
        query = "SELECT MAX(spent_at) FROM spends WHERE provider = ? AND machine_seconds IS NOT NULL"
        (latest,) = self._db.execute(query, (MACHINE,)).fetchone()
        return None if latest is None else float(latest)

    def lose_rental(self) -> None:
        """Book all that is reserved of a rental's time: it ended without notice, and may have taken it."""
        with self._transaction() as db:
            for (reservation,) in db.execute("SELECT id FROM reservations WHERE provider = ?", (MACHINE,)).fetchall():
                self._book(db, reservation)

    def release_machine(self) -> None:
        """Give up what is reserved of a rented machine's time: the rental has ended."""
        with self._transaction() as db:
            db.execute("DELETE FROM reservations WHERE provider = ?", (MACHINE,))

    def _machine_reserved(self) -> int:
        """In micro-dollars."""
        query = "SELECT COALESCE(SUM(microusd), 0) FROM reservations WHERE provider = ?"
        (reserved,) = self._db.execute(query, (MACHINE,)).fetchone()
        return int(reserved)

    def begin_heartbeat(self, stage: str, price_usd_per_hour: float) -> int:
        """A row for machine time that is passing; returns its id."""
        with self._transaction() as db:
            cursor = db.execute(
                "INSERT INTO heartbeats (stage, seconds, price_usd_per_hour) VALUES (?, 0, ?)",
                (stage, price_usd_per_hour),
            )
            assert cursor.lastrowid is not None
            return cursor.lastrowid

    def end_heartbeat(self, heartbeat: int) -> None:
        """Delete the row of machine time that is booked."""
        with self._transaction() as db:
            db.execute("DELETE FROM heartbeats WHERE id = ?", (heartbeat,))

    def charge_orphans(self) -> float:
        """Book the machine time that killed processes had not booked yet, and return its seconds.

        Only for the holder of the run folder's lock.
        """
        with self._transaction() as db:
            rows = db.execute("SELECT stage, seconds, price_usd_per_hour FROM heartbeats").fetchall()
            for stage, seconds, price_usd_per_hour in rows:
                self.charge_machine(stage, seconds + HEARTBEAT_SECONDS, price_usd_per_hour)
            db.execute("DELETE FROM heartbeats")
            return float(sum(seconds + HEARTBEAT_SECONDS for _, seconds, _ in rows))

    # -- sums ----------------------------------------------------------------------------------------------------

    def spent_usd(self) -> float:
        """The spend so far, with calls of unknown cost at their worst case."""
        return self._totals()[0] / MICROUSD_PER_USD

    def reserved_usd(self) -> float:
        """The worst case of all calls in flight."""
        return self._totals()[1] / MICROUSD_PER_USD

    def rows(self) -> list[SpendRow]:
        """Spend by stage and provider, in the order of the first spend."""
        with sqlite_errors(self.path):
            return ledger_database.spend_rows(self._db)

    def _totals(self) -> tuple[int, int]:
        with sqlite_errors(self.path):
            spent, reserved = self._db.execute("SELECT held_microusd, reserved_microusd FROM totals").fetchone()
            return spent, reserved

    def _refuse_over_cap(self, stage: str, microusd: int) -> None:
        held = sum(self._totals())
        if held + microusd > self.cap_microusd:
            cap_usd, held_usd, next_usd = (amount / MICROUSD_PER_USD for amount in (self.cap_microusd, held, microusd))
            raise BudgetReached(
                f"the cap of ${cap_usd:.4f} is reached in {stage}: ${held_usd:.4f} is spent or reserved and the next "
                f"step may cost ${next_usd:.4f}",
                hint="nothing is lost: the same command with a higher --budget-usd goes on from here",
            )

    def _book(self, db: sqlite3.Connection, reservation: int) -> int:
        """Turn a reservation into an unsettled spend of as much; return the spend's id."""
        (reserved,) = db.execute(
            "DELETE FROM reservations WHERE id = ? RETURNING stage, provider, model, microusd, price", (reservation,)
        ).fetchall()
        cursor = db.execute(
            "INSERT INTO spends (stage, provider, model, microusd, price, settled, spent_at) "
            "VALUES (?, ?, ?, ?, ?, 0, ?)",
            (*reserved, time.time()),
        )
        assert cursor.lastrowid is not None
        return cursor.lastrowid
