"""Tokens between brackets, and the parts of a row of tokens that separators outside of all brackets make."""

from collections.abc import Sequence

from tenner.evaluation.grading.maths.notation import Token

OPEN = frozenset(("(", "[", "{", "{s", "langle", "lfloor", "lceil"))
CLOSE = frozenset((")", "]", "}", "}s", "rangle", "rfloor", "rceil"))


def split(tokens: Sequence[Token], separators: frozenset[str]) -> list[list[Token]]:
    """The parts between the separators that stand in no bracket."""
    parts: list[list[Token]] = [[]]
    depth = 0
    for token in tokens:
        depth += (token.text in OPEN) - (token.text in CLOSE) + (token.text == "begin") - (token.text == "end")
        if depth == 0 and token.text in separators:
            parts.append([])
        else:
            parts[-1].append(token)
    return parts


def are_one_pair(tokens: Sequence[Token]) -> bool:
    """Whether the first token opens a bracket that only the last one closes."""
    depth = 0
    for i, token in enumerate(tokens):
        depth += (token.text in OPEN) - (token.text in CLOSE)
        if depth <= 0 and i < len(tokens) - 1:
            return False
    return True
