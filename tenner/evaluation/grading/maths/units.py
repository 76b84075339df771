"""Units of measurement behind a number: which are the same, and how many of one make another."""

from collections import Counter
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import NamedTuple

from tenner.evaluation.grading.maths.notation import Token, Unreadable
from tenner.evaluation.grading.maths.scales import scale_of
from tenner.evaluation.grading.maths.unit_symbols import SI_SYMBOLS


class Unit(NamedTuple):
    """A unit by its dimension and its size in the base unit; one that no table knows is a dimension of its own.

    The dimension is a product of base dimensions, as in "length*time^-2". `pure` units are numbers themselves: 28 % is
    0.28. Degrees are not: who asks for degrees asks for no radians.
    """

    dimension: str
    size: Fraction = Fraction(1)
    pure: bool = False


PERCENT = Unit("percent", Fraction(1, 100), pure=True)
DEGREE = Unit("degree")

EVERYDAY = {
    "length": {
        "millimeter": "1/1000", "centimeter": "1/100", "meter": "1", "kilometer": "1000", "in": "0.0254",
        "inch": "0.0254", "inche": "0.0254", "ft": "0.3048", "foot": "0.3048", "feet": "0.3048", "yd": "0.9144",
        "yard": "0.9144", "mi": "1609.344", "mile": "1609.344", "nanometer": "1/1000000000",
        "micrometer": "1/1000000", "angstrom": "1/10000000000", "米": "1", "厘米": "1/100", "毫米": "1/1000",
        "千米": "1000", "公里": "1000", "м": "1", "см": "1/100", "мм": "1/1000", "км": "1000",
        "метр": "1", "метра": "1", "метров": "1", "미터": "1", "킬로미터": "1000", "센티미터": "1/100", "メートル": "1",
        "キロメートル": "1000", "センチメートル": "1/100",
    },
    "length^2": {
        "hectare": "10000", "ha": "10000", "acre": "4046.8564224", "公顷": "10000", "亩": "2000/3",
        "\u0433\u0430": "10000",
    },
    "mass": {
        "milligram": "1/1000", "gram": "1", "kilogram": "1000", "lb": "453.59237", "lbs": "453.59237",
        "pound": "453.59237", "oz": "28.349523125", "ounce": "28.349523125", "tonne": "1000000", "克": "1",
        "千克": "1000", "公斤": "1000", "斤": "500", "吨": "1000000", "\u0433": "1", "кг": "1000", "그램": "1",
        "킬로그램": "1000", "グラム": "1", "キログラム": "1000",
    },
    "time": {
        "sec": "1", "second": "1", "min": "60", "minute": "60", "h": "3600", "hr": "3600", "hrs": "3600",
        "mins": "60", "secs": "1", "hour": "3600", "day": "86400", "week": "604800", "millisecond": "1/1000",
        "秒": "1", "分钟": "60", "分": "60", "小时": "3600", "时": "3600", "天": "86400", "時間": "3600", "分間": "60",
        "秒間": "1", "日間": "86400", "초": "1", "분": "60", "시간": "3600", "일": "86400", "мин": "60", "ч": "3600",
        "час": "3600", "часа": "3600", "часов": "3600", "минута": "60", "минуты": "60", "минут": "60", "секунда": "1",
        "секунды": "1", "секунд": "1", "дня": "86400", "дней": "86400",
    },
    "dollar": {"cent": "1/100", "$": "1", "dollar": "1", "usd": "1", "buck": "1", "penny": "1/100", "pennie": "1/100"},
    "euro": {"euro": "1", "eur": "1"},
    "pound sterling": {"pounds": "1", "gbp": "1"},
    "yen": {"yen": "1", "円": "1"}, "yuan": {"元": "1", "yuan": "1", "rmb": "1", "角": "1/10"},
    "rupee": {"rupee": "1", "paise": "1/100"},
    "ruble": {"ruble": "1", "рубль": "1", "рублей": "1", "рубля": "1"}, "won": {"원": "1"},
}  # fmt: skip
NAMED = {
    "liter": "l", "milliliter": "mL", "newton": "N", "joule": "J", "kilojoule": "kJ", "megajoule": "MJ", "watt": "W",
    "kilowatt": "kW", "megawatt": "MW", "pascal": "Pa", "kilopascal": "kPa", "hertz": "Hz", "kilohertz": "kHz",
    "megahertz": "MHz", "coulomb": "C", "microcoulomb": "\u03bcC", "volt": "V", "millivolt": "mV", "kilovolt": "kV",
    "ohm": "\u03a9", "kiloohm": "k\u03a9", "farad": "F", "microfarad": "\u03bcF", "henry": "H", "tesla": "T",
    "weber": "Wb", "siemen": "S", "ampere": "A", "amp": "A", "milliampere": "mA", "kelvin": "K", "mole": "mol",
    "electronvolt": "eV", "calorie": "cal", "kilocalorie": "kcal", "bar": "bar", "atmosphere": "atm",
    "becquerel": "Bq", "升": "l", "毫升": "mL", "л": "l",
}  # fmt: skip
"""Names of units by their symbol."""


