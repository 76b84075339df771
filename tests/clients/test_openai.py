"""Reading chat completions: whatever comes back, there is an outcome for it."""

import json
import random

import pytest
from chat_server import ChatServer, completion
from mangled import mangled
from paid import PRICE, questions, section
from paths import DATA
from pydantic import ValidationError

from tenner.clients import registry
from tenner.clients.chat_completion import parse_completion
from tenner.clients.faults import Fault, from_status
from tenner.clients.http import checked
from tenner.clients.openai import OpenAIClient, presets
from tenner.clients.protocol import Call, Response
from tenner.core.errors import TennerError
from tenner.core.progress import Screen
from tenner.core.sections import ApiModel, PriceSection, TraceSection


def parse(fields, content_type="application/json"):
    return parse_completion(Response(json.dumps(fields).encode(), content_type))


def test_nothing_that_is_json_makes_the_parser_stumble():
    draw = random.Random(0)
    goods = completion("1+2?"), completion("1+2?", reasoning_details=[{"type": "reasoning.text", "text": "t"}])
    outcomes = set()
    for _ in range(3000):
        fields = draw.choice(goods)
        for _ in range(draw.randint(1, 3)):
            fields = mangled(fields, draw)
        reply = parse(fields)
        (reply.thinking + reply.answer).encode()
        assert (reply.usage.output_tokens or 0) < 2**53  # a database holds it
        outcomes.add(reply.outcome)
    assert outcomes >= {"complete", "empty", "unreadable", "no_reasoning"}


def test_a_bottomless_body_is_unreadable():
    assert parse_completion(Response(b"[" * 200_000, "application/json")).outcome == "unreadable"


def test_leading_blank_lines_that_keep_a_connection_alive_are_no_matter():
    body = b"\n\n\n" + json.dumps(completion("1+2?")).encode()
    assert parse_completion(Response(body, "application/json")).outcome == "complete"


def test_of_several_places_the_first_holds_the_reasoning():
    details = [{"type": "reasoning.summary", "summary": "in"}, {"type": "reasoning.text", "text": " details"}]
    places = {
        "reasoning_details": (details, "in details"),
        "reasoning_content": ("in reasoning_content", "in reasoning_content"),
        "reasoning": ("in reasoning", "in reasoning"),
        "content": ("<think>in a block</think>3", "in a block"),
    }
    fields = completion("1+2?", **{place: value for place, (value, _) in places.items()})
    for place, (_, thinking) in places.items():
        assert parse(fields).thinking == thinking
        del fields["choices"][0]["message"][place]


def test_content_parts_are_put_together():
    parts = [{"type": "text", "text": "The answer "}, {"type": "text", "text": "is 3."}]
    assert parse(completion("1+2?", content=parts)).answer == "The answer is 3."


def test_a_think_block_that_is_never_closed_is_all_thinking():
    reply = parse(completion("1+2?", reasoning_content=None, content="<think>\nso", finish_reason="length"))
    assert (reply.outcome, reply.thinking, reply.answer) == ("truncated", "so", "")


@pytest.mark.parametrize("name", ["n", "max_tokens", "stream", "model"])
def test_parameters_that_would_get_round_the_cap_are_refused(name):
    described = TraceSection(
        client="openai", base_url="http://localhost/v1", model="m", parameters={name: 2},
        price=PriceSection(input_usd_per_mtok=0.0, output_usd_per_mtok=0.0),
    )  # fmt: skip
    with pytest.raises(TennerError, match=f"{name} is set by tenner itself"):
        OpenAIClient(described)


@pytest.mark.parametrize("name", ["org/x:nitro", "org/x:floor", "models/org/x", "g", "models/g"])
def test_other_names_of_a_listed_model_are_known(name):
    with ChatServer(models=("org/x", "models/g")) as server:
        registry.check(section(server, model=name), Screen())
        for unknown in ("org/y:nitro", "org/x:free"):
            with pytest.raises(TennerError, match=f"has no model {unknown}"):
                registry.check(section(server, model=unknown), Screen())


MONEY_ROWS = {
    "usage-without-reasoning": 905, "usage-zeros": None, "usage-input-output": 300, "control-characters": 2,
    "sse-comment-first": 300, "sse-though-not-asked": None, "finish-error": "error_in_response",
    "insufficient_system_resource": "error_in_response", "network_error": "error_in_response",
    "finish-abort": "error_in_response", "glm-1113": "billing", "openrouter-key-limit": "billing",
    "dashscope-arrears": "billing", "batch-line-low-credit": "billing", "gateway-524": "gateway_timeout",
    "error-is-a-string": "server_error",
}  # fmt: skip
"""Rows of what happened to others that are about money: the output tokens that are booked, or the fault.

None keeps the worst case: a stream that nobody asked for is read, but it names no usage, and the provider may charge
all of it. It has no finish reason, either: five such replies stop a run (see `reply_watch`).
"""
OTHER_ROWS = {
    "sensitive": "content_filter", "model_context_window_exceeded": "truncated", "finish-max_tokens": "truncated",
    "finish-MAX_TOKENS": "truncated", "finish-null": "unknown_finish", "anthropic-parts": "complete",
    "thinking_blocks": "complete", "provider_specific_fields": "complete", "tag-thinking": "complete",
    "tag-kimi": "complete", "harmony": "complete", "thinking-twice": "complete", "all-in-reasoning": "empty",
    "eos-in-answer": "complete", "tool-call": "empty", "gemini-stop-without-parts": "empty",
    "streaming-only": "bad_request", "use-max_completion_tokens": "bad_request",
    "batch-file-not-found": "unknown_model",
}  # fmt: skip
"""What becomes of the others. An empty reply is stored and not asked again: it was paid, and the run says so. The last
three are dealt with where they matter: by streaming, by `limit_parameter`, and where a batch is created.
"""


@pytest.mark.skipif(not (DATA / "strangers").is_dir(), reason="the reports of others are not here")
def test_what_happened_to_others_is_booked_right():
    rows = map(json.loads, (DATA / "strangers/http_responses.jsonl").read_text("utf-8").splitlines())
    came: dict[str, str | int | None] = {}
    for row in rows:
        try:
            if row["status"] != 200:
                raise from_status(row["status"], row["headers"], row["body"])
            response = checked(Response(row["body"].encode(), row["content_type"]))
        except Fault as fault:
            came[row["id"]] = fault.kind
        else:
            reply = parse_completion(response)
            came[row["id"]] = reply.outcome if row["id"] in OTHER_ROWS else reply.usage.output_tokens
            assert reply.outcome != "complete" or reply.thinking
            assert "<" not in reply.answer
    assert came == MONEY_ROWS | OTHER_ROWS


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_the_limit_goes_by_the_name_that_the_server_knows(name):
    for fields in ({"base_url": "http://localhost/v1"}, {"preset": "openai", "api_key_env": None}):
        described = ApiModel(name="o9", model="m", price=PRICE, output_tokens_max=99, limit_parameter=name, **fields)
        request = OpenAIClient(described, key="").request(Call(questions("1+1?")[0], 0))
        assert {field for field in request if "tokens" in field} == {name}
    with pytest.raises(ValidationError, match="limit_parameter has no effect with the gemini client"):
        ApiModel(name="o9", client="gemini", model="m", limit_parameter=name)


def test_the_known_providers_are_complete():
    for name, provider in presets().items():
        assert provider.name == name
        assert provider.base_url.startswith("http")
        assert provider.api_key_env or name == "local"
