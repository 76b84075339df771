"""math-verify, a verifier with computer algebra; it may hang, so it runs in sandboxed workers."""

import importlib.util
import logging
import re
from typing import Any

from tenner.evaluation.grading.maths.exact import Verification

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
"""Commands that math-verify reads without losing anything of their meaning."""
DROPPED_SIGNS = re.compile(r"['\"\u2032\u2033?#@]")
"""Signs that it leaves out: 3' is 3 to it."""


def is_available() -> bool:
    """Whether math-verify is installed (`pip install 'tenner[maths]'`)."""
    return importlib.util.find_spec("math_verify") is not None


def prepare() -> None:
    """Import the slow modules, and parse a first formula."""
    verify_pair((r"\frac{1}{2}", "(x, 3)"))


def refusal(text: str) -> str | None:
    """The reason not to give a text to computer algebra, None if it is safe: some would exhaust the memory."""
    if len(text) > CHARS_MAX:
        return f"longer than {CHARS_MAX} characters"
    if BIG_POWER.search(text) or TOWER.search(text) or text.count("^") > POWERS_MAX * 4:
        return "powers too large"
    return "factorials too large" if BIG_FACTORIAL.search(text) else None


def verify_pair(pair: tuple[str, str]) -> Verification:
    """Compare two answers with math-verify, in both directions: it is not symmetric.

    "Same" is certain only if both texts were read whole: it takes `\\forall x > 0, f(x) = 0` for f(x) = 0. "Different"
    is certain if the first was.
    """
    from math_verify import LatexExtractionConfig, parse, verify

    logging.disable(logging.CRITICAL)  # it would warn on every call that its own time limit is off
    config = [LatexExtractionConfig()]
    # Its limits use signals, which do not interrupt a big power; the process is killed instead.
    a, b = (parse(f"${text}$", extraction_config=config, parsing_timeout=None) for text in pair)
    if not a or not b:
        return Verification("undecided", "not parsed")
    precise = {"float_rounding": 30, "numeric_precision": 30, "timeout_seconds": None}
    read_whole = [_read_whole(text, parsed[0]) for text, parsed in zip(pair, (a, b), strict=True)]
    if not (verify(a, b, **precise) and verify(b, a, **precise)):
        return Verification("different", "not equal", certain=read_whole[0])
    whole = all(read_whole)
    return Verification("same", "equal" if whole else "equal as far as it was parsed", certain=whole)


def _read_whole(text: str, parsed: Any) -> bool:
    """Whether the parser understands every number, letter and command of a text, or kept it in its result."""
    shown = str(parsed)
    if DROPPED_SIGNS.search(text) or set(NUMBER.findall(text)) - set(NUMBER.findall(shown)):
        return False
    names, known = set(NAME.findall(text)), set(NAME.findall(shown))
    return all(name[1:] in READ_COMMANDS if name[0] == "\\" else name in known for name in names)
