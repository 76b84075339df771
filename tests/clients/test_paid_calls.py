"""The paid-call loop against a real server that misbehaves on demand (see `chat_server.py`)."""

import asyncio
import datetime
import math
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from typing import Any

import pytest
from chat_server import ChatServer
from paid import LIMITS, buy, cost_microusd, questions, section, spent_microusd

from tenner.budget.ledger import Ledger
from tenner.budget.prices import find
from tenner.clients.openai import OpenAIClient
from tenner.clients.reference_solution import ReferenceSolutionClient
from tenner.core.errors import BudgetReached, TennerError
from tenner.core.records import FailedCall, Question
from tenner.core.sections import PriceSection, TraceSection


@pytest.fixture
def ledger(tmp_path):
    with closing(Ledger(tmp_path / "run.db", budget_usd=1)) as opened:
        yield opened


def test_reference_solutions_go_through_store_and_ledger_at_no_price(ledger):
    asked = [Question(id=f"q{i}", question=f"{i}?", answer="1", solution=f"{i}.", source="t") for i in range(20)]
    results, _ = buy(ReferenceSolutionClient(), ledger, asked)
    assert {i: r.reply.thinking for i, r in results.items()} == {q.id: q.solution for q in asked}
    (row,) = ledger.rows()
    assert (row.provider, row.calls, row.cost_usd, row.unsettled_usd) == ("reference-solution", 20, 0, 0)


def test_a_question_without_a_solution_is_refused(ledger):
    with pytest.raises(TennerError, match="has no reference solution"):
        buy(ReferenceSolutionClient(), ledger, questions("1+1?"))
    assert (ledger.spent_usd(), ledger.reserved_usd()) == (0, 0)


def test_every_token_is_paid_once(ledger):
    texts = [f"What is {i}+{i}?" for i in range(40)]
    with ChatServer(latency_seconds=(0.0, 0.02)) as server:
        results, paid_calls = buy(OpenAIClient(section(server)), ledger, questions(*texts))
        assert spent_microusd(ledger) == sum(map(cost_microusd, texts))
        assert all(r.metered and not r.reused and r.reply.outcome == "complete" for r in results.values())
        again, _ = buy(OpenAIClient(section(server)), ledger, questions(*texts))
        assert all(r.reused for r in again.values())
        assert [r.reply for r in again.values()] == [results[i].reply for i in again]
        assert spent_microusd(ledger) == sum(map(cost_microusd, texts))
        assert len(server.asked) == 40
        buy(OpenAIClient(section(server)), ledger, questions(texts[0]), sample_index=1)  # another sample
        buy(OpenAIClient(section(server, output_tokens_max=999)), ledger, questions(texts[0]))  # another limit
        assert len(server.asked) == 42
    assert 1 < server.in_flight_max <= 8
    assert paid_calls.progress.bought == 40


def test_two_questions_in_the_same_words_are_one_call(ledger):
    with ChatServer(latency_seconds=(0.05, 0.05)) as server:
        results, _ = buy(OpenAIClient(section(server)), ledger, questions("1+1?", "1+1?", "1+1?"))
    assert len(results) == 3
    assert len(server.asked) == 1


OUTCOMES = {
    "good": "complete",
    "invalid json": "unreadable",
    "not a completion": "unreadable",
    "no usage": "complete",
    "no choices": "empty",
    "nothing said": "empty",
    "truncated": "truncated",
    "content filter": "content_filter",
    "no reasoning": "no_reasoning",
    "drip": "complete",
}


@pytest.mark.parametrize(("behaviour", "outcome"), OUTCOMES.items())
def test_every_success_is_stored_raw_and_never_bought_again(behaviour, outcome, ledger):
    with ChatServer({"1+2?": [behaviour]}) as server:
        for _ in range(2):
            results, _ = buy(OpenAIClient(section(server)), ledger, questions("1+2?"))
            assert results["q0"].reply.outcome == outcome
        assert len(server.asked) == 1
    with closing(sqlite3.connect(ledger.path)) as db:
        assert db.execute("SELECT COUNT(*) FROM responses").fetchone() == (1,)
    if behaviour in ("invalid json", "not a completion", "no usage"):
        worst = len("1+2?") + 256 + 2 * 1000  # what it cost is not known: the worst case stays on the books
        assert (spent_microusd(ledger), results["q0"].metered) == (worst, False)
    else:
        assert (spent_microusd(ledger), results["q0"].metered) == (cost_microusd("1+2?"), True)
    assert ledger.reserved_usd() == 0


