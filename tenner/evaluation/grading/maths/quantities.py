"""Quantities: an expression with its unit, before or behind it."""

from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise
from typing import NamedTuple

from tenner.evaluation.grading.maths.expressions import CONSTANTS, DEGREE_MARKS, OPERANDS, Node, number, parse
from tenner.evaluation.grading.maths.notation import FUNCTIONS, Token, Unreadable
from tenner.evaluation.grading.maths.scales import scale_of
from tenner.evaluation.grading.maths.units import DEGREE, PERCENT, TABLE, Unit, unit_of

MARKS = frozenset(("circ", "degree"))
SIGNS = frozenset(("cdot", "*", "^", "{", "}", "-", "+", ".", "frac", "/"))
"""Of a plain number before a unit."""
MONEY = frozenset(("dollar", "euro", "pound sterling", "rupee", "ruble"))
CURRENCIES = (("yen", "yen"), ("rupee", "rupee"), ("won", "원"))
MODULO = "modulo"
"""The dimension of residues; the size of the unit is the modulus."""
TRIGONOMETRIC = frozenset(("sin", "cos", "tan", "cot", "sec", "csc"))


class Quantity(NamedTuple):
    """An expression, with its unit; `decimal` is how it is written if it is a plain number with a point."""

    node: Node
    unit: Unit | None = None
    decimal: str | None = None
    italic_unit: tuple[Node, Unit] | None = None
    """The other reading of "5 m" and "9.8 m/s^2", where letters may be units or factors: the number and the unit."""


def quantity_of(tokens: Sequence[Token]) -> Quantity:
    """The quantity that all the tokens make. Raises Unreadable if they make none."""
    tokens = list(tokens)
    if len(tokens) > 1 and tokens[-1].text == "min" and tokens[-2].kind == "number":
        tokens[-1] = Token("word", "minute")  # the function would have arguments
    if (mixed := mixed_units(tokens)) is not None:
        return mixed
    unit, tokens = _unit(tokens)
    if not tokens:
        raise Unreadable("a unit without a number")
    texts = [t.text for t in tokens]
    plain = texts[1:] if texts[0] in ("-", "+") else texts
    decimal = None
    if len(plain) == 1 and tokens[-1].kind == "number" and "." in plain[0]:
        decimal = ("-" if texts[0] == "-" else "") + plain[0]
    if unit is None and MARKS.intersection(texts) and not TRIGONOMETRIC.intersection(texts):
        return Quantity(parse(_without_degree_marks(tokens)), DEGREE)  # 180^\\circ - 2x is in degrees as a whole
    return Quantity(parse(tokens), unit, decimal, _italic_unit(tokens) if unit is None else None)


def mixed_units(tokens: list[Token]) -> Quantity | None:
    """1 hour 30 minutes, 1 h 30 min, 5 feet 10 inches: the sum, in the last unit, money in the first; None for anything
    else.
    """
    pairs = list(zip(tokens[::2], tokens[1::2], strict=False))
    if len(tokens) % 2 or not 2 <= len(pairs) <= 3:
        return None
    # "h" and "min" may also be a letter and a function; behind a number and a space they are units.
    if any(n.kind != "number" or not (u.kind == "word" or (u.spaced and u.text in TABLE)) for n, u in pairs):
        return None
    units = [unit_of([unit]) for _, unit in pairs]
    falls = all(a.size > b.size for a, b in pairwise(units))
    if not falls or len({unit.dimension for unit in units}) > 1:
        return None
    total = sum(Fraction(n.text) * unit.size for (n, _), unit in zip(pairs, units, strict=True))
    unit = units[0] if units[0].dimension in MONEY else units[-1]
    return Quantity(number(total / unit.size), unit)


def _without_degree_marks(tokens: list[Token]) -> list[Token]:
    kept: list[Token] = []
    i = 0
    while i < len(tokens):
        mark = next((m for m in DEGREE_MARKS if tuple(t.text for t in tokens[i : i + len(m)]) == m), None)
        if mark is None:
            kept.append(tokens[i])
        i += len(mark) if mark else 1
    return kept


def _italic_unit(tokens: list[Token]) -> tuple[Node, Unit] | None:
    """A number, a space, and letters of which each is the symbol of a unit; None for anything else."""
    place = next((i for i, t in enumerate(tokens) if t.kind == "symbol"), 0)
    if not place or not tokens[place].spaced or any(t.text not in SIGNS and t.kind != "number" for t in tokens[:place]):
        return None
    symbols: list[Token] = []
    for token in tokens[place:]:
        joined = symbols[-1].text + token.text if symbols else ""
        if token.kind == "symbol" and not token.spaced and joined in TABLE:
            symbols[-1] = symbols[-1]._replace(text=joined)  # two letters, as in nm
        else:
            symbols.append(token)
    if not all(t.text in TABLE for t in symbols if t.kind == "symbol"):
        return None
    try:
        return parse(tokens[:place]), unit_of(symbols)
    except Unreadable:
        return None


def _unit(tokens: list[Token]) -> tuple[Unit | None, list[Token]]:
    """The unit before or behind an expression, and the expression."""
    if not tokens:
        return None, tokens
    for sign, name in (("$", "$"), ("euro", "euro"), ("pounds", "pounds"), *CURRENCIES):
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
    if (scale := scale_of(tokens[place].text)) is not None and tokens[place].text not in TABLE:
        factor, unit_name = scale
        scaled = [*tokens[:place], Token("command", "cdot"), Token("number", str(factor))]
        rest = [*([Token("word", unit_name)] if unit_name else []), *tokens[place + 1 :]]
        return (unit_of(rest) if rest else None), scaled
    before = tokens[:place]
    if before[-1].text == "cdot":
        before = before[:-1]  # 5 \\cdot 10^4 \\cdot \\text{m}
    unit = unit_of(tokens[place:])
    if unit not in TABLE.values() and not any(t.kind == "number" or t.text == "pi" for t in before):
        raise Unreadable("words behind no number")
    if unit not in TABLE.values() and any(t.text == "cdot" for t in before) and not any(t.text == "^" for t in before):
        raise Unreadable("a product of something")  # a 5 x 4 matrix is not 20
    return unit, before
