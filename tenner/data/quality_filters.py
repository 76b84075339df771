"""Filters for questions and traces of low quality, applied by name in the order of the recipe.

To add one, write a function that returns the evidence against an item, or None, and add it to a table at the end.
"""

import re
import zlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from tenner.core.errors import TennerError
from tenner.core.records import Drop, Question, Trace
from tenner.core.suggest import did_you_mean

Item = TypeVar("Item", Question, Trace)

EVIDENCE_CHARS = 80
IMAGE = re.compile(
    r"<img\b|\\includegraphics|\[(?:image|figure|diagram|picture)\b"
    r"|\b(?:figure|diagram|picture|image|graph) (?:below|above|to the (?:right|left))\b"
    r"|\b(?:in|see|from) the (?:accompanying |following )?(?:figure|diagram|picture)\b|\bas shown (?:below|above)\b",
    re.IGNORECASE,
)
MARKDOWN_IMAGE, LINK = re.compile(r"!\[[^\]]*\]\("), re.compile(r"\]\(")
IMAGE_HINTS = ("![", "<img", "includegraphics", "[image", "[figure", "[diagram", "[picture", "figure", "diagram",
               "picture", "image", "graph", "shown")  # fmt: skip
S1_PAGE = re.compile(r"p[1-9]\d{0,2}\.")
BOLD = re.compile(r"\*\*([^\s\]]*)\*\*")
NUMBERED = re.compile(r"^\s*\(?(?:problem |question |exercise )?(?:\d{1,3}|[ivx]{2,5})\s*[.):]\s+\S", re.IGNORECASE)
API_ERROR = re.compile(
    r"\A\W*(?:(?:api|internal server|bad gateway|service unavailable|rate limit|request timed? ?out|connection)"
    r"(?: error| exceeded| reset)?|error code: \d{3}|http \d{3}|traceback \(most recent call last\)|null|none|nan)\b",
    re.IGNORECASE,
)
SCRIPTS = {
    "Han": re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff]"),
    "kana": re.compile(r"[\u3040-\u30ff]"),
    "Hangul": re.compile(r"[\uac00-\ud7af]"),
    "Cyrillic": re.compile(r"[\u0400-\u04ff]"),
    "Arabic": re.compile(r"[\u0600-\u06ff]"),
    "Devanagari": re.compile(r"[\u0900-\u097f]"),
    "Thai": re.compile(r"[\u0e00-\u0e7f]"),
}
FOREIGN_CHARS_MAX = 8  # a name, or a quoted word
LOOP_LINES, LOOP_CHARS_MIN = 8, 12  # so many equal lines, of at least so many characters each
LOOP_WINDOW_CHARS, LOOP_COMPRESSION = 4_000, 0.06  # prose compresses to about 0.4, careful algebra to 0.15


# -- questions -----------------------------------------------------------------------------------------------------


def images(q: Question) -> str | None:
    """It contains or mentions a picture, which a text model cannot see. As in s1, AIME may hold Asymptote source."""
    if "[asy]" in q.question and "aime" not in q.source.casefold():
        return "[asy]"
    text = q.question.casefold()
    if not any(hint in text for hint in IMAGE_HINTS):
        return None
    found = [m for m in (_markdown_image(q.question), IMAGE.search(q.question)) if m is not None]
    return _found(min(found, key=lambda m: m.start(), default=None))


def broken_numbering(q: Question) -> str | None:
    """It begins with a number, as part of a longer sheet."""
    return _found(NUMBERED.match(q.question))


def s1_patterns(q: Question) -> str | None:
    """The patterns that s1's notebook drops, exactly as there: pictures, page marks (`p12.`) and numbers in bold."""
    text = q.question
    if "[asy]" in text and "AIME" not in q.source:
        return "[asy]"
    if "![Image]" in text:
        return "![Image]"
    if "p" in text and (page := S1_PAGE.search(text)):
        return page[0]
    if "**" in text:
        return next((bold[0] for bold in BOLD.finditer(text) if any(map(str.isdigit, bold[1]))), None)
    return None


def no_answer(q: Question) -> str | None:
    """It has no reference answer, so that no trace of it can be verified."""
    return None if q.answer and q.answer.strip() else "no reference answer"


