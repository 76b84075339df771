"""The exact verifier: compares two maths answers by their shape and by exact arithmetic, without approximations."""

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Literal, NamedTuple

from tenner.evaluation.grading.maths.expressions import Node, number
from tenner.evaluation.grading.maths.notation import Token, Unreadable, tokens_of
from tenner.evaluation.grading.maths.quantities import Quantity
from tenner.evaluation.grading.maths.shapes import (
    Based,
    Ellipsis,
    Equation,
    Interval,
    Listing,
    Matrix,
    Shape,
    Tokens,
    Union,
    Words,
    as_set,
)
from tenner.evaluation.grading.maths.structure import shape_of
from tenner.evaluation.grading.maths.units import Unit
from tenner.evaluation.grading.maths.values import Agreement, compare, proportional, rounds_to


class Verification(NamedTuple):
    """Whether two answers agree, and why. `certain`: a second verifier could not find anything else."""

    agreement: Agreement
    reason: str
    certain: bool = False


class Reading(NamedTuple):
    """An answer as tokens and as a shape; each is None where it cannot be read, for a `reason`."""

    tokens: tuple[Token, ...] | None
    shape: Shape | None
    reason: str = ""


@lru_cache(maxsize=4096)
def read(text: str) -> Reading:
    """The reading of an answer; never raises."""
    try:
        tokens = tuple(tokens_of(text))
    except Unreadable as e:
        return Reading(None, None, str(e))
    try:
        return Reading(tokens, shape_of(tokens))
    except (Unreadable, RecursionError) as e:
        return Reading(tokens, None, str(e))


def verify(a: str, b: str) -> Verification:
    """Whether two answers are the same. Symmetric; undecided where one of them cannot be read to its end."""
    x, y = read(a), read(b)
    if _unspaced(a) == _unspaced(b):
        return Verification("same", "the same text", certain=True)
    if x.tokens is not None and y.tokens is not None and _written(x.tokens) == _written(y.tokens):
        return Verification("same", "the same notation", certain=True)
    for reading in (x, y):
        if reading.shape is None:
            return Verification("undecided", f"not read: {reading.reason}")
    assert x.shape is not None
    assert y.shape is not None
    agreement = agree(x.shape, y.shape)
    return Verification(
        agreement, REASONS[agreement], certain=agreement != "undecided" and _plain(x.shape) and _plain(y.shape)
    )


def _unspaced(text: str) -> str:
    """The text without spaces after commas: "1, 234" may be the number "1,234", and lists are written both ways."""
    return re.sub(r",\s+", ",", " ".join(text.split()))


REASONS = {
    "same": "the same value",
    "different": "different values",
    "undecided": "read, but too large or too rarely defined to be computed",
}


def _written(tokens: Sequence[Token]) -> tuple[str, ...]:
    """The tokens without braces that only group one token: x^{2} is x^2."""
    texts = [t.text for t in tokens]
    kept: list[str] = []
    i = 0
    while i < len(texts):
        if texts[i] == "{" and texts[i + 2 : i + 3] == ["}"]:
            kept.append(texts[i + 1])
            i += 3
        else:
            kept.append(texts[i])
            i += 1
    return tuple(kept)


ALGEBRAIC = frozenset(("number", "symbol", "constant", "+", "*", "/", "neg", "^", "root"))


def _plain(shape: Shape) -> bool:
    """Words, and algebra without units and functions: comparing these is beyond doubt."""
    if isinstance(shape, Quantity):
        return shape.unit is None and _is_algebraic(shape.node)
    return isinstance(shape, Words)


def _is_algebraic(node: Node) -> bool:
    return node.head in ALGEBRAIC and all(_is_algebraic(arg) for arg in node.args)


def agree(a: Shape, b: Shape) -> Agreement:
    """Whether two shapes are the same answer. Symmetric."""
    if isinstance(a, Equation) or isinstance(b, Equation):
        return _equations(a, b)
    if isinstance(a, Interval | Union) or isinstance(b, Interval | Union):
        a, b = as_set(a), as_set(b)
    if isinstance(a, Listing) and isinstance(b, Listing):
        return _listings(a, b)
    if isinstance(a, Quantity) and isinstance(b, Quantity):
        return _quantities(a, b)
    if isinstance(a, Interval) and isinstance(b, Interval):
        if a.brackets != b.brackets:
            return "different"
        return _all([compare(a.low, b.low), compare(a.high, b.high)])
    if isinstance(a, Union) and isinstance(b, Union):
        return _unordered(a.parts, b.parts)
    if isinstance(a, Matrix) and isinstance(b, Matrix):
        if (len(a.rows), len(a.rows[0])) != (len(b.rows), len(b.rows[0])):
            return "different"
        return _ordered([cell for row in a.rows for cell in row], [cell for row in b.rows for cell in row])
    if isinstance(a, Matrix):
        return _column(a, b)
    if isinstance(b, Matrix):
        return _column(b, a)
    if isinstance(a, Tokens) and isinstance(b, Tokens):
        return _ordered(a.parts, b.parts) if a.sign == b.sign else "different"
    same = type(a) is type(b) and isinstance(a, Words | Based | Ellipsis) and a == b
    return "same" if same else "different"


