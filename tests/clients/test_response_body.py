"""Bodies of chat completions that are not plain JSON."""

import json

import pytest
from money_faults import events

from tenner.clients.chat_completion import parse_completion
from tenner.clients.protocol import Response
from tenner.clients.response_body import is_json, read_body, without_comments


def chunk(**delta):
    return b"data: " + json.dumps({"choices": [{"index": 0, "delta": delta}]}).encode() + b"\n\n"


def test_a_stream_is_the_completion_that_its_chunks_are_parts_of():
    body = events("1+2?")
    whole = read_body(body)
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
            whole = read_body(body[:at])
        except ValueError:
            continue  # before the first whole chunk
        assert whole["stream_ended"] == (b'"finish_reason": "stop"}]}' in body[:at])


def test_parts_and_details_are_joined_and_other_choices_left_out():
    body = chunk(role="assistant", content="") + chunk(role="assistant", content="4", reasoning_details=[{"text": "2"}])
    body += chunk(content="2", reasoning_details=[{"text": "+2"}])
    body += b'data: {"choices": [{"index": 1, "delta": {"content": "no"}}]}\n\ndata: [DONE]\n\n'
    message = read_body(body)["choices"][0]["message"]
    assert message == {"role": "assistant", "content": "42", "reasoning_details": [{"text": "2"}, {"text": "+2"}]}


def test_a_whole_message_in_a_stream_is_taken_as_it_is():
    message = {"role": "assistant", "content": "42"}
    body = b"data: " + json.dumps({"choices": [{"message": message, "finish_reason": "stop"}]}).encode()
    assert read_body(body)["choices"][0]["message"] == message


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