@pytest.mark.parametrize(
    ("behaviour", "thinking", "answer"),
    [
        ("reasoning details", "in details", r"The answer is \boxed{3}."),
        ("good", "I add up the numbers of: 1+2?", r"The answer is \boxed{3}."),
        ("reasoning", "in reasoning", r"The answer is \boxed{3}."),
        ("think block", "in a block", r"\boxed{1}"),
        ("think block, opened by the prompt", "in a block", r"\boxed{1}"),
    ],
)
def test_reasoning_is_found_in_all_its_places(behaviour, thinking, answer, ledger):
    with ChatServer({"1+2?": [behaviour]}) as server:
        results, _ = buy(OpenAIClient(section(server)), ledger, questions("1+2?"))
    reply = results["q0"].reply
    assert (reply.outcome, reply.thinking, reply.answer) == ("complete", thinking, answer)


FAULTS = {
    "rate limit": ("rate_limited", 4),
    "rate limit for a day": ("rate_limited", 1),
    "server error": ("server_error", 4),
    "overloaded": ("overloaded", 4),
    "reset": ("interrupted", 4),
    "hang up": ("interrupted", 4),
    "hang": ("deadline", 1),
    "web page": ("not_json", 4),
    "plain text": ("not_json", 4),
    "bad request": ("bad_request", 1),
    "refused": ("refused", 1),
}


@pytest.mark.parametrize(("behaviour", "kind", "attempts"), [(b, *e) for b, e in FAULTS.items()])
def test_every_fault_has_a_name_and_only_transient_ones_are_retried(behaviour, kind, attempts, ledger):
    limits = LIMITS._replace(deadline_seconds=0.5)
    with ChatServer({"1+2?": [behaviour]}) as server:
        results, paid_calls = buy(OpenAIClient(section(server)), ledger, questions("1+2?", "5+5?"), limits=limits)
        assert len([a for a in server.asked if a.question == "1+2?"]) == attempts
    failed = results["q0"]
    assert isinstance(failed, FailedCall)
    assert (failed.kind, failed.attempts) == (kind, attempts)
    assert results["q1"].reply.outcome == "complete"  # one that fails takes no other with it
    assert paid_calls.progress.failures == {kind: 1}
    worst = len("1+2?") + 256 + 2 * 1000
    lost = attempts * worst if kind in ("interrupted", "deadline", "not_json") else 0  # these may have been charged
    assert spent_microusd(ledger) == cost_microusd("5+5?") + lost
    assert ledger.reserved_usd() == 0


def test_a_slow_drip_is_cut_off_at_the_deadline(ledger):
    with ChatServer({"1+2?": ["drip"]}) as server:
        results, _ = buy(
            OpenAIClient(section(server)), ledger, questions("1+2?"), limits=LIMITS._replace(deadline_seconds=0.4)
        )
    assert results["q0"].kind == "deadline"


@pytest.mark.parametrize("behaviour", ["rate limit", "server error", "overloaded", "reset"])
def test_transient_faults_are_retried_until_the_call_succeeds(behaviour, ledger):
    with ChatServer({"1+2?": [behaviour, behaviour, "good"]}) as server:
        results, paid_calls = buy(OpenAIClient(section(server)), ledger, questions("1+2?"))
    assert results["q0"].reply.outcome == "complete"
    assert paid_calls.progress.retries.total() == 2


@pytest.mark.parametrize("behaviour", ["rate limit for a second", "rate limit until a date"])
def test_the_wait_that_the_server_asks_for_is_kept_by_all_calls(behaviour, ledger):
    texts = [f"{i}+1?" for i in range(6)]
    limits = LIMITS._replace(concurrency=1)
    with ChatServer({texts[0]: [behaviour, "good"]}) as server:
        began = time.monotonic()
        buy(OpenAIClient(section(server)), ledger, questions(*texts), limits=limits)
        assert time.monotonic() - began > 0.9
    assert len(server.asked) == 7


STOPS = {
    "bad key": "bad_key: HTTP 401: Incorrect API key provided",
    "no money": "billing: HTTP 402: Insufficient Balance",
    "no quota": "billing: HTTP 429: You exceeded your current quota",
    "no such model": "unknown_model: HTTP 404: The model does not exist",
}


@pytest.mark.parametrize(("behaviour", "message"), STOPS.items())
def test_what_every_other_call_would_meet_too_stops_the_run(behaviour, message, ledger):
    texts = [f"{i}+1?" for i in range(100)]
    results: dict[str, Any] = {}
    with ChatServer({texts[20]: [behaviour]}, latency_seconds=(0.01, 0.03)) as server:
        with pytest.raises(TennerError, match=message) as caught:
            buy(OpenAIClient(section(server)), ledger, questions(*texts), results=results)
        assert caught.value.hint
        assert len(server.asked) < 40
    assert len(results) == len(server.completed)  # what was in flight came home
    assert spent_microusd(ledger) == sum(map(cost_microusd, server.completed))


