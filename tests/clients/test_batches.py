"""Batch mode against a real server on loopback, with real processes that are really killed."""

import asyncio
import json
import math
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing, suppress
from typing import Any

import pytest
from batch_endpoints import BatchAnswer
from chat_server import ChatServer, usage_of
from money_faults import BillingServer
from paid import LIMITS, questions, section, spent_microusd

from tenner import cli
from tenner.budget.ledger import Ledger
from tenner.clients import registry
from tenner.clients.batches import BatchCalls, BatchLimits, batch_client
from tenner.clients.billing import PaidReply
from tenner.clients.openai import OpenAIClient
from tenner.clients.protocol import Call
from tenner.clients.registry import CallContext
from tenner.core.errors import BudgetReached, OutOfMoney, TennerError
from tenner.core.progress import Screen
from tenner.core.records import FailedCall, Trace
from tenner.core.run_folder import FolderState, RunFolder
from tenner.core.sections import PriceSection, TraceSection
from tenner.distill import traces
from tenner.distill.traces import TracePurchase
from tenner.evaluation.grading.grader import grade_trace

HALF = PriceSection(input_usd_per_mtok=1.0, output_usd_per_mtok=2.0, batch_multiplier=0.5)
FAST = BatchLimits(poll_seconds=0.02, poll_seconds_max=0.1, unlisted_seconds=1.0)
TEXTS = [f"What is {i}+{i * i}?" for i in range(40)]


def batch_section(server, **changes):
    return section(server, **{"batch": True, "price": HALF} | changes)


def half_microusd(question):
    usage = usage_of(question)
    return math.ceil((usage["prompt_tokens"] + 2 * usage["completion_tokens"]) / 2)


def worst_microusd(question, tokens=1000):
    return math.ceil((len(question) + 256 + 2 * tokens) / 2)


def buy(server, ledger, texts, *, results=None, batch_limits=FAST, on_result=None, limits=LIMITS, **changes):
    """The results by question id, and the `BatchCalls` that made them."""
    results = {} if results is None else results

    def keep(result):
        question_id = result.call.question.id if isinstance(result, PaidReply) else result.question_id
        assert question_id not in results
        results[question_id] = result
        if on_result:
            on_result(result)

    async def go():
        client = OpenAIClient(batch_section(server, **changes))
        batch_calls = BatchCalls(
            batch_client(client, "trace"), ledger, stage="trace", limits=limits, batch_limits=batch_limits
        )
        try:
            await batch_calls.run([Call(q, 0) for q in questions(*texts)], keep, total=len(texts))
        finally:
            await client.close()
        return batch_calls

    return results, asyncio.run(go())


@pytest.fixture
def ledger(tmp_path):
    with closing(Ledger(tmp_path / "run.db", budget_usd=1)) as opened:
        yield opened


def query(path, text):
    with closing(sqlite3.connect(path)) as db:
        return db.execute(text).fetchall()


def is_settled(ledger, texts):
    """All of it bought once at half the price, and nothing waits any more."""
    assert spent_microusd(ledger) == sum(map(half_microusd, texts))
    assert query(ledger.path, "SELECT COUNT(*) FROM reservations") == [(0,)]
    assert query(ledger.path, "SELECT COUNT(*) FROM batches WHERE state != 'closed'") == [(0,)]
    return True


def failures(results):
    return {i: r.kind for i, r in results.items() if isinstance(r, FailedCall)}


def test_half_the_price_to_the_micro_dollar(ledger):
    with ChatServer() as server:
        results, batch_calls = buy(server, ledger, TEXTS)
        assert is_settled(ledger, TEXTS)
        assert all(r.metered and not r.reused and r.reply.outcome == "complete" for r in results.values())
        assert sum(round(r.cost_usd * 1e6) for r in results.values()) == spent_microusd(ledger)
        assert results["q3"].reply.answer == r"The answer is \boxed{12}."
        again, _ = buy(server, ledger, TEXTS)
        assert all(r.reused for r in again.values())
        assert [again[i].reply for i in results] == [r.reply for r in results.values()]
        assert is_settled(ledger, TEXTS)
        assert len(server.asked) == 40
        (batch,) = server.batches.batches.values()
    assert (batch["completion_window"], batch["endpoint"]) == ("24h", "/v1/chat/completions")
    assert (batch_calls.progress.done, batch_calls.progress.bought, batch_calls.progress.total) == (40, 40, 40)
    (row,) = ledger.rows()
    assert (row.calls, row.unsettled_usd) == (40, 0)
    assert "$1 in, $2 out per million tokens, times 0.5 in a batch, " in row.price


def test_the_worst_case_of_every_line_is_reserved_before_the_provider_hears_of_it(ledger):
    seen = []

    def look(method, path, work):
        seen.append((method, path, query(ledger.path, "SELECT SUM(microusd), COUNT(*) FROM reservations")[0],
                     query(ledger.path, "SELECT state, batch_id FROM batches")))  # fmt: skip
        return work()

    with ChatServer() as server:
        server.batches.around = look
        buy(server, ledger, TEXTS)
    worst = (sum(map(worst_microusd, TEXTS)), 40)
    assert seen[:3] == [
        ("POST", "/files", worst, [("reserved", None)]),
        ("POST", "/batches", worst, [("submitting", None)]),
        ("GET", "/batches/batch-0", worst, [("submitted", "batch-0")]),
    ]


