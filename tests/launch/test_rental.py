"""A rented machine: charged from its start, whatever the job does, and ended before the cap. The jobs are processes."""

import os
import signal
import sqlite3
import threading
import time
from contextlib import closing

import pytest

from tenner.budget.ledger import Ledger
from tenner.budget.ledger_database import read_spend
from tenner.budget.ledger_rows import Payee
from tenner.core import recipe
from tenner.core.errors import BudgetReached, TennerError
from tenner.core.progress import Screen
from tenner.core.run import RENTED, open_run
from tenner.launch import rental
from tenner.launch.folder_copy import FolderCopy
from tenner.launch.rental import Rental, rental_of, supervise

DEMO = recipe.load("demo", overrides=["machine.price_usd_per_hour=36"])
CENT_PER_SECOND = 36.0
OBEDIENT = ["sh", "-c", 'trap "exit 75" TERM; echo begun >&2; sleep 30 & wait']
DEAF = ["sh", "-c", 'trap "" TERM; sleep 30']


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(rental, "TICK_SECONDS", 0.05)


@pytest.fixture
def path(tmp_path):
    """A run of which nothing is done."""
    with open_run(tmp_path / "run", DEMO, Screen(), budget_usd=None):
        return tmp_path / "run"


def rented(ago=0.0, cap_usd=100.0, grace=1.0):
    return Rental(time.time() - ago, CENT_PER_SECOND, cap_usd, grace)


def run(path, command, rented):
    return supervise(command, path, DEMO.stages, rented)


def spent_usd(path):
    return sum(row.cost_usd for row in read_spend(path / "run.db"))


def reserved_usd(path):
    with closing(Ledger(path / "run.db", budget_usd=1)) as ledger:
        return ledger.reserved_usd()


def test_the_time_before_the_job_is_charged_too_and_the_job_charges_none(path):
    assert run(path, ["sh", "-c", f'test "${RENTED}" = 1'], rented(ago=100)) == 0
    (row,) = read_spend(path / "run.db")
    assert (row.stage, row.provider) == ("gather", "machine")
    assert 1.0 <= row.cost_usd < 1.05
    assert row.machine_seconds == pytest.approx(row.cost_usd * 100, abs=0.01)
    assert reserved_usd(path) == 0


def test_a_second_job_on_the_same_machine_is_not_charged_for_the_first(path):
    run(path, ["true"], rented(ago=100))
    run(path, ["true"], rented(ago=100))
    assert spent_usd(path) < 1.1


def test_the_exit_code_is_the_jobs(path):
    assert run(path, ["sh", "-c", "exit 4"], rented()) == 4
    assert run(path, ["sh", "-c", "kill -9 $$"], rented()) == 128 + 9


@pytest.mark.parametrize(("command", "grace"), [(OBEDIENT, 5.0), (DEAF, 0.3)])
def test_the_cap_ends_the_job_while_there_is_enough_to_save(path, command, grace):
    cap_usd = 1.0 + (grace + 0.3) / 100
    with pytest.raises(BudgetReached, match="is reached in gather"):
        run(path, command, rented(ago=100, cap_usd=cap_usd, grace=grace))
    assert 1.0 < spent_usd(path) <= cap_usd + 0.002  # the time that a kill takes
    assert reserved_usd(path) == 0


def test_a_rental_that_has_used_the_cap_up_starts_no_job(path, tmp_path):
    with pytest.raises(BudgetReached):
        run(path, ["touch", str(tmp_path / "started")], rented(ago=100, cap_usd=0.5))
    with pytest.raises(BudgetReached):  # before there is a run, too
        run(tmp_path / "new", ["touch", str(tmp_path / "started")], rented(ago=100, cap_usd=0.5))
    assert not (tmp_path / "started").exists()


def test_sigterm_is_handed_on_and_counts_as_a_preemption(path):
    threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGTERM)).start()
    assert run(path, ["sleep", "30"], rented()) == 75


