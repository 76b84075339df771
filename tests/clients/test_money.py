"""No fault of a provider costs more than the ledger says, against servers that keep their own bill."""

import asyncio
import sqlite3
import time
from collections import Counter
from contextlib import closing
from typing import Any

import pytest
from money_faults import BEYOND, CHARGED, EMPTY_ACCOUNTS, FREE, GOOD, USAGES, BillingServer
from paid import LIMITS, buy, questions, section, spent_microusd

from tenner.budget.ledger import Ledger
from tenner.clients import registry
from tenner.clients.attempt_times import AttemptTimes, HeldAttempt
from tenner.clients.faults import Fault
from tenner.clients.openai import OpenAIClient
from tenner.clients.paid_calls import PaidCalls
from tenner.clients.protocol import Call
from tenner.core.errors import BudgetReached, Incomplete, OutOfMoney, TennerError
from tenner.core.progress import Screen
from tenner.core.records import FailedCall

CAP_USD = 0.05
WORST = len("1+10?") + 256 + 2 * 1000
GOOD_MICROUSD = 5 + 2 * 10


@pytest.fixture
def ledger(tmp_path):
    with closing(Ledger(tmp_path / "run.db", budget_usd=1)) as opened:
        yield opened


def is_covered(server, ledger):
    """The server's bill, the ledger and the cap, in this order; nothing is in flight."""
    assert server.bill_microusd <= spent_microusd(ledger) <= ledger.cap_microusd
    assert ledger.reserved_usd() == 0
    return True


def bought(behaviours, ledger, *, then=(), attempts_max=LIMITS.retries.attempts_max):
    """The results by behaviour, and the server, of one call each that meets the behaviour and then these."""
    texts = {f"1+{10 + i}?": name for i, name in enumerate(behaviours)}
    with BillingServer({text: [name, *then] for text, name in texts.items()}) as server:
        limits = LIMITS._replace(retries=LIMITS.retries._replace(attempts_max=attempts_max), concurrency=2 + len(texts))
        results, paid_calls = buy(OpenAIClient(section(server)), ledger, questions("1+99?", *texts), limits=limits)
        assert is_covered(server, ledger)
    return {name: results[f"q{i}"] for i, name in enumerate(texts.values(), 1)}, server, paid_calls


def test_the_largest_output_that_the_usage_allows_is_booked(ledger):
    results, server, _ = bought(USAGES, ledger)
    assert {name: r.metered for name, r in results.items()} == {name: known for name, (_, known) in USAGES.items()}
    costs = {name: round(r.cost_usd * 1e6) for name, r in results.items()}
    assert costs == {name: 5 + 2 * 905 if known else WORST for name, (_, known) in USAGES.items()}
    for result in results.values():
        assert result.metered or set(result.reply.usage.model_dump().values()) == {None}
    assert server.bill_microusd == len(USAGES) * (5 + 2 * 905) + GOOD_MICROUSD


@pytest.mark.parametrize("usage", BEYOND)
def test_usage_that_names_more_than_the_worst_case_is_booked_as_it_says(usage, ledger):
    with BillingServer({"1+2?": [usage]}) as server:
        with pytest.raises(TennerError, match="for a call that could cost"):
            buy(OpenAIClient(section(server)), ledger, questions("1+2?"))
        assert is_covered(server, ledger)
    assert spent_microusd(ledger) > WORST


def test_a_server_that_ignores_the_limit_costs_one_reply_and_then_as_much_is_reserved(tmp_path):
    texts = [f"{i}+1?" for i in range(80)]
    limits = LIMITS._replace(concurrency=64)
    script = {text: [next(iter(BEYOND))] for text in texts}
    with BillingServer(script, latency_seconds=(0.02, 0.05)) as server:
        for session in range(1, 4):
            with closing(Ledger(tmp_path / "run.db", budget_usd=CAP_USD)) as ledger:
                with pytest.raises(TennerError) as caught:
                    buy(OpenAIClient(section(server)), ledger, questions(*texts), limits=limits)
                assert is_covered(server, ledger)
            if session == 1:  # the only reply beyond what was reserved
                assert "does not keep to the limit" in str(caught.value)
                assert len(server.asked) == 1
    assert isinstance(caught.value, BudgetReached)
    assert len(server.asked) == 4  # at $0.010 each, and a fifth does not fit


