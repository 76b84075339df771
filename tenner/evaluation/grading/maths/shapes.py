"""The shapes of answers: a quantity, a list, a tuple, a set, an interval, a matrix, an equation, or words."""

from typing import NamedTuple, TypeAlias

from tenner.evaluation.grading.maths.expressions import Node
from tenner.evaluation.grading.maths.quantities import Quantity


class Listing(NamedTuple):
    """Several answers: without brackets ("", any order), a set ("{"), a tuple ("(") or a list ("[")."""

    bracket: str
    items: tuple["Shape", ...]


class Interval(NamedTuple):
    """An interval; `brackets` say whether its ends belong to it."""

    low: Node
    high: Node
    brackets: str


class Union(NamedTuple):
    """A union of intervals and sets."""

    parts: tuple["Shape", ...]


class Matrix(NamedTuple):
    """A matrix by its rows."""

    rows: tuple[tuple["Shape", ...], ...]


class Equation(NamedTuple):
    """`name` is the left side where that is a name, as in x = 5, f(x) = 2x or m + n = 7; else there are two sides."""

    name: str
    left: Node | None
    right: "Shape"


class Words(NamedTuple):
    """Text without mathematics."""

    text: str


class Based(NamedTuple):
    """Digits in a base."""

    digits: str
    base: int


class Tokens(NamedTuple):
    """A row that goes on (1, 2, …, n) or a ratio (1:2:3): its parts in their order."""

    sign: str
    parts: tuple["Shape", ...]


class Ellipsis(NamedTuple):
    """The part that is left out."""


class Approximation(NamedTuple):
    """An exact value with its decimal approximation: \\sqrt{2} \\approx 1.41."""

    exact: Quantity
    decimal: Quantity


Shape: TypeAlias = (
    Quantity | Listing | Interval | Union | Matrix | Equation | Words | Based | Tokens | Ellipsis | Approximation
)

INFINITY = Node("constant", name="infty")
REALS = Interval(Node("neg", (INFINITY,)), INFINITY, "()")


def as_set(shape: Shape) -> Shape:
    """(1, 2) and [1, 2] as intervals, where nothing else can be meant."""
    if isinstance(shape, Listing) and len(shape.items) == 2 and shape.bracket in ("(", "["):
        low, high = shape.items
        if isinstance(low, Quantity) and isinstance(high, Quantity) and not low.unit and not high.unit:
            return Interval(low.node, high.node, shape.bracket + {"(": ")", "[": "]"}[shape.bracket])
    return shape
