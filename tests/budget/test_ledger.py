import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing
from functools import partial

import pytest

from tenner.budget.ledger import HEARTBEAT_SECONDS, Ledger
from tenner.budget.ledger_database import read_spend, sqlite_errors
from tenner.budget.ledger_rows import BatchRow, Line, Payee, SpendRow
from tenner.core.errors import BudgetReached, StorageFull, TennerError
from tenner.core.records import Usage

PAYEE = Payee("trace", "p", "m", "row")


@pytest.fixture
def ledger(tmp_path):
    with closing(Ledger(tmp_path / "run.db", budget_usd=0.001)) as opened:
        yield opened


def keep(ledger, reservation, key="k", body=b"raw"):
    return ledger.keep(reservation, key=key, request="{}", body=body, content_type="application/json")


def settle(ledger, reservation, key="k", microusd=300):
    ledger.settle(keep(ledger, reservation, key), Usage(input_tokens=10, output_tokens=20), microusd)


def test_a_reservation_counts_until_it_is_settled_or_released(ledger):
    first = ledger.reserve(PAYEE, 600)
    with pytest.raises(BudgetReached):
        ledger.reserve(PAYEE, 401)
    settle(ledger, first)
    second = ledger.reserve(PAYEE, 700)
    assert ledger.reserved_usd() == 0.0007
    with pytest.raises(BudgetReached):
        ledger.reserve(PAYEE, 1)
    ledger.release(second)
    ledger.reserve(PAYEE, 700)
    assert ledger.spent_usd() == 0.0003


def test_a_refused_reservation_leaves_nothing_behind(ledger):
    with pytest.raises(BudgetReached) as caught:
        ledger.reserve(PAYEE, 1001)
    assert caught.value.exit_code == 3
    ledger.reserve(PAYEE, 1000)


def test_calls_and_machine_time_share_the_cap(ledger):
    ledger.charge_machine("train", seconds=18, price_usd_per_hour=0.1)  # 500 micro-dollars
    ledger.check_machine("train", 18, 0.1)
    with pytest.raises(BudgetReached):
        ledger.check_machine("train", 18.1, 0.1)
    with pytest.raises(BudgetReached):
        ledger.reserve(PAYEE, 501)


def test_a_response_is_kept_at_its_worst_case_until_it_is_settled(ledger):
    spend_id = keep(ledger, ledger.reserve(PAYEE, 900))
    stored = ledger.response("k")
    assert (stored.body, stored.spend_id, stored.microusd, stored.settled) == (b"raw", spend_id, 900, False)
    assert ledger.spent_usd() == 0.0009
    (row,) = ledger.rows()
    assert (row.cost_usd, row.unsettled_usd) == (0.0009, 0.0009)
    ledger.settle(spend_id, Usage(input_tokens=1, output_tokens=2), 300)
    assert ledger.spent_usd() == 0.0003
    assert ledger.response("k").settled


def test_a_key_that_was_paid_twice_is_booked_twice_and_keeps_its_first_response(ledger):
    keep(ledger, ledger.reserve(PAYEE, 100), body=b"first")
    keep(ledger, ledger.reserve(PAYEE, 100), body=b"second")
    assert ledger.response("k").body == b"first"
    assert ledger.spent_usd() == 0.0002


