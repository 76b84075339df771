"""Answers compared as text: the same but for case, spacing and dressing; the demo's strictness."""

import re

INTEGER = re.compile(r"(-?)([0-9]+|[0-9]{1,3}(?:,[0-9]{3})+)")
BOXED = re.compile(r"\\boxed ?\{((?:[^{}]|\{[^{}]*\})*)\}")
MARKDOWN = "*` "
QUOTES = {'"': '"', "'": "'", "“": "”", "‘": "’", "«": "»"}  # noqa: RUF001


def same_answer(a: str, b: str) -> bool:
    """Whether two answers are the same integer, or the same text but for case, spacing and dressing. Symmetric."""
    bare_a, bare_b = bare(first_line(a)), bare(first_line(b))
    if _compact(bare_a) == _compact(bare_b):
        return True
    # Read before spaces are dropped: "1,234" may be a number, "1, 234" is two.
    integer_a = _integer(bare_a)
    return integer_a is not None and integer_a == _integer(bare_b)


def first_line(text: str) -> str:
    """The first line of a text that is not empty."""
    return next(iter(text.strip().splitlines()), "").strip()


def bare(text: str) -> str:
    """The answer without case, runs of whitespace, and whatever dresses it, however deep: **"\\boxed{42}."** is 42."""
    text = " ".join(text.casefold().split())
    while (inner := _undress(text)) != text:
        text = inner
    return text


def _undress(text: str) -> str:
    text = text.strip(MARKDOWN).rstrip(".").rstrip()
    if boxed := BOXED.fullmatch(text):
        return boxed[1]
    if len(text) > 1 and QUOTES.get(text[0]) == text[-1]:
        return text[1:-1]
    return text


def _compact(bare: str) -> str:
    """Drop the spaces that carry no meaning: after a comma, and just inside brackets."""
    return re.sub(r"(?<=[,(\[{]) | (?=[)\]}])", "", bare)


def _integer(bare: str) -> str | None:
    """The canonical digits of an integer, None for anything else. A string, as `int` refuses more than 4,300 digits."""
    match = INTEGER.fullmatch(bare)
    if match is None:
        return None
    digits = match[2].replace(",", "").lstrip("0") or "0"
    return digits if digits == "0" else match[1] + digits