def test_what_waits_in_a_batch_is_no_orphan(ledger):
    with ChatServer() as server:
        server.batches.around = lambda _method, path, work: work() if path == "/files" else _bad_key()
        with pytest.raises(TennerError):
            buy(server, ledger, TEXTS)
        server.batches.around = lambda method, _path, work: work() if method == "POST" else _bad_key()
        with pytest.raises(TennerError):
            buy(server, ledger, TEXTS)
        assert ledger.lose_orphans() == 0
        assert round(ledger.reserved_usd() * 1e6) == sum(map(worst_microusd, TEXTS))


def test_two_questions_in_the_same_words_are_one_line(ledger):
    with ChatServer() as server:
        results, _ = buy(server, ledger, ["1+1?", "1+1?", "1+1?"])
        assert len(server.asked) == 1
    assert [r.reused for r in results.values()] == [False, True, True]
    assert is_settled(ledger, ["1+1?"])


def test_the_body_is_kept_before_it_is_read_whatever_it_is(ledger):
    behaviours = {"1+1?": "no usage", "2+2?": "not a completion", "3+3?": "truncated", "4+4?": "no reasoning"}
    with ChatServer({text: [behaviour] for text, behaviour in behaviours.items()}) as server:
        results, _ = buy(server, ledger, list(behaviours))
        assert [results[f"q{i}"].reply.outcome for i in range(4)] == [
            "complete", "unreadable", "truncated", "no_reasoning",
        ]  # fmt: skip
    assert [results[f"q{i}"].metered for i in range(4)] == [False, False, True, True]
    worst = sum(map(worst_microusd, ["1+1?", "2+2?"]))  # of what is not told
    assert spent_microusd(ledger) == worst + sum(map(half_microusd, ["3+3?", "4+4?"]))
    bodies = query(ledger.path, "SELECT body, content_type FROM responses ORDER BY request")
    assert [json.loads(body).get("hello") for body, _ in bodies] == [None, "world", None, None]
    assert {content_type for _, content_type in bodies} == {"application/json"}


def test_what_was_kept_but_not_settled_is_settled_at_the_batch_price(ledger):
    with ChatServer() as server:
        buy(server, ledger, ["1+2?"])
        with closing(sqlite3.connect(ledger.path)) as db:  # as a kill between the two leaves it
            db.execute("UPDATE spends SET settled = 0, microusd = 1130, input_tokens = NULL, output_tokens = NULL")
            db.commit()
        assert spent_microusd(ledger) == 1130
        buy(server, ledger, ["1+2?"])
        assert is_settled(ledger, ["1+2?"])
        assert len(server.asked) == 1


# -- killed, and gone on with --------------------------------------------------------------------------------------

CHILD = """
import os, signal, sys
from pathlib import Path
sys.path[:0] = ["tests/support", "tests/clients"]
from test_batches import TEXTS, buy
from tenner.budget.ledger import Ledger

class Server:
    url = sys.argv[2]

left = [int(sys.argv[3])]

def count(_):
    left[0] -= 1
    if left[0] == 0:
        os.kill(os.getpid(), signal.SIGKILL)

buy(Server, Ledger(Path(sys.argv[1]), budget_usd=1), TEXTS, on_result=count)
"""
PLACES = {
    "uploading": ("POST", "/files", True),
    "creating, and it never arrived": ("POST", "/batches", False),
    "creating, and it did arrive": ("POST", "/batches", True),
    "polling": ("GET", "/batches/batch-0", True),
    "downloading": ("GET", "/files/file-1/content", True),
    "storing": ("", "", True),
}


@pytest.mark.slow
@pytest.mark.parametrize("place", PLACES)
def test_nothing_is_bought_twice_wherever_it_is_killed(place, tmp_path):
    *where, arrives = PLACES[place]
    with ChatServer() as server:

        def kill(method, path, work):
            if [method, path] == where:
                _kill(process)
                if not arrives:
                    raise ConnectionResetError
            return work()

        def show_at_a_second_look(method, path, work):
            answer = work()
            if (method, path) == ("GET", "/batches") and not json.loads(answer.body)["has_more"]:
                server.batches.unlisted.clear()
            return answer

        server.batches.around = kill
        arguments = [str(tmp_path / "run.db"), server.url, "15" if place == "storing" else "0"]
        process = subprocess.Popen([sys.executable, "-c", CHILD, *arguments], stderr=subprocess.PIPE)
        _, stderr = process.communicate(timeout=60)
        assert process.returncode == -signal.SIGKILL, stderr
        server.batches.unlisted = set(server.batches.batches)
        for _ in range(2):  # of somebody else, so that ours is on the third page of the list
            server.batches.create({"input_file_id": "file-0", "endpoint": "", "completion_window": "24h"})
        server.batches.page_size = 1
        server.batches.around = show_at_a_second_look
        with closing(Ledger(tmp_path / "run.db", budget_usd=1)) as ledger:
            assert ledger.lose_orphans() == 0
            stored = len(query(ledger.path, "SELECT key FROM responses"))
            assert stored == (15 if place == "storing" else 0)
            results, _ = buy(server, ledger, TEXTS)
            assert is_settled(ledger, TEXTS)
        assert len(server.batches.batches) == 3
    assert sum(r.reused for r in results.values()) == stored
    assert len(results) == 40
    assert set(server.completed.values()) == {1}