def _column(matrix: Matrix, other: Shape) -> Agreement:
    """A column vector equals the tuple of its components."""
    if isinstance(other, Listing) and other.bracket == "(" and all(len(row) == 1 for row in matrix.rows):
        return _ordered([row[0] for row in matrix.rows], other.items)
    return "different"


def _quantities(a: Quantity, b: Quantity) -> Agreement:
    """By value. One side may lack the unit; two units must have the same dimension, and are converted."""
    if a.unit is not None and b.unit is not None:
        if a.unit.dimension != b.unit.dimension:
            return "different"
        if a.unit.size == b.unit.size:
            return _numbers(a, b)
        return compare(_times(a.node, a.unit), _times(b.node, b.unit))
    agreement = _numbers(a, b)
    for with_unit, without in ((a, b), (b, a)):
        if agreement == "different" and with_unit.unit is not None and with_unit.unit.pure:
            return compare(_times(with_unit.node, with_unit.unit), without.node)
    return agreement


def _numbers(a: Quantity, b: Quantity) -> Agreement:
    agreement = compare(a.node, b.node)
    if agreement == "different":
        for decimal, other in ((a, b), (b, a)):
            if decimal.decimal is not None and other.decimal is None and rounds_to(other.node, decimal.decimal):
                return "same"
    return agreement


def _times(node: Node, unit: Unit) -> Node:
    return Node("*", (node, number(unit.size)))


def _listings(a: Listing, b: Listing) -> Agreement:
    brackets = {a.bracket, b.bracket}
    if "{" in brackets:
        return _unordered(_distinct(a.items), _distinct(b.items)) if brackets <= {"{", ""} else "different"
    if "" in brackets and len(brackets) == 2:
        return "different"  # (0, 1) may be a point or an interval, 0, 1 are two answers
    if len(brackets) == 2 and len(a.items) < 3:
        return "different"  # [1, 2] is an interval
    if brackets == {""} and not _names_differ(a.items) and not _names_differ(b.items):
        return _unordered(a.items, b.items)
    if brackets == {""} and _names(a.items) and _names(b.items):
        return _unordered(a.items, b.items)
    return _ordered(a.items, b.items)


def _names(items: Sequence[Shape]) -> frozenset[str]:
    return frozenset(item.name for item in items if isinstance(item, Equation))


def _names_differ(items: Sequence[Shape]) -> bool:
    return len(_names(items)) > 1


def _distinct(items: Sequence[Shape]) -> list[Shape]:
    found: list[Shape] = []
    for item in items:
        if not any(agree(item, other) == "same" for other in found):
            found.append(item)
    return found


def _all(agreements: Sequence[Agreement]) -> Agreement:
    """Different if one is, else undecided if one is."""
    return next((verdict for verdict in WORST_FIRST if verdict in agreements), "same")


WORST_FIRST: tuple[Literal["different", "undecided"], ...] = ("different", "undecided")


def _ordered(a: Sequence[Shape], b: Sequence[Shape]) -> Agreement:
    return _all([agree(x, y) for x, y in zip(a, b, strict=True)]) if len(a) == len(b) else "different"


def _unordered(a: Sequence[Shape], b: Sequence[Shape]) -> Agreement:
    """Whether each item of one side is the same as a different item of the other."""
    if len(a) != len(b):
        return "different"
    left, undecided = list(b), False
    for item in a:
        verdicts = [agree(item, other) for other in left]
        if "same" in verdicts:
            left.pop(verdicts.index("same"))
        elif "undecided" in verdicts:
            left.pop(verdicts.index("undecided"))
            undecided = True
        else:
            return "different"
    return "undecided" if undecided else "same"


def _equations(a: Shape, b: Shape) -> Agreement:
    """x = 5 is the answer 5; other equations are the same if one is a multiple of the other."""
    if not isinstance(a, Equation) or not isinstance(b, Equation):
        equation, other = (a, b) if isinstance(a, Equation) else (b, a)
        assert isinstance(equation, Equation)
        return agree(equation.right, other) if equation.name else "different"
    if a.name and a.name == b.name and (agreement := agree(a.right, b.right)) != "different":
        return agreement
    sides = [_difference(equation) for equation in (a, b)]
    if sides[0] is None or sides[1] is None:
        return "different"
    return proportional(sides[0], sides[1])


def _difference(equation: Equation) -> Node | None:
    """Left minus right, if both are expressions."""
    if equation.left is None or not isinstance(equation.right, Quantity) or equation.right.unit is not None:
        return None
    return Node("+", (equation.left, Node("neg", (equation.right.node,))))
