"""Inequalities as the values that a name may have: an interval, or a union of two."""

from itertools import pairwise

from tenner.evaluation.grading.maths.expressions import Node, parse, symbols_in
from tenner.evaluation.grading.maths.names import name_of
from tenner.evaluation.grading.maths.notation import Token, Unreadable
from tenner.evaluation.grading.maths.shapes import INFINITY, Equation, Interval, Shape, Union
from tenner.evaluation.grading.maths.values import exact_value


def inequality_of(signs: list[str], sides: list[list[Token]]) -> Shape:
    """x < 3, 3 > x, 0 < x \\le 5, x \\ne 2: the values that a name may have."""
    if (absolute := _absolute(signs, sides)) is not None:
        return absolute
    place = next((i for i, side in enumerate(sides) if name_of(side)), None)
    if place is None or len(sides) > 3 or (len(sides) == 3 and place != 1):
        raise Unreadable("an inequality of something else than a name")
    name, low, high, brackets = name_of(sides[place]), Node("neg", (INFINITY,)), INFINITY, ["(", ")"]
    if signs == ["ne"]:
        hole = parse(sides[1 - place])
        return Equation(name, None, Union((Interval(low, hole, "()"), Interval(hole, high, "()"))))
    for i, sign in enumerate(signs):
        if sign not in ("<", ">", "le", "ge"):
            raise Unreadable("a chain of different relations")
        bound = parse(sides[i if i < place else i + 1])
        is_upper = (sign in ("<", "le")) == (i >= place)
        if is_upper:
            high, brackets[1] = bound, "]" if sign in ("le", "ge") else ")"
        else:
            low, brackets[0] = bound, "[" if sign in ("le", "ge") else "("
    if len(signs) == 2 and (signs[0] in ("<", "le")) != (signs[1] in ("<", "le")):
        raise Unreadable("a chain that goes up and down")
    return Equation(name, None, Interval(low, high, "".join(brackets)))


def intersection(a: Interval, b: Interval) -> Interval | None:
    """The values that are in both, where one has only a lower end, the other only an upper one; None for all else."""
    low, high = (a, b) if a.high == INFINITY else (b, a)
    if low.high != INFINITY or high.low != Node("neg", (INFINITY,)):
        return None
    ends = exact_value(low.low), exact_value(high.high)
    if ends[0] is None or ends[1] is None or ends[0] >= ends[1]:
        return None
    return Interval(low.low, high.high, low.brackets[0] + high.brackets[1])


def _absolute(signs: list[str], sides: list[list[Token]]) -> Equation | None:
    """|x - c| < r, r > |x - c| and the like, for one name x and numbers c and r; None for anything else."""
    if len(sides) != 2 or signs[0] not in ("<", ">", "le", "ge"):
        return None
    for place in (0, 1):
        if not any(token.text in ("|", "abs") for token in sides[place]):
            continue
        inside, radius = parse(sides[place]), parse(sides[1 - place])
        if inside.head != "abs" or symbols_in(radius):
            continue
        shifted = _shifted_name(inside.args[0])
        if shifted is None:
            continue
        name, center = shifted
        low, high = Node("+", (center, Node("neg", (radius,)))), Node("+", (center, radius))
        is_inside = (signs[0] in ("<", "le")) == (place == 0)
        closed = signs[0] in ("le", "ge")
        if is_inside:
            return Equation(name, None, Interval(low, high, "[]" if closed else "()"))
        left = Interval(Node("neg", (INFINITY,)), low, "(]" if closed else "()")
        return Equation(name, None, Union((left, Interval(high, INFINITY, "[)" if closed else "()"))))
    return None


def _shifted_name(node: Node) -> tuple[str, Node] | None:
    """x and c, of x - c; None for anything else."""
    if node.head == "symbol":
        return node.name, Node("number")
    terms = node.args if node.head == "+" else ()
    names = [term.name for term in terms if term.head == "symbol"]
    rest = tuple(Node("neg", (term,)) for term in terms if term.head != "symbol")
    if len(names) != 1 or any(symbols_in(term) for term in rest) or not rest:
        return None
    return names[0], rest[0] if len(rest) == 1 else Node("+", rest)


def line_without(points: list[Node]) -> Union | None:
    """The real line without some points, as open intervals; None if their order cannot be told."""
    values = [exact_value(point) for point in points]
    known = [(value, point) for value, point in zip(values, points, strict=True) if value is not None]
    if len(known) != len(points) and len(points) > 1:
        return None
    inner = [point for _, point in sorted(known)] if len(known) == len(points) else points
    ends = [Node("neg", (INFINITY,)), *inner, INFINITY]
    return Union(tuple(Interval(low, high, "()") for low, high in pairwise(ends)))
