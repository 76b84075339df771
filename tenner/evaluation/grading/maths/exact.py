"""The exact verifier: compares two maths answers by their shape and by exact arithmetic, without approximations."""

import re
from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache
from typing import Literal, NamedTuple

from tenner.evaluation.grading.maths.expressions import Node, number
from tenner.evaluation.grading.maths.notation import Token, Unreadable, tokens_of
from tenner.evaluation.grading.maths.quantities import MODULO, Quantity
from tenner.evaluation.grading.maths.shapes import (
    Approximation,
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
from tenner.evaluation.grading.maths.units import TABLE, Unit
from tenner.evaluation.grading.maths.values import Agreement, compare, exact_value, proportional, rounds_to


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
    """Words, algebra without units and functions, and what is made of these: comparing them is beyond doubt.

    An equation is where it names its right side; a list that repeats an item is not, as others take it for a set, and
    [1, 2] may be a list or an interval.
    """
    if isinstance(shape, Quantity):
        return shape.unit is None and _is_algebraic(shape.node)
    if isinstance(shape, Interval):
        return _is_algebraic(shape.low) and _is_algebraic(shape.high)
    if isinstance(shape, Union):
        return all(map(_plain, shape.parts))
    if isinstance(shape, Matrix):
        return all(_plain(cell) for row in shape.rows for cell in row)
    if isinstance(shape, Listing):
        return (
            shape.bracket != "["
            and all(map(_plain, shape.items))
            and (shape.bracket == "(" or len(_distinct(shape.items)) == len(shape.items))
        )
    if isinstance(shape, Equation):
        return bool(shape.name) and _plain(shape.right)
    return isinstance(shape, Words)


def _heads(node: Node) -> frozenset[str]:
    return frozenset((node.head,)).union(*(_heads(arg) for arg in node.args))


def _is_algebraic(node: Node) -> bool:
    return node.head in ALGEBRAIC and all(_is_algebraic(arg) for arg in node.args)


def agree(a: Shape, b: Shape) -> Agreement:
    """Whether two shapes are the same answer. Symmetric."""
    if isinstance(a, Approximation) or isinstance(b, Approximation):
        return _approximations(a, b)
    if isinstance(a, Listing) != isinstance(b, Listing):
        a, b = _only_member(a), _only_member(b)
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
    if isinstance(a, Based) and isinstance(b, Based) and 10 in (a.base, b.base):
        return "same" if based_value(a) == based_value(b) is not None else "different"
    for based, other in ((a, b), (b, a)):
        if isinstance(based, Based) and based.base == 10 and isinstance(other, Quantity):
            return _quantities(Quantity(number(int(based.digits))), other)
    for ratio, other in ((a, b), (b, a)):
        if isinstance(ratio, Tokens) and ratio.sign == ":" and isinstance(other, Quantity):
            return _ratio(ratio, other)
    same = type(a) is type(b) and isinstance(a, Words | Based | Ellipsis) and a == b
    return "same" if same else "different"


def based_value(based: Based) -> int | None:
    """The number that the digits mean; None where a digit is too large for the base."""
    try:
        return int(based.digits, based.base)
    except ValueError:
        return None


def _ratio(ratio: Tokens, other: Quantity) -> Agreement:
    """3:2 is \\frac{3}{2}. A whole number is no ratio, as 4:1 may be a time or a score."""
    if len(ratio.parts) != 2 or other.unit is not None or "/" not in _heads(other.node):
        return "different"
    top, bottom = ratio.parts
    if not isinstance(top, Quantity) or not isinstance(bottom, Quantity) or top.unit or bottom.unit:
        return "different"
    return compare(Node("/", (top.node, bottom.node)), other.node)


def _approximations(a: Shape, b: Shape) -> Agreement:
    """\\sqrt{2} \\approx 1.41 states the exact value and the decimal: either may be the other answer."""
    sides = [(shape.exact, shape.decimal) if isinstance(shape, Approximation) else (shape,) for shape in (a, b)]
    verdicts = [agree(x, y) for x in sides[0] for y in sides[1]]
    return min(verdicts, key=("same", "undecided", "different").index)


def _only_member(shape: Shape) -> Shape:
    """The member of a set of one: the solution set \\{3\\} says 3."""
    is_one = isinstance(shape, Listing) and shape.bracket == "{" and len(shape.items) == 1
    return shape.items[0] if isinstance(shape, Listing) and is_one else shape


def _column(matrix: Matrix, other: Shape) -> Agreement:
    """A column vector equals the tuple of its components."""
    if isinstance(other, Listing) and other.bracket == "(" and all(len(row) == 1 for row in matrix.rows):
        return _ordered([row[0] for row in matrix.rows], other.items)
    return "different"


def _quantities(a: Quantity, b: Quantity) -> Agreement:
    """By value. One side may lack the unit; two units must have the same dimension, and are converted."""
    if a.unit is not None and b.unit is not None:
        if a.unit.dimension == b.unit.dimension == MODULO:
            return _residues(a, b, a.unit.size) if a.unit.size == b.unit.size else "different"
        if a.unit.dimension != b.unit.dimension:
            return "different"
        if a.unit.size == b.unit.size:
            return _numbers(a, b)
        return compare(_times(a.node, a.unit), _times(b.node, b.unit))
    agreement = _numbers(a, b)
    if agreement == "different" and (in_units := _italic_units(a, b)) is not None:
        return in_units
    for with_unit, without in ((a, b), (b, a)):
        if agreement == "different" and with_unit.unit is not None and with_unit.unit.pure:
            return compare(_times(with_unit.node, with_unit.unit), without.node)
    return agreement


def _residues(a: Quantity, b: Quantity, modulus: Fraction) -> Agreement:
    """-3 is 17 modulo 20."""
    values = exact_value(a.node), exact_value(b.node)
    if values[0] is None or values[1] is None:
        return compare(a.node, b.node)
    return "same" if (values[0] - values[1]) % modulus == 0 else "different"


def _italic_units(a: Quantity, b: Quantity) -> Agreement | None:
    """The comparison with italic letters read as units: "5 m" and 500 cm, "1000 J" and 1 kJ; None if they are none.

    Both must have a unit in this reading, or one a compound unit or a number that only measurements have: "3 N" alone
    may be three times N.
    """
    readings = [Quantity(*q.italic_unit) if q.unit is None and q.italic_unit is not None else q for q in (a, b)]
    if readings == [a, b]:
        return None
    first, second = readings
    if first.unit is None or second.unit is None:
        measured = first if first.unit is not None else second
        assert measured.unit is not None
        compound = "*" in measured.unit.dimension and measured.unit not in TABLE.values()
        if not compound and not _is_decimal(measured.node):
            return None
    return _quantities(first, second)


def _is_decimal(node: Node) -> bool:
    """Whether a number has decimals, or a power of ten."""
    if node.head == "number":
        return node.value.denominator != 1
    return any(arg.head == "^" for arg in node.args) or any(_is_decimal(arg) for arg in node.args)


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
        if (named := _named_components(equation)) is not None and isinstance(other, Listing) and _names(other.items):
            return _listings(named, other)
        return agree(equation.right, other) if equation.name else "different"
    if (
        a.name
        and (a.name == b.name or _are_one_function(a, b))
        and (agreement := agree(a.right, b.right)) != "different"
    ):
        return agreement
    sides = [_difference(equation) for equation in (a, b)]
    if sides[0] is None or sides[1] is None:
        return "different"
    return proportional(sides[0], sides[1])


def _named_components(equation: Equation) -> Listing | None:
    """x = 1, y = 2 of (x, y) = (1, 2); None for anything else."""
    names = re.fullmatch(r"\(([A-Za-z](?:,[A-Za-z])+)\)", equation.name)
    right = equation.right
    if names is None or not isinstance(right, Listing) or right.bracket != "(":
        return None
    letters = names[1].split(",")
    if len(letters) != len(right.items):
        return None
    return Listing("", tuple(Equation(x, None, item) for x, item in zip(letters, right.items, strict=True)))


def _are_one_function(a: Equation, b: Equation) -> bool:
    """y = 2x + 1 and f(x) = 2x + 1."""
    names = sorted((a.name, b.name), key=len)
    return names[0] == "y" and re.fullmatch(r"[fgh]\(x\)", names[1]) is not None


def _difference(equation: Equation) -> Node | None:
    """Left minus right, if both are expressions."""
    if equation.left is None or not isinstance(equation.right, Quantity) or equation.right.unit is not None:
        return None
    return Node("+", (equation.left, Node("neg", (equation.right.node,))))
