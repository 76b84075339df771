"""What a reply came to, judged by its finish reason, its thinking and its answer."""

import re
from typing import Any

from tenner.clients.control_tokens import damage_of
from tenner.clients.protocol import Reply
from tenner.clients.thinking import Thought
from tenner.core.finish_reasons import ending_of

NOTHING = re.compile(r"(?:[\s\u200b-\u200d\u2060\ufeff.…*_#$]|\\boxed\s*\{\s*\})*")
"""An answer that says nothing: of invisible characters, dots, Markdown or an empty box."""


def judge(thought: Thought, finish_reason: str | None, *, fields: str = "", **billed: Any) -> Reply:
    """The reply with its outcome, and the evidence for it where it is not complete.

    `fields` names the fields of the message, for a reply without thinking; `billed` are the further fields of `Reply`.
    """
    ending, (thinking, answer, is_summary) = ending_of(finish_reason), thought
    word = f"finish_reason is {finish_reason}" if finish_reason else "it has no finish_reason"

    def reply(outcome: Any, evidence: str | None = None) -> Reply:
        return Reply(outcome, thinking, answer, finish_reason, evidence=evidence, is_summary=is_summary, **billed)

    if ending == "cut":
        return reply("truncated", word)
    if ending == "refused":
        return reply("content_filter", word)
    if ending == "failed":
        return reply("interrupted", word)
    if NOTHING.fullmatch(answer):
        return reply("empty", "it has thinking and no answer" if thinking else "there is nothing in it")
    if ending == "tool_call":
        return reply("empty", f"{word}: its text is no answer")
    if ending == "unknown":
        return reply("unknown_finish", word)
    for name, said in (("thinking", thinking), ("answer", answer)):
        if found := damage_of(said):
            return reply("damaged", f"the {name} holds {found}")
    if not thinking:
        return reply("no_reasoning", fields or None)
    return reply("complete")