def _named(symbol: str) -> Unit:
    size, powers = SI_SYMBOLS[symbol]
    return Unit(_dimension(powers), size)


def _dimension(powers: Mapping[str, int]) -> str:
    """The product of base dimensions, in the order of their names."""
    named = [(name, power) for name, power in sorted(powers.items()) if power]
    return "*".join(name if power == 1 else f"{name}^{power}" for name, power in named)


SYMBOLS = {symbol: _named(symbol) for symbol in SI_SYMBOLS}
TABLE = (
    {name: Unit(dimension, Fraction(size)) for dimension, of in EVERYDAY.items() for name, size in of.items()}
    | {name: SYMBOLS[symbol] for name, symbol in NAMED.items()}
    | SYMBOLS
)
TABLE |= {name: Unit("length*time^-1", Fraction(5, 18)) for name in ("kmph", "kmh")}
TABLE |= {
    name: Unit("length^3", Fraction(size) * Fraction("0.003785411784"))
    for name, size in {"gallon": "1", "gal": "1", "quart": "1/4", "pint": "1/8"}.items()
}
TABLE |= {name: SYMBOLS["atm"]._replace(size=SYMBOLS["atm"].size / 760) for name in ("torr", "mmhg")}
TABLE |= {"mph": Unit("length*time^-1", Fraction("1609.344") / 3600), "kph": Unit("length*time^-1", Fraction(5, 18))}
SQUARES, CUBES = frozenset(("square", "sq", "squared", "平方")), frozenset(("cubic", "cu", "cubed", "立方"))
NOT_UNITS = frozenset(
    (
        "is are was to of not no if we it as so because since than then modulo mod by but least most below under above "
        "plus minus negative recurring repeating gross mil 兆"
    ).split()
)
"""Words that make the number another one; `mil` is a thousand in some languages."""
FRACTIONS = frozenset(
    (
        "half halve third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth twentieth hundredth "
        "thousandth millionth billionth"
    ).split()
)
"""3 tenths are not 3; but there may be 12 sixth graders."""
WORDS_MAX = 4
POWER_MAX = 12


class _Factor(NamedTuple):
    """A name with its power, as it stands in a product of units."""

    name: str
    power: int