def test_a_batch_is_collected_though_nobody_asks_for_its_calls_any_more(ledger):
    with ChatServer() as server:
        server.batches.around = _bad_key_at("GET", "/batches/batch-0")
        with pytest.raises(TennerError):
            buy(server, ledger, TEXTS)
        server.batches.around = lambda _method, _path, work: work()
        assert buy(server, ledger, [])[0] == {}
        assert is_settled(ledger, TEXTS)
        results, _ = buy(server, ledger, TEXTS)
        assert all(r.reused for r in results.values())
        assert len(server.asked) == 40


def test_a_creation_of_which_nothing_is_known_is_looked_for_and_not_repeated(ledger):
    def lose_the_answer(method, path, work):
        answer = work()
        return BatchAnswer(502, b"bad gateway") if (method, path) == ("POST", "/batches") else answer

    with ChatServer() as server:
        server.batches.around = lose_the_answer
        _, batch_calls = buy(server, ledger, TEXTS)
        assert len(server.batches.batches) == 1
    assert batch_calls.progress.retries == {"server_error": 1}
    assert is_settled(ledger, TEXTS)


# -- what comes of a batch -----------------------------------------------------------------------------------------


def test_the_results_of_a_cancelled_batch_are_kept_and_the_rest_reported_as_failed(ledger):
    with ChatServer() as server:
        server.batches.fails = lambda _: "cancelled"
        results, batch_calls = buy(server, ledger, TEXTS)
        assert failures(results) == {f"q{i}": "expired" for i in range(20, 40)}
        assert batch_calls.progress.failures == {"expired": 20}
        assert is_settled(ledger, TEXTS[:20])
        server.batches.fails = lambda _: None
        results, _ = buy(server, ledger, TEXTS)
        assert not failures(results)
        assert is_settled(ledger, TEXTS)
    assert set(server.completed.values()) == {1}


def test_what_a_batch_expired_without_goes_into_smaller_ones_and_not_forever(ledger):
    with ChatServer() as server:
        server.batches.fails = lambda _: "expired"  # each does its first half
        results, batch_calls = buy(server, ledger, TEXTS)
        sizes = [b["request_counts"]["total"] for b in server.batches.batches.values()]
        lost = {i: (r.kind, r.attempts) for i, r in results.items() if isinstance(r, FailedCall)}
        assert len(results) == 40
        assert sizes == [40, 10, 10, 2, 2, 2, 2, 2]
        assert set(lost.values()) == {("expired", 3)}
        assert len(lost) == batch_calls.progress.failures["expired"] == 5
        assert batch_calls.progress.retries == {"expired": 20 + 10}
        assert is_settled(ledger, [text for i, text in enumerate(TEXTS) if f"q{i}" not in lost])
        server.batches.fails = lambda _: None
        results, _ = buy(server, ledger, TEXTS)
        assert not failures(results)
        assert is_settled(ledger, TEXTS)
    assert set(server.completed.values()) == {1}


LIMIT = {
    "code": "token_limit_exceeded",
    "message": "Enqueued token limit reached for m in organization o. Limit: 90,000 enqueued tokens.",
}


def limited(server, calls_max):
    """Refuse every batch with which more than so many calls would wait."""

    def refuse(method, path, work):
        if (method, path) != ("POST", "/batches"):
            return work()
        answer = work()
        batch = json.loads(answer.body)
        waiting = [b for b in server.batches.batches.values() if b["status"] == "in_progress"]
        if sum(b["request_counts"]["total"] for b in waiting) > calls_max:
            del server.batches.batches[batch["id"]]
            return BatchAnswer(400, json.dumps({"error": LIMIT}).encode())
        return answer

    server.batches.around = refuse


def test_a_limit_of_enqueued_tokens_makes_batches_smaller_and_is_waited_for(ledger):
    with ChatServer() as server:
        limited(server, 12)
        results, batch_calls = buy(server, ledger, TEXTS)
        sizes = [b["request_counts"]["total"] for b in server.batches.batches.values()]
    assert not failures(results)
    assert sizes == [10, 10, 10, 10]
    assert batch_calls.progress.retries["batch_limit"] >= 3
    assert is_settled(ledger, TEXTS)
    assert set(server.completed.values()) == {1}


def test_a_batch_that_fails_for_the_limit_after_its_creation_is_made_smaller(ledger):
    with ChatServer() as server:
        server.batches.error = LIMIT
        server.batches.fails = lambda batch: "failed" if batch["request_counts"]["total"] > 12 else None
        results, _ = buy(server, ledger, TEXTS)
        sizes = [b["request_counts"]["total"] for b in server.batches.batches.values()]
    assert not failures(results)
    assert sizes == [40, 20, 20, 10, 10, 10, 10]
    assert is_settled(ledger, TEXTS)


def test_where_not_even_one_call_may_wait_the_run_stops(ledger):
    with ChatServer() as server:
        limited(server, 0)
        with pytest.raises(TennerError, match="batch_limit: HTTP 400: Enqueued token limit reached") as caught:
            buy(server, ledger, TEXTS)
        assert caught.value.hint
        assert is_settled(ledger, [])
        limited(server, 100)
        buy(server, ledger, TEXTS)
    assert is_settled(ledger, TEXTS)


