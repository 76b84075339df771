"""The second judge: math-verify, which computes with algebra and may hang; `killable` runs it."""

import importlib.util
import logging
import re
from typing import Any

from tenner.evaluation.grading.maths.exact import Opinion

CHARS_MAX = 400
EXPONENT_DIGITS_MAX = 3
FACTORIAL_DIGITS_MAX = 3
POWERS_MAX = 8

NUMBER, NAME = re.compile(r"[0-9]+"), re.compile(r"\\?[A-Za-z]+")
BIG_POWER = re.compile(rf"(?:\^|\*\*)\s*\{{?\s*\(?-?[0-9]{{{EXPONENT_DIGITS_MAX + 1},}}")
BIG_FACTORIAL = re.compile(rf"[0-9]{{{FACTORIAL_DIGITS_MAX + 1},}}\s*\)?\s*!|[)}}]\s*!")
TOWER = re.compile(r"\^\s*(?:\\left|[{(\s])*[0-9A-Za-z.]+\s*(?:\^|\*\*)|[)}]\s*\^\s*[{(]?\s*[0-9]{2,}")
READ_COMMANDS = frozenset(
    (
        "frac dfrac tfrac sqrt sum prod int lim cdot times left right pi infty sin cos tan cot sec csc arcsin arccos "
        "arctan sinh cosh tanh log ln exp binom pm le leq ge geq in cup cap begin end pmatrix bmatrix alpha beta gamma "
        "delta theta lambda mu phi omega to setminus mathbb circ"
    ).split()
)
"""Commands of whose meaning nothing is lost when math-verify reads them."""


def is_available() -> bool:
    """Whether math-verify is installed (`pip install 'tenner[maths]'`)."""
    return importlib.util.find_spec("math_verify") is not None


def prepare() -> None:
    """Import what takes long to import, and let the parser see its first formula."""
    opinion((r"\frac{1}{2}", "(x, 3)"))


def refusal(text: str) -> str | None:
    """Why a text is not given to an algebra system, None if it may be: what would fill the memory is known before."""
    if len(text) > CHARS_MAX:
        return f"longer than {CHARS_MAX} characters"
    if BIG_POWER.search(text) or TOWER.search(text) or text.count("^") > POWERS_MAX * 4:
        return "powers too large"
    return "factorials too large" if BIG_FACTORIAL.search(text) else None


def opinion(pair: tuple[str, str]) -> Opinion:
    """What math-verify says about two answers, in both directions: it is not symmetric.

    "Same" is certain only if both texts were read whole: it takes `\\forall x > 0, f(x) = 0` for f(x) = 0.
    """
    from math_verify import LatexExtractionConfig, parse, verify

    logging.disable(logging.CRITICAL)  # it would say on every call that its own time limit is off
    config = [LatexExtractionConfig()]
    # Its limits use signals, which do not interrupt a big power; the process is killed instead.
    a, b = (parse(f"${text}$", extraction_config=config, parsing_timeout=None) for text in pair)
    if not a or not b:
        return Opinion("undecided", "not parsed")
    precise = {"float_rounding": 30, "numeric_precision": 30, "timeout_seconds": None}
    if not (verify(a, b, **precise) and verify(b, a, **precise)):
        return Opinion("different", "not equal")
    whole = all(_read_whole(text, parsed[0]) for text, parsed in zip(pair, (a, b), strict=True))
    return Opinion("same", "equal" if whole else "equal as far as it was parsed", certain=whole)


def _read_whole(text: str, parsed: Any) -> bool:
    """Whether every number, letter and command of a text is one that it reads, or is found in what it made of it."""
    shown = str(parsed)
    if set(NUMBER.findall(text)) - set(NUMBER.findall(shown)):
        return False
    names, known = set(NAME.findall(text)), set(NAME.findall(shown))
    return all(name[1:] in READ_COMMANDS if name[0] == "\\" else name in known for name in names)
