"""Phrases that mean something mathematical: no solution, all real numbers, infinitely many, and numbers in words."""

import re
from fractions import Fraction

from tenner.evaluation.grading.maths.expressions import Node, number
from tenner.evaluation.grading.maths.quantities import Quantity
from tenner.evaluation.grading.maths.shapes import INFINITY, REALS, Interval, Listing, Shape, Union, Words
from tenner.evaluation.grading.maths.units import PERCENT

NOUN = (
    "solutions?|roots?|numbers?|integers?|values?|answers?|functions?|pairs?|triples?|tuples?|polynomials?|zeros?|zeroes|"
    "intersections?|points?|primes?|[a-z]"
)
NUMBERS = "(?:set of )?(?:(?:positive|natural|whole|real|rational|complex) )*(?:integers|numbers|reals)"
RUSSIAN_KIND = "(?:действительных|вещественных|целых|натуральных)"
NO_SOLUTION = re.compile(
    r"(?:there (?:is|are|exists?) |it has |has |(?:equation|system|inequality) has )?no"
    r"(?: (?:real|integral|rational|complex|valid|possible|such|positive|natural|integer|finite|common))*"
    rf"(?: (?:{NOUN}))+(?: (?:exists?|satisfy|satisfies|works?))?(?: (?:in|over|among) (?:{NUMBERS}))?"
    r"|empty set|null set|(?:there (?:is|are) )?none|impossible|not possible"
    r"|(?:(?:原|该|該|此)?(?:方程|不等式)[组組]?)?(?:无|無|没有|沒有)(?:实数?|實數?|整数|整數|正整数|有理数)?[解根]|空集"
    r"|(?:実数)?解なし|解は?存在しない|解を持たない|空集合"
    r"|(?:실수 |정수 )?(?:해|근|실근)(?:가|는|이|은)? ?(?:없다|없음|없습니다|존재하지 않는다)|공집합"
    rf"|нет (?:{RUSSIAN_KIND} )?(?:решений|корней)|(?:{RUSSIAN_KIND} )?(?:решений|корней) нет"
    rf"|(?:уравнение |система )?не имеет (?:{RUSSIAN_KIND} )?(?:решений|корней)|пустое множество"
    r"|keine (?:reelle )?lösung|keine (?:reellen )?lösungen|leere menge"
    r"|pas de solutions?(?: réelles?)?|aucune solution(?: réelle)?|ensemble vide"
    r"|(?:no hay|sin|no tiene) soluci(?:ón|ones)|conjunto vacío|(?:sem|não há) solução|nessuna soluzione|insieme vuoto"
)
NONEXISTENT = re.compile(
    r"(?:(?:limit|it|value) )?(?:does not exist|dne|is undefined)|undefined|no limit(?: exists)?"
    r"|不存在|存在しない|не существует"
)
INFINITELY_MANY = re.compile(
    r"(?:there are )?(?:infinitely many|infinite(?: number of| many)?|uncountably many)"
    rf"(?: (?:real |distinct )*(?:{NOUN}))?"
    r"|有?无穷(?:多个?|大)?解?|有?无穷多组解?|无数个?解?|无限多?个?解?|無限(?:個|大|に多い)?|무한(?:히 많다|대)?"
    r"|бесконечно много(?: решений)?|бесконечность"
)
DIVERGES = re.compile(
    r"(?:(?:series|integral|sequence|limit|it) )?(?:is )?(?:diverges|divergent|does not converge)|发散|發散|расходится"
)
CONVERGES = re.compile(
    r"(?:(?:series|integral|sequence|limit|it) )?(?:is )?(?:converges|convergent)|收敛|收斂|сходится"
)
ALL_REALS = re.compile(
    r"(?:[a-z] (?:is|can be|may be) )?(?:for )?(?:set of )?(?:all|any|every) real"
    r"(?: numbers?| values?(?: of)?)?(?: [a-z])?"
    r"|(?:set of )?(?:all )?reals|(?:set of )?real numbers|(?:entire |whole )?real (?:number )?line"
    r"|(?:全体|所有|任意|一切|全部)(?:的)?实数|(?:全體|任意)實數|すべての実数|実数全体|全ての実数|任意の実数"
    r"|모든 실수|실수 전체"
    r"|все (?:действительные |вещественные )?числа|любое (?:действительное |вещественное )?число"
)
SIGNED_REALS = re.compile(
    r"(?:[a-z] (?:is|can be|may be) )?(?:for )?(?:set of )?(?:all |any |every )?"
    r"(?P<sign>positive|negative|non-?negative|non-?positive|non-?zero) real(?:s| numbers?)(?: [a-z])?"
)
BELOW_ZERO = Interval(Node("neg", (INFINITY,)), number(0), "()")
ABOVE_ZERO = Interval(number(0), INFINITY, "()")
SIGNED: dict[str, Shape] = {
    "positive": ABOVE_ZERO,
    "nonnegative": ABOVE_ZERO._replace(brackets="[)"),
    "negative": BELOW_ZERO,
    "nonpositive": BELOW_ZERO._replace(brackets="(]"),
    "nonzero": Union((BELOW_ZERO, ABOVE_ZERO)),
}
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
DIGIT_BY_DIGIT_MIN = 3
"""Fewer digits side by side may be an approximation, as 三五."""
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
    if signed := SIGNED_REALS.fullmatch(phrase):
        return SIGNED[signed["sign"].replace("-", "")]
    if DIVERGES.fullmatch(phrase) or CONVERGES.fullmatch(phrase):
        return Words("diverges" if DIVERGES.fullmatch(phrase) else "converges")
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
    if len(text) >= DIGIT_BY_DIGIT_MIN and CHINESE_DIGITS.keys() >= set(text):
        return int("".join(str(CHINESE_DIGITS[character]) for character in text))  # 二〇二四, a year
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
