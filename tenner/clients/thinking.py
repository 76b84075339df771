"""Finds the thinking and the answer in a chat message, in whichever of its fields or marked by whatever tags."""

import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from tenner.clients.control_tokens import (
    CLOSING_TAG,
    LEADING_OPEN,
    OPENING_TAG,
    clean_answer,
    clean_thinking,
    without_end_tokens,
)
from tenner.clients.json_fields import mapping, mappings, text

RAW_FIELDS = (
    "reasoning_content", "reasoning", "reasoning_text", "thinking", "thinking_content", "thoughts", "thought",
    "chain_of_thought",
)  # fmt: skip
"""Fields of a message that hold raw thinking: DeepSeek and Qwen, vLLM and OpenRouter, Copilot, Ollama, gateways."""
THINKING_PARTS = ("thinking", "reasoning", "thought", "reasoning_text", "reasoning.text", "reasoning_content")
"""Types of content parts that hold thinking: Anthropic and Mistral, the responses protocol, gateways."""
PART_TEXTS = ("thinking", "reasoning", "text", "content", "reasoningText")
"""Where such a part holds its text, as text, as parts again or as an object with `text`."""
OPENING = re.compile(OPENING_TAG, re.IGNORECASE)
CLOSING = re.compile(CLOSING_TAG, re.IGNORECASE)
WRAPPED_ANSWER = re.compile(
    r"\A\s*(?:<\|(?:begin_of_solution|START_RESPONSE|START_TEXT)\|>(?P<marked>.*?)"
    r"(?:<\|(?:end_of_solution|END_RESPONSE|END_TEXT)\|>\s*)?"
    r"|<(?P<tag>answer|response|solution|final|final_answer|output)>(?P<tagged>(?:(?!</?(?P=tag)>).)*)</(?P=tag)>\s*)\Z",
    re.DOTALL | re.IGNORECASE,
)
"""The answer as Sky-T1 and Command A mark it, or Hunyuan, ERNIE and Granite, beside the thinking."""
HARMONY_MESSAGE = re.compile(
    r"<\|channel\|>\s*(?P<channel>\w+)\s*(?:<\|constrain\|>\s*\w+\s*)?<\|message\|>(?P<text>.*?)"
    r"(?=<\|(?:end|return|call|start|channel)\|>|\Z)",
    re.DOTALL,
)
"""A message to the user or to the model itself; the header of one to a tool has ` to=` and the tool's name."""
HARMONY_MARKS = re.compile(r"(?:<\|(?:end|return)\|>|<\|start\|>\s*assistant|\s)*\Z")
HARMONY_BARE = re.compile(r"\A\s*analysis(?=[A-Z\d\"'(\\$])(.*?)assistant\s?final(.*)\Z", re.DOTALL)
"""The same where the server left out the special tokens and kept the words between them."""
HARMONY_BARE_HEADER = re.compile(r"assistant\s?(?:commentary|analysis|final)")
GEMMA_CHANNEL = re.compile(r"\A\s*<\|channel>\s*thought\b\s*(.*?)(?:<channel\|>(.*))?\Z", re.DOTALL)
OTHER_BLOCK = re.compile(
    r"\A\s*(?:<(?P<tag>analysis|scratchpad|reason|cot|inner_monologue|inner_thoughts|reflection)>(?P<a>.*?)</(?P=tag)>"
    r"|<unused94>\s*thought\b(?P<b>.*?)<unused95>|<\|inner_prefix\|>(?P<c>.*?)<\|inner_suffix\|>"
    r"|<details type=\"reasoning\"[^<>]*>(?:\s*<summary>[^<>]*</summary>)?(?P<d>.*?)</details>)(?P<answer>.*)\Z",
    re.DOTALL | re.IGNORECASE,
)
"""Blocks that mark thinking at the beginning of a reply, and ordinary text elsewhere: those that prompts ask for,
MedGemma's, Apertus', Open WebUI's.
"""
WORDED = re.compile(
    r"\A\s*(?:Here is my thought process:(?P<a>.*?)Here is my response:"
    r"|Here are my reasoning steps:(?P<b>.*?)\[BEGIN FINAL RESPONSE\]"
    r"|<\|im_start\|>think\n(?P<c>.*?)<\|im_start\|>answer\n)(?P<answer>.*)\Z",
    re.DOTALL,
)
"""Granite's, Apriel's and s1's ways to part the two."""
LEADING_ROLE = re.compile(
    r"[\s\u200b\ufeff]*(?:<\|im_start\|>\s*assistant\n|<\uff5cAssistant\uff5c>|<\|assistant\|>"
    r"|<\|start_header_id\|>assistant<\|end_header_id\|>|<\|Assistant\|>|<start_of_turn>model\n)?[\s\u200b\ufeff]*"
)
"""What may stand before an opening tag: invisible characters, and the header of the turn."""


class Thought(NamedTuple):
    """The thinking and the answer of a message, stripped."""

    thinking: str
    answer: str
    is_summary: bool = False
    """The thinking is one that the provider marks as a summary."""


def find_thinking(message: Mapping[str, Any], beside: Mapping[str, Any] | None = None) -> Thought:
    """The thinking and the answer of a message; `beside` are further fields, those of its choice.

    Raw thinking comes before a summary: `reasoning_details` with text, the fields of `RAW_FIELDS`, LiteLLM's
    `thinking_blocks`, content parts, the same in `provider_specific_fields`, what is marked in the content itself, and
    last what is only a summary. Tags around the thinking and end tokens behind it are no part of it.
    """
    content = _answer_in(message.get("content"))
    extra = mapping(message.get("provider_specific_fields")) or mapping(mapping(beside).get("provider_specific_fields"))
    for fields in (message, extra):
        if thinking := _raw_in(fields):
            return _separate(thinking, content)
    if thinking := _thinking_in_parts(message.get("content")):
        return _separate(thinking, content)
    marked = _marked(content)
    if marked.thinking:
        return marked
    for fields in (message, extra):
        if summary := _summary_in(fields):
            return _separate(summary, content, is_summary=True)
    return marked


