"""Answers to multiple choice: one letter or none, never a default; and sets of letters where several are right."""

import re

LETTER = r"\(?\s*(?P<letter>[A-Z])\s*\)?"
ALONE = re.compile(rf"{LETTER}\.?", re.IGNORECASE)
LABELLED = re.compile(
    rf"(?:{LETTER}\s*(?:[:.\u2013\u2014]|-\s)|\(\s*(?P<bracketed>[A-Z])\s*\)|(?P<closed>[A-Z])\))\s*\S.*", re.DOTALL
)
REASONED = re.compile(
    rf"{LETTER}(?:,?\s+(?:because|since|as)\b|,?\s*\(?\s*(?:and\s+)?(?:not|rather\s+than|instead\s+of)\b"
    r"|\s+is\s+(?:the\s+)?(?:correct|right|best|true)(?:\s+(?:answer|option|choice|one))?\s*\.?$).*",
    re.DOTALL | re.IGNORECASE,
)
GLOSSED = re.compile(rf"(?!I\b){LETTER}\s*\((?P<content>[^()]{{2,}})\)\.?")
"""B (12 m/s)."""
LETTER_LAST = re.compile(r"(?P<content>[^()]*\S)\s+\(\s*(?P<letter>[A-Z])\s*\)\.?")
LONE_CAPITAL = re.compile(r"(?<![A-Za-z])[A-Z](?![A-Za-z])|\b(?:or|and|not|except|but|neither|nor)\b")
TWICE = re.compile(r"\(?([A-Z])\)?(?:\s*(?:/|,|or|and|&)\s*\(?\1\)?)+\.?", re.IGNORECASE)
PREFIX = re.compile(
    r"^(?:la|el|le|die)\s+(?=\(?[A-Z]\)?\W*$)|^(?:the\s+)?(?:final\s+|correct\s+|right\s+|best\s+)*(?:(?:option|choice|answer)s?(?![A-Za-z])|选[项择]?|選[項擇]?)\s*"
    r"(?:is\b)?\s*(?:option\b|choice\b)?\s*:?\s*",
    re.IGNORECASE,
)
SUFFIX = re.compile(r"\s*(?:选项|選項|项|項|번)?(?:正确|正確)?\s*[.:]?$")
ANOTHER = re.compile(r"^\s*(?:/|,|;|&|\bor\b|\band\b)\s*\(?[A-Z]\)?(?![A-Za-z])")
MARKUP = re.compile(
    r"\\(?:text|textbf|textrm|textit|mathrm|mathbf|mathsf|mathit|rm|bf|mbox|operatorname|boldsymbol|bm)"
    r"(?![A-Za-z])|\\[,!;: ()\[\]]|[{}$*`'\"]|<[^>]{1,20}>"
    r"|(?<!\w)\[{1,2}(?=\(?[A-Z]\)?\]{1,2})|(?<=[A-Z)])\]{1,2}"
)


def canonical_choice(text: str) -> str | None:
    """The letter that the text chooses, as a capital; None if it chooses none or cannot decide ("A or B").

    "(B)", "\\text{B}", "B: the second law", "B because C is wrong" and "B/B" choose B; "A gene is …" chooses nothing.
    """
    stated = SUFFIX.sub("", PREFIX.sub("", _without_markup(text)).strip())
    if match := ALONE.fullmatch(stated):
        return match["letter"].upper()
    if match := TWICE.fullmatch(stated):
        return match[1].upper()
    if match := LABELLED.fullmatch(stated):
        letter = match["letter"] or match["bracketed"] or match["closed"]
        rest = stated[match.end("letter" if match["letter"] else "bracketed" if match["bracketed"] else "closed") :]
        return None if ANOTHER.match(rest.lstrip(") ")) else letter
    if match := REASONED.fullmatch(stated):
        return match["letter"].upper()
    for pattern in (LETTER_LAST, GLOSSED):
        if (match := pattern.fullmatch(stated)) and not LONE_CAPITAL.search(match["content"]):
            return match["letter"]
    return None


def _without_markup(text: str) -> str:
    return " ".join(MARKUP.sub(" ", text).split())


def same_letters(a: str, b: str) -> bool:
    """Whether one text names several letters without separators, in their order, and the other lists the same ones.

    "ABD" is "B, A, D" and "A and B and D". Two lists are not compared here: their order may matter; that of Roman
    and of circled numbers, which name statements, does not: "I and III" is "III, I", and ①③ is "①, ③".
    """
    if max(len(a), len(b)) > LISTED_CHARS_MAX:
        return False
    if (labels := _statement_labels(a)) and labels == _statement_labels(b):
        return True
    for compact, listed in ((a, b), (b, a)):
        letters = SET.fullmatch(_without_markup(compact))
        if letters is not None and letters[0] == _without_markup(listed):
            return True
        if letters is None or "".join(sorted(set(letters[0]))) != letters[0]:
            continue
        text = FILLER.sub("", _without_markup(listed)).strip("[](). \\")
        parts = [part.strip("() ") for part in SEPARATOR.split(text)]
        if len(parts) == len(letters[0]) and sorted(parts) == list(letters[0]):
            return True
    return False


def _statement_labels(text: str) -> frozenset[str]:
    """The Roman or circled numbers that a text lists and nothing else; empty where it does not."""
    plain = FILLER.sub("", _without_markup(text)).strip("[](). \\")
    circled = CIRCLED.findall(plain)
    if circled and not SEPARATOR.sub("", CIRCLED.sub("", plain)):
        return frozenset(circled)
    parts = [part.strip("() ") for part in SEPARATOR.split(plain)]
    return frozenset(parts) if len(parts) > 1 and all(map(ROMAN.fullmatch, parts)) else frozenset()


LISTED_CHARS_MAX = 200
CIRCLED = re.compile(r"[\u2460-\u2473]")
ROMAN = re.compile(r"I{1,3}|I?V|VI{1,3}")
FILLER = re.compile(
    r"^(?:both|(?:only\s+)?(?:options?|choices?|statements?|answers?|letters?))\s*:?\s+"
    r"|\s+(?:only|(?:are|is)\s+(?:all\s+|both\s+)?(?:correct|true|right))\.?$",
    re.IGNORECASE,
)
"""What says no more than that letters follow, or that they are the answer."""
SET = re.compile(r"[A-J]{2,10}")
SEPARATOR = re.compile(r"\s*(?:,\s*and\b|[,;/&+]|\band\b)\s*|\s+")