def api_errors(item: Question | Trace) -> str | None:
    """Its text is an error message of the program that fetched it."""
    text = item.question if isinstance(item, Question) else item.thinking or item.answer
    return _found(API_ERROR.match(text[:200]))


# -- traces --------------------------------------------------------------------------------------------------------


def no_final_answer(t: Trace) -> str | None:
    """The reply ends with its thinking, or its answer could not be read."""
    if not t.answer.strip():
        return "the reply ends with its thinking"
    return "no final answer is stated" if t.grade is not None and t.grade.verdict == "unparsed" else None


def truncated(t: Trace) -> str | None:
    """It was cut at the token limit."""
    return f"{t.usage.output_tokens or 'unknown'} output tokens" if t.outcome == "truncated" else None


def language_mixing(t: Trace) -> str | None:
    """It switches to a script that the question does not use."""
    text = t.thinking + t.answer
    if text.isascii():
        return None
    for name, script in SCRIPTS.items():
        found = script.findall(text)
        if len(found) > FOREIGN_CHARS_MAX and not script.search(t.question):
            first = script.search(text)
            assert first is not None
            return f"{len(found)} characters of {name}: {_shown(text[first.start() :])}"
    return None


def repetition(t: Trace) -> str | None:
    """It repeats itself: one line many times, or a window that compresses to almost nothing."""
    lines = Counter(line for line in map(str.strip, t.thinking.splitlines()) if len(line) >= LOOP_CHARS_MIN)
    if lines:
        line, count = lines.most_common(1)[0]
        if count >= LOOP_LINES:
            return f"{count} times {_shown(line)}"
    for start in range(0, max(1, len(t.thinking) - LOOP_WINDOW_CHARS // 2), LOOP_WINDOW_CHARS):
        window = t.thinking[start : start + LOOP_WINDOW_CHARS].encode()
        if len(window) >= LOOP_WINDOW_CHARS // 2 and len(zlib.compress(window, 1)) < LOOP_COMPRESSION * len(window):
            return f"a loop from character {start:,} on: {_shown(window.decode(errors='ignore'))}"
    return None


QUESTION_FILTERS: dict[str, Callable[[Question], str | None]] = {
    "api-errors": api_errors,
    "images": images,
    "broken-numbering": broken_numbering,
    "no-answer": no_answer,
    "s1-patterns": s1_patterns,
}
TRACE_FILTERS: dict[str, Callable[[Trace], str | None]] = {
    "api-errors": api_errors,
    "no-final-answer": no_final_answer,
    "language-mixing": language_mixing,
    "repetition": repetition,
    "truncated": truncated,
}


def check(names: Sequence[str], known: Mapping[str, object], where: str) -> None:
    """Raise TennerError for an unknown filter; `where` is the setting of the recipe that names it."""
    for name in names:
        if name not in known:
            raise TennerError(f"{where}: no filter is called {name}", hint=did_you_mean(name, known))


def apply(
    items: Sequence[Item], names: Sequence[str], filters: Mapping[str, Callable[[Item], str | None]]
) -> tuple[list[Item], list[Drop]]:
    """The items that pass all named filters, and those that do not, with the first filter that they fail."""
    kept, dropped = [], []
    for item in items:
        for name in names:
            if (evidence := filters[name](item)) is not None:
                dropped.append(Drop(id=item.id, reason=name.replace("-", " "), evidence=evidence))
                break
        else:
            kept.append(item)
    return kept, dropped


def _markdown_image(text: str) -> re.Match[str] | None:
    """The first `![…](`, in time that is linear in the text: a pattern of it begins anew at every `![`."""
    for end in LINK.finditer(text):
        start = text.find("![", text.rfind("]", 0, end.start()) + 1, end.start())
        if start >= 0:
            return MARKDOWN_IMAGE.match(text, start)
    return None


def _found(match: re.Match[str] | None) -> str | None:
    return None if match is None else _shown(match[0])


def _shown(text: str) -> str:
    text = " ".join(text.split())
    return f"“{text[:EVIDENCE_CHARS]}…”" if len(text) > EVIDENCE_CHARS else f"“{text}”"
