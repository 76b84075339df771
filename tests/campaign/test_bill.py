"""The fault campaign, money: teachers that lie and fail keep a bill of their own, and processes are killed.

    pytest -m slow tests/campaign                         # a few seeds
    TENNER_CAMPAIGN=40 pytest -m slow -s tests/campaign  # forty times as many seeds, and the table
    TENNER_CAMPAIGN_SEED=1000 …                           # seeds from 1,000 on

Each seed draws a teacher, questions, limits and a cap, and gives the same command until it is done or the cap is
reached. Each fourth seed kills the command at drawn moments. Held after every command:

- the bill at the server is never above what the ledger holds, nor above the cap by more than the one reply that broke
  the protocol;
- what is stored is not asked again; a call is paid twice at most once for each time that it was in flight at a kill;
- a command ends with a line and an exit code, never with a traceback, and never hangs.

Other files of this folder are about other kinds of faults.
"""

import json
import os
import random
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import NamedTuple

import forked
import pytest
from chat_server import BEHAVIOURS, Answer
from money_faults import BEYOND, CHARGED, FREE, GOOD, USAGES, BillingServer
from paid import PRICE

from tenner import tracing
from tenner.budget.ledger import Ledger
from tenner.core.errors import TennerError

SEEDS = 5 * int(os.environ.get("TENNER_CAMPAIGN", "1"))
FIRST_SEED = int(os.environ.get("TENNER_CAMPAIGN_SEED", "0"))
KILLED_EVERY = 4
LATE_SECONDS = 1.05
"""Longer than the replies of these servers take, and than a refusal does where there was no reply."""
THOUGHT = 900


def _late(status: int, question: str) -> Answer:  # noqa: ARG001  whatever is asked
    body = json.dumps({"error": {"message": "something went wrong", "code": status}}).encode()
    return Answer(status, body, {"x-billed": str(20 + 2 * THOUGHT)}, delay_seconds=LATE_SECONDS)


LATE = {f"{status} after work": status for status in (408, 429, 500, 502, 503, 504, 524)}
BEHAVIOURS.update({name: partial(_late, status) for name, status in LATE.items()})
SLOW = "overloaded for a minute"
KINDS: dict[str, list[str]] = {
    "usage in dialects": list(USAGES),
    "charged without a completion": list(CHARGED),
    "free refusals": [name for name in FREE if name != SLOW],
    "odd bodies": list(GOOD),
    "errors after work": list(LATE),
    "broken connections": ["reset", "hang up"],
    "beyond the limit": list(BEYOND),
}
EXIT_CODES = {0: "done", 2: "stopped with a line", 3: "cap reached", 4: "some calls failed", 5: "out of money"}


class Scenario(NamedTuple):
    """What a seed draws."""

    scripts: dict[str, list[str]]
    met: Counter[str]
    """Its faults by kind."""
    budget_usd: float
    concurrency: int
    attempts: int
    kills: int


def drawn(seed: int) -> Scenario:
    draw = random.Random(seed)
    met: Counter[str] = Counter()
    scripts = {}
    kinds = [kind for kind in KINDS if kind != "beyond the limit"]
    for i in range(draw.randint(8, 24)):
        script = ["good"]
        for _ in range(draw.choice((0, 1, 1, 2))):
            kind = draw.choice(kinds)
            met[kind] += 1
            script.insert(0, draw.choice(KINDS[kind]))
        scripts[f"{i}+{seed}?"] = script  # so short that its tokens are within what `BEYOND` claims
    if draw.random() < 0.4:
        met["beyond the limit"] += 1
        scripts[draw.choice(list(scripts))] = [draw.choice(KINDS["beyond the limit"])]
    return Scenario(
        scripts, met, budget_usd=draw.choice((0.008, 0.02, 0.05, 1.0)), concurrency=draw.choice((2, 8, 64)),
        attempts=draw.choice((2, 4, 6)), kills=0 if seed % KILLED_EVERY else draw.randint(1, 3),
    )  # fmt: skip