NOT_YET = [BatchAnswer(404, b'{"detail": "Input file not found"}'), BatchAnswer(400, b"The file is not ready"),
           BatchAnswer(400, b'{"error": {"message": "No such File object: file-0"}}')]  # fmt: skip


def test_a_file_that_is_not_there_yet_is_waited_for_and_uploaded_once(ledger):
    missing = list(NOT_YET)

    def hide(method, path, work):
        return missing.pop() if (method, path) == ("POST", "/batches") and missing else work()

    with ChatServer() as server:
        server.batches.around = hide
        results, batch_calls = buy(server, ledger, TEXTS)
        assert len(server.batches.batches) == 1
        assert len(server.batches.files) == 2  # the lines and the results
    assert not failures(results)
    assert batch_calls.progress.retries == {"file_not_ready": 3}
    assert is_settled(ledger, TEXTS)


@pytest.mark.parametrize(("place", "lines"), [(("POST", "/batches"), 0), (("GET", "/files/file-1/content"), 40)])
def test_a_file_that_never_comes_is_not_waited_for_forever(place, lines, ledger):
    with ChatServer() as server:
        server.batches.around = lambda method, path, work: NOT_YET[0] if (method, path) == place else work()
        with pytest.raises(TennerError, match="file_not_ready: HTTP 404: Input file not found"):
            buy(server, ledger, TEXTS)
        assert query(ledger.path, "SELECT COUNT(*) FROM reservations") == [(lines,)]
        server.batches.around = lambda _method, _path, work: work()
        buy(server, ledger, TEXTS)
    assert is_settled(ledger, TEXTS)
    assert set(server.completed.values()) == {1}


def test_a_line_that_may_have_been_charged_keeps_its_worst_case(ledger):
    script = {TEXTS[1]: ["finish error"], TEXTS[2]: ["200 with a word"], TEXTS[3]: ["200 bad request"]}
    with BillingServer(script) as server:
        results, _ = buy(server, ledger, TEXTS)
    assert failures(results) == {"q1": "error_in_response", "q2": "error_in_response", "q3": "bad_request"}
    kept = sum(map(half_microusd, [TEXTS[0], *TEXTS[4:]]))
    assert spent_microusd(ledger) == kept + worst_microusd(TEXTS[1]) + worst_microusd(TEXTS[2])
    assert server.bill_microusd / 2 <= spent_microusd(ledger)
    assert ledger.reserved_usd() == 0


@pytest.mark.parametrize("account", ["glm", "kimi", "dashscope", "anthropic", "openrouter, key"])
def test_a_batch_whose_lines_all_find_an_empty_account_stops_the_run(account, ledger):
    with BillingServer({text: [f"empty: {account}"] for text in TEXTS}) as server, pytest.raises(OutOfMoney) as caught:
        buy(server, ledger, TEXTS)
    assert caught.value.exit_code == 5
    assert is_settled(ledger, [])


def test_a_batch_that_is_refused_for_money_has_the_exit_code_of_an_empty_account(ledger):
    with ChatServer() as server:
        server.batches.fails = lambda _: "failed"
        server.batches.error = {"code": "billing_hard_limit_reached", "message": "Billing hard limit has been reached"}
        with pytest.raises(OutOfMoney, match="billing: Billing hard limit has been reached"):
            buy(server, ledger, TEXTS)
    assert is_settled(ledger, [])


def test_a_batch_that_is_refused_stops_the_run_and_costs_nothing(ledger):
    with ChatServer() as server:
        server.batches.fails = lambda _: "failed"
        with pytest.raises(TennerError, match=r"127\.0\.0\.1 refused batch batch-0: line 1 is no request"):
            buy(server, ledger, TEXTS)
        assert is_settled(ledger, [])
        server.batches.fails = lambda _: None
        buy(server, ledger, TEXTS)
        assert is_settled(ledger, TEXTS)


def test_lines_that_fail_have_the_names_of_single_calls_and_take_no_other_with_them(ledger):
    kinds = {"bad request": "bad_request", "refused": "refused", "server error": "server_error",
             "rate limit": "rate_limited", "overloaded": "overloaded"}  # fmt: skip
    with ChatServer({TEXTS[i]: [behaviour] for i, behaviour in enumerate(kinds)}) as server:
        results, _ = buy(server, ledger, TEXTS)
    assert failures(results) == {f"q{i}": kind for i, kind in enumerate(kinds.values())}
    assert (results["q0"].evidence, results["q0"].attempts) == ("HTTP 400: unknown parameter", 1)
    assert is_settled(ledger, TEXTS[5:])


def test_a_line_that_every_other_would_follow_stops_the_run_after_the_rest_is_kept(ledger):
    results: dict[str, Any] = {}
    with ChatServer({TEXTS[7]: ["no quota"]}) as server, pytest.raises(TennerError) as caught:
        buy(server, ledger, TEXTS, results=results)
    assert str(caught.value) == "billing: HTTP 429: You exceeded your current quota"
    assert len(results) == 39
    assert is_settled(ledger, [*TEXTS[:7], *TEXTS[8:]])


