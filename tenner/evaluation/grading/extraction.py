"""Which text of a response is its answer: the last box, else the answer that it states, else none."""

import re
from typing import NamedTuple

RESPONSE_CHARS_MAX = 1_000_000
"""Of a longer response only the end is looked at: an answer stands there."""

THINKING_ENDS = ("</think>", "<|im_start|>answer", "<|channel|>final<|message|>", "<channel|>", "[/THINK]")
THINKING_BEGINS = ("<think>", "<|im_start|>think", "<|channel|>analysis<|message|>", "<|channel>", "[THINK]")
STOPS = ("<|im_end|>", "<|endoftext|>", "<|return|>", "<|eot_id|>", "</s>")

BOX = re.compile(r"\\f?boxed\s*(?=[{\w\\])")
BETWEEN_BOXES = re.compile(
    r"[\s$.\\()\[\]]*(?:,|;|&|and\b|or\b|\\text\{ *(?:and|or) *\}|\\quad)[\s$\\()\[\]]*(?:and\b|or\b)?[\s$]*"
)
CUE = re.compile(
    r"(?:(?:\bfinal\s+)?\banswer(?:\s+to\b[^.\n]{1,60}?)?\s*"
    r"(?:is|should be|would be|equals|was|be|=|:|\*{1,2}\s*:|:\s*\*{1,2}|\*{1,2}\s*is)"
    r"(?!\w)(?:\s+(?:therefore|thus|simply|then)\b)?"
    r"|\bfinal\s+answer\b\**|^[ \t]*####(?!#))\s*:?\s*",
    re.IGNORECASE | re.MULTILINE,
)
AFTER = re.compile(
    r"(?<=[^.])\.(?=\s|$)|[!?;](?=\s)(?![^$]*\$)|,?\s+\(?\b(?:because|since|as|so|which|where|when|if)\b", re.IGNORECASE
)
LABEL = re.compile(r"^(?:(?:the\s+)?(?:correct\s+)?(?:option|choice|answer)\s*:?\s+)", re.IGNORECASE)
STATEMENT_CHARS_MAX = 4_000


class Stated(NamedTuple):
    """An answer as it stands in a response, and where it was found."""

    text: str
    place: str
    """`box`, `statement` (after "answer is", say) or `bare`: the response is nothing but an answer."""


def answer_part(response: str) -> str:
    """What comes after the thinking; nothing where the thinking does not end."""
    text = response[-RESPONSE_CHARS_MAX:]
    for stop in STOPS:
        text = text.removesuffix(stop)
    end, mark = max((text.rfind(mark), mark) for mark in THINKING_ENDS)
    text = text[end + len(mark) :] if end >= 0 else text
    return "" if any(mark in text for mark in THINKING_BEGINS) else text


def stated_answers(response: str) -> list[Stated]:
    """What may be the answer, the likeliest first. Nothing where the last box is not closed.

    Boxes that follow each other as a list (`\\boxed{1}, \\boxed{2}`) are the parts of one answer.
    """
    text = answer_part(response)
    boxes = _boxes(text)
    if boxes and boxes[-1].content is None:
        return []
    found = []
    if boxes:
        found.append(Stated(_joined(text, boxes), "box"))
    if cues := list(CUE.finditer(text)):
        if statement := _statement(text[cues[-1].end() :]):
            found.append(Stated(statement, "statement"))
    elif not boxes and len(lines := text.strip().splitlines()) == 1:
        found.append(Stated(lines[0].strip(), "bare"))
    return [s for s in found if unboxed(s.text).strip("*`$ .\t")]


def unboxed(text: str) -> str:
    """The text without a box around all of it, or what its last box holds."""
    boxes = _boxes(text)
    return text if not boxes or boxes[-1].content is None else _joined(text, boxes)


def shortened(statement: str) -> str:
    """A statement up to where its sentence ends or goes on to give reasons."""
    if len(statement) > STATEMENT_CHARS_MAX:
        return statement
    end = AFTER.search(statement)
    return LABEL.sub("", statement[: end.start()] if end else statement).strip()


class _Box(NamedTuple):
    start: int
    end: int
    content: str | None


def _boxes(text: str) -> list[_Box]:
    """All outermost boxes; only the last may be without an end, as it swallows what follows."""
    found, at = [], 0
    while match := BOX.search(text, at):
        content, at = _content(text, match.end())
        found.append(_Box(match.start(), at, content))
    return found


def _content(text: str, at: int) -> tuple[str | None, int]:
    """What the box holds whose inside begins at `at`, by counting braces, and where it ends."""
    if text[at] != "{":  # \boxed 7 and \boxed\pi hold one token
        token = re.compile(r"\\[A-Za-z]+|[^\W_]+").match(text, at)
        return (token[0], token.end()) if token else (None, len(text))
    depth = 0
    for brace in re.compile(r"\\.|[{}]", re.DOTALL).finditer(text, at):
        depth += {"{": 1, "}": -1}.get(brace[0], 0)
        if depth == 0:
            return text[at + 1 : brace.start()], brace.end()
    return None, len(text)


def _joined(text: str, boxes: list[_Box]) -> str:
    """The content of the last box, with those before it that belong to the same list."""
    parts = [boxes[-1].content or ""]
    for before, after in zip(reversed(boxes[:-1]), reversed(boxes), strict=False):
        if before.content is None or not BETWEEN_BOXES.fullmatch(text, before.end, after.start):
            break
        parts.insert(0, before.content)
    nested = ", ".join(parts)
    return unboxed(nested) if BOX.search(nested) and len(parts) == 1 else nested


def _statement(text: str) -> str:
    """The first line that says something; or a formula that goes over several lines."""
    text = text.lstrip("*`_: \t\r\n")
    for begin, end in (("\\[", "\\]"), ("$$", "$$"), ("\\(", "\\)"), ("\\begin{", "\\end{")):
        close = text.find(end, len(begin)) if text.startswith(begin) else -1
        if close >= 0 and "\n" in text[:close]:
            behind = text[close:].partition("\n")[0] if begin == "\\begin{" else ""
            return " ".join((text[len(begin) * (not behind) : close] + behind).split())
    line = next((line.strip("*`_ \t") for line in text.splitlines() if line.strip("*`_:#$ \t\\[](){}")), "")
    return line[:-1] if line.endswith("}") and line.count("}") > line.count("{") else line  # \textbf{Answer: 7}
