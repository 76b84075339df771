"""From tokens to the shape of an answer: lists, relations, brackets, and what they hold."""

from collections.abc import Iterator, Sequence
from fractions import Fraction
from itertools import product

from tenner.evaluation.grading.maths.brackets import CLOSE, OPEN, are_one_pair, split
from tenner.evaluation.grading.maths.expressions import Node, parse, symbols_in
from tenner.evaluation.grading.maths.inequalities import inequality_of, intersection, line_without
from tenner.evaluation.grading.maths.matrices import environment_of, vector_of
from tenner.evaluation.grading.maths.names import name_of
from tenner.evaluation.grading.maths.notation import CONNECTIVES, Token, Unreadable
from tenner.evaluation.grading.maths.phrases import ONES, meaning_of
from tenner.evaluation.grading.maths.quantities import MODULO, Quantity, mixed_units, quantity_of
from tenner.evaluation.grading.maths.shapes import (
    REALS,
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
from tenner.evaluation.grading.maths.units import Unit
from tenner.evaluation.grading.maths.values import compare, is_near

ITEMS_MAX = 40
PLUS_MINUS_MAX = 3
APPROXIMATELY = frozenset(("approx", "sim", "doteq"))
RELATIONS = frozenset(("=", "<", ">", "le", "ge", "ne", "in"))
HEXADECIMAL = frozenset("0123456789ABCDEF")
OPERATORS = frozenset(("lim", "int", "iint", "iiint", "oint", "sum", "prod"))
"""What they say is not computed here: the side behind the sign counts."""
ARTICLES = frozenset(("a", "an", "the"))


def shape_of(tokens: Sequence[Token]) -> Shape:
    """The shape that all the tokens make. Raises Unreadable if they make none."""
    tokens = list(tokens)
    if not tokens:
        raise Unreadable("nothing")
    are_words = all(t.kind in ("word", "symbol") or t.text == "-" for t in tokens)
    are_words = are_words and any(t.kind == "word" for t in tokens)
    if are_words and (meaning := meaning_of(_phrase(tokens))) is not None:
        return meaning
    if _is_a_phrase(tokens):
        return _list_of_words(tokens)
    return _union(tokens)


def _phrase(tokens: Sequence[Token]) -> str:
    """The words in lower case and without articles."""
    return " ".join(word for t in tokens if (word := t.text.lower()) not in ARTICLES).replace(" - ", "-")


def _list_of_words(tokens: Sequence[Token]) -> Shape:
    """ "Alice and Bob" are two answers; a phrase is one."""
    parts = split(tokens, CONNECTIVES)
    return Listing("", tuple(map(_words, parts))) if len(parts) > 1 and all(parts) else _words(tokens)


def _is_a_phrase(tokens: Sequence[Token]) -> bool:
    """At least one word, and letters between words only: "a right triangle"."""
    words = sum(t.kind == "word" and t.text not in ("and", "or") for t in tokens)
    return words > 0 and all(
        t.kind == "word" or (t.kind == "symbol" and t.text in "aAI") or t.text in "-'" for t in tokens
    )


def _words(tokens: Sequence[Token]) -> Shape:
    phrase = _phrase(tokens)
    return meaning_of(phrase) or Words(phrase)


def _union(tokens: list[Token]) -> Shape:
    if (modulus := _modulus(tokens)) is not None:
        return _modulo(_union(tokens[:-2]), modulus)
    if (without := _reals_without(tokens)) is not None:
        return without
    parts = split(tokens, frozenset(("cup",)))
    if len(parts) > 1:
        name, first = _member_of(parts[0])
        union = Union(tuple(as_set(_list(part)) for part in [first, *parts[1:]]))
        return Equation(name, None, union) if name else union
    return _list(tokens)


def _modulus(tokens: list[Token]) -> Unit | None:
    """The modulus behind the tokens; None without one."""
    behind = len(tokens) > 2 and (tokens[-2].kind, tokens[-2].text) == ("command", "modulo")
    return Unit(MODULO, Fraction(tokens[-1].text)) if behind else None


def _modulo(shape: Shape, modulus: Unit) -> Shape:
    """x \\equiv 3, 5 \\pmod 8: the modulus is that of all numbers that have none of their own."""
    if isinstance(shape, Equation) and not shape.name and shape.left is not None and not symbols_in(shape.left):
        return _modulo(shape.right, modulus)  # 2^{10} \\equiv 4
    if isinstance(shape, Equation) and shape.name:
        return shape._replace(right=_modulo(shape.right, modulus))
    if isinstance(shape, Listing) and shape.bracket in ("", "{"):
        return shape._replace(items=tuple(_modulo(item, modulus) for item in shape.items))
    if isinstance(shape, Quantity) and (shape.unit is None or shape.unit.dimension == MODULO):
        return shape if shape.unit is not None else shape._replace(unit=modulus)
    raise Unreadable("a residue of something else than numbers")


def _reals_without(tokens: list[Token]) -> Shape | None:
    """The real numbers but for some: \\mathbb{R} \\setminus \\{1, 2\\}, "all real numbers except x = 2"."""
    place = next((i for i, t in enumerate(tokens) if t.text in ("setminus", "except", "excluding", "-")), 0)
    name, reals = _member_of(tokens[:place]) if place else ("", [])
    if not reals or not (reals[0].text == "reals" or reals[0].kind == "word") or shape_of(reals) != REALS:
        return None
    left_out = tokens[place + 1 :]
    if left_out and left_out[0].text == "for":
        left_out = left_out[1:]
    holes = _list(left_out)
    while isinstance(holes, Equation):
        holes = holes.right
    points = holes.items if isinstance(holes, Listing) and holes.bracket in ("", "{") else (holes,)
    union = line_without([point.node for point in points if isinstance(point, Quantity)])
    if union is None or len(union.parts) != len(points) + 1:
        raise Unreadable("what is left out of the real numbers")
    return Equation(name, None, union) if name else union


def _member_of(tokens: list[Token]) -> tuple[str, list[Token]]:
    """`x \\in` or `x =` in front of a union."""
    for sign in ("in", "="):
        parts = split(tokens, frozenset((sign,)))
        if len(parts) == 2 and (name := name_of(parts[0])):
            return name, parts[1]
    return "", tokens


def _list(tokens: list[Token]) -> Shape:
    alternatives = split(tokens, frozenset(("or",)))
    if len(alternatives) > 1 and all(_has_relation(part) for part in alternatives):
        ranges = [s for s in map(_relation, alternatives) if isinstance(s, Equation)]
        sets = [Listing("{", (s.right,)) if isinstance(s.right, Quantity) else s.right for s in ranges]
        if len({s.name for s in ranges}) == 1 and any(isinstance(s, Interval) for s in sets):
            return Equation(ranges[0].name, None, Union(tuple(sets)))
    if (bounded := _bounded(tokens) or _all_but(tokens)) is not None:
        return bounded
    joined = [t for t in tokens if t.text not in ("and", ",")]  # 2 hours and 30 minutes
    if len(joined) < len(tokens) and (mixed := mixed_units(joined)) is not None:
        return mixed
    parts = split(tokens, frozenset((",", ";", "and", "or")))
    parts = [part for i, part in enumerate(parts) if part or not 0 < i < len(parts) - 1]  # "1, 2, and 3"
    if len(parts) > ITEMS_MAX:
        raise Unreadable("too many items")
    if len(parts) == 1:
        items = tuple(_items(parts[0]))
        return items[0] if len(items) == 1 else Listing("", items)
    if any(not part for part in parts):
        raise Unreadable("an item that is missing")
    parts = _with_names(parts)
    listed = tuple(item for part in parts for item in _items(part))
    return Tokens(",", listed) if any(isinstance(item, Ellipsis) for item in listed) else Listing("", listed)


def _bounded(tokens: list[Token]) -> Equation | None:
    """x > 2 and x < 5 as one interval; None for anything else."""
    parts = split(tokens, frozenset((",", "and")))
    if len(parts) != 2 or not all(map(_has_relation, parts)):
        return None
    first, second = map(_relation, parts)
    if not isinstance(first, Equation) or not isinstance(second, Equation) or first.name != second.name:
        return None
    if not isinstance(first.right, Interval) or not isinstance(second.right, Interval):
        return None
    both = intersection(first.right, second.right)
    return None if both is None else Equation(first.name, None, both)


def _all_but(tokens: list[Token]) -> Equation | None:
    """The values that x may have if x \\ne 1, 2, or x \\ne \\pm 1; None for anything else."""
    sides = [split(part, frozenset(("ne",))) for part in split(tokens, frozenset((",", "and")))]
    name = name_of(sides[0][0])
    if not name or len(sides[0]) != 2 or not all(side and not _has_relation(side) for part in sides for side in part):
        return None
    if any(len(part) > 2 or (len(part) == 2 and name_of(part[0]) != name) for part in sides):
        return None
    holes = [item for part in sides for item in _items(part[-1])]
    union = line_without([hole.node for hole in holes if isinstance(hole, Quantity)])
    return Equation(name, None, union) if union is not None and len(union.parts) == len(holes) + 1 else None


def _with_names(parts: list[list[Token]]) -> list[list[Token]]:
    """n = 2, 3, 4 says n = 2, n = 3, n = 4: the name is left out everywhere."""
    sides = split(parts[0], frozenset(("=",)))
    rest_is_bare = not any(_has_relation(part) for part in parts[1:])
    if len(sides) == 2 and rest_is_bare and name_of(sides[0]):
        return [sides[1], *parts[1:]]
    return parts


def _has_relation(tokens: Sequence[Token]) -> bool:
    return any(t.text in RELATIONS and (t.kind != "word" or t.text != "in") for t in tokens)


def _items(tokens: list[Token]) -> Iterator[Shape]:
    """The answers that one item of a list stands for: two where there is a plus-minus in it."""
    signs = [i for i, t in enumerate(tokens) if t.kind == "command" and t.text in ("pm", "mp")]
    if not signs:
        yield _relation(tokens)
        return
    if len(signs) > PLUS_MINUS_MAX:
        raise Unreadable("too many plus-minus")
    enclosed = tokens[0].text == "{s"
    if enclosed:
        yield _relation(tokens)
        return
    tied = any(tokens[i].text == "mp" for i in signs)
    choices = [("+",) * len(signs), ("-",) * len(signs)] if tied else list(product("+-", repeat=len(signs)))
    for choice in choices:
        chosen = list(tokens)
        for i, sign in zip(signs, choice, strict=True):
            opposite = {"+": "-", "-": "+"}[sign]
            chosen[i] = Token("sign", opposite if tokens[i].text == "mp" else sign)
        yield _relation(chosen)


def _relation(tokens: list[Token]) -> Shape:
    if tokens and tokens[0].text == "begin":
        return _single(tokens)
    if len(sides := split(tokens, APPROXIMATELY)) > 1:
        return _approximation(sides)
    if not _has_relation(tokens):
        return _single(tokens)
    signs, depth = [], 0
    for token in tokens:
        depth += (token.text in OPEN) - (token.text in CLOSE)
        if depth == 0 and token.text in RELATIONS and token.kind != "word":
            signs.append(token.text)
    if not signs:
        return _single(tokens)
    sides = split(tokens, RELATIONS)
    if len(sides) != len(signs) + 1 or not all(sides):
        raise Unreadable("a relation without two sides")
    if signs == ["in"]:
        if not (name := name_of(sides[0])):
            raise Unreadable("what is a member")
        return Equation(name, None, as_set(_union(sides[1])))
    if set(signs) == {"="}:
        return _equation(sides)
    return inequality_of(signs, sides)


def _approximation(sides: list[list[Token]]) -> Shape:
    """Of 2.5 \\approx 3 the last side is the answer; of \\sqrt{2} \\approx 1.41, either. A wrong one is not read."""
    last = _single(sides[-1])
    if len(sides) != 2 or not sides[0]:
        if any(sides[:-1]):
            raise Unreadable("several approximations")
        return last
    if name_of(sides[0]):
        return Equation(name_of(sides[0]), None, last)
    first = _relation(sides[0])
    exact = first.right if isinstance(first, Equation) else first
    if not isinstance(exact, Quantity) or not isinstance(last, Quantity):
        raise Unreadable("an approximation of something else than a number")
    if exact.decimal is not None or len(sides[0]) == 1:
        return last
    if not is_near(exact.node, last.node):
        raise Unreadable("an approximation that is wrong")
    both = Approximation(exact._replace(unit=exact.unit or last.unit), last._replace(unit=last.unit or exact.unit))
    return first._replace(right=both) if isinstance(first, Equation) else both


def _equation(sides: list[list[Token]]) -> Shape:
    """Of several sides the last is the answer: m + n = 256 + 37 = 293."""
    right = _single(sides[-1])
    if name := name_of(sides[0]):
        left = _try_parse(sides[0])
        return Equation(name, left, right)
    if len(sides) == 2 and (name := name_of(sides[1])) and not symbols_in(parse(sides[0])):
        return Equation(name, _try_parse(sides[1]), _single(sides[0]))  # 3 = x
    if sides[0][0].text in OPERATORS:  # \\int_0^1 x dx = \\frac12
        return Equation("".join(t.text for t in sides[0] if t.text not in ("{", "}")), None, right)
    left = parse(sides[-2])
    if not isinstance(right, Quantity) or right.unit is not None:
        raise Unreadable("an equation of something else than numbers")
    numbers = [left, right.node]
    if not any(map(symbols_in, numbers)) and compare(*numbers) == "same":
        return right  # \\frac{1}{2} = 0.5
    return Equation("", left, right)


def _try_parse(tokens: list[Token]) -> Node | None:
    try:
        return parse(tokens)
    except Unreadable:
        return None


def _single(tokens: list[Token]) -> Shape:
    if not tokens:
        raise Unreadable("nothing on one side")
    if (modulus := _modulus(tokens)) is not None:
        return _modulo(_single(tokens[:-2]), modulus)
    texts = [t.text for t in tokens]
    if texts == ["ldots"]:
        return Ellipsis()
    if texts == ["reals"]:
        return REALS
    if texts == ["emptyset"]:
        return Listing("{", ())
    if (transposed := _transposed(tokens)) is not None:
        return transposed
    if (environment := environment_of(tokens, _single, _relation)) is not None:
        return environment
    if (vector := vector_of(tokens)) is not None:
        return vector
    if len(parts := split(tokens, frozenset((":",)))) > 1 and all(parts):
        return Tokens(":", tuple(_single(part) for part in parts))
    if (based := _based(tokens)) is not None:
        return based
    if (enclosed := _enclosed(tokens)) is not None:
        return enclosed
    if all(t.kind == "word" for t in tokens) or _is_a_phrase(tokens):
        return _words(tokens)
    return quantity_of(tokens)


def _transposed(tokens: list[Token]) -> Shape | None:
    """The transpose of a matrix; a tuple is a column already. None where nothing is transposed."""
    texts = [t.text for t in tokens]
    for mark in (["^", "T"], ["^", "{", "T", "}"], ["^", "top"], ["^", "{", "top", "}"]):
        if texts[-len(mark) :] == mark and (texts[0] == "begin" or are_one_pair(tokens[: -len(mark)])):
            inner = _single(tokens[: -len(mark)])
            if isinstance(inner, Matrix):
                return Matrix(tuple(zip(*inner.rows, strict=True)))
            return inner if isinstance(inner, Listing) and inner.bracket in ("(", "[") else None
    return None


def _based(tokens: list[Token]) -> Shape | None:
    """52_8, 2A_{16}, 101_{two}, 52 base 8."""
    if sum((t.text in OPEN) - (t.text in CLOSE) for t in tokens):
        return None
    texts = [t.text for t in tokens if t.text not in ("{", "}", "(", ")")]
    if "_" in texts and texts[texts.index("_") + 1 :][:1] == ["base"]:
        texts.remove("base")
    for mark in ("_", "base"):
        if texts.count(mark) == 1:
            digits, (base, *more) = texts[: texts.index(mark)], [*texts[texts.index(mark) + 1 :], ""]
            digits = [d for d in digits if d != "in"]
            text = "".join(digits).upper()
            value = int(base) if base.isascii() and base.isdigit() and len(base) < 3 else 0
            value = ONES.index(base) if base in ONES else value
            is_hexadecimal = value == 16 and len(text) > 1 and HEXADECIMAL.issuperset(text)
            is_digits = text.isalnum() and text.isascii() and (text[0].isdigit() or is_hexadecimal)
            if is_digits and value > 1 and more in ([], [""]):
                return Based(text.lstrip("0") or "0", value)
    return None


def _enclosed(tokens: list[Token]) -> Shape | None:
    """What stands in one pair of brackets: (1, 2), [0, 5), \\{1, 2\\}; None for a lone expression in brackets."""
    first, last = tokens[0].text, tokens[-1].text
    if first not in ("(", "[", "{s", "langle", "]") or last not in (")", "]", "}s", "rangle", "["):
        return None
    if not are_one_pair(tokens):
        return None
    inside = tokens[1:-1]
    if inside and inside[0].text == "begin" and (first, last) in (("(", ")"), ("[", "]")):
        return environment_of(inside, _single, _relation)
    if first == "{s":
        if last != "}s":
            return None
        builder = split(inside, frozenset((":", "|")))
        name = name_of(_without_reals(builder[0]))
        if len(builder) == 2 and name and isinstance(described := _relation(builder[1]), Equation):
            return described.right if name == described.name else Listing("{", _inner(inside))
        return Listing("{", _inner(inside) if inside else ())
    parts = split(inside, frozenset((",", ";")))
    if len(parts) == 1:
        if inside and inside[0].text == "[":
            rows = _enclosed(inside)
            return _nested((rows,)) if rows is not None else None
        return _union(inside) if (_has_relation(inside) and first == "(") or _only_words(inside) else None
    if (first, last) in (("[", ")"), ("(", "]")):
        low, high = parts if len(parts) == 2 else ([], [])
        return Interval(parse(low), parse(high), first + last)
    if (first, last) not in (("(", ")"), ("[", "]"), ("langle", "rangle")):
        raise Unreadable("brackets that do not match")
    items = tuple(_single(part) for part in parts)
    if first == "[" and (nested := _nested(items)) is not None:
        return nested
    if any(isinstance(item, Ellipsis) for item in items):
        return Tokens(first, items)
    return Listing("(" if first == "langle" else first, items)


def _without_reals(tokens: list[Token]) -> list[Token]:
    """x of x \\in \\mathbb{R}."""
    parts = split(tokens, frozenset(("in",)))
    return parts[0] if len(parts) == 2 and [t.text for t in parts[1]] == ["reals"] else tokens


def _only_words(tokens: Sequence[Token]) -> bool:
    return bool(tokens) and all(t.kind == "word" for t in tokens)


def _nested(items: tuple[Shape, ...]) -> Matrix | None:
    """[[1, 2], [3, 4]] is a matrix."""
    rows = tuple(item.items for item in items if isinstance(item, Listing) and item.bracket == "[")
    return Matrix(rows) if rows and len(rows) == len(items) and len({len(row) for row in rows}) == 1 else None


def _inner(tokens: list[Token]) -> tuple[Shape, ...]:
    """The members of a set."""
    inside = _list(tokens)
    if isinstance(inside, Listing) and inside.bracket == "":
        return inside.items
    return (inside,)