def test_parameters_that_no_line_gets_through_with_stop_the_run(ledger):
    refused = pytest.raises(TennerError, match="the first 5 requests were refused: HTTP 400: unknown parameter")
    with ChatServer({text: ["bad request"] for text in TEXTS}) as server, refused:
        buy(server, ledger, TEXTS)
    assert is_settled(ledger, [])


def test_tokens_beyond_the_limit_stop_the_run_after_the_rest_is_kept(ledger):
    results: dict[str, Any] = {}
    with ChatServer({TEXTS[7]: ["too much"]}) as server:
        with pytest.raises(TennerError, match="does not keep to the limit"):
            buy(server, ledger, TEXTS, results=results)
        assert len(results) == 39
        too_much = (10 + 2 * 10**6) // 2
        assert spent_microusd(ledger) == too_much + sum(map(half_microusd, [*TEXTS[:7], *TEXTS[8:]]))
        assert query(ledger.path, "SELECT COUNT(*) FROM reservations") == [(0,)]


def test_a_result_file_that_cannot_be_read_gives_nothing_up(ledger):
    def garble(_method, path, work):
        answer = work()
        return answer._replace(body=answer.body[:-30]) if path.endswith("/content") else answer

    with ChatServer() as server:
        server.batches.around = garble
        with pytest.raises(TennerError, match=r"line 40 of 127\.0\.0\.1's result file file-1 cannot be read"):
            buy(server, ledger, TEXTS)
        server.batches.around = lambda _method, _path, work: work()
        buy(server, ledger, TEXTS)
        assert len(server.batches.batches) == 1
    assert is_settled(ledger, TEXTS)


@pytest.mark.parametrize(("found", "status"), [("200", '"200"'), ("200", "200.0"), ("200", "201")])
def test_a_status_is_read_however_it_is_written(found, status, ledger):
    def rewrite(_method, path, work):
        answer = work()
        if not path.endswith("/content"):
            return answer
        before, after = (f'"status_code": {code}'.encode() for code in (found, status))
        assert before in answer.body
        return answer._replace(body=answer.body.replace(before, after))

    with ChatServer() as server:
        server.batches.around = rewrite
        buy(server, ledger, TEXTS)
    assert is_settled(ledger, TEXTS)


@pytest.mark.parametrize("response", ['{"body": {}}', '{"status_code": true, "body": {}}', "7", '"done"'])
def test_a_result_of_another_form_gives_nothing_up(response, ledger):
    """It may have been charged, so its call is not made again."""

    def replace(_method, path, work):
        answer = work()
        if not path.endswith("/content"):
            return answer
        key = json.loads(answer.body.splitlines()[0])["custom_id"]
        line = f'{{"custom_id": "{key}", "response": {response}, "error": null}}\n'
        return answer._replace(body=line.encode())

    with ChatServer() as server:
        server.batches.around = replace
        with pytest.raises(TennerError, match=r"line 1 of 127\.0\.0\.1's result file file-1 cannot be read: no status"):
            buy(server, ledger, TEXTS)
        server.batches.around = lambda _method, _path, work: work()
        buy(server, ledger, TEXTS)
        assert len(server.batches.batches) == 1
    assert is_settled(ledger, TEXTS)


def test_counted_completions_without_a_file_are_waited_for(ledger):
    polls = []

    def hold_back(_method, path, work):
        answer = work()
        if path == "/batches/batch-0" and (fields := json.loads(answer.body))["status"] == "completed":
            polls.append(path)
            if len(polls) < 3:
                return answer._replace(body=json.dumps(fields | {"output_file_id": None}).encode())
        return answer

    with ChatServer() as server:
        server.batches.around = hold_back
        results, _ = buy(server, ledger, TEXTS)
    assert len(polls) == 3
    assert not failures(results)


# -- waiting -------------------------------------------------------------------------------------------------------


def _bad_key():
    return BatchAnswer(401, b'{"error": {"message": "Incorrect API key provided: sk-secret-0123"}}')


def _bad_key_at(*place):
    return lambda method, path, work: _bad_key() if (method, path) == place else work()


def test_transient_faults_while_waiting_are_waited_out_and_counted(ledger):
    troubles = [
        BatchAnswer(503, b"busy"), BatchAnswer(500, b"oops"), BatchAnswer(429, b"slow down"), "reset",
        BatchAnswer(200, b"<html>Hello</html>", "text/html"), BatchAnswer(200, b'{"id": '),
    ]  # fmt: skip

    def trouble(method, path, work):
        if method == "GET" and path != "/batches" and troubles:
            if (answer := troubles.pop(0)) == "reset":
                raise ConnectionResetError
            return answer
        return work()

    limits = LIMITS._replace(retries=LIMITS.retries._replace(attempts_max=2))  # of no consequence for waiting
    with ChatServer() as server:
        server.batches.around = trouble
        results, batch_calls = buy(server, ledger, TEXTS, limits=limits)
    assert not failures(results)
    assert batch_calls.progress.retries == {"overloaded": 1, "server_error": 3, "rate_limited": 1, "interrupted": 1}
    assert is_settled(ledger, TEXTS)


