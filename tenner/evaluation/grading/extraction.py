"""Which text of a response is its answer: the last box, else the answer that it states, else none."""

import json
import re
from typing import NamedTuple

from tenner.evaluation.grading.characters import as_ascii
from tenner.evaluation.grading.cues import ANSWER_FIELD, ANSWER_TAG, POLITE_ENDING, REASON, cue_for
from tenner.evaluation.grading.decoration import PICTURES

RESPONSE_CHARS_MAX = 1_000_000
"""Of a longer response only the end is looked at: an answer stands there."""

THINKING_ENDS = ("</think>", "<|im_start|>answer", "<|channel|>final<|message|>", "<channel|>", "[/THINK]")
THINKING_BEGINS = (
    "<think>", "<|im_start|>think", "<|channel|>analysis<|message|>", "<|channel|>commentary", "<|channel>", "[THINK]",
)  # fmt: skip
"""Also what comes before an answer and is none: harmony's messages to tools, and those that announce them."""
END_OF_TEXT = re.compile(
    r"(?:\s*(?:<[|\uff5c](?:im_end|endoftext|end_of_text|return|eot_id|eom_id|eos|end|end_of_turn|endofturn|endofresponse"
    r"|END_OF_TURN_TOKEN|end[_\u2581]of[_\u2581]sentence)[|\uff5c]>|</s>|<eos>|<end_of_turn>|<turn\|>|\[EOS\]))+\s*\Z"
)
"""Tokens that end a turn, where a server left them in the text."""

BOX = re.compile(r"\\f?boxed\s*(?=[{\w\\])")
BETWEEN_BOXES = re.compile(
    r"[\s$.\\()\[\]]*(?:,|;|&|and\b|or\b|和|或|与|與|と|와|\u0438(?:\u043b\u0438)?\b"
    r"|(?:\\q?quad\s*)?\\text\{ *(?:and|or) *\}(?:\s*\\q?quad)?|\\quad)"
    r"[\s$\\()\[\]]*(?:and\b|or\b)?[\s$]*"
)
LABEL = re.compile(r"^(?:(?:the\s+)?(?:correct\s+)?(?:option|choice|answer)\s*:?\s+)", re.IGNORECASE)
STATEMENT_CHARS_MAX = 4_000
TAIL_CHARS = 400
BRACE = re.compile(r"\\.|[{}]", re.DOTALL)
ONE_TOKEN = re.compile(r"\\[A-Za-z]+|[^\W_]+")
TEXT_LABEL = re.compile(r"\s*\\(?:text|textbf|textrm|mathrm|mbox)\s*\{(?P<label>[^{}]*)\}")

CODE_BLOCK = re.compile(r"^```\w*\n(.*)\n```$")
"""A response that is one line of code, in its fence."""
ARTICLES = re.compile(r"\s*(?:(?:so|thus|therefore|hence|the|our|my),?\s+)*", re.IGNORECASE)


class Stated(NamedTuple):
    """An answer as it stands in a response, and where it was found."""

    text: str
    place: str
    """`box`, `statement` (after "answer is", say) or `bare`: the response is nothing but an answer."""


def answer_part(response: str) -> str:
    """What comes after the thinking; nothing where the thinking does not end."""
    text = response[-RESPONSE_CHARS_MAX:]
    tail = text[-TAIL_CHARS:]
    text = text[: len(text) - len(tail)] + END_OF_TEXT.sub("", tail)
    end, mark = max((text.rfind(mark), mark) for mark in THINKING_ENDS)
    text = text[end + len(mark) :] if end >= 0 else text
    return "" if any(mark in text for mark in THINKING_BEGINS) else text


def stated_answers(response: str) -> list[Stated]:
    """What may be the answer, the likeliest first. Nothing where the last box is not closed.

    Boxes that follow each other as a list (`\\boxed{1}, \\boxed{2}`) are the parts of one answer.
    """
    text = as_ascii(answer_part(response))
    boxes = _Boxes(text)
    if boxes.break_off():
        return []
    found = []
    if (boxed := boxes.last()) is not None:
        found.append(Stated(_unlabelled(boxed), "box"))
    if (marked := _marked(text)) is not None:
        place = 0 if boxes.end() <= marked.start else len(found)  # tags behind the last box are the last word
        found.insert(place, Stated(marked.text, "statement"))
    elif cues := list(cue_for(text).finditer(text)):
        if statement := _statement(text[cues[-1].end() :]):
            found.append(Stated(POLITE_ENDING.sub("", statement), "statement"))
    elif boxed is None and len(lines := CODE_BLOCK.sub(r"\1", text.strip()).splitlines()) == 1:
        found.append(Stated(lines[0].strip(), "bare"))
    return [s for s in found if unboxed(s.text).strip("*`$ .\t")]


def unboxed(text: str) -> str:
    """The text without a box around all of it, or what its last box holds."""
    content = _Boxes(text).last()
    return text if content is None else content


class _Marked(NamedTuple):
    """An answer in tags or in a field, and the place where it begins."""

    text: str
    start: int