@pytest.mark.parametrize("behaviour", ["server error", "rate limit"])
def test_an_error_that_took_as_long_as_a_reply_may_have_been_charged(behaviour, ledger, monkeypatch):
    monkeypatch.setattr("tenner.clients.attempt_times.WORK_SECONDS_MIN", 0.03)
    script = {"1+2?": [behaviour, behaviour, "good"], "1+3?": ["good"]}
    with BillingServer(script, latency_seconds=(0.08, 0.08)) as server:
        limits = LIMITS._replace(concurrency=1)
        results, paid_calls = buy(OpenAIClient(section(server)), ledger, questions("1+2?", "1+3?"), limits=limits)
    assert {r.reply.outcome for r in results.values()} == {"complete"}
    assert paid_calls.progress.retries.total() == 2
    worst = len("1+2?") + 256 + 2 * 1000  # the errors came before any reply showed how long one takes
    assert spent_microusd(ledger) == 2 * worst + 2 * (4 + 2 * 8)
    assert ledger.reserved_usd() == 0


def test_errors_before_any_reply_count_against_the_cap_until_the_end(tmp_path, monkeypatch):
    monkeypatch.setattr("tenner.clients.attempt_times.WORK_SECONDS_MIN", 0.01)
    texts = [f"{i}+1?" for i in range(20)]
    script = {text: ["server error"] for text in texts}
    with (
        BillingServer(script, latency_seconds=(0.05, 0.05)) as server,
        closing(Ledger(tmp_path / "run.db", budget_usd=0.0075)) as ledger,  # three at their worst
    ):
        with pytest.raises(BudgetReached):
            buy(OpenAIClient(section(server)), ledger, questions(*texts))
        assert len(server.asked) == 3
        assert (ledger.spent_usd(), ledger.reserved_usd()) == (0, 0)  # a twentieth of a second is no work


def test_errors_are_judged_by_the_replies_that_come_after_them():
    times, oops, slow = AttemptTimes(), Fault("server_error", "oops"), Fault("rate_limited", "slow down")
    assert times.judged(oops, 29) is oops
    assert times.judged(oops, 31).kind == "gateway_timeout"
    assert times.is_undecided(oops, 20)
    assert not times.is_undecided(Fault("bad_request", "no"), 20)
    held = HeldAttempt(1, "server_error", 2.0)
    assert times.was_charged(held)
    assert not times.was_charged(held._replace(seconds=0.9))
    for seconds in (20.0, 40.0):
        times.replied(seconds)
    assert not times.was_charged(held)
    assert times.judged(oops, 15.9) is oops
    assert times.judged(oops, 16.0).rule.maybe_charged
    assert times.judged(slow, 14.9) is slow
    assert times.judged(slow, 15.0).kind == "late_refusal"
    assert times.judged(Fault("refused", "flagged"), 25.0).kind == "late_rejection"
    assert times.judged(Fault("interrupted", "?"), 99.0).kind == "interrupted"


def test_a_stream_that_the_deadline_cuts_is_kept_at_its_worst_case(ledger, monkeypatch):
    monkeypatch.setattr("chat_server.PAUSE_SECONDS", 0.001)
    limits = LIMITS._replace(deadline_seconds=0.5)
    script = {"1+2?": ["drip"]}
    with BillingServer(script, streams="only") as server:
        results, _ = buy(OpenAIClient(section(server)), ledger, questions("1+2?"), limits=limits)
        again, _ = buy(OpenAIClient(section(server)), ledger, questions("1+2?"), limits=limits)
        assert len(server.asked) == 2  # refused once, and asked once
    assert results["q0"].reply.outcome == again["q0"].reply.outcome == "interrupted"
    assert results["q0"].reply.answer.startswith("The")
    assert (spent_microusd(ledger), results["q0"].metered) == (WORST - 1, False)