def test_parameters_that_no_call_gets_through_with_stop_the_run(ledger):
    texts = [f"{i}+1?" for i in range(50)]
    refused = pytest.raises(TennerError, match="the first 5 requests were refused: HTTP 400: unknown parameter")
    with ChatServer({text: ["bad request"] for text in texts}) as server, refused:
        buy(OpenAIClient(section(server)), ledger, questions(*texts))
    assert len(server.asked) <= 5 + LIMITS.concurrency


def test_a_server_that_goes_away_is_unreachable(ledger):
    with ChatServer() as server:
        gone = section(server)
    results, _ = buy(OpenAIClient(gone), ledger, questions("1+2?"))
    assert (results["q0"].kind, results["q0"].attempts) == ("unreachable", 4)
    assert (ledger.spent_usd(), ledger.reserved_usd()) == (0, 0)


def test_tokens_beyond_the_limit_stop_the_run_and_are_booked(ledger):
    with (
        ChatServer({"1+2?": ["too much"]}) as server,
        pytest.raises(TennerError, match="does not keep to the limit"),
    ):
        buy(OpenAIClient(section(server)), ledger, questions("1+2?"))
    assert spent_microusd(ledger) == 10 + 2 * 10**6


def test_cached_tokens_have_their_price(ledger):
    price = PriceSection(input_usd_per_mtok=1.0, output_usd_per_mtok=2.0, cached_input_usd_per_mtok=0.25)
    with ChatServer({"1+2?": ["cached"]}) as server:
        results, _ = buy(OpenAIClient(section(server, price=price)), ledger, questions("1+2?"))
    usage = results["q0"].reply.usage
    assert (usage.input_tokens, usage.cached_input_tokens, usage.output_tokens, usage.reasoning_tokens) == (
        100, 64, 50, 40,
    )  # fmt: skip
    assert spent_microusd(ledger) == 36 + 16 + 100


def test_deepseek_is_paid_by_its_own_price_at_its_own_hours(monkeypatch, ledger):
    monkeypatch.setenv("DEEPSEEK_API_KEY", "sk-deep")
    deepseek = TraceSection(
        client="openai",
        preset="deepseek",
        model="deepseek-flash",
        output_tokens_max=8000,
        parameters={"thinking": {"type": "enabled"}},
    )
    with ChatServer({"1+2?": ["deepseek"]}, key="sk-deep", models=("deepseek-flash", "deepseek-v4-pro")) as server:
        here = deepseek.model_copy(update={"base_url": server.url})
        asyncio.run(_checked(OpenAIClient(here)))
        before = datetime.datetime.now(datetime.UTC)
        results, _ = buy(OpenAIClient(here), ledger, questions("1+2?"))
        after = datetime.datetime.now(datetime.UTC)
        assert server.asked[0].body["thinking"] == {"type": "enabled"}
    reply = results["q0"].reply
    assert (reply.outcome, reply.thinking) == ("complete", "I add up the numbers of: 1+2?")
    assert (reply.usage.cached_input_tokens, reply.usage.reasoning_tokens) == (640, 1900)
    off_peak = 360 * 0.15 + 640 * 0.003 + 2000 * 0.60
    price = find("deepseek", "deepseek-flash")
    assert price.peak is not None
    times = 2 if price.peak.covers(before) or price.peak.covers(after) else 1
    assert spent_microusd(ledger) == math.ceil(off_peak * times)
    assert ledger.rows()[0].provider == "deepseek"


async def _checked(client):
    try:
        await client.check()
    finally:
        await client.close()


def test_at_the_cap_calls_in_flight_are_awaited_and_the_missing_dollars_reported(tmp_path):
    texts = [f"What is {i}+1?" for i in range(30)]  # 60 to 70 micro-dollars each, 2,270 at worst
    budget_usd = 0.004
    results: dict[str, Any] = {}
    with ChatServer(latency_seconds=(0.01, 0.02)) as server:
        with closing(Ledger(tmp_path / "run.db", budget_usd=budget_usd)) as ledger:
            with pytest.raises(BudgetReached, match=r"the cap of \$0.0040 is reached in trace") as caught:
                buy(OpenAIClient(section(server)), ledger, questions(*texts), results=results)
            bought = len(results)
            assert 20 < bought < 30  # one or two at a time, until a worst case no longer fits
            assert "calls are left, about $" in (caught.value.hint or "")
            assert f"{30 - bought} calls" in (caught.value.hint or "")
            assert spent_microusd(ledger) == sum(map(cost_microusd, server.completed)) <= budget_usd * 1e6
        with closing(Ledger(tmp_path / "run.db", budget_usd=1)) as ledger:
            results, _ = buy(OpenAIClient(section(server)), ledger, questions(*texts))
    assert len(results) == 30
    assert len(server.asked) == 30