def _marked(text: str) -> _Marked | None:
    """The last answer in `<answer>` tags, or in the field "answer" of a JSON object; None if there is none."""
    if "answer" not in text and "Answer" not in text:
        return None
    if tags := list(ANSWER_TAG.finditer(text)):
        content: str = tags[-1]["content"].strip()
        return _Marked(unboxed(content), tags[-1].start()) if content and "\n" not in content else None
    if fields := list(ANSWER_FIELD.finditer(text)):
        field: str = fields[-1][1]
        try:
            found = str(json.loads(field)) if field.startswith('"') else field
        except ValueError:  # an escape that JSON does not know: LaTeX that was not escaped
            found = field[1:-1]
        return _Marked(found, fields[-1].start())
    return None


def _unlabelled(content: str) -> str:
    """The content of a box without a cue in front of it: `\\boxed{\\text{Answer: } 11}` says 11."""
    in_text = TEXT_LABEL.match(content)
    labelled = in_text["label"] if in_text else content
    if in_text is not None and content[in_text.end() :].lstrip().startswith((":", "=")):
        labelled += ":"  # \\text{Answer}: 11
    begin = ARTICLES.match(labelled)
    cue = cue_for(content).match(labelled, begin.end() if begin else 0)
    if cue is None:
        return content
    rest = labelled[cue.end() :] + (content[in_text.end() :] if in_text else "")
    return rest.strip().lstrip(":= ") or content


def shortened(statement: str) -> str:
    """A statement up to where its sentence ends or goes on to give reasons."""
    if len(statement) > STATEMENT_CHARS_MAX:
        return statement
    end = REASON.search(statement)
    return LABEL.sub("", statement[: end.start()] if end else statement).strip()


class _Box(NamedTuple):
    """A box by the place of its command, of its content, and of what follows it."""

    start: int
    content_start: int
    content_end: int
    end: int


class _Boxes:
    """The boxes of a text, nested to any depth; braces are matched once, so that the time is linear."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._closing = _closing_braces(text) if BOX.search(text) else {}
        self._outermost, self._breaks_off = self._find(0, len(text))

    def break_off(self) -> bool:
        """Whether the last box is not closed: it swallows what follows."""
        return self._breaks_off

    def end(self) -> int:
        """The place behind the last box; 0 without one."""
        return self._outermost[-1].end if self._outermost else 0

    def last(self) -> str | None:
        """The content of the last box, with those before it that belong to the same list; None without a box.

        A box that holds a box stands for the inner one.
        """
        filled = [box for box in self._outermost if self._content(box).strip()]  # "it goes into \\boxed{}"
        boxes, breaks_off, content = filled or self._outermost, self._breaks_off, None
        while boxes and not breaks_off:
            parts = self._list(boxes)
            content = ", ".join(parts)
            if len(parts) > 1:
                return content
            boxes, breaks_off = self._find(boxes[-1].content_start, boxes[-1].content_end)
        return content

    def _find(self, start: int, end: int) -> tuple[list[_Box], bool]:
        """All outermost boxes between two places, and whether one more follows that is not closed."""
        found: list[_Box] = []
        at = start
        while match := BOX.search(self._text, at, end):
            inside = match.end()
            if self._text[inside] == "{":
                close = self._closing.get(inside)
                if close is None or close >= end:
                    return found, True
                box = _Box(match.start(), inside + 1, close, close + 1)
            else:  # \boxed 7 and \boxed\pi hold one token
                token = ONE_TOKEN.match(self._text, inside, end)
                if token is None:
                    return found, True
                box = _Box(match.start(), inside, token.end(), token.end())
            found.append(box)
            at = box.end
        return found, False

    def _list(self, boxes: list[_Box]) -> list[str]:
        """The contents of the boxes at the end that make one list."""
        parts = [self._content(boxes[-1])]
        for before, after in zip(reversed(boxes[:-1]), reversed(boxes), strict=False):
            if not BETWEEN_BOXES.fullmatch(self._text, before.end, after.start):
                break
            parts.insert(0, self._content(before))
        return parts

    def _content(self, box: _Box) -> str:
        return self._text[box.content_start : box.content_end]


def _closing_braces(text: str) -> dict[int, int]:
    """The place of the brace that closes each opening brace. Those without one are left out."""
    opened: list[int] = []
    closing: dict[int, int] = {}
    for brace in BRACE.finditer(text):
        if brace[0] == "{":
            opened.append(brace.start())
        elif brace[0] == "}" and opened:
            closing[opened.pop()] = brace.start()
    return closing


def _statement(text: str) -> str:
    """The first line that says something; or a formula that goes over several lines."""
    text = text.lstrip("*`_: \t\r\n")
    for begin, end in (("\\[", "\\]"), ("$$", "$$"), ("\\(", "\\)"), ("\\begin{", "\\end{")):
        close = text.find(end, len(begin)) if text.startswith(begin) else -1
        if close >= 0 and "\n" in text[:close]:
            behind = text[close:].partition("\n")[0] if begin == "\\begin{" else ""
            return " ".join((text[len(begin) * (not behind) : close] + behind).split())
    line = next((line.strip("*`_ \t") for line in text.splitlines() if line.strip("*`_:#$ \t\\[](){}")), "")
    line = line.rstrip(f"{PICTURES}*`_ \t")
    return line[:-1] if line.endswith("}") and line.count("}") > line.count("{") else line  # \textbf{Answer: 7}