def test_a_server_error_that_comes_late_may_have_been_charged(ledger, monkeypatch):
    monkeypatch.setattr("tenner.clients.attempt_times.WORK_SECONDS_MIN", 0.05)
    with BillingServer({"1+2?": ["server error", "good"]}, latency_seconds=(0.1, 0.1)) as server:
        results, paid_calls = buy(OpenAIClient(section(server)), ledger, questions("1+2?"))
    assert results["q0"].reply.outcome == "complete"
    assert paid_calls.progress.retries == {"server_error": 1}
    assert spent_microusd(ledger) == WORST - 1 + 4 + 2 * 8


def test_what_may_have_been_charged_keeps_its_worst_case_and_is_asked_again(ledger):
    results, _, paid_calls = bought(CHARGED, ledger, then=["good"])
    assert {r.reply.outcome for r in results.values()} == {"complete"}
    assert paid_calls.progress.retries == Counter(kind for _, kind in CHARGED.values())
    assert spent_microusd(ledger) == len(CHARGED) * (WORST + GOOD_MICROUSD) + GOOD_MICROUSD


def test_what_does_not_heal_fails_by_its_name(ledger):
    kinds = {name: kind for name, (_, kind) in (CHARGED | FREE).items() if name != "overloaded for a minute"}
    results, _, _ = bought(kinds, ledger, attempts_max=2)
    assert {name: r.kind for name, r in results.items()} == kinds
    attempts = sum(r.attempts for name, r in results.items() if name in CHARGED)
    assert attempts == 2 * len(CHARGED)
    assert spent_microusd(ledger) == attempts * WORST + GOOD_MICROUSD


def test_a_completion_in_an_odd_body_is_read_and_kept_raw(ledger):
    results, server, _ = bought(GOOD, ledger)
    assert {name: r.metered for name, r in results.items()} == {name: known for name, (_, known) in GOOD.items()}
    for i, result in enumerate(results.values()):
        assert (result.reply.outcome, result.reply.finish_reason) == ("complete", "stop")
        assert result.reply.answer == f"The answer is \\boxed{{{11 + i}}}."
    assert len(server.asked) == len(GOOD) + 1
    with closing(sqlite3.connect(ledger.path)) as db:
        bodies = [body for (body,) in db.execute("SELECT body FROM responses")]
    assert sum(body.startswith(b": PROCESSING") for body in bodies) == 1
    assert sum(b"data: {" in body for body in bodies) == 2


def test_an_outage_does_not_use_up_the_cap(ledger):
    texts = [f"{i}+1?" for i in range(200)]
    limits = LIMITS._replace(concurrency=2)
    results: dict[str, Any] = {}
    with BillingServer({text: ["504"] for text in texts[50:]}) as server:
        with pytest.raises(Incomplete, match="the last 24 attempts brought no response and may have been charged") as e:
            buy(OpenAIClient(section(server)), ledger, questions(*texts), limits=limits, results=results)
        assert is_covered(server, ledger)
    assert "gateway_timeout: HTTP 504: a web page: A timeout occurred" in str(e.value)
    assert len(results) >= 50
    assert ledger.spent_usd() < ledger.cap_microusd / 1e6 / 4