def unit_of(tokens: Sequence[Token]) -> Unit:
    """The unit that the tokens behind a number name. Raises Unreadable for words that are none."""
    factors = _factors(tokens)
    names = [factor.name for factor in factors]
    if not names or len(names) > WORDS_MAX or change_the_number(names):
        raise Unreadable("words that are no unit")
    if names in (["unit"], ["units"], ["un", "its"]):
        return Unit("unit" if factors[-1].power == 1 else f"unit^{factors[-1].power}")
    powers: Counter[str] = Counter()
    size = Fraction(1)
    for name, power in factors:
        known = TABLE.get(name, Unit(name))
        size *= known.size**power
        for base, exponent in _powers(known.dimension):
            powers[base] += exponent * power
    if len(names) == 1 and factors[0].power == 1 and names[0] in TABLE:
        return TABLE[names[0]]
    return Unit(_dimension(powers) or " ".join(names), size)


def change_the_number(names: Sequence[str]) -> bool:
    """Whether words behind a number, in lower case, make it another one: 3 lakh, 3 tenths, 3 at most."""
    fraction = len(names) == 1 and (names[0] in FRACTIONS or names[0].removesuffix("s") in FRACTIONS)
    return fraction or any(name in NOT_UNITS or scale_of(name) for name in names)


def _powers(dimension: str) -> list[tuple[str, int]]:
    found = []
    for part in dimension.split("*"):
        base, _, exponent = part.partition("^")
        found.append((base, int(exponent or 1)))
    return found


def _factors(tokens: Sequence[Token]) -> list[_Factor]:
    """The names and their powers: m s^{-2}, m/s^2, square meters, meters per second squared.

    Phases: a sign or "per" turns the following name over, a power follows its name, "square" goes before or behind.
    """
    factors: list[_Factor] = []
    sign, power_next, depth = 1, 1, 0
    texts = [t.text for t in tokens]
    i = 0
    while i < len(tokens):
        token, text = tokens[i], texts[i]
        if text in ("/", "per", "每"):
            sign = -1
        elif text in SQUARES | CUBES:
            power = 2 if text in SQUARES else 3
            if text.endswith("ed") and factors:
                factors[-1] = factors[-1]._replace(power=factors[-1].power * power)
            else:
                power_next = power
        elif token.kind in ("word", "symbol", "command") and text not in ("circ", "cdot"):
            name, written_power = _name(text)
            factors.append(_Factor(name, sign * power_next * written_power))
            sign, power_next = (sign if depth else 1), 1
        elif text == "^" or (token.kind == "number" and factors and not token.spaced):
            power, i = _power(texts, i + (text == "^"))
            if not factors:
                raise Unreadable("a power of nothing")
            factors[-1] = factors[-1]._replace(power=factors[-1].power * power)
        elif text in ("(", "{", ")", "}"):
            depth += {"(": 1, ")": -1}.get(text, 0)
            sign = 1 if text == ")" else sign
        elif text not in ("cdot", "*", ".", "'"):
            raise Unreadable(f"{text} in a unit")
        i += 1
    return factors


def _power(texts: Sequence[str], at: int) -> tuple[int, int]:
    """The whole number that begins at `at`, in braces or not, and the place of its last token."""
    inside = texts[at : at + 1] == ["{"]
    at += inside
    negative = texts[at : at + 1] == ["-"]
    at += negative
    digits = texts[at] if at < len(texts) else ""
    if not (digits.isascii() and digits.isdigit()) or not 0 < int(digits) <= POWER_MAX:
        raise Unreadable("the power of a unit")
    if inside and texts[at + 1 : at + 2] != ["}"]:
        raise Unreadable("the power of a unit")
    return (-int(digits) if negative else int(digits)), at + inside


def _name(word: str) -> tuple[str, int]:
    """The name of a unit as the table has it, and the power that is part of the word, as in 平方米."""
    for prefix, power in (("平方", 2), ("立方", 3)):
        if word.startswith(prefix) and len(word) > len(prefix):
            return word[len(prefix) :], power
    word = word.replace("metre", "meter").replace("litre", "liter")
    if word == "Omega":
        return "\u03a9", 1
    if word in TABLE or word in NOT_UNITS or len(word) < 4 or not word.endswith("s") or word.endswith("ss"):
        return word, 1
    return word[:-1], 1
