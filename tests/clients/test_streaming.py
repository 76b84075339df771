"""Streamed completions: asked for where a preset or the server says so, at the same key, and never bought twice."""

import json
import sqlite3
from contextlib import closing

import pytest
from chat_server import ChatServer, completion, events_of
from damaged_replies import ANSWER, MESSAGES, THINKING
from paid import LIMITS, buy, cost_microusd, questions, section, spent_microusd

from tenner.budget.ledger import Ledger
from tenner.clients.chat_completion import parse_completion
from tenner.clients.openai import STREAM_DEMANDED, OpenAIClient
from tenner.clients.protocol import Call, Response, keyed_request

TEXTS = [f"What is {i}+{i}?" for i in range(12)]
WORST = len("1+2?") + 256 + 2 * 1000


@pytest.fixture
def ledger(tmp_path):
    with closing(Ledger(tmp_path / "run.db", budget_usd=1)) as opened:
        yield opened


def streamed(asked):
    return [a for a in asked if a.body.get("stream")]


def test_a_server_that_demands_streams_is_asked_so_and_it_is_remembered(ledger):
    with ChatServer(streams="only") as server:
        client = OpenAIClient(section(server))
        results, _ = buy(client, ledger, questions(*TEXTS), limits=LIMITS._replace(concurrency=1))
        assert len(server.asked) == len(TEXTS) + 1
        assert len(streamed(server.asked)) == len(TEXTS)
        assert all(a.body["stream_options"] == {"include_usage": True} for a in streamed(server.asked))
    assert {(r.reply.outcome, r.metered) for r in results.values()} == {("complete", True)}
    assert results["q1"].reply.thinking == f"I add up the numbers of: {TEXTS[1]}"
    assert spent_microusd(ledger) == sum(map(cost_microusd, TEXTS))  # the refused request cost nothing
    assert ledger.reserved_usd() == 0


def test_the_presets_say_which_models_only_stream(ledger, monkeypatch):
    monkeypatch.setenv("DASHSCOPE_API_KEY", "k")
    with ChatServer(streams="only", models=("qwq-32b",)) as server:
        qwq = section(server, preset="qwen", model="qwq-32b")
        buy(OpenAIClient(qwq), ledger, questions(*TEXTS))
        assert len(streamed(server.asked)) == len(server.asked) == len(TEXTS)
    with ChatServer(models=("qwen-plus",)) as server:
        buy(OpenAIClient(section(server, preset="qwen", model="qwen-plus")), ledger, questions(*TEXTS))
        assert streamed(server.asked) == []


def test_how_a_response_travels_is_no_part_of_its_key(ledger):
    with ChatServer(streams="only") as server:
        client = OpenAIClient(section(server))
        call = Call(questions("1+2?")[0], 0)
        before = keyed_request(client.price, client.request(call), 0)
        results, _ = buy(client, ledger, questions("1+2?"))
        assert keyed_request(client.price, client.request(call), 0) == before
        server.streams = "if asked"
        again, _ = buy(OpenAIClient(section(server)), ledger, questions("1+2?"))
        assert again["q0"].reused
        assert again["q0"].reply == results["q0"].reply
        assert len(server.asked) == 2


def test_without_usage_a_stream_stays_at_its_worst_case(ledger):
    with ChatServer(streams="only, without options") as server:
        results, _ = buy(OpenAIClient(section(server)), ledger, questions("1+2?"))
    assert (results["q0"].reply.outcome, results["q0"].metered) == ("complete", False)
    assert spent_microusd(ledger) == WORST


def test_a_broken_stream_keeps_what_came_and_is_not_bought_twice(ledger):
    with ChatServer({"1+2?": ["reset"]}, streams="only") as server:
        for reused in (False, True):
            results, _ = buy(OpenAIClient(section(server)), ledger, questions("1+2?"))
            reply = results["q0"].reply
            assert (reply.outcome, reply.evidence, results["q0"].reused) == (
                "interrupted", "the stream broke off", reused,
            )  # fmt: skip
        assert f"I add up the numbers of: {'1+2?'}".startswith(reply.thinking.strip())
        assert reply.thinking
        assert len(streamed(server.asked)) == 1
    assert spent_microusd(ledger) == WORST
    with closing(sqlite3.connect(ledger.path)) as db:
        ((body,),) = db.execute("SELECT body FROM responses").fetchall()
    assert bytes(body).startswith(b"data: ")
    assert b"[DONE]" not in bytes(body)