def _separate(thinking: str, content: str, *, is_summary: bool = False) -> Thought:
    """Thinking from a field of its own, cleaned. A server that did not part the two has put all of it into the one."""
    if (channel := _in_channels(thinking)) is not None and not channel.answer:
        thinking = channel.thinking
    thinking = clean_thinking(thinking).strip()
    if not content.strip() and (close := CLOSING.search(thinking)):
        return Thought(thinking[: close.start()].strip(), _cleaned(thinking[close.end() :], thinking), is_summary)
    marked = _in_channels(content)
    if marked is not None and marked.thinking.split() in ([], thinking.split()):
        content = marked.answer
    return Thought(thinking, _cleaned(content, thinking), is_summary)


def _cleaned(answer: str, thinking: str) -> str:
    answer = clean_answer(answer, thinking)
    wrapped = WRAPPED_ANSWER.match(answer)
    return (answer if wrapped is None else wrapped["marked"] or wrapped["tagged"] or "").strip()


# -- fields --------------------------------------------------------------------------------------------------------


def _raw_in(fields: Mapping[str, Any]) -> str:
    details = mappings(fields.get("reasoning_details"))
    if any(text(d.get("text")).strip() for d in details):
        return "".join(text(d.get("text")) or text(d.get("summary")) for d in details)
    for name in RAW_FIELDS:
        value = fields.get(name)
        thinking = text(value) or text(mapping(value).get("text")) or text(mapping(value).get("content"))
        if thinking.strip() or (thinking := _thinking_in_parts([value] if isinstance(value, dict) else value)).strip():
            return thinking
    return _thinking_in_parts(fields.get("thinking_blocks"))


def _summary_in(fields: Mapping[str, Any]) -> str:
    summary = "".join(text(d.get("summary")) for d in mappings(fields.get("reasoning_details")))
    return summary.strip() or text(fields.get("reasoning_summary")).strip()


# -- content parts -------------------------------------------------------------------------------------------------


def _is_thinking(part: Mapping[str, Any]) -> bool:
    return part.get("type") in THINKING_PARTS or part.get("thought") is True or "reasoningContent" in part


def _thinking_in_parts(value: object) -> str:
    """The thinking in content parts, put together."""
    return "".join(_part_text(part) for part in mappings(value) if _is_thinking(part)).strip()


def _part_text(part: Mapping[str, Any]) -> str:
    part = mapping(part.get("reasoningContent")) or part
    for name in PART_TEXTS:
        value = part.get(name)
        if found := text(value) or text(mapping(value).get("text")):
            return found
    return ""


def _answer_in(content: object) -> str:
    """The content but for the parts that are thinking."""
    if isinstance(content, list):
        content = [part for part in content if not _is_thinking(mapping(part))]
    return text(content)


# -- marks in the content ------------------------------------------------------------------------------------------


def _marked(content: str) -> Thought:
    """Thinking that is marked in the content, by channels or tags; without an opening tag where the prompt held it,
    without a closing one where it was cut.
    """
    if (channels := _in_channels(content)) is not None:
        return channels
    if block := WORDED.match(content) or OTHER_BLOCK.match(content):
        thinking = next(said for name, said in block.groupdict().items() if len(name) == 1 and said is not None).strip()
        return Thought(thinking, _cleaned(block["answer"], thinking))
    opening, closing = OPENING.search(content), CLOSING.search(content)
    if opening and LEADING_ROLE.fullmatch(content[: opening.start()]):
        closing = CLOSING.search(content, opening.end())
        if closing is None:
            return Thought(without_end_tokens(content[opening.end() :]).strip(), "")
    elif opening or not closing:
        return Thought("", _cleaned(content, ""))
    begin = opening.end() if opening else 0
    thinking = LEADING_OPEN.sub("", content[begin : closing.start()]).strip()
    return Thought(thinking, _cleaned(content[closing.end() :], thinking))


def _in_channels(content: str) -> Thought | None:
    """The parts of a message in harmony (gpt-oss) or in Gemma's channels; None where there are none.

    Harmony's thinking is what is in the channel `analysis`, its answer what is in `final`. A message in `commentary` is
    neither: it calls a tool, or tells the user that one will be called. Such a reply is left as it is, and so is one
    with a message to a tool in `analysis`; its control tokens make it a damaged one.
    """
    if (bare := HARMONY_BARE.match(content)) and not any(map(HARMONY_BARE_HEADER.search, bare.groups())):
        return Thought(bare[1].strip(), without_end_tokens(bare[2]).strip())
    if gemma := GEMMA_CHANNEL.match(content):
        return Thought(gemma[1].strip(), without_end_tokens(gemma[2] or "").strip())
    found = list(HARMONY_MESSAGE.finditer(content))
    if not found or content[: found[0].start()].strip() not in ("", "<|start|>assistant"):
        return None
    between = [content[a.end() : b.start()] for a, b in pairwise(found)]
    known = all(m["channel"] in ("analysis", "final") for m in found)
    if not known or not all(map(HARMONY_MARKS.fullmatch, [*between, content[found[-1].end() :]])):
        return None
    return Thought(_of_channel(found, "analysis"), _of_channel(found, "final"))


def _of_channel(messages: Sequence[re.Match[str]], channel: str) -> str:
    return "\n\n".join(m["text"].strip() for m in messages if m["channel"] == channel)