def test_a_rental_that_begins_in_the_future_is_refused(path):
    with pytest.raises(TennerError, match="is in the future"):
        rental_of(path, DEMO, since=time.time() + 60, grace_seconds=1, named_usd=None)
    with pytest.raises(TennerError, match="leaves no time"):
        rental_of(path, DEMO, since=0, grace_seconds=0, named_usd=None)
    assert rental_of(path, DEMO, since=0, grace_seconds=1, named_usd=7).cap_usd == 7
    assert rental_of(path, DEMO, since=0, grace_seconds=1, named_usd=None).cap_usd == DEMO.budget_usd


# the ledger


def test_calls_may_take_what_is_reserved_beyond_the_grace_only(path):
    payee = Payee("trace", "p", "m", "free")
    with closing(Ledger(path / "run.db", budget_usd=1.0)) as ledger:
        ledger.rent_machine("trace", 10, CENT_PER_SECOND, ahead_min=20, ahead_max=50)
        assert (ledger.spent_usd(), ledger.reserved_usd()) == (0.1, 0.5)
        call = ledger.reserve(payee, 400_000)
        with pytest.raises(BudgetReached):
            ledger.reserve(payee, 1)
        ledger.check_machine("train", 50, CENT_PER_SECOND)  # the reserved time is there to be used
        with pytest.raises(BudgetReached):
            ledger.check_machine("train", 51, CENT_PER_SECOND)
        ledger.rent_machine("trace", 30, CENT_PER_SECOND, ahead_min=20, ahead_max=50)
        assert (ledger.spent_usd(), ledger.reserved_usd()) == (0.4, 0.6)
        with pytest.raises(BudgetReached):
            ledger.rent_machine("trace", 1, CENT_PER_SECOND, ahead_min=20, ahead_max=50)
        assert ledger.spent_usd() == 0.41  # booked all the same
        ledger.release(call)
        ledger.rent_machine("trace", 1, CENT_PER_SECOND, ahead_min=20, ahead_max=50)
        ledger.release_machine()
        assert (ledger.spent_usd(), ledger.reserved_usd()) == (0.42, 0.0)


def test_a_rental_that_ended_without_notice_is_booked_at_its_worst_case(path, monkeypatch):
    with closing(Ledger(path / "run.db", budget_usd=1.0)) as ledger:
        ledger.rent_machine("train", 10, CENT_PER_SECOND, ahead_min=20, ahead_max=20)
    monkeypatch.setenv(RENTED, "1")
    with open_run(path, DEMO, Screen(), budget_usd=1.0) as opened:  # the job of that rental
        assert (opened.ledger.spent_usd(), opened.ledger.reserved_usd()) == (0.1, 0.2)
    monkeypatch.delenv(RENTED)
    with open_run(path, DEMO, Screen(), budget_usd=None) as opened:
        assert opened.ledger.spent_usd() == pytest.approx(0.3)
        assert opened.ledger.reserved_usd() == 0.0


# the copy


def test_a_copy_follows_the_folder_and_makes_it_again(path, tmp_path):
    copy = FolderCopy(path, tmp_path / "bucket" / "run")
    assert not copy.restore()
    (path / "old.jsonl").write_text("old\n")
    copy.update_beside(every_seconds=0)
    deadline = time.monotonic() + 5
    while not (tmp_path / "bucket" / "run" / "run.db").exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    (path / "old.jsonl").unlink()
    (path / "stages").mkdir(exist_ok=True)
    (path / "stages" / "gather.json").write_text("{}")
    with closing(Ledger(path / "run.db", budget_usd=1)) as ledger:  # open: some of it is in the write-ahead log
        ledger.charge_machine("gather", 10, CENT_PER_SECOND)
        copy.finish()
    found = {file.relative_to(tmp_path / "bucket" / "run").as_posix() for file in (tmp_path / "bucket").rglob("*.*")}
    assert found == {"recipe.toml", "run.json", "provenance.json", "run.db", "stages/gather.json"}
    path.rename(tmp_path / "lost")
    assert FolderCopy(path, tmp_path / "bucket" / "run").restore()
    assert spent_usd(path) == 0.1
    with closing(sqlite3.connect(path / "run.db")) as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert not FolderCopy(path, tmp_path / "bucket" / "run").restore()  # it is there
