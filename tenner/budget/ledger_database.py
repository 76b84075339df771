"""The ledger's database: its tables, how it is opened, and what its errors mean for the user."""

import errno
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from tenner.budget.ledger_rows import SpendRow
from tenner.budget.prices import MICROUSD_PER_USD
from tenner.core import disk
from tenner.core.disk import disk_errors
from tenner.core.errors import TennerError
from tenner.core.file_lock import no_locks

SCHEMA_VERSION = 2
SCHEMA = """
CREATE TABLE IF NOT EXISTS spends (
    id INTEGER PRIMARY KEY,
    stage TEXT NOT NULL,
    provider TEXT NOT NULL,
    model TEXT NOT NULL,
    input_tokens INTEGER,
    cached_input_tokens INTEGER,
    output_tokens INTEGER,
    reasoning_tokens INTEGER,
    machine_seconds REAL,
    microusd INTEGER NOT NULL,
    settled INTEGER NOT NULL,     -- 0: the worst case of a call whose real cost is not known
    price TEXT NOT NULL,          -- the price row or hourly rate that was used
    spent_at REAL NOT NULL        -- seconds since 1970, UTC
);
CREATE TABLE IF NOT EXISTS reservations (
    id INTEGER PRIMARY KEY,
    stage TEXT NOT NULL,
    provider TEXT NOT NULL,
    model TEXT NOT NULL,
    microusd INTEGER NOT NULL,
    price TEXT NOT NULL,
    batch TEXT,                   -- the token of the batch that the call is waiting in
    key TEXT,                     -- of such a call; what it asks, and the key under which its response will be kept
    request TEXT
);
CREATE TABLE IF NOT EXISTS batches (
    token TEXT PRIMARY KEY,       -- our name for it, by which the provider's list is searched
    stage TEXT NOT NULL,
    provider TEXT NOT NULL,
    model TEXT NOT NULL,
    batch_id TEXT,                -- the provider's name for it, once it is known
    state TEXT NOT NULL,          -- see `BatchState`
    submitted_at REAL             -- when it was last tried, in seconds since 1970
);
CREATE TABLE IF NOT EXISTS responses (
    key TEXT PRIMARY KEY,         -- digest of provider, model, parameters, messages and sample index
    request TEXT NOT NULL,
    body BLOB NOT NULL,           -- raw, as it arrived, before anything parsed it
    content_type TEXT NOT NULL,
    finish_reason TEXT,           -- known once it was parsed
    spend_id INTEGER NOT NULL REFERENCES spends (id),
    received_at REAL NOT NULL
);
CREATE TABLE IF NOT EXISTS overruns (
    provider TEXT NOT NULL,
    model TEXT NOT NULL,
    microusd INTEGER NOT NULL,    -- the most by which a reply has cost more than its worst case
    PRIMARY KEY (provider, model)
);
CREATE TABLE IF NOT EXISTS heartbeats (
    id INTEGER PRIMARY KEY,
    stage TEXT NOT NULL,
    seconds REAL NOT NULL,        -- machine time that has passed and is not in `spends` yet (see `heartbeat.py`)
    price_usd_per_hour REAL NOT NULL
);
CREATE INDEX IF NOT EXISTS responses_spend ON responses (spend_id);
CREATE TABLE IF NOT EXISTS totals (held_microusd INTEGER NOT NULL, reserved_microusd INTEGER NOT NULL);
INSERT INTO totals SELECT 0, 0 WHERE NOT EXISTS (SELECT 1 FROM totals);
"""

# Sums over all rows at every call would cost more with every call; these keep them in the transaction of the change.
TRIGGERS = "".join(
    f"""
CREATE TRIGGER IF NOT EXISTS {table}_{event} AFTER {event} ON {table} BEGIN
    UPDATE totals SET {column} = {column} {change};
END;
"""
    for table, column in (("spends", "held_microusd"), ("reservations", "reserved_microusd"))
    for event, change in (
        ("INSERT", "+ NEW.microusd"),
        ("DELETE", "- OLD.microusd"),
        ("UPDATE", "+ NEW.microusd - OLD.microusd"),
    )
)

WITHOUT_LOCKS = (
    sqlite3.SQLITE_PROTOCOL, sqlite3.SQLITE_NOLFS, sqlite3.SQLITE_IOERR_LOCK, sqlite3.SQLITE_IOERR_UNLOCK,
    sqlite3.SQLITE_IOERR_RDLOCK, sqlite3.SQLITE_IOERR_CHECKRESERVEDLOCK, sqlite3.SQLITE_IOERR_SHMLOCK,
    sqlite3.SQLITE_IOERR_SHMMAP, sqlite3.SQLITE_IOERR_SHMOPEN, sqlite3.SQLITE_IOERR_SHMSIZE,
)  # fmt: skip
"""SQLite's errors on file systems without locks or shared memory."""

