"""Bodies of chat completions that are not plain JSON."""

import json
from typing import Any

import pytest
from money_faults import events

from tenner.clients.chat_completion import parse_completion
from tenner.clients.protocol import Response
from tenner.clients.response_body import is_json, read_body, without_comments


def chunk(**delta):
    return b"data: " + json.dumps({"choices": [{"index": 0, "delta": delta}]}).encode() + b"\n\n"


def test_a_stream_is_the_completion_that_its_chunks_are_parts_of():
    body = events("1+2?")
    whole: Any = read_body(body)
    assert whole["stream_ended"]
    assert read_body(body.replace(b"\n", b"\r\n")) == whole
    assert read_body(body.replace(b"\n\n", b"\n")) == whole
    reply = parse_completion(Response(body, "text/event-stream"))
    assert (reply.outcome, reply.usage.output_tokens, reply.finish_reason) == ("complete", 8, "stop")
    assert reply.answer == r"The answer is \boxed{3}."


def test_a_stream_may_be_cut_anywhere():
    body = events("1+2?")
    for at in range(body.index(b"data: ") + 6, len(body)):
        try:
            whole: Any = read_body(body[:at])
        except ValueError:
            continue  # before the first whole chunk
        assert whole["stream_ended"] == (b'"finish_reason": "stop"}]}' in body[:at])


def test_parts_and_details_are_joined_and_other_choices_left_out():
    body = chunk(role="assistant", content="") + chunk(role="assistant", content="4", reasoning_details=[{"text": "2"}])
    body += chunk(content="2", reasoning_details=[{"text": "+2"}])
    body += b'data: {"choices": [{"index": 1, "delta": {"content": "no"}}]}\n\ndata: [DONE]\n\n'
    whole: Any = read_body(body)
    assert whole["choices"][0]["message"] == {
        "role": "assistant",
        "content": "42",
        "reasoning_details": [{"text": "2"}, {"text": "+2"}],
    }


def test_a_whole_message_in_a_stream_is_taken_as_it_is():
    message = {"role": "assistant", "content": "42"}
    body = b"data: " + json.dumps({"choices": [{"message": message, "finish_reason": "stop"}]}).encode()
    whole: Any = read_body(body)
    assert whole["choices"][0]["message"] == message


def finish(reason, **fields):
    return (
        b"data: "
        + json.dumps({"choices": [{"index": 0, "delta": {}, "finish_reason": reason}]} | fields).encode()
        + b"\n\n"
    )


def test_the_whole_message_at_the_end_of_a_stream_is_not_a_second_copy():
    message = {"role": "assistant", "content": "42", "reasoning_content": "6*7"}
    last = {"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}
    body = chunk(reasoning_content="6*7") + chunk(content="42") + b"data: " + json.dumps(last).encode() + b"\n\n"
    whole: Any = read_body(body)
    assert whole["choices"][0]["message"] == message


@pytest.mark.parametrize(("first", "second", "ends"), [
    ("length", "stop", "length"), ("stop", "length", "length"), ("content_filter", "stop", "content_filter"),
    ("stop", "", "stop"), ("stop", None, "stop"), (["?"], "stop", "stop"),
])  # fmt: skip
def test_a_stop_behind_another_finish_reason_does_not_make_a_reply_complete(first, second, ends):
    whole: Any = read_body(chunk(content="42") + finish(first) + finish(second))
    assert whole["choices"][0]["finish_reason"] == ends


def test_usage_of_zeros_at_the_end_does_not_replace_the_counted_one():
    counted, zeros = ({"prompt_tokens": n, "completion_tokens": n} for n in (7, 0))
    whole: Any = read_body(chunk(content="42") + finish("stop", usage=counted) + finish(None, usage=zeros, choices=[]))
    assert whole["usage"] == counted


def test_words_between_the_chunks_are_passed_over_and_damaged_chunks_are_not():
    rest = chunk(content="2") + finish("stop")
    whole: Any = read_body(chunk(content="4") + b"data: ping\n\n" + rest)
    assert whole["choices"][0]["message"] == {"content": "42"}
    broken: Any = read_body(chunk(content="4") + b'data: {"choices": [{"del\n\n' + rest)
    assert not broken["stream_ended"]


@pytest.mark.parametrize(
    "body", [b"", b": nothing\n\n", b"data: [DONE]\n\n", b"data: no\n\n", b"Welcome", b"[" * 200_000]
)
def test_anything_else_cannot_be_read(body):
    with pytest.raises((ValueError, RecursionError)):
        read_body(body)


def test_damaged_json_is_told_from_pages_and_from_nothing():
    for body in (b'{"a": "<html>', b"\xef\xbb\xbf\n [1", b": PROCESSING\n\n{"):
        assert is_json(body)
    for body in (b"\xef\xbb\xbf\n <!doctype html>", b"Welcome", b"data: no", b"", b": PROCESSING\n"):
        assert not is_json(body)
    assert without_comments(b"\xef\xbb\xbf: a\r\n\r\n: b\n ") == b""
