"""Samples as chats for other trainers, with the thinking inside the assistant's `content`.

Most chat templates ignore `reasoning_content`: a trainer that is given it trains on the answer alone, without a word.
"""

import re
from collections.abc import Callable
from typing import Any

from tenner.core.errors import TennerError
from tenner.core.formats import FORMATS, ThinkFormat
from tenner.core.records import Sample
from tenner.core.terminal import HALF_A_CHARACTER

Write = Callable[[Sample], str]
"""An assistant's turn as text."""


def in_tags(tags: str) -> Write:
    """Thinking between tags, and the answer behind them. `tags` is `<think>`, or an opening and a closing tag.

    Raises TennerError for anything else.
    """
    words = tags.split()
    if len(words) == 1 and (name := re.fullmatch(r"<([^<>/\s]+)>", words[0])):
        words.append(f"</{name[1]}>")
    if len(words) != 2 or HALF_A_CHARACTER.search(tags):
        raise TennerError(
            f"--think-tags {tags!r} is neither a tag nor an opening and a closing one",
            hint="write --think-tags '<think>', or --think-tags '<|begin_of_thought|> <|end_of_thought|>'",
        )
    opening, closing = words
    if opening == closing:
        raise TennerError(f"--think-tags {tags!r} opens and closes the thinking with the same tag")

    def write(sample: Sample) -> str:
        if found := next((tag for tag in words if tag in sample.thinking), None):
            raise TennerError(
                f"the thinking of sample {sample.id} contains {found} itself", hint="choose other --think-tags"
            )
        return f"{opening}\n{sample.thinking}\n{closing}\n\n{sample.answer}"

    return write


def in_format(fmt: ThinkFormat) -> Write:
    """The turn as tenner trains on it in a think format, delimiters and cue included."""
    return lambda sample: "".join(fmt.trained_segments(sample.thinking, sample.answer))


def row(sample: Sample, write: Write, *, system_prompt: str | None = None) -> dict[str, Any]:
    """A line of the file: the ids and `messages`, of which each has `role` and `content` and nothing else."""
    turns = [("user", sample.question), ("assistant", write(sample))]
    if system_prompt is not None:
        turns.insert(0, ("system", system_prompt))
    messages = [{"role": role, "content": content} for role, content in turns]
    return {"id": sample.id, "question_id": sample.question_id, "messages": messages}


USUAL = in_tags(FORMATS["think"].open.strip())
"""Of traces without a run, which have no think format of their own."""