def test_a_response_that_was_kept_but_not_settled_is_settled_by_the_next_session(tmp_path):
    with ChatServer() as server:
        with closing(Ledger(tmp_path / "run.db", budget_usd=1)) as ledger:
            buy(OpenAIClient(section(server)), ledger, questions("1+2?"))
        with closing(sqlite3.connect(tmp_path / "run.db")) as db:  # as a kill between the two leaves it
            db.execute("UPDATE spends SET settled = 0, microusd = 2260, input_tokens = NULL, output_tokens = NULL")
            db.commit()
        with closing(Ledger(tmp_path / "run.db", budget_usd=1)) as ledger:
            assert spent_microusd(ledger) == 2260
            buy(OpenAIClient(section(server)), ledger, questions("1+2?"))
            assert spent_microusd(ledger) == cost_microusd("1+2?")
    assert len(server.asked) == 1


def test_a_server_that_wants_a_key_after_all_is_told_how_it_gets_one(ledger):
    with ChatServer(key="sk-very-secret-0123456789") as server, pytest.raises(TennerError) as caught:
        buy(OpenAIClient(section(server)), ledger, questions("1+2?"))
    assert caught.value.hint == "the server requires a key: name its variable with api_key_env"


def test_a_key_that_the_server_repeats_is_written_nowhere(monkeypatch, ledger, tmp_path):
    key = "sk-very-secret-0123456789"
    monkeypatch.setenv("THE_KEY", key)
    with ChatServer(key="another") as server, pytest.raises(TennerError) as caught:
        buy(OpenAIClient(section(server, api_key_env="THE_KEY")), ledger, questions("1+2?"))
    assert str(caught.value) == "bad_key: HTTP 401: Incorrect API key provided: Bearer [key]"
    with ChatServer(key=key, tells_headers=True) as server:
        results, _ = buy(OpenAIClient(section(server, api_key_env="THE_KEY")), ledger, questions("1+2?"))
    assert "Bearer [key]" in results["q0"].reply.thinking
    ledger.close()
    assert not [path for path in tmp_path.iterdir() if key.encode() in path.read_bytes()]


SHARED = """
import asyncio, sys
from pathlib import Path
sys.path[:0] = ["tests/support", "tests/clients"]
from paid import LIMITS, buy, questions, section
from tenner.clients.openai import OpenAIClient
from tenner.core.errors import BudgetReached
from tenner.budget.ledger import Ledger
from tenner.budget.prices import find

class Server:
    url = sys.argv[2]

ledger = Ledger(Path(sys.argv[1]), budget_usd=float(sys.argv[3]))
texts = [f"{sys.argv[4]}: {i}+1?" + " and" * (i % 7) for i in range(120)]
print("ready", flush=True)
sys.stdin.readline()
try:
    buy(OpenAIClient(section(Server, output_tokens_max=200)), ledger, questions(*texts),
        limits=LIMITS._replace(concurrency=4))
except BudgetReached as e:
    sys.exit(str(e))
finally:
    ledger.close()
"""


@pytest.mark.slow
def test_two_processes_share_one_cap(tmp_path):
    budget_usd = 0.008
    with ChatServer(latency_seconds=(0.0, 0.02), fault_rate=0.1) as server:
        arguments = [str(tmp_path / "run.db"), server.url, str(budget_usd)]
        pipes: dict[str, Any] = {
            "stdin": subprocess.PIPE,
            "stdout": subprocess.PIPE,
            "stderr": subprocess.PIPE,
            "text": True,
        }
        both: list[Any] = [
            subprocess.Popen([sys.executable, "-c", SHARED, *arguments, name], **pipes) for name in ("a", "b")
        ]
        assert [process.stdout.readline() for process in both] == ["ready\n"] * 2
        for process in both:
            process.stdin.write("go\n")
            process.stdin.flush()
        errors = [process.communicate(timeout=60)[1] for process in both]
        assert [process.returncode for process in both] == [1, 1]
        assert all("the cap of $0.0080 is reached" in error for error in errors), errors
        with closing(Ledger(tmp_path / "run.db", budget_usd=1)) as ledger:
            settled = sum(map(cost_microusd, server.completed))
            assert settled <= spent_microusd(ledger) <= budget_usd * 1e6  # lost calls are booked at their worst
            assert ledger.reserved_usd() == 0
        assert {a.question[0] for a in server.asked} == {"a", "b"}
