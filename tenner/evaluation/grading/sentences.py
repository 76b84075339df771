"""The answer within a sentence: "the largest n is 34" says 34, "3 is the only solution" says 3."""

import re

SUBJECT = re.compile(
    r"(?P<subject>[^=<>]{1,160}?)(?:\s|(?<=\$))(?:is|are|was|were|equals|will\s+be|must\s+be|is\s+equal\s+to|would\s+be)"
    r"(?:\s+(?:therefore|thus|simply|then|exactly|precisely|just|given\s+by|equal\s+to))?\s*:?\s+(?=\S)",
    re.IGNORECASE,
)
CLAUSE = re.compile(r"^\s*(?:that\s+)?(?:therefore|thus|so|hence)?,?\s*", re.IGNORECASE)
CONDITION = re.compile(
    r"\b(?:if|when|whenever|unless|where|whose|because|since|not|never|such\s+that|so\s+that|for\s+which|who|or|whether|"
    r"is|are|was|were|be|equals|isn't|aren't|cannot|no|neither|nor|assuming|suppose)\b|[!?;]|(?<!,)\s+\bwhich\b|\bthat\b|\.\s",
    re.IGNORECASE,
)
NEGATION = re.compile(
    r"^\W*(?:not|never|no\s+longer|neither|unlikely|unknown|unclear|impossible\s+to)\b", re.IGNORECASE
)
SUBJECT_WORDS_MAX = 20
CHARS_MAX = 1_000
"""Longer texts are left as they are: the patterns take quadratic time."""

TEXT = r"(?:\\(?:text|textrm|mathrm|textbf|mbox)\s*\{\s*)?"
PARAMETER = r"(?:\s*\$?\\?[A-Za-z](?:_\{?\w\}?)?\$?)"
INTEGERS = r"\\(?:mathbb|mathbf|Bbb)\s*\{?\s*[ZRC]\s*\}?(?![A-Za-z])"
KIND = (
    r"(?:real|complex|arbitrary|integer|free|numbers?|reals|integers|constants?|values?|parameters?|coefficients?|of)"
)
QUALIFIER = re.compile(
    rf"\s*,?\s*{TEXT}(?:"
    r"\(?\s*(?:is|are)\s+the\s+(?:only|unique|final|required|desired)\s+(?:\w+\s*){1,3}"
    rf"|\(?\s*(?:for|where)\s+(?:all|any|every|each|some|an?)(?:\s+{KIND})*\s*\}}?{PARAMETER}?"
    rf"|\(?\s*(?:where|with|and|for)?\s*\}}?{PARAMETER}\s*(?:{TEXT}\s*(?:is|being)\s+(?:an?|any|some)(?:\s+{KIND})+"
    rf"|\\in\s*{INTEGERS})"
    rf"|(?:for\s+(?:all|any|some)\s*\}}?)?{PARAMETER}\s*\\in\s*{INTEGERS}"
    rf"|\\forall{PARAMETER}(?:\s*\\in\s*{INTEGERS})?"
    r"|\(\s*(?:approximately|approx\.?|exactly|rounded|exact)\b[^()]*"
    r"|[,(]\s*(?:and\s+)?(?:not|rather\s+than)\b[^()]*|(?<=\s)(?:rather\s+than|instead\s+of)\b[^()]*"
    r"|(?:in\s+total|altogether|exactly|approximately|respectively|only|is\s+correct|is\s+the\s+(?:correct\s+)?answer)"
    r")\s*\)?\s*\}?\s*\$?\s*\.?\s*$",
    re.IGNORECASE,
)
BEFORE_NUMBER = re.compile(
    rf"^\s*{TEXT}(?:exactly|approximately|about|around|roughly|approx\.?|equals?|equal\s+to|only|just|simply|i\.e\.|either|both)\s*\}}?\s*(?=[-\\$\d])",
    re.IGNORECASE,
)


def complement(sentence: str) -> str | None:
    """What the sentence says of its subject: 34 of "the largest n, which is 34"; None if that cannot be told.

    A subject with a condition in it ("the n for which n! is 24"), a second verb or a negation may mean something else.
    """
    if len(sentence) > CHARS_MAX:
        return None
    begin = CLAUSE.match(sentence)
    text = sentence[begin.end() if begin else 0 :]
    verbs = list(SUBJECT.finditer(text))
    if len(verbs) != 1 or verbs[0].start() != 0:
        return None
    subject, said = verbs[0]["subject"], text[verbs[0].end() :].strip()
    subject = re.sub(r",\s*which$", "", subject)
    if CONDITION.search(subject) or NEGATION.match(said) or len(subject.split()) > SUBJECT_WORDS_MAX:
        return None
    return said.strip("*` ").removesuffix(".").strip("*` ") or None


def without_qualifier(text: str) -> str:
    """The answer without what is said about it: "(not 3)", "for all real x", "is the only solution".

    Conditions that change it stay: "for all x > 0" is not removed.
    """
    if len(text) > CHARS_MAX:
        return text
    short = BEFORE_NUMBER.sub("", text)
    found = QUALIFIER.search(short)
    short = short[: found.start()].strip() if found and short[: found.start()].strip(" ({$\\") else short
    return short if short.count("{") == short.count("}") else text
