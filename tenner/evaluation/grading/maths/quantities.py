"""Quantities: an expression with its unit, before or behind it."""

from collections.abc import Sequence
from typing import NamedTuple

from tenner.evaluation.grading.maths.expressions import CONSTANTS, OPERANDS, Node, parse
from tenner.evaluation.grading.maths.notation import FUNCTIONS, Token, Unreadable
from tenner.evaluation.grading.maths.units import DEGREE, PERCENT, TABLE, Unit, unit_of

TRIGONOMETRIC = frozenset(("sin", "cos", "tan", "cot", "sec", "csc"))


class Quantity(NamedTuple):
    """An expression, with its unit; `decimal` is how it is written if it is a plain number with a point."""

    node: Node
    unit: Unit | None = None
    decimal: str | None = None


def quantity_of(tokens: Sequence[Token]) -> Quantity:
    """The quantity that all the tokens make. Raises Unreadable if they make none."""
    tokens = list(tokens)
    unit, tokens = _unit(tokens)
    if not tokens:
        raise Unreadable("a unit without a number")
    texts = [t.text for t in tokens]
    plain = texts[1:] if texts[0] in ("-", "+") else texts
    decimal = None
    if len(plain) == 1 and tokens[-1].kind == "number" and "." in plain[0]:
        decimal = ("-" if texts[0] == "-" else "") + plain[0]
    return Quantity(parse(tokens), unit, decimal)


def _unit(tokens: list[Token]) -> tuple[Unit | None, list[Token]]:
    """The unit before or behind an expression, and the expression."""
    for sign, name in (("$", "$"), ("euro", "euro"), ("pounds", "pounds")):
        places = [i for i, t in enumerate(tokens) if t.text == sign and t.kind != "word"]
        if places and places[0] <= 1:
            rest = [t for i, t in enumerate(tokens) if i != places[0]]
            behind, rest = _unit(rest)
            if behind is not None and behind.dimension != TABLE[name].dimension:
                raise Unreadable("two units")
            return TABLE[name], rest
    if tokens[-1].text == "%":
        return PERCENT, tokens[:-1]
    texts = [t.text for t in tokens]
    if TRIGONOMETRIC.intersection(texts):
        return _unit_in_words(tokens)  # degrees belong to what is inside
    for end, start in ((["^", "circ"], -2), (["^", "{", "circ", "}"], -4), (["circ"], -1), (["degree"], -1)):
        if texts[start:] == end:
            return DEGREE, tokens[:start]
    if texts[-2:-1] == ["degree"] and texts[-1] in ("celsius", "fahrenheit"):
        return Unit(f"temperature {texts[-1][0].upper()}"), tokens[:-2]
    if texts[-1] in ("C", "F") and "circ" in texts[:-1]:
        place = texts.index("circ")
        braces = texts[place - 1] == "{"
        return Unit(f"temperature {texts[-1]}"), tokens[: place - (2 if braces else 1)]
    return _unit_in_words(tokens)


def _unit_in_words(tokens: list[Token]) -> tuple[Unit | None, list[Token]]:
    place = next((i for i, t in enumerate(tokens) if t.kind == "word"), None)
    if place is None:
        return None, tokens
    if place == 0:
        raise Unreadable("words before a number")
    if any(t.text in FUNCTIONS | OPERANDS | CONSTANTS for t in tokens[place:]):
        raise Unreadable("an expression behind words")
    unit, before = unit_of(tokens[place:]), tokens[:place]
    if unit not in TABLE.values() and not any(t.kind == "number" or t.text == "pi" for t in before):
        raise Unreadable("words behind no number")
    if unit not in TABLE.values() and any(t.text == "cdot" for t in before) and not any(t.text == "^" for t in before):
        raise Unreadable("a product of something")  # a 5 x 4 matrix is not 20
    return unit, before