def test_a_key_that_no_longer_works_stops_the_run_and_is_written_nowhere(monkeypatch, ledger, tmp_path):
    monkeypatch.setenv("THE_KEY", "sk-secret-0123")
    with ChatServer() as server:
        server.batches.around = _bad_key_at("GET", "/batches/batch-0")
        with pytest.raises(TennerError) as caught:
            buy(server, ledger, TEXTS, api_key_env="THE_KEY")
        assert str(caught.value) == "bad_key: HTTP 401: Incorrect API key provided: [key]"
        server.batches.around = lambda _method, _path, work: work()
        buy(server, ledger, TEXTS, api_key_env="THE_KEY")
        assert is_settled(ledger, TEXTS)
        assert len(server.batches.batches) == 1
    ledger.close()
    assert not [path for path in tmp_path.iterdir() if b"sk-secret" in path.read_bytes()]


def test_a_batch_that_the_provider_does_not_know_is_not_given_up(ledger):
    with ChatServer() as server:
        server.batches.around = _bad_key_at("GET", "/batches/batch-0")
        with pytest.raises(TennerError):
            buy(server, ledger, TEXTS)
        server.batches.around = lambda _method, _path, work: work()
        hidden = server.batches.batches.copy()
        server.batches.batches.clear()
        with pytest.raises(TennerError, match="unknown_batch: HTTP 404: No batch found") as caught:
            buy(server, ledger, TEXTS)
        assert "the base URL of its submission" in (caught.value.hint or "")
        server.batches.batches.update(hidden)
        buy(server, ledger, TEXTS)
        assert is_settled(ledger, TEXTS)
        assert len(server.asked) == 40


@pytest.mark.parametrize(
    ("path", "answer"), [("/files", BatchAnswer(400, b"no")), ("/batches", BatchAnswer(400, b"no"))]
)
def test_a_submission_that_is_refused_gives_its_money_back(path, answer, ledger):
    with ChatServer() as server:
        server.batches.around = lambda _method, asked, work: answer if asked == path else work()
        with pytest.raises(TennerError, match="bad_request: HTTP 400: no"):
            buy(server, ledger, TEXTS)
    assert is_settled(ledger, [])


def test_a_server_that_goes_away_before_the_submission_stops_the_run(ledger):
    with ChatServer() as server:
        pass
    with pytest.raises(TennerError, match="unreachable: "):
        buy(server, ledger, TEXTS)
    assert is_settled(ledger, [])


def test_the_progress_tells_what_is_waited_for(ledger):
    words = set()
    with ChatServer() as server:
        server.batches.polls = 5

        async def go():
            client = OpenAIClient(batch_section(server))
            batch_calls = BatchCalls(
                batch_client(client, "trace"), ledger, stage="trace", limits=LIMITS, batch_limits=FAST
            )
            calls = [Call(q, 0) for q in questions(*TEXTS)]
            running = asyncio.create_task(batch_calls.run(calls, lambda _: None, total=40))
            while not running.done():
                words.add(batch_calls.progress.waiting_for)
                await asyncio.sleep(0.001)
            await running
            await client.close()

        asyncio.run(go())
    assert words == {"", "batch in_progress 0/40", "batch completed 40/40"}


# -- the cap -------------------------------------------------------------------------------------------------------


def test_as_many_lines_as_fit_under_the_cap_go_into_a_batch(tmp_path):
    cap = 10 * worst_microusd(TEXTS[20])
    lines = lambda server: [b["request_counts"]["total"] for b in server.batches.batches.values()]  # noqa: E731
    results: dict[str, Any] = {}
    with ChatServer() as server:
        with closing(Ledger(tmp_path / "run.db", budget_usd=cap / 1e6)) as ledger:
            with closing(sqlite3.connect(ledger.path)) as db:
                db.executescript(f"""
                    CREATE TABLE violations (held INTEGER);
                    CREATE TRIGGER watch AFTER UPDATE ON totals WHEN NEW.held_microusd + NEW.reserved_microusd > {cap}
                    BEGIN INSERT INTO violations VALUES (NEW.held_microusd); END;
                """)
            buy(server, ledger, TEXTS, results=results)
            assert is_settled(ledger, TEXTS)
            assert query(ledger.path, "SELECT * FROM violations") == []
        assert lines(server) == [10, 9, 9, 9, 3]
    assert set(server.completed.values()) == {1}


def test_when_nothing_is_open_and_nothing_fits_the_missing_dollars_are_reported(tmp_path):
    results: dict[str, Any] = {}
    with ChatServer() as server:
        with closing(Ledger(tmp_path / "run.db", budget_usd=0.0015)) as ledger:
            with pytest.raises(BudgetReached, match=r"the cap of \$0.0015 is reached in trace") as caught:
                buy(server, ledger, TEXTS, results=results)
            assert 1 < len(results) < 40
            assert f"{40 - len(results)} calls are left, about $" in (caught.value.hint or "")
            assert spent_microusd(ledger) == sum(map(half_microusd, server.completed)) <= 1500
            assert ledger.reserved_usd() == 0
        with closing(Ledger(tmp_path / "run.db", budget_usd=1)) as ledger:
            results, _ = buy(server, ledger, TEXTS)
            assert is_settled(ledger, TEXTS)
    assert len(results) == 40
    assert set(server.completed.values()) == {1}