def test_what_a_killed_process_had_in_flight_is_booked_at_its_worst_case(tmp_path):
    path = tmp_path / "run.db"
    program = (
        "import os, sys; from pathlib import Path; from tenner.budget.ledger import Ledger\n"
        "from tenner.budget.ledger_rows import Payee\n"
        "ledger = Ledger(Path(sys.argv[1]), budget_usd=0.001)\n"
        "ledger.reserve(Payee('trace', 'p', 'm', 'row'), 400)\n"
        "ledger.reserve(Payee('trace', 'p', 'm', 'row'), 500)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    assert subprocess.run([sys.executable, "-c", program, path]).returncode == -9
    with closing(Ledger(path, budget_usd=0.001)) as ledger:
        assert ledger.lose_orphans() == 2
        assert (ledger.spent_usd(), ledger.reserved_usd()) == (0.0009, 0)
        assert ledger.rows()[0].unsettled_usd == 0.0009
        with pytest.raises(BudgetReached):
            ledger.reserve(PAYEE, 101)
        assert ledger.lose_orphans() == 0


def test_the_running_totals_are_the_sums_of_the_rows(ledger):
    settle(ledger, ledger.reserve(PAYEE, 300), microusd=120)
    ledger.lose(ledger.reserve(PAYEE, 50))
    ledger.release(ledger.reserve(PAYEE, 70))
    ledger.reserve(PAYEE, 40)
    ledger.charge_machine("train", 3.6, 0.1)
    with closing(sqlite3.connect(ledger.path)) as db:
        spent, reserved = (
            db.execute(f"SELECT SUM(microusd) FROM {t}").fetchone()[0] for t in ("spends", "reservations")
        )
    assert (spent, reserved) == (120 + 50 + 100, 40)
    assert (ledger.spent_usd(), ledger.reserved_usd()) == (spent / 1e6, reserved / 1e6)


def test_spend_is_summed_by_stage_and_read_without_writing(ledger, tmp_path):
    assert read_spend(tmp_path / "none.db") == []
    settle(ledger, ledger.reserve(PAYEE, 900))
    settle(ledger, ledger.reserve(PAYEE, 600), key="k2", microusd=100)
    ledger.charge_machine("train", 3.6, 0.1)
    trace, train = read_spend(tmp_path / "run.db")
    assert (trace.stage, trace.calls, trace.input_tokens, trace.cost_usd) == ("trace", 2, 20, 0.0004)
    assert (train.stage, train.machine_seconds, train.cost_usd) == ("train", 3.6, 0.0001)


def test_a_cap_in_dollars_is_exact_in_micro_dollars(tmp_path):
    with closing(Ledger(tmp_path / "run.db", budget_usd=0.29)) as ledger:
        assert ledger.cap_microusd == 290_000  # 0.29 * 1e6 is 289999.99… in floating point


def test_the_database_of_another_version_is_refused(tmp_path):
    path = tmp_path / "run.db"
    with closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE spends (id INTEGER)")
    for use in (lambda: Ledger(path, budget_usd=1), lambda: read_spend(path)):
        with pytest.raises(TennerError, match="was written by another version of tenner"):
            use()


def test_a_place_where_no_database_can_be_opened(tmp_path):
    with pytest.raises(TennerError, match=r"run\.db cannot be written: unable to open database file"):
        Ledger(tmp_path / "missing" / "run.db", budget_usd=1)


def test_a_database_that_cannot_be_written(ledger):
    ledger._db.execute("PRAGMA query_only = 1")
    with pytest.raises(TennerError, match=r"run\.db cannot be written: attempt to write a readonly database"):
        ledger.reserve(PAYEE, 1)


@pytest.mark.parametrize("code", [sqlite3.SQLITE_PROTOCOL, sqlite3.SQLITE_IOERR_LOCK, sqlite3.SQLITE_IOERR_SHMMAP])
def test_a_file_system_without_locks_is_told_in_one_line(code, tmp_path):
    """The error of SQLite is made here: no file system of a test machine refuses its locks."""
    error = sqlite3.OperationalError("locking protocol")
    error.sqlite_errorcode = code
    with pytest.raises(TennerError, match="does not lock files") as caught, sqlite_errors(tmp_path / "run.db"):
        raise error
    assert "local disk" in (caught.value.hint or "")


def test_many_may_open_a_new_ledger_at_the_same_moment(tmp_path):
    opened, threads_count = [], 6
    for attempt in range(5):
        together = threading.Barrier(threads_count)

        def open_it(path=tmp_path / f"{attempt}.db", together=together):
            together.wait()
            Ledger(path, budget_usd=1.0).close()
            opened.append(path)

        threads = [threading.Thread(target=open_it) for _ in range(threads_count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(opened) == 5 * threads_count


def test_after_a_reply_that_cost_more_all_reservations_of_its_model_grow_by_as_much(ledger):
    other = PAYEE._replace(model="another")
    settle(ledger, ledger.reserve(PAYEE, 100), microusd=150)
    ledger.reserve(PAYEE, 100)
    ledger.reserve(other, 100)
    ledger.overrun(PAYEE, 50)
    assert ledger.reserved_usd() == 0.00025
    ledger.reserve(PAYEE, 100)
    ledger.reserve(other, 100)
    assert ledger.reserved_usd() == 0.0005
    ledger.overrun(PAYEE, 400)  # beyond the cap: the truth is kept, and nothing more is reserved
    assert ledger.reserved_usd() == 0.0013
    for payee in (PAYEE, other):
        with pytest.raises(BudgetReached):
            ledger.reserve(payee, 1)


DAMAGED = {
    "cut": lambda data: data[: len(data) // 2],
    "no database": lambda data: b"hello" + data[5:],
    "no header": lambda data: data[:16] + bytes(16) + data[32:],
    "pages": lambda data: data[:4096] + bytes(x ^ 0xFF for x in data[4096:8192]) + data[8192:],
}


def open_and_read(path):
    with closing(Ledger(path, budget_usd=1.0)) as ledger:
        ledger.lose_orphans()
        return ledger.rows()


@pytest.mark.parametrize("damage", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_database_is_one_line(damage, tmp_path):
    path = tmp_path / "run.db"
    with closing(Ledger(path, budget_usd=1.0)) as ledger:
        for number in range(20):
            settle(ledger, ledger.reserve(PAYEE, 600), key=str(number))
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(TennerError, match=r"run\.db is damaged: "):
        read_spend(path)
    with pytest.raises(TennerError, match=r"run\.db is damaged: "):
        open_and_read(path)


def test_a_batch_reserves_what_fits_and_is_open_until_it_is_closed(ledger):
    lines = [Line(f"k{i}", f"r{i}", 400) for i in range(3)]
    assert ledger.reserve_batch(PAYEE, "t", lines) == 2  # of a cap of 1000
    with pytest.raises(BudgetReached):
        ledger.reserve_batch(PAYEE, "u", [Line("k3", "r3", 201), Line("k4", "r4", 1)])
    assert ledger.reserve_batch(PAYEE, "u", [Line("k3", "r3", 200), Line("k4", "r4", 1)]) == 1
    assert ledger.reserved_usd() == 0.001
    assert ledger.open_batches(PAYEE) == [BatchRow(token, None, "reserved", None) for token in ("t", "u")]
    for field in ("stage", "provider", "model"):
        assert ledger.open_batches(PAYEE._replace(**{field: "other"})) == []
    assert [line[1:] for line in ledger.waiting_lines("t")] == [("k0", "r0", 400), ("k1", "r1", 400)]
    assert ledger.lose_orphans() == 0  # the provider works on them
    submitted = BatchRow("t", "b1", "submitted", 7.0)
    ledger.mark_batch(submitted)
    assert ledger.open_batches(PAYEE) == [submitted, BatchRow("u", None, "reserved", None)]
    ledger.close_batch("t")
    assert [batch.token for batch in ledger.open_batches(PAYEE)] == ["u"]
    assert ledger.reserved_usd() == 0.0002


def test_a_model_has_settled_once_a_reply_with_output_was(ledger):
    spend = keep(ledger, ledger.reserve(PAYEE, 100))
    for usage in (Usage(), Usage(input_tokens=1, output_tokens=0)):
        assert not ledger.has_settled(PAYEE)
        ledger.settle(spend, usage, 7, finish_reason="stop")
    assert not ledger.has_settled(PAYEE)
    ledger.settle(spend, Usage(input_tokens=1, output_tokens=1), 9, finish_reason="length")
    assert ledger.has_settled(PAYEE)
    assert ledger.booked_microusd(spend) == 9
    assert not ledger.has_settled(PAYEE._replace(provider="other"))
    assert not ledger.has_settled(PAYEE._replace(model="other"))
    with closing(sqlite3.connect(ledger.path)) as db:
        assert db.execute("SELECT finish_reason FROM responses").fetchall() == [("length",)]


def test_overruns_add_up(ledger):
    ledger.overrun(PAYEE, 5)
    ledger.overrun(PAYEE, 7)
    assert ledger.overrun_microusd(PAYEE) == 12


def test_a_rental_reserves_its_time_and_leaves_the_rest_to_calls(ledger):
    rent = partial(ledger.rent_machine, "train", price_usd_per_hour=0.36, ahead_min=2)  # 100 micro-dollars a second
    rent(1.0, ahead_max=5)
    assert (ledger.spent_usd(), ledger.reserved_usd()) == (0.0001, 0.0005)
    ledger.check_machine("train", 9, 0.36)  # 5 of these seconds are reserved
    with pytest.raises(BudgetReached):
        ledger.check_machine("train", 9.01, 0.36)
    rent(1.0, ahead_max=50)
    assert (ledger.spent_usd(), ledger.reserved_usd()) == (0.0002, 0.0008)
    assert ledger.lose_orphans() == 0  # a rental is no call
    with pytest.raises(BudgetReached):
        rent(7.0, ahead_max=5)
    assert (ledger.spent_usd(), ledger.reserved_usd()) == (0.0009, 0.0001)
    ledger.lose_rental()
    assert (ledger.spent_usd(), ledger.reserved_usd()) == (0.001, 0.0)
    charged_until = ledger.machine_charged_until()
    assert charged_until is not None
    assert abs(time.time() - charged_until) < 60


def test_machine_time_is_booked_once_by_its_price(ledger):
    heartbeat = ledger.begin_heartbeat("train", 0.1)
    with closing(sqlite3.connect(ledger.path)) as db, db:
        db.execute("UPDATE heartbeats SET seconds = 36000")
    ledger.charge_machine("train", 36_000, 0.1, heartbeat=heartbeat)
    assert ledger.rows() == [SpendRow("train", "machine", "local", 1, 0, 0, 36_000.0, 1.0, "$0.10 an hour", 0.0)]
    assert ledger.charge_orphans() == HEARTBEAT_SECONDS


def test_what_fails_halfway_is_undone(ledger):
    with pytest.raises(BudgetReached), ledger.together():
        [ledger.reserve(PAYEE, microusd) for microusd in (5, 996)]
    assert ledger.reserved_usd() == 0
    assert ledger.path.stat().st_mode & 0o777 == 0o600


def test_a_full_disk_and_a_missing_table_are_one_line(ledger):
    reservation = ledger.reserve(PAYEE, 5)
    ledger._db.execute("PRAGMA max_page_count = 1")  # which SQLite takes as: no more than there are
    with pytest.raises(StorageFull):
        keep(ledger, reservation, body=bytes(100_000))
    ledger._db.execute("DROP TABLE overruns")
    with pytest.raises(TennerError, match="cannot be used: no such table"):
        ledger.reserve(PAYEE, 5)


def test_a_database_that_stays_locked_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr("tenner.budget.ledger_database.BUSY_SECONDS", 0.05)
    Ledger(tmp_path / "run.db", budget_usd=1).close()
    with closing(sqlite3.connect(tmp_path / "run.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(TennerError, match="locked by another process"):
            Ledger(tmp_path / "run.db", budget_usd=1)


def test_a_transaction_has_the_write_lock_before_the_cap_is_read(ledger):
    with closing(sqlite3.connect(ledger.path, isolation_level=None, timeout=0)) as other:
        assert other.execute("PRAGMA user_version").fetchone() == (2,), "raised with the schema of the tables"
        with ledger.together(), pytest.raises(sqlite3.OperationalError, match="locked"):
            other.execute("BEGIN IMMEDIATE")
