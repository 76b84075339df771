"""Answers to multiple choice: one letter, or none; never a default, and never two."""

import re

LETTER = r"\(?\s*(?P<letter>[A-Z])\s*\)?"
ALONE = re.compile(rf"{LETTER}\.?", re.IGNORECASE)
LABELLED = re.compile(
    rf"(?:{LETTER}\s*(?:[:.\u2013\u2014]|-\s)|\(\s*(?P<bracketed>[A-Z])\s*\)|(?P<closed>[A-Z])\))\s*\S.*", re.DOTALL
)
REASONED = re.compile(rf"{LETTER},?\s+(?:because|since|as)\b.*", re.DOTALL | re.IGNORECASE)
TWICE = re.compile(r"\(?([A-Z])\)?(?:\s*(?:/|,|or|and|&)\s*\(?\1\)?)+\.?", re.IGNORECASE)
PREFIX = re.compile(r"^(?:the\s+)?(?:correct\s+)?(?:option|choice|answer)\b\s*(?:is\b)?\s*:?\s*", re.IGNORECASE)
ANOTHER = re.compile(r"^\s*(?:/|,|;|&|\bor\b|\band\b)\s*\(?[A-Z]\)?(?![A-Za-z])")
MARKUP = re.compile(
    r"\\(?:text|textbf|mathrm|mathbf|mathsf|rm|bf|mbox|operatorname)(?![A-Za-z])|\\[,!;: ()\[\]]|[{}$*`]|<[^>]{1,20}>"
)


def canonical_choice(text: str) -> str | None:
    """The letter that the text chooses, as a capital; None if it chooses none or cannot decide ("A or B").

    "(B)", "\\text{B}", "B: the second law", "B because C is wrong" and "B/B" choose B; "A gene is …" chooses nothing.
    """
    stated = PREFIX.sub("", " ".join(MARKUP.sub(" ", text).split())).strip()
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
    return None