@pytest.mark.parametrize("small", [{"lines_max": 15}, {"bytes_max": 3500}])
def test_a_batch_has_its_limits_and_several_wait_side_by_side(small, ledger):
    open_at_once = []

    def look(_method, _path, work):
        open_at_once.append(query(ledger.path, "SELECT COUNT(*) FROM batches WHERE state != 'closed'")[0][0])
        return work()

    with ChatServer() as server:
        server.batches.around = look
        results, _ = buy(server, ledger, TEXTS, batch_limits=FAST._replace(**small))
        totals = [b["request_counts"]["total"] for b in server.batches.batches.values()]
    assert max(totals) <= 15
    assert sum(totals) == 40
    assert max(open_at_once) == len(totals) >= 3
    assert len(results) == 40
    assert is_settled(ledger, TEXTS)


# -- at the door ---------------------------------------------------------------------------------------------------


def test_clients_without_batches_are_refused_before_anything_is_spent(monkeypatch, tmp_path):
    monkeypatch.setenv("THE_KEY", "sk")
    other = tmp_path / "other"
    with ChatServer() as server:
        other.mkdir()
        Ledger(other / "run.db", budget_usd=1).close()
        RunFolder(other).write_state(FolderState())
        (other / "trace.toml").write_text(
            f'budget_usd = 1.0\n[trace]\nclient = "openai"\nbase_url = "{server.url}"\nmodel = "m"\n'
            "price = { input_usd_per_mtok = 1.0, output_usd_per_mtok = 1.0 }\n"
        )
        keyed = {"model": "m", "api_key_env": "THE_KEY", "price": HALF}
        for fields, message in (
            ({"client": "reference-solution"}, "reference-solution takes no batches"),
            ({"client": "gemini", **keyed}, "gemini takes no batches"),
            ({"client": "replay", "replay_from": str(other)}, "127.0.0.1 takes no batches"),
            ({"client": "openai", "preset": "deepseek", **keyed}, "deepseek takes no batches"),
        ):
            with pytest.raises(TennerError, match=message) as caught:
                registry.check(TraceSection(**fields, batch=True), Screen())
            assert caught.value.hint
        unpriced = PriceSection(input_usd_per_mtok=1.0, output_usd_per_mtok=2.0)
        with pytest.raises(TennerError, match=r"what 127.0.0.1/m costs in a batch is not known") as caught:
            registry.check(batch_section(server, price=unpriced), Screen())
        assert "give batch_multiplier in [trace.price]" in (caught.value.hint or "")
        registry.check(batch_section(server), Screen())
        server.batches.around = lambda _method, _path, _work: None
        with pytest.raises(TennerError, match=r"127\.0\.0\.1 takes no batches: HTTP 404: not here"):
            registry.check(batch_section(server), Screen())


def test_the_multiplier_goes_with_a_price(tmp_path, capsys):
    file = tmp_path / "questions.jsonl"
    file.write_text('{"id": "q", "question": "1+1?"}\n')
    with pytest.raises(SystemExit) as caught:
        cli.main(["trace", str(file), "--out", str(tmp_path / "out"), "--model", "m", "--base-url", "http://localhost",
                  "--batch", "--batch-multiplier", "0.5", "--budget-usd", "1"])  # fmt: skip
    assert caught.value.code == 2
    assert "--batch-multiplier goes with --price-in and --price-out" in capsys.readouterr().err


def test_what_was_truncated_is_bought_longer_in_another_batch(tmp_path):
    folder = RunFolder(tmp_path)
    with (
        ChatServer({TEXTS[1]: ["truncated", "good"]}) as server,
        closing(Ledger(tmp_path / "run.db", budget_usd=1)) as ledger,
    ):
        server.batches.polls = 1
        asked = questions(*TEXTS)
        section, context = (
            batch_section(server, longer_output_tokens_max=2000),
            CallContext(ledger, Screen(), stage="trace"),
        )
        traces.buy_traces(TracePurchase(section, lambda: asked, folder, context, grade_trace))
        assert [len(b["request_counts"]) and b["request_counts"]["total"] for b in server.batches.batches.values()] == [
            40, 1,
        ]  # fmt: skip
        assert is_settled(ledger, [*TEXTS, TEXTS[1]])
    assert {t.outcome for t in folder.read("traces", Trace)} == {"complete"}


# -- the command ---------------------------------------------------------------------------------------------------


def command(file, server, *, budget_usd="10"):
    return [
        sys.executable, "-m", "tenner", "trace", file, "--out", file.parent / "out", "--model", "m", "--base-url",
        server.url, "--price-in", "1", "--price-out", "2", "--batch", "--batch-multiplier", "0.5",
        "--max-output-tokens", "100", "--budget-usd", budget_usd,
    ]  # fmt: skip


def write_questions(tmp_path, texts):
    file = tmp_path / "questions.jsonl"
    file.write_text("".join(json.dumps({"id": str(i), "question": text}) + "\n" for i, text in enumerate(texts)))
    return file


def wait_until(condition, process):
    deadline = time.monotonic() + 60
    while not condition() and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.mark.slow
