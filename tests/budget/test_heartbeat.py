"""Machine time that passed before a kill is booked by the next session."""

import subprocess
import sys
import threading
import time
from contextlib import closing

import pytest

from tenner.budget import heartbeat
from tenner.budget.heartbeat import Heartbeat
from tenner.budget.ledger import HEARTBEAT_SECONDS, Ledger

PRICE = 360.0  # dollars an hour: ten cents a second
KILLED = """
import os, sys, time
from pathlib import Path
from tenner.budget.heartbeat import Heartbeat
from tenner.budget.ledger import Ledger
ledger = Ledger(Path(sys.argv[1]), budget_usd=10)
passing = Heartbeat(ledger, "train", 360.0)
time.sleep(0.1)
passing.charge()
time.sleep(0.4)
os.kill(os.getpid(), 9)
"""


def test_a_kill_loses_no_machine_time(tmp_path):
    path = tmp_path / "run.db"
    assert subprocess.run([sys.executable, "-c", KILLED, path]).returncode == -9
    with closing(Ledger(path, budget_usd=10)) as ledger:
        assert 0.39 <= ledger.charge_orphans() < 0.4 + 2 * HEARTBEAT_SECONDS + 0.5
        assert 0.5 <= ledger.spent_usd() / PRICE * 3600 < 1.5
        assert ledger.charge_orphans() == 0


def test_what_is_charged_is_charged_once(tmp_path, monkeypatch):
    monkeypatch.setattr(heartbeat, "HEARTBEAT_SECONDS", 0.001)
    with closing(Ledger(tmp_path / "run.db", budget_usd=10)) as ledger:
        began = time.monotonic()
        passing = Heartbeat(ledger, "train", PRICE)
        for _ in range(20):
            time.sleep(0.005)
            passing.charge()
        passing.end()
        passed = time.monotonic() - began
        assert ledger.charge_orphans() == 0
        assert ledger.rows()[0].machine_seconds == pytest.approx(passed, abs=0.05)


def test_what_costs_nothing_has_no_thread(tmp_path):
    before = threading.active_count()
    with closing(Ledger(tmp_path / "run.db", budget_usd=10)) as ledger:
        passing = Heartbeat(ledger, "train", 0.0)
        assert threading.active_count() == before
        passing.end()
        assert ledger.charge_orphans() == 0
