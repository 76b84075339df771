"""Reads the body of a chat completion: JSON, JSON behind comments, or a stream of events, asked for or not."""

import json
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from tenner.clients.json_fields import count, mapping, mappings
from tenner.core.finish_reasons import ending_of

STREAM_ENDED = "stream_ended"
"""The key under which a completion that came as a stream says whether its last event came."""
DECODER = json.JSONDecoder(strict=False)
END_OF_STREAM = "[DONE]"


def read_body(body: bytes | bytearray) -> object:
    """The JSON of a body, with raw control characters in its strings and comment lines before it.

    Chunks of a stream are put together to the completion that they are parts of. Raises ValueError or RecursionError
    for anything else.
    """
    text = body.decode(json.detect_encoding(body), "replace")
    try:
        return DECODER.decode(text)
    except ValueError:
        lines = text.split("\n")
        if any(line.startswith("data:") for line in lines):
            return _completion_of(lines)
        behind = [line for line in lines if not line.startswith(":")]  # as ": OPENROUTER PROCESSING"
        if len(behind) == len(lines):
            raise
        return DECODER.decode("\n".join(behind))


def stream_of(body: bytes | bytearray) -> Literal["whole", "broken"] | None:
    """What a body holds of a streamed completion; None where it is none, or holds an error."""
    try:
        fields = read_body(body)
    except (ValueError, RecursionError):
        return None
    if not isinstance(fields, dict) or STREAM_ENDED not in fields or fields.get("error") or fields.get("base_resp"):
        return None
    choices = mappings(fields.get("choices"))
    if not choices or choices[0].get("error"):
        return None
    return "whole" if fields[STREAM_ENDED] else "broken"


def without_comments(body: bytes) -> bytes:
    """A body without white space at its ends, its byte order mark and comments, by which servers keep connections."""
    lines = body.removeprefix(b"\xef\xbb\xbf").splitlines()
    return b"\n".join(line for line in lines if not line.startswith(b":")).strip()


def is_json(body: bytes) -> bool:
    """Whether a body begins as a JSON object or array does, whole or not."""
    return without_comments(body)[:1] in (b"{", b"[")


def _completion_of(lines: list[str]) -> dict[str, Any]:
    """The chat completion that a stream's chunks add up to; an error event is its `error`."""
    message: dict[str, Any] = {}
    whole: dict[str, Any] = {"choices": [], STREAM_ENDED: False}
    choice: dict[str, Any] = {"index": 0, "finish_reason": None, "message": message}
    usage_is_final = False
    for chunk in _chunks(lines):
        if chunk is None:
            whole[STREAM_ENDED] = True
            break
        for name in ("error", "base_resp"):
            if chunk.get(name):
                whole[name] = chunk[name]
        if any(map(count, mapping(chunk.get("usage")).values())):  # some streams end with one of zeros
            whole["usage"] = chunk["usage"]
        usage_is_final |= bool(chunk.get("usage")) and not chunk.get("choices")
        if "choices" not in chunk and isinstance(chunk.get("message"), str):  # an event of the kind "error"
            whole["error"] = chunk
        for part in mappings(chunk.get("choices")):
            if part.get("index") not in (0, None):
                continue
            whole["choices"] = [choice]
            if isinstance(part.get("message"), dict) and not part.get("delta"):  # all of it, whatever came before
                message.clear()
                message |= part["message"]
            _add(message, mapping(part.get("delta")))
            if part.get("usage"):  # as Kimi sends it
                whole["usage"] = part["usage"]
            if part.get("error"):
                choice["error"] = part["error"]
            if part.get("finish_reason") and _may_change(choice["finish_reason"]):
                choice["finish_reason"] = part["finish_reason"]
    whole[STREAM_ENDED] |= choice["finish_reason"] is not None
    if not whole[STREAM_ENDED] and not usage_is_final:
        whole.pop("usage", None)  # a count on the way, below what is charged
    if not whole["choices"] and "error" not in whole:
        raise ValueError("a stream without chunks of a completion")
    return whole


def _may_change(finish_reason: object) -> bool:
    """Whether another finish reason may follow: some gateways end every stream with "stop", also one that was cut."""
    return not isinstance(finish_reason, str) or ending_of(finish_reason) in ("complete", "unknown")


def _chunks(lines: list[str]) -> Iterator[dict[str, Any] | None]:
    """The JSON of each event up to the first that is damaged; None for the end of the stream."""
    for line in lines:
        data = line.removeprefix("data:").strip()
        if not line.startswith("data:") or not data:
            continue
        if data == END_OF_STREAM:
            yield None
            return
        try:
            chunk = DECODER.decode(data)
        except ValueError:
            if data[0] in "{[":  # cut off
                return
            continue  # as "ping"
        if isinstance(chunk, dict):
            yield chunk


def _add(message: dict[str, Any], delta: Mapping[str, Any]) -> None:
    """Append the texts, content parts and objects of a delta to those of the message."""
    for name, value in delta.items():
        before = message.get(name)
        if isinstance(before, str) and isinstance(value, str) and name not in ("role", "type"):
            message[name] = before + value
        elif isinstance(before, str | list) and isinstance(value, str | list) and name != "role":
            message[name] = _parts(before) + _parts(value)  # Mistral begins with parts and goes on with text
        elif isinstance(before, dict) and isinstance(value, dict):
            message[name] = dict(before)
            _add(message[name], value)
        elif value is not None:
            message[name] = value


def _parts(content: str | list[Any]) -> list[Any]:
    return content if isinstance(content, list) else [{"type": "text", "text": content}] if content else []