BUSY_SECONDS = 30.0  # how long a process waits for others
BUSY_RETRY_SECONDS = 0.01
DAMAGED_HINT = "it holds what was paid: restore it from a copy"


@contextmanager
def sqlite_errors(path: Path) -> Iterator[None]:
    """Turn errors of the disk and the file system, as SQLite reports them, into one line for the user."""
    with disk_errors(path):
        try:
            yield
        except sqlite3.OperationalError as e:
            code = e.sqlite_errorcode
            if code == sqlite3.SQLITE_FULL:
                raise OSError(errno.ENOSPC, str(e)) from e
            if code in WITHOUT_LOCKS:
                raise no_locks(path) from e
            if code & 0xFF in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_IOERR):
                raise TennerError(f"{path} cannot be written: {e}", hint="choose a folder that can be written") from e
            raise TennerError(f"{path} cannot be used: {e}", hint=DAMAGED_HINT) from e
        except sqlite3.DatabaseError as e:  # it is no database, or its pages contradict one another
            raise TennerError(f"{path} is damaged: {e}", hint=DAMAGED_HINT) from e


def connect(path: Path) -> sqlite3.Connection:
    """Open the database, and create what is missing. Raises TennerError where it cannot be used."""
    with sqlite_errors(path):
        with suppress(FileNotFoundError, NotADirectoryError):  # SQLite says it better
            disk.create_private(path)
        db = sqlite3.connect(path, isolation_level=None, timeout=BUSY_SECONDS)
        given_up = time.monotonic() + BUSY_SECONDS
        try:
            while not _begin(db, path):
                # Not every step of a beginning waits for others of its own accord.
                if time.monotonic() > given_up:
                    raise TennerError(f"{path} is locked by another process", hint="see what holds it open")
                time.sleep(BUSY_RETRY_SECONDS)
        except BaseException:
            db.close()
            raise
        return db


def spend_rows(db: sqlite3.Connection) -> list[SpendRow]:
    """Spend by stage and provider."""
    query = """
        SELECT stage, provider, model, COUNT(*), COALESCE(SUM(input_tokens), 0), COALESCE(SUM(output_tokens), 0),
               COALESCE(SUM(machine_seconds), 0), SUM(microusd), price, SUM(microusd * (1 - settled))
        FROM spends GROUP BY stage, provider, model, price ORDER BY MIN(id)
    """
    rows = [SpendRow(*row) for row in db.execute(query)]
    return [
        row._replace(cost_usd=row.cost_usd / MICROUSD_PER_USD, unsettled_usd=row.unsettled_usd / MICROUSD_PER_USD)
        for row in rows
    ]


def read_spend(path: Path) -> list[SpendRow]:
    """The spend of a run, which another process may be working on; read only. Empty without a database."""
    if not path.exists():
        return []
    uri = f"{path.absolute().as_uri()}?mode=ro"
    with sqlite_errors(path), closing(sqlite3.connect(uri, uri=True, timeout=BUSY_SECONDS)) as db:
        _check_version(db, path)
        return spend_rows(db) if _is_begun(db) else []


def _is_begun(db: sqlite3.Connection) -> bool:
    return db.execute("SELECT 1 FROM sqlite_master WHERE name = 'spends'").fetchone() is not None


def _begin(db: sqlite3.Connection, path: Path) -> bool:
    """Create or check the tables; False where another process holds the database."""
    try:
        db.execute("BEGIN")
        _check_version(db, path)
        db.execute("COMMIT")
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        # One transaction: another process sees all of it or nothing.
        version = f"PRAGMA user_version = {SCHEMA_VERSION};"
        db.executescript(f"BEGIN IMMEDIATE; {SCHEMA} {TRIGGERS} {version} COMMIT;")
    except sqlite3.OperationalError as e:
        if db.in_transaction:
            db.execute("ROLLBACK")
        if e.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
            raise
        return False
    return True


def _check_version(db: sqlite3.Connection, path: Path) -> None:
    (version,) = db.execute("PRAGMA user_version").fetchone()
    if version not in (0, SCHEMA_VERSION) or (version == 0 and _is_begun(db)):
        raise TennerError(
            f"{path} was written by another version of tenner", hint="finish that run with the version that began it"
        )
