"""Phrases that mean something mathematical: no solution, all real numbers, infinitely many, and numbers in words."""

import re
from fractions import Fraction

from tenner.evaluation.grading.maths.expressions import number
from tenner.evaluation.grading.maths.quantities import Quantity
from tenner.evaluation.grading.maths.shapes import INFINITY, REALS, Listing, Shape, Words
from tenner.evaluation.grading.maths.units import PERCENT

NOUN = (
    "solutions?|roots?|numbers?|integers?|values?|answers?|functions?|pairs?|triples?|tuples?|polynomials?|zeros?|zeroes|"
    "intersections?|points?|primes?|[a-z]"
)
NO_SOLUTION = re.compile(
    r"(?:there (?:is|are|exists?) |it has |has |(?:equation|system|inequality) has )?no"
    r"(?: (?:real|integral|rational|complex|valid|possible|such|positive|natural|integer|finite|common))*"
    rf"(?: (?:{NOUN}))+(?: (?:exists?|satisfy|satisfies|works?))?"
    r"|empty set|null set|(?:there (?:is|are) )?none|impossible|not possible"
    r"|无解|無解|无实数解|无实根|空集|方程无解|解なし|解は存在しない|空集合"
    r"|해가 없다|해가 없음|해 없음|해는 없다|공집합|нет решений|решений нет|пустое множество|keine lösung|leere menge"
    r"|pas de solution|aucune solution|ensemble vide|sin solución|conjunto vacío|sem solução|nessuna soluzione"
    r"|insieme vuoto"
)
NONEXISTENT = re.compile(
    r"(?:(?:limit|it|value) )?(?:does not exist|dne|is undefined)|undefined|no limit(?: exists)?"
    r"|不存在|存在しない|не существует"
)
INFINITELY_MANY = re.compile(
    r"(?:there are )?(?:infinitely many|infinite(?: number of| many)?|uncountably many)"
    rf"(?: (?:real |distinct )*(?:{NOUN}))?"
    r"|无穷(?:多个?|大)?解?|无穷多组解?|无数个?解?|无限多?个?解?|無限(?:個|大|に多い)?|무한(?:히 많다|대)?"
    r"|бесконечно много(?: решений)?|бесконечность"
)
ALL_REALS = re.compile(
    r"(?:[a-z] (?:is|can be|may be) )?(?:for )?(?:set of )?(?:all|any|every) real"
    r"(?: numbers?| values?(?: of)?)?(?: [a-z])?"
    r"|(?:set of )?(?:all )?reals|(?:set of )?real numbers"
    r"|(?:全体|所有|任意|一切|全部)(?:的)?实数|(?:全體|任意)實數|すべての実数|実数全体|全ての実数|任意の実数|모든 실수"
    r"|все действительные числа|все вещественные числа|любое действительное число"
)
ALL_OF_A_KIND = re.compile(
    r"(?:set of )?(?P<all>all |any |every )?"
    r"(?P<kind>(?:(?:positive|negative|nonnegative|even|odd|prime|natural|rational|complex|whole) )*)"
    r"(?P<noun>integers?|numbers?|primes)(?: [a-z])?"
)
ONES = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
).split()
TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()
CHINESE_DIGITS = {c: i for i, c in enumerate("零一二三四五六七八九")} | {"两": 2, "兩": 2, "\u3007": 0}
CHINESE_UNITS = {"十": 10, "百": 100, "千": 1000}
CHINESE_NUMBER = r"[零\u3007一二三四五六七八九十百千两兩万]+"
CHINESE = re.compile(
    rf"(?P<sign>负|負)?(?:(?P<bottom>{CHINESE_NUMBER})分之(?P<top>{CHINESE_NUMBER})|(?P<whole>{CHINESE_NUMBER}))(?P<unit>[个個])?"
)


def meaning_of(phrase: str) -> Shape | None:
    """The shape that a phrase stands for, None if it stands for nothing but itself. Lower case, without articles."""
    if NO_SOLUTION.fullmatch(phrase):
        return Listing("{", ())
    if NONEXISTENT.fullmatch(phrase):
        return Words("does not exist")
    if INFINITELY_MANY.fullmatch(phrase):
        return Quantity(INFINITY)
    if ALL_REALS.fullmatch(phrase):
        return REALS
    if (kind := ALL_OF_A_KIND.fullmatch(phrase)) and (kind["all"] or kind["noun"].endswith("s")):
        return Words(f"all {kind['kind']}{kind['noun'].removesuffix('s')}s")
    if (value := _english_number(phrase)) is not None:
        return Quantity(number(value))
    return _chinese_number(phrase)


def _english_number(phrase: str) -> int | None:
    """The number below a hundred that the words say: seven, forty-two."""
    words = phrase.replace("-", " ").split()
    if len(words) == 1 and words[0] in ONES:
        return ONES.index(words[0])
    if not words or words[0] not in TENS or len(words) > 2:
        return None
    ten = 20 + 10 * TENS.index(words[0])
    if len(words) == 1:
        return ten
    return ten + ONES.index(words[1]) if words[1] in ONES[1:10] else None


def _chinese_number(phrase: str) -> Quantity | None:
    """Whole numbers, fractions (二分之一) and percentages (百分之五十)."""
    match = CHINESE.fullmatch(phrase)
    if match is None:
        return None
    sign = -1 if match["sign"] else 1
    if match["whole"]:
        whole = _chinese_digits(match["whole"])
        return None if whole is None else Quantity(number(sign * whole))
    top, bottom = _chinese_digits(match["top"]), _chinese_digits(match["bottom"])
    if top is None or not bottom:
        return None
    if match["bottom"] == "百":
        return Quantity(number(sign * top), PERCENT)
    return Quantity(number(Fraction(sign * top, bottom)))


def _chinese_digits(text: str) -> int | None:
    """The value of 三百二十五 and the like, below a hundred million; None for digits in an order that is none."""
    if "万" in text:
        high, _, low = text.partition("万")
        above, below = _chinese_digits(high), _chinese_digits(low) if low else 0
        return None if above is None or below is None or "万" in low else above * 10_000 + below
    total, digit, last_unit = 0, None, 10_000
    for character in text:
        if character in CHINESE_UNITS:
            unit = CHINESE_UNITS[character]
            if unit >= last_unit:
                return None
            total, digit, last_unit = total + (1 if digit is None else digit) * unit, None, unit
        elif digit in (None, 0):
            digit = CHINESE_DIGITS[character]
        else:
            return None
    return total + (digit or 0)
