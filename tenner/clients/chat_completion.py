"""Parsing chat completions: every body, valid or not, has an outcome."""

from tenner.clients.json_fields import mapping, text
from tenner.clients.protocol import Reply, Response
from tenner.clients.reply_outcome import judge
from tenner.clients.response_body import STREAM_ENDED, read_body
from tenner.clients.thinking import find_thinking
from tenner.clients.usage import charged_usd, chat_usage, claimed_usage


def parse_completion(response: Response) -> Reply:
    """Parse the body of a chat completion; never raises. See `thinking.find_thinking` for where the thinking is."""
    try:
        fields = read_body(response.body)
    except (ValueError, RecursionError):
        is_json = "json" in response.content_type
        return Reply("unreadable" if is_json else "wrong_content_type")
    if not isinstance(fields, dict):
        return Reply("unreadable")
    counts = mapping(fields.get("usage"))
    charged, claimed = charged_usd(counts), claimed_usage(counts)
    choices = fields.get("choices")
    if not isinstance(choices, list):
        return Reply("unreadable", usage=chat_usage(counts, text_chars=0), charged_usd=charged, claimed=claimed)
    message = choices[0].get("message") if choices and isinstance(choices[0], dict) else None
    if not isinstance(message, dict):
        usage = chat_usage(counts, text_chars=0)
        return Reply("empty", usage=usage, charged_usd=charged, claimed=claimed, evidence="it has no message")
    finish_reason = text(choices[0].get("finish_reason")) or text(choices[0].get("native_finish_reason")) or None
    thought = find_thinking(message, choices[0])
    usage = chat_usage(counts, text_chars=len(thought.thinking) + len(thought.answer))
    if fields.get(STREAM_ENDED) is False:
        return Reply(
            "interrupted", *thought[:2], finish_reason, usage, charged, claimed, evidence="the stream broke off",
            is_summary=thought.is_summary,
        )  # fmt: skip
    if refusal := text(message.get("refusal")):
        return Reply(
            "content_filter", *thought[:2], finish_reason, usage, charged, claimed, evidence=f"refusal: {refusal}"
        )
    names = ", ".join(sorted(name for name, value in message.items() if value not in (None, "", [])))
    return judge(
        thought, finish_reason, fields=f"the fields {names}", usage=usage, charged_usd=charged, claimed=claimed
    )
