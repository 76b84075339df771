"""Units of measurement behind a number: which are the same, and how many of one make another."""

from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple

from tenner.evaluation.grading.maths.notation import Token, Unreadable


class Unit(NamedTuple):
    """A unit by its dimension and its size in it; one that no table knows is a dimension of its own.

    `pure` units are numbers themselves: 28 % is 0.28. Degrees are not: who asks for degrees asks for no radians.
    """

    dimension: str
    size: Fraction = Fraction(1)
    pure: bool = False


PERCENT = Unit("percent", Fraction(1, 100), pure=True)
DEGREE = Unit("degree")

KNOWN = {
    "length": {
        "mm": "1/1000", "millimeter": "1/1000", "cm": "1/100", "centimeter": "1/100", "m": "1", "meter": "1",
        "km": "1000", "kilometer": "1000", "in": "0.0254", "inch": "0.0254", "inche": "0.0254", "ft": "0.3048",
        "foot": "0.3048", "feet": "0.3048", "yd": "0.9144", "yard": "0.9144", "mi": "1609.344", "mile": "1609.344",
    },
    "mass": {
        "mg": "1/1000", "milligram": "1/1000", "g": "1", "gram": "1", "kg": "1000", "kilogram": "1000",
        "lb": "453.59237", "lbs": "453.59237", "pound": "453.59237", "oz": "28.349523125", "ounce": "28.349523125",
    },
    "time": {
        "s": "1", "sec": "1", "second": "1", "min": "60", "minute": "60", "h": "3600", "hr": "3600", "hrs": "3600",
        "mins": "60", "secs": "1", "hour": "3600",
        "day": "86400", "week": "604800",
    },
    "volume": {"ml": "1/1000", "milliliter": "1/1000", "l": "1", "L": "1", "liter": "1"},
    "dollar": {"cent": "1/100", "$": "1", "dollar": "1", "usd": "1", "buck": "1", "penny": "1/100", "pennie": "1/100"},
    "euro": {"euro": "1", "eur": "1"},
    "pound sterling": {"pounds": "1", "gbp": "1"},
}  # fmt: skip
TABLE = {name: Unit(dimension, Fraction(size)) for dimension, of in KNOWN.items() for name, size in of.items()}
SQUARES, CUBES = frozenset(("square", "sq")), frozenset(("cubic", "cu"))
NOT_UNITS = frozenset(
    (
        "is are was to of not no if we it as so because since than then modulo mod to by but million billion "
        "thousand hundred"
    ).split()
)
WORDS_MAX = 4


def unit_of(tokens: Sequence[Token]) -> Unit:
    """The unit that the tokens behind a number name. Raises Unreadable for words that are none."""
    words: list[str] = []
    power = 1
    for token in tokens:
        if token.kind in ("word", "symbol", "command") and token.text != "circ":
            words.append(token.text)
        elif token.kind == "number" and token.text in ("2", "3") and power == 1:
            power = int(token.text)
        elif token.text in ("/", "cdot"):
            words.append("per")
        elif token.text not in ("^", "{", "}", ".", "(", ")", "'"):
            raise Unreadable(f"{token.text} in a unit")
    if not words or len(words) > WORDS_MAX or NOT_UNITS.intersection(words):
        raise Unreadable("words that are no unit")
    if words[0] in SQUARES | CUBES:
        power, words = (2 if words[0] in SQUARES else 3), words[1:]
    if words in (["unit"], ["units"], ["un", "its"]):
        return Unit("unit")
    if not words:
        raise Unreadable("a power of nothing")
    names = [_singular(word) for word in words]
    known = TABLE.get(names[0]) if len(names) == 1 else None
    if known is not None:
        return Unit(known.dimension if power == 1 else f"{known.dimension}^{power}", known.size**power)
    names = [f"{TABLE[n].dimension}*{TABLE[n].size}" if n in TABLE else n for n in names]
    return Unit(" ".join(names) if power == 1 else f"{' '.join(names)}^{power}")


def _singular(word: str) -> str:
    word = word.replace("metre", "meter").replace("litre", "liter")
    if word in TABLE or len(word) < 4 or not word.endswith("s") or word.endswith("ss"):
        return word
    return word[:-1]
