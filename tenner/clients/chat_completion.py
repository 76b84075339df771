"""Parsing chat completions: every body, valid or not, has an outcome."""

from typing import Any

from tenner.clients.json_fields import mapping, mappings, text
from tenner.clients.protocol import Reply, Response
from tenner.clients.response_body import read_body
from tenner.clients.usage import charged_usd, chat_usage, claimed_usage

THINK_TAGS = (("<think>", "</think>"), ("[THINK]", "[/THINK]"))


def parse_completion(response: Response) -> Reply:
    """Parse the body of a chat completion; never raises.

    Reasoning is taken from `reasoning_details`, `reasoning_content`, `reasoning` or a think block in the content,
    in that order.
    """
    try:
        fields = read_body(response.body)
    except (ValueError, RecursionError):
        is_json = "json" in response.content_type
        return Reply("unreadable" if is_json else "wrong_content_type")
    if not isinstance(fields, dict):
        return Reply("unreadable")
    counts = mapping(fields.get("usage"))
    choices = fields.get("choices")
    if not isinstance(choices, list):
        return Reply("unreadable", usage=chat_usage(counts, text_chars=0))
    message = choices[0].get("message") if choices and isinstance(choices[0], dict) else None
    if not isinstance(message, dict):
        return Reply("empty", usage=chat_usage(counts, text_chars=0))
    finish_reason = text(choices[0].get("finish_reason")) or None
    thinking, answer = _thinking_and_answer(message)
    usage = chat_usage(counts, text_chars=len(thinking) + len(answer))
    parsed: dict[str, Any] = {"thinking": thinking, "answer": answer, "finish_reason": finish_reason, "usage": usage,
                              "charged_usd": charged_usd(counts), "claimed": claimed_usage(counts)}  # fmt: skip
    if finish_reason == "length":
        return Reply("truncated", **parsed)
    if finish_reason == "content_filter":
        return Reply("content_filter", **parsed)
    if not thinking and not answer:
        return Reply("empty", **parsed)
    return Reply("complete" if thinking else "no_reasoning", **parsed)


def _thinking_and_answer(message: dict[str, Any]) -> tuple[str, str]:
    content = text(message.get("content"))
    details = (text(d.get("text")) or text(d.get("summary")) for d in mappings(message.get("reasoning_details")))
    if thinking := "".join(details).strip():
        return thinking, content.strip()
    for name in ("reasoning_content", "reasoning"):
        if thinking := text(message.get(name)).strip():
            return thinking, content.strip()
    for opening, closing in THINK_TAGS:
        before, tag, rest = content.partition(opening)
        if tag and not before.strip():
            thinking, _, answer = rest.partition(closing)
            return thinking.strip(), answer.strip()
        thinking, tag, answer = content.partition(closing)
        if tag:  # the opening tag was part of the prompt
            return thinking.strip(), answer.strip()
    return "", content.strip()