class Command(NamedTuple):
    """`tenner trace` of a scenario."""

    scenario: Scenario
    server: BillingServer
    folder: Path

    @property
    def out(self) -> Path:
        return self.folder / "out"

    def run(self) -> int:
        """Its exit code; here, without a process of its own."""
        price = PRICE.model_dump(exclude_none=True)
        section = {"client": "openai", "base_url": self.server.url, "model": "m", "price": price} | {
            "output_tokens_max": 1000, "concurrency": self.scenario.concurrency,
            "attempts_max": self.scenario.attempts, "deadline_seconds": 20.0,
        }  # fmt: skip
        try:
            job = tracing.describe(section, budget_usd=self.scenario.budget_usd)
            tracing.run(self.folder / "questions.jsonl", self.out, job)
        except TennerError as e:
            told, code = str(e), e.exit_code
        else:
            told, code = "", 0
        assert len(told.splitlines()) <= 1
        return code

    def kill(self, after_seconds: float) -> None:
        """Start it, and kill it so long after its first request."""
        words: list[str | Path] = [
            "trace", self.folder / "questions.jsonl", "--out", self.out, "--model", "m",
            "--base-url", self.server.url, "--price-in", "1", "--price-out", "2", "--max-output-tokens", "1000",
            "--budget-usd", str(self.scenario.budget_usd), "--concurrency", str(self.scenario.concurrency),
            "--attempts", str(self.scenario.attempts), "--deadline-seconds", "20",
        ]  # fmt: skip
        asked, deadline = len(self.server.asked), time.monotonic() + 60
        process = forked.tenner(said := self.folder / "said", *words)
        while len(self.server.asked) == asked and process.exitcode is None:
            assert time.monotonic() < deadline
            time.sleep(0.002)
        time.sleep(after_seconds)
        forked.kill(process)
        assert "Traceback" not in said.read_text()

    def held_microusd(self) -> int:
        """What the ledger holds, in spends and reservations."""
        with closing(sqlite3.connect(self.out / "run.db")) as db:
            return sum(db.execute("SELECT held_microusd, reserved_microusd FROM totals").fetchone())

    def stored(self) -> set[str]:
        """The questions whose responses are stored."""
        if not (self.out / "run.db").exists():
            return set()
        with closing(sqlite3.connect(self.out / "run.db")) as db:
            return {
                json.loads(row)["messages"][-1]["content"] for (row,) in db.execute("SELECT request FROM responses")
            }


def sessions(command: Command, draw: random.Random) -> Iterator[str]:
    """Give the command until it is done or can buy no more; what each came to."""
    for _ in range(command.scenario.kills):
        command.kill(draw.uniform(0.0, 0.4))
        yield "killed"
    for _ in range(4):
        code = command.run()
        yield EXIT_CODES[code]
        if code == 0:
            return


def check(command: Command, before: set[str], asked: int) -> None:
    """What must hold after every session."""
    bill, held = command.server.bill_microusd, command.held_microusd()
    cap = round(command.scenario.budget_usd * 1e6)
    one_reply = 20 + 2 * 5005 if command.scenario.met["beyond the limit"] else 0
    assert bill <= held, f"the bill of {bill} is above the {held} of the ledger"
    assert bill <= cap + one_reply, f"the bill of {bill} is above the cap of {cap}"
    again = before & {a.question for a in command.server.asked[asked:]}
    assert not again, f"stored, and asked again: {again}"


@pytest.mark.slow
def test_no_teacher_charges_more_than_the_ledger_and_the_cap_hold(tmp_path, monkeypatch):
    monkeypatch.setattr("tenner.clients.retries.BACKOFF_MAX_SECONDS", 0.02)
    met: Counter[str] = Counter()
    outcomes: Counter[str] = Counter()
    totals: Counter[str] = Counter()
    for seed in range(FIRST_SEED, FIRST_SEED + SEEDS):
        scenario, draw = drawn(seed), random.Random(-1 - seed)
        folder = tmp_path / str(seed)
        folder.mkdir()
        rows = ({"id": f"q{i}", "question": question} for i, question in enumerate(scenario.scripts))
        (folder / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        with BillingServer(scenario.scripts, latency_seconds=(0.01, 0.1)) as server:
            command = Command(scenario, server, folder)
            before, asked = command.stored(), 0
            for outcome in sessions(command, draw):
                outcomes[outcome] += 1
                if (command.out / "run.db").exists():
                    try:
                        check(command, before, asked)
                    except AssertionError as e:
                        raise AssertionError(f"seed {seed}: {e}") from e
                before, asked = command.stored(), len(server.asked)
            totals += Counter(calls=len(server.asked), bill=server.bill_microusd, ledger=command.held_microusd())
        met += scenario.met
    print(f"\n{SEEDS} seeds, {met.total()} faults, {totals['calls']} calls")
    for kind, count in [*met.most_common(), *outcomes.most_common()]:
        print(f"  {count:5}  {kind}")
    print(f"  bill ${totals['bill'] / 1e6:.4f}, ledger ${totals['ledger'] / 1e6:.4f}")


MACHINE = """
import sys, time
from pathlib import Path
from tenner.budget.heartbeat import Heartbeat
from tenner.budget.ledger import Ledger
ledger = Ledger(Path(sys.argv[1]), budget_usd=1000)
ledger.charge_orphans()
passing = Heartbeat(ledger, "train", 360.0)
print("began", flush=True)
while True:
    time.sleep(float(sys.argv[2]))
    passing.charge()
"""


@pytest.mark.slow
def test_machine_time_is_booked_whenever_the_process_is_killed(tmp_path):
    draw, passed, kills = random.Random(FIRST_SEED), 0.0, max(3, SEEDS // 2)
    database = tmp_path / "run.db"
    for _ in range(kills):
        words = [sys.executable, "-c", MACHINE, database, str(draw.choice((0.05, 60.0)))]
        with subprocess.Popen(words, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"began\n"
            began = time.monotonic()
            time.sleep(draw.uniform(0.0, 1.2))
            process.kill()
            passed += time.monotonic() - began
    with closing(Ledger(database, budget_usd=1000)) as ledger:
        ledger.charge_orphans()
        booked_seconds = ledger.spent_usd() * 3600 / 360
    print(f"\n{kills} kills: {passed:.2f} s passed, {booked_seconds:.2f} s booked")
    assert passed <= booked_seconds < passed + kills
