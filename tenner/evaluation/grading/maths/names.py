"""The name of what is asked for, on the left of an equation: x, f(x), m + n, \\angle ABC, or "Area"."""

from collections.abc import Sequence

from tenner.evaluation.grading.maths.expressions import GREEK
from tenner.evaluation.grading.maths.notation import Token

ACCENTS = frozenset(("vec", "overrightarrow", "overline", "bar", "hat", "widehat", "tilde", "dot"))


def name_of(tokens: Sequence[Token]) -> str:
    """The name of what is asked for: letters, words, primes, calls and sums of them; "" for anything else."""
    allowed = frozenset("()+-/_{},'|") | ACCENTS | {"angle", "triangle", "circ", "frac", "degree"}
    tokens = _without_inverse(tokens)
    texts = [t.text for t in tokens]
    if "|" in texts and sum(t.kind == "symbol" for t in tokens) < 2:
        return ""  # |AB| is a length, |x| = 3 does not say what x is
    letters = any(t.kind in ("symbol", "word") or t.text in GREEK for t in tokens)
    if not letters or any(word in ("or", "and", "not", "for", "all") for word in texts):
        return ""
    for i, token in enumerate(tokens):
        known = token.kind in ("symbol", "word") or token.text in allowed or token.text in GREEK
        if not known and not (token.kind == "number" and i and texts[i - 1] in ("_", "{", "(")):
            return ""
    return "".join(texts) if not {"+", "-"} & {texts[0], texts[-1]} else ""


def _without_inverse(tokens: Sequence[Token]) -> Sequence[Token]:
    """The name of an inverse function, f^{-1}, as one letter."""
    if [t.text for t in tokens[1:6]] == ["^", "{", "-", "1", "}"] and tokens[0].kind == "symbol":
        return [Token("symbol", f"{tokens[0].text}^-1"), *tokens[6:]]
    return tokens
