"""Money under fire: processes killed at random moments, and random schedules against one cap."""

import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing

import forked
import pytest
from chat_server import ChatServer, usage_of
from commands import tenner

from tenner.budget.ledger import Ledger

QUESTIONS, CONCURRENCY, KILLS = 500, 32, 30
SCHEDULES, WORKERS = 250 * int(os.environ.get("TENNER_CAMPAIGN", "1")), 64


def stored_questions(database):
    """What the client's store holds, as the last session left it."""
    if not database.exists():
        return set()
    with closing(sqlite3.connect(database)) as db:
        if not db.execute("SELECT 1 FROM sqlite_master WHERE name = 'responses'").fetchone():
            return set()
        return {
            json.loads(request)["messages"][-1]["content"] for (request,) in db.execute("SELECT request FROM responses")
        }


@pytest.mark.slow
def test_nothing_is_bought_twice_whatever_is_killed_when(tmp_path):
    moments = random.Random(0)
    file, out = tmp_path / "questions.jsonl", tmp_path / "out"
    rows = [{"id": i, "question": f"What is {i}+{i + 1}?", "answer": 2 * i + 1} for i in range(QUESTIONS)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    in_flight_at_kills = 0
    with ChatServer(latency_seconds=(0.1, 0.9), fault_rate=0.03) as server:
        command = [
            "trace", file, "--out", out, "--model", "m", "--base-url", server.url,
            "--price-in", "1", "--price-out", "2", "--max-output-tokens", "100", "--budget-usd", "10",
            "--concurrency", str(CONCURRENCY),
        ]  # fmt: skip
        for epoch in range(1, KILLS + 1):
            before = stored_questions(out / "run.db")
            server.epoch = epoch
            process = forked.tenner(said := tmp_path / f"said-{epoch}", *command)
            deadline = time.monotonic() + 60
            while not any(a.epoch == epoch for a in server.asked[-CONCURRENCY:]) and process.exitcode is None:
                assert time.monotonic() < deadline
                time.sleep(0.005)
            time.sleep(moments.uniform(0.0, 0.6))
            process.kill()
            in_flight_at_kills += server.in_flight
            process.join()
            assert process.exitcode == -signal.SIGKILL, said.read_text()
            time.sleep(0.05)
            assert not before & {
                a.question for a in server.asked if a.epoch == epoch
            }  # what is stored is not asked again
        server.epoch = KILLS + 1
        before = stored_questions(out / "run.db")
        assert 0 < len(before) < QUESTIONS, "the kills should have fallen into the work"
        done = tenner(*command)
        assert done.returncode == 0, done.stderr
        assert not before & {a.question for a in server.asked if a.epoch == KILLS + 1}
        bought = server.completed.total()
    traces = [json.loads(line) for line in (out / "traces.jsonl").read_text().splitlines()]
    assert sorted(int(t["question_id"]) for t in traces) == list(range(QUESTIONS))
    assert {t["grade"]["verdict"] for t in traces} == {"correct"}
    assert 0 <= bought - QUESTIONS <= in_flight_at_kills
    for path in out.glob("*.jsonl"):
        assert all(json.loads(line) for line in path.read_text().splitlines())
    with closing(sqlite3.connect(out / "run.db")) as db:
        ((settled,), (lost,), (reserved,)) = (
            db.execute(query).fetchone()
            for query in (
                "SELECT SUM(microusd) FROM spends WHERE settled",
                "SELECT COUNT(*) FROM spends WHERE NOT settled",
                "SELECT COUNT(*) FROM reservations",
            )
        )
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    usages = [usage_of(str(row["question"])) for row in rows]
    assert settled == sum(u["prompt_tokens"] + 2 * u["completion_tokens"] for u in usages)
    assert reserved == 0
    print(f"{bought} bought, {in_flight_at_kills} in flight at {KILLS} kills, {lost} booked at their worst case")


SCHEDULE = """
import asyncio, json, random, sqlite3, sys
from pathlib import Path
from tenner.core.errors import BudgetReached
from tenner.budget.ledger import Ledger
from tenner.budget.prices import Price
from tenner.core.records import Question, Usage
from tenner.clients.paid_calls import Limits, PaidCalls
from tenner.clients.retries import RetryRule
from tenner.clients.faults import Fault
from tenner.clients.protocol import Call, Reply, Response

class SimulatedClient:
    "Answers after a random while with a random number of tokens, or fails in a random way."
    reasoning_is_summary, secret = False, ""

    def __init__(self, draw):
        self.draw, self.longest = draw, draw.randint(1, 400)
        self.price = Price("p", "m", draw.choice([0.1, 1, 3.7]), draw.choice([0.3, 2, 9.9]), "test", None)
        self.fault_rate = draw.choice([0, 0.1, 0.4])

    def request(self, call):
        return {"question": call.question.question}

    def worst_case_usage(self, call, request):
        return Usage(input_tokens=50, output_tokens=self.longest)

    async def send(self, call, request):
        await asyncio.sleep(self.draw.choice([0, 0, 0.001, 0.004]))
        if self.draw.random() < self.fault_rate:
            raise Fault(self.draw.choice(["rate_limited", "server_error", "interrupted", "deadline"]), "bad luck")
        usage = [self.draw.randint(0, 50), self.draw.randint(0, self.longest)]
        return Response(json.dumps(usage if self.draw.random() < 0.95 else [None, None]).encode(), "application/json")

    def parse(self, response):
        read, written = json.loads(response.body)
        return Reply("complete", "t", "a", "stop", Usage(input_tokens=read, output_tokens=written))

folder, name, workers = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
limits = Limits(concurrency=workers, deadline_seconds=10, retries=RetryRule(attempts_max=3, backoff_seconds=0.0001))
for line in sys.stdin:
    seed = int(line)
    draw = random.Random(f"{seed} {name}")
    cap = random.Random(seed).choice([0, 1, 500, 5_000, 40_000])
    ledger = Ledger(folder / f"{seed}.db", budget_usd=cap / 1e6)
    calls = [Call(Question(id=str(i), question=f"{name} {i}", source="t"), 0) for i in range(draw.randint(1, 150))]
    paid_calls = PaidCalls(SimulatedClient(draw), ledger, stage="trace", limits=limits)
    came = []
    try:
        asyncio.run(paid_calls.run(calls, came.append, total=len(calls)))
        end = "done" if len(came) == len(calls) else "lost some"
    except BudgetReached as e:
        end = f"{e.exit_code} {e} {e.hint}"
    ledger.close()
    print(json.dumps([end, len(came), len(calls)]), flush=True)
"""
WATCH = """
CREATE TABLE violations (held INTEGER, reserved INTEGER);
CREATE TRIGGER watch AFTER UPDATE ON totals WHEN NEW.held_microusd + NEW.reserved_microusd > {cap} BEGIN
    INSERT INTO violations VALUES (NEW.held_microusd, NEW.reserved_microusd);
END;
"""


@pytest.mark.slow
def test_the_cap_holds_in_random_schedules_of_two_processes(tmp_path):
    command = [sys.executable, "-c", SCHEDULE, str(tmp_path)]
    both = [
        subprocess.Popen([*command, name, str(WORKERS)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for name in ("a", "b")
    ]
    ends = {"done": 0, "capped": 0}
    try:
        for seed in range(SCHEDULES):
            path, cap = tmp_path / f"{seed}.db", random.Random(seed).choice([0, 1, 500, 5_000, 40_000])
            Ledger(path, budget_usd=0).close()
            with closing(sqlite3.connect(path)) as db:
                db.executescript(WATCH.format(cap=cap))
            for process in both:
                assert process.stdin
                process.stdin.write(f"{seed}\n")
                process.stdin.flush()
            for process in both:
                assert process.stdout
                end, came, asked = json.loads(process.stdout.readline())
                if end == "done":
                    assert came == asked
                else:
                    assert end.startswith(f"3 the cap of ${cap / 1e6:.4f} is reached in trace"), (seed, end)
                    assert "the same command with " in end
                    assert "--budget-usd" in end
                ends["done" if end == "done" else "capped"] += 1
            with closing(sqlite3.connect(path)) as db:
                assert db.execute("SELECT * FROM violations").fetchall() == [], seed
                assert db.execute("SELECT COALESCE(SUM(microusd), 0) FROM spends").fetchone()[0] <= cap
                assert db.execute("SELECT COUNT(*) FROM reservations").fetchone() == (0,)
            path.unlink()
    finally:
        for process in both:
            assert process.stdin
            assert process.stdout
            process.stdin.close()
            process.wait(10)
            process.stdout.close()
    assert min(ends.values()) > SCHEDULES / 10, ends
    print(ends)
