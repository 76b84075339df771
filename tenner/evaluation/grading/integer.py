"""Integer answers, as AIME has them: digits are compared, nothing is computed."""

import re

from tenner.evaluation.grading.maths.notation import DIGIT_GROUPS
from tenner.evaluation.grading.maths.units import change_the_number

NUMBER = re.compile(r"([-+]?)\s*([0-9]{1,3}(?:,[0-9]{3})+(?!,?[0-9])|[0-9]+)(?:\.0*)?")
UNIT = re.compile(r"(?:\s*(?:\\%|%|\^?\s*\\circ|\u00b0|[^\W\d_]+(?:\s*\^\s*[23])?\.?)){0,3}")
NOT_UNITS = re.compile(
    r"\b(?:or|and|not|to|minus|plus|over|mod|modulo|i|e|pi|x|y|n|k)\b"
    r"|^\s*[兆分点點]|[或和与與]|\b(?:или|и|oder|und|ou|et|y|o)\b",
    re.I,
)
WORD = re.compile(r"[^\W\d_]+")
DASH = re.compile(r"[\u2212\u2013\u2014\u2012](?=\s*[0-9])")
SPACED = re.compile(r"(?<![0-9.,])[0-9]{1,3}(?: [0-9]{3}){1,12}(?![0-9 ]{0,4}[0-9/])")
GROUPING = re.compile(r"(?<=[0-9])(?:\\[,!;: ]|\{,\}|,\\!|~)+\s*(?=[0-9]{3}(?![0-9]))")
DRESSING = re.compile(
    r"\\(?:text|mbox|mathrm|textbf|mathbf|bf|displaystyle|left|right|qquad|quad)(?![A-Za-z])|\\[,!;:()\[\] ]|[{}*`~]"
)
APPROXIMATELY = re.compile(r"^\s*(?:\\approx(?![A-Za-z])|\u2248)")
UNIT_CHARS_MAX = 80
ENCLOSED = re.compile(r"^[(\[]\s*([^()\[\]]*)[)\]]\.?$")
CURRENCY = re.compile(r"^(-?)\s*(?:\\?\$|€|£)\s*")


def canonical_integer(text: str) -> str | None:
    """The digits of the integer that stands after the last "=" of the text, without leading zeros; None if none does.

    "025", "25.", "25.0", "x = 25", "\\approx 25", "\\text{25 ways}" and "$25$" are 25. The result is text, since
    `int` refuses more than 4,300 digits.
    """
    stated = GROUPING.sub(",", text).rsplit("=", 1)[-1]
    stated = SPACED.sub(lambda number: number[0].replace(" ", ","), stated)
    stated = DIGIT_GROUPS.sub(lambda number: number[0].replace(number["mark"], ","), stated)
    stated = APPROXIMATELY.sub("", DRESSING.sub(" ", DASH.sub("-", stated))).replace("\\ ", " ").strip(" \\")
    stated = CURRENCY.sub(r"\1", ENCLOSED.sub(r"\1", stated)).replace("$", " ").strip().rstrip(".,; ")
    match = NUMBER.match(stated)
    if match is None:
        return None
    rest = stated[match.end() :]
    if len(rest) > UNIT_CHARS_MAX or not UNIT.fullmatch(rest.strip()) or NOT_UNITS.search(rest):
        return None
    if change_the_number(WORD.findall(rest.lower())):
        return None
    digits = match[2].replace(",", "").lstrip("0") or "0"
    return digits if digits == "0" or match[1] != "-" else f"-{digits}"