@pytest.mark.parametrize("account", EMPTY_ACCOUNTS)
def test_an_empty_account_stops_the_run_at_the_first_call(account, ledger):
    texts = [f"{i}+1?" for i in range(40)]
    script = {text: [f"empty: {account}"] for text in texts[5:]}
    limits = LIMITS._replace(concurrency=2, retries=LIMITS.retries._replace(backoff_seconds=5))
    began = time.monotonic()
    results: dict[str, Any] = {}
    with BillingServer(script) as server:
        with pytest.raises(OutOfMoney) as caught:
            buy(OpenAIClient(section(server)), ledger, questions(*texts), limits=limits, results=results)
        assert is_covered(server, ledger)
        assert len(server.asked) <= 5 + 2
    assert caught.value.exit_code == 5
    assert caught.value.hint
    assert str(caught.value).startswith(("billing: HTTP ", "quota_used_up: HTTP "))
    assert time.monotonic() - began < 4
    assert sum(not isinstance(r, FailedCall) for r in results.values()) == 5


def test_who_waits_for_another_attempt_hears_of_the_stop(ledger):
    script = {"1+1?": ["overloaded for a minute"], "2+2?": ["server error", "empty: glm"]}
    began, limits = time.monotonic(), LIMITS._replace(retries=LIMITS.retries._replace(backoff_seconds=0.2))
    with BillingServer(script) as server, pytest.raises(OutOfMoney, match="billing: HTTP 429: Insufficient balance"):
        buy(OpenAIClient(section(server)), ledger, questions("1+1?", "2+2?"), limits=limits)
    assert time.monotonic() - began < 10


def test_a_model_list_that_is_refused_for_money_is_found_before_anything_is_asked():
    with BillingServer() as server:
        server.refusal = EMPTY_ACCOUNTS["openrouter, key"]("")
        with pytest.raises(OutOfMoney, match=r"billing: HTTP 403: Key limit exceeded") as caught:
            registry.check(section(server), Screen())
        assert server.asked == []
    assert "top up" in (caught.value.hint or "")


def test_a_server_that_sends_web_pages_alone_is_given_up(ledger):
    texts = [f"{i}+1?" for i in range(40)]
    with BillingServer({text: ["200 with a page"] for text in texts}) as server:
        with pytest.raises(TennerError, match="the first 3 responses are no JSON: HTTP 200: a web page: A timeout"):
            buy(OpenAIClient(section(server)), ledger, questions(*texts), limits=LIMITS._replace(concurrency=2))
        assert is_covered(server, ledger)
        assert len(server.asked) <= 4


def test_all_of_them_under_one_small_cap(tmp_path):
    """Whatever order the faults come in: the bill is covered at every moment, and the cap is kept."""
    kinds = [name for name in (*USAGES, *CHARGED, *FREE, *GOOD) if name != "overloaded for a minute"]
    texts = [f"What is {i}+{i}?" for i in range(3 * len(kinds))]
    script = {text: [kinds[i % len(kinds)], kinds[(7 * i + 3) % len(kinds)], "good"] for i, text in enumerate(texts)}
    with BillingServer(script) as server, closing(Ledger(tmp_path / "run.db", budget_usd=CAP_USD)) as ledger:
        moments = []

        async def watch():
            while True:
                billed = server.bill_microusd  # first: a call may end between the two
                held = round((ledger.spent_usd() + ledger.reserved_usd()) * 1e6)
                moments.append((billed, held))
                await asyncio.sleep(0.001)

        async def go():
            client = OpenAIClient(section(server))
            watching = asyncio.create_task(watch())
            try:
                await _buy(client, ledger, texts)
            finally:
                watching.cancel()
                await client.close()

        with pytest.raises(BudgetReached):
            asyncio.run(go())
        assert is_covered(server, ledger)
        assert all(billed <= held <= ledger.cap_microusd for billed, held in moments)
        assert len(moments) > 5
        assert server.bill_microusd > CAP_USD * 1e6 / 4


async def _buy(client, ledger, texts):
    paid_calls = PaidCalls(client, ledger, stage="trace", limits=LIMITS)
    await paid_calls.run([Call(q, 0) for q in questions(*texts)], lambda _: None, total=len(texts))