def test_a_stream_that_broke_before_its_text_is_an_interrupted_call(ledger):
    with ChatServer({"1+2?": ["good", "hang up", "good"]}, streams="only") as server:
        results, calls = buy(OpenAIClient(section(server)), ledger, questions("1+2?"))
    assert results["q0"].reply.outcome == "complete"
    assert calls.progress.retries == {"interrupted": 1}
    assert spent_microusd(ledger) == WORST + cost_microusd("1+2?")  # the lost one may have been charged


@pytest.mark.parametrize("behaviour", ["rate limit", "server error", "overloaded"])
def test_faults_of_a_streaming_server_are_those_of_any(behaviour, ledger):
    with ChatServer({"1+2?": [behaviour, behaviour, "good"]}, streams="only") as server:
        results, calls = buy(OpenAIClient(section(server)), ledger, questions("1+2?"))
    assert results["q0"].reply.outcome == "complete"
    assert calls.progress.retries.total() >= 1


def parsed(body):
    return parse_completion(Response(body, "text/event-stream"))


@pytest.mark.parametrize("name", MESSAGES)
def test_a_stream_adds_up_to_its_completion(name):
    message = {"role": "assistant"} | MESSAGES[name]
    whole = {"choices": [{"index": 0, "finish_reason": "stop", "message": message}],
             "usage": {"prompt_tokens": 20, "completion_tokens": 30, "total_tokens": 50}}  # fmt: skip
    reply = parsed(events_of(whole))
    assert (reply.outcome, reply.thinking, reply.answer) == ("complete", THINKING, ANSWER)
    assert reply == parse_completion(Response(json.dumps(whole).encode(), "application/json"))


def test_parts_and_text_of_one_stream_are_put_together():
    deltas = [{"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "7 and "}]}]},
              {"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "4."}]}]},
              {"content": "It is "}, {"content": "11."}]  # fmt: skip
    chunks = [{"choices": [{"index": 0, "delta": d}]} for d in deltas]
    chunks[-1]["choices"][0]["finish_reason"] = "stop"
    reply = parsed("".join(f"data: {json.dumps(c)}\n\n" for c in chunks).encode())
    assert (reply.outcome, reply.thinking, reply.answer) == ("complete", THINKING, ANSWER)


def test_usage_on_the_way_is_not_that_of_a_broken_stream():
    body = events_of(completion("1+2?"))
    events = body.decode().split("\n\n")
    usage = {"usage": {"prompt_tokens": 4, "completion_tokens": 9}}
    on_the_way = [f"data: {json.dumps(json.loads(e.removeprefix('data: ')) | usage)}" for e in events[:4]]
    broken = parsed("\n\n".join(on_the_way).encode())
    assert (broken.outcome, broken.usage.output_tokens) == ("interrupted", None)
    final = parsed("\n\n".join([*events[:4], events[-3], ""]).encode())
    assert (final.outcome, final.usage.output_tokens) == ("interrupted", 8)


@pytest.mark.parametrize(
    "message",
    [
        "parameter.enable_thinking must be set to false for non-streaming calls",
        "This model only support stream mode, please enable the stream parameter to access the model. ",
        "Requests with max_tokens > 4096 must have stream=true",
        "Only streaming is supported for this model",
        "Non-streaming requests are not supported",
        "Streaming is required for this model",
        'stream must be set to "true"',
    ],
)
def test_the_ways_in_which_servers_demand_a_stream(message):
    assert STREAM_DEMANDED.search(message)


@pytest.mark.parametrize(
    "message",
    [
        "unknown parameter: temperature",
        "This model does not support streaming",
        "stream is not supported",
        "bad stream",
    ],
)
def test_other_refusals_demand_none(message):
    assert not STREAM_DEMANDED.search(message)
