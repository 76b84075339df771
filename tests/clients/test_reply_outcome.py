"""Where thinking is found, what is stripped from a reply and what is refused, over a server on loopback."""

import json
import sqlite3
import time
from contextlib import closing

import pytest
from chat_server import ChatServer
from damaged_replies import ANSWER, DAMAGED, MESSAGES, THINKING, body_of
from paid import buy, questions, section

from tenner.budget.ledger import Ledger
from tenner.clients.chat_completion import parse_completion
from tenner.clients.control_tokens import damage_of
from tenner.clients.openai import OpenAIClient
from tenner.clients.protocol import Response


def bought(names, tmp_path, kind):
    """The replies by behaviour, and the bodies that the store keeps."""
    asked = questions(*(f"{name}?" for name in names))
    with (
        closing(Ledger(tmp_path / "run.db", budget_usd=1)) as ledger,
        ChatServer({f"{name}?": [f"{kind}: {name}"] for name in names}) as server,
    ):
        results, _ = buy(OpenAIClient(section(server)), ledger, asked)
    with closing(sqlite3.connect(tmp_path / "run.db")) as db:
        bodies = {bytes(body) for (body,) in db.execute("SELECT body FROM responses")}
    return {name: results[q.id].reply for name, q in zip(names, asked, strict=True)}, bodies


def test_thinking_is_found_wherever_it_comes_and_the_edges_are_cleaned(tmp_path):
    replies, bodies = bought(list(MESSAGES), tmp_path, "message")
    read = {name: (r.outcome, r.thinking, r.answer, r.evidence) for name, r in replies.items()}
    assert read == dict.fromkeys(MESSAGES, ("complete", THINKING, ANSWER, None))
    assert bodies == {body_of(message) for message in MESSAGES.values()}  # the store keeps what came


def test_what_cannot_be_cleaned_with_certainty_is_refused_with_its_reason(tmp_path):
    replies, bodies = bought(list(DAMAGED), tmp_path, "damaged")
    assert {name: r.outcome for name, r in replies.items()} == {name: of for name, (_, _, of) in DAMAGED.items()}
    assert all(r.evidence for r in replies.values())
    assert replies["</think> in the answer"].evidence == "the answer holds </think>"
    assert replies["a token in the thinking"].evidence == "the thinking holds <|im_start|>"
    assert replies["an unknown word"].evidence == "finish_reason is paused"
    assert replies["null"].evidence == "it has no finish_reason"
    assert replies["no thinking"].evidence == "the fields content, role"
    assert len(bodies) == len({body_of(*parts[:2]) for parts in DAMAGED.values()})


def test_several_messages_of_harmonys_analysis_are_one_thinking():
    messages = [f"<|channel|>analysis<|message|>{said}<|end|>" for said in ("7 and", "4.")]
    content = "<|start|>assistant".join([*messages, f"<|channel|>final<|message|>{ANSWER}<|return|>"])
    reply = parse_completion(Response(body_of({"content": content}), "application/json"))
    assert (reply.outcome, reply.thinking, reply.answer) == ("complete", "7 and\n\n4.", ANSWER)


def test_a_summary_is_taken_only_where_there_is_nothing_else_and_is_marked():
    details = [{"type": "reasoning.summary", "summary": "It adds."}]
    alone = parse_completion(Response(body_of({"reasoning_details": details, "content": ANSWER}), "application/json"))
    assert (alone.outcome, alone.thinking, alone.is_summary) == ("complete", "It adds.", True)
    block = {"reasoning_details": details, "content": f"<think>{THINKING}</think>{ANSWER}"}
    raw = parse_completion(Response(body_of(block), "application/json"))
    assert (raw.thinking, raw.answer, raw.is_summary) == (THINKING, ANSWER, False)


@pytest.mark.parametrize(
    "text",
    [
        "If 0 < |x| < 2, then x<|y|>z and |x|>1.", r"\[ a < b \] and \(c > d\)", "f[x] and [1, 2] and [EOS",
        "a <- b; c <b>bold</b>", "1<2 and 3>2", "The thinking was <long>.", "[INSTALL]", "x <s> y",
        "The teaching assistant\nleft.", "<reason>, <analysis> and <answer> are tags.", "|A| = \\emptyset", "∅", ")]",
        "a <answer>b</answer> c", "<answer>1</answer><answer>2</answer>",
    ],
)  # fmt: skip
def test_ordinary_text_is_not_damaged(text):
    assert damage_of(text) is None
    reply = parse_completion(Response(body_of({"reasoning_content": text, "content": text}), "application/json"))
    assert (reply.outcome, reply.thinking, reply.answer) == ("complete", text, text)


def test_parts_may_be_nested_as_deeply_as_json_is_read():
    deep = '[{"type":"text","text":' * 400 + '"1"' + "}]" * 400
    body = f'{{"choices": [{{"message": {{"content": {deep}, "reasoning_content": "t"}}, "finish_reason": "stop"}}]}}'
    assert parse_completion(Response(body.encode(), "application/json")).answer == "1"


@pytest.mark.parametrize("text", [" \n" * 200_000 + "x", "<" * 200_000, "<think>" * 30_000, "a<|im_end|>" * 30_000])
def test_long_replies_are_read_in_time(text):
    began = time.perf_counter()
    parse_completion(Response(json.dumps({"choices": [{"message": {"content": text}}]}).encode(), "application/json"))
    parse_completion(Response(body_of({"reasoning_content": text, "content": text}), "application/json"))
    assert time.perf_counter() - began < 2