def test_ctrl_c_while_waiting_leaves_everything_to_the_same_command(tmp_path):
    file = write_questions(tmp_path, TEXTS)
    with ChatServer() as server:
        server.batches.polls = 1000
        process = subprocess.Popen(command(file, server), stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        wait_until(lambda: any(b["polled"] for b in server.batches.batches.values()), process)
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=60)
        assert process.returncode == 130, stderr
        assert stderr == "tenner: interrupted; the same command goes on from here\n"
        server.batches.polls = 1
        done = subprocess.run(command(file, server), capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert "in flight when the last session ended" not in done.stderr
        assert len(server.batches.batches) == 1
    assert set(server.completed.values()) == {1}
    assert f"${sum(map(half_microusd, TEXTS)) / 1e6:.6f} spent" in done.stdout


KILLS, KILLED_QUESTIONS = 12, 600


@pytest.mark.slow
def test_nothing_is_bought_twice_whatever_is_killed_when(tmp_path):
    moments = random.Random(0)
    texts = [f"What is {i}+{i + 1}?" for i in range(KILLED_QUESTIONS)]
    file, database = write_questions(tmp_path, texts), tmp_path / "out" / "run.db"
    step = 8 * worst_microusd(texts[-1], tokens=100)  # what a session may spend: a few lines at once, then fewer
    hits = []
    with ChatServer() as server:
        server.batches.polls = 1
        heard = []

        def listen(method, path, work):
            heard.append(f"{method} {path}")
            if len(heard) == early:
                _kill(process)
            return work()

        server.batches.around = listen
        for _ in range(KILLS):
            heard.clear()
            # The n-th request, of which some are killed before the server looks at it, and others a little later.
            moment, delay = moments.randint(2, 6), moments.uniform(0, 0.3)
            early = moment if moments.random() < 0.4 else None
            spent = query(database, "SELECT held_microusd FROM totals")[0][0] if database.exists() else 0
            cap_usd = str((spent + step) / 1e6)
            process = subprocess.Popen(command(file, server, budget_usd=cap_usd), stderr=subprocess.PIPE)
            wait_until(lambda moment=moment: len(heard) >= moment, process)
            time.sleep(delay)
            _kill(process)
            hits.append((heard[-1], process.returncode))
            assert process.stderr
            process.stderr.close()
            if process.returncode == 0:  # it was faster than the kill, and there is nothing left to kill
                break
        # At its cap a session ends by itself, with 3; most shall have been killed.
        killed = sum(returncode == -signal.SIGKILL for _, returncode in hits)
        assert killed > KILLS / 2, hits
        stored = query(database, "SELECT COUNT(*) FROM responses")[0][0]
        assert 0 < stored < KILLED_QUESTIONS, "the kills should have fallen into the work"
        server.batches.around = lambda _method, _path, work: work()
        done = subprocess.run(command(file, server), capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    print(f"{len(server.batches.batches)} batches, {stored} stored by the last kill; killed at {hits}")
    assert set(server.completed.values()) == {1}
    assert len(server.completed) == KILLED_QUESTIONS
    with closing(Ledger(database, budget_usd=10)) as ledger:
        assert is_settled(ledger, texts)
    assert query(database, "SELECT COUNT(*) FROM spends WHERE NOT settled") == [(0,)]
    rows = [json.loads(line) for line in (tmp_path / "out" / "traces.jsonl").read_text().splitlines()]
    assert sorted(int(row["question_id"]) for row in rows) == list(range(KILLED_QUESTIONS))


def _kill(process):
    with suppress(ProcessLookupError):
        os.kill(process.pid, signal.SIGKILL)
    process.wait()


ODD_ANSWERS = {
    "a web page": b"<html>Please log in</html>", "not whole": b'{"id": ', "a list": b"[]", "null": b"null",
    "a number": b"7", "no id": b'{"object": "batch"}', "an id of another kind": b'{"id": {"a": 1}}',
    "a list in data": b'{"data": [[]]}',
    "data that is text": b'{"data": "none"}', "metadata that is text": b'{"data": [{"id": "x", "metadata": "y"}]}',
    "counts that are text": b'{"id": "batch-0", "status": "in_progress", "request_counts": "many"}',
    "counts without numbers": b'{"id": "batch-0", "status": null, "request_counts": {"completed": null, "total": "x"}}',
    "files of another kind": b'{"id": "batch-0", "status": "completed", "output_file_id": 7}',
}  # fmt: skip


@pytest.mark.parametrize("name", ODD_ANSWERS)
def test_an_answer_of_another_kind_is_a_fault_like_any_other(name, ledger):
    """To an upload, a creation, a list and a look at a batch: what was meant is found out, and nothing bought twice."""
    due = {("GET", "/batches/batch-0")}
    if b'"batch-0"' not in ODD_ANSWERS[name]:
        due |= {("POST", "/files"), ("POST", "/batches"), ("GET", "/batches")}

    def odd_at_first(method, path, work):
        if (method, path) not in due:
            return work()
        due.remove((method, path))
        if method == "POST" and path == "/batches":
            work()  # it was made, and the answer did not come through
        return BatchAnswer(200, ODD_ANSWERS[name], "text/html" if name == "a web page" else "application/json")

    with ChatServer() as server:
        server.batches.around = odd_at_first
        results, _ = buy(server, ledger, TEXTS[:3])
        assert len(server.batches.batches) == 1
        assert len(server.asked) == 3
    assert not failures(results)
    assert is_settled(ledger, TEXTS[:3])
