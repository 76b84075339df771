"""Reference answers as data files hold them: numbers, lists, truth values, and the words that stand for none."""

import math
import re
from decimal import Decimal

from tenner.core.records import AnswerKind

NOT_REFERENCES = {
    "", "nan", "null", "none", "n/a", "#n/a", "<na>", "-", "--", "—", "?", "???", "tbd", "todo",
    "proof", "prove", "see proof", "see the proof", "proof omitted", "proof problem", "proof question",
    "solution", "see solution", "see the solution", "see solutions", "see above", "see below", "see explanation",
    "not found", "notfound", "answer not found", "no answer", "no answer found", "no answer provided",
    "no answer given", "no final answer", "not available", "not provided", "not given", "not applicable",
}  # fmt: skip
"""What stands in place of an answer, folded as by `_folded`. "No solution" and "undefined" are answers."""
WRAPPED = re.compile(r"\\(?:text|textbf|mathrm|boxed|mbox)\s*\{([^{}]*)\}")


def reference_text(value: object) -> str | None:
    """A reference answer of JSON, CSV or Parquet as text; None for null, NaN and an empty list.

    Numbers are written without an exponent, truth values as in JSON, the elements of a list with commas between them.

    Raises:
        ValueError: it is an object, or a list that holds one, or none of JSON's kinds.
    """
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return str(value)
    if isinstance(value, Decimal):  # of Parquet, as databases write it
        return format(value, "f") if value.is_finite() else reference_text(float(value))
    if isinstance(value, float):
        if math.isnan(value):
            return None
        return format(Decimal(repr(value)), "f") if math.isfinite(value) else str(value)
    if isinstance(value, list) and not any(isinstance(part, list) for part in value):
        parts = [reference_text(part) for part in value]
        return ", ".join(map(str, parts)) if parts and None not in parts else None
    raise ValueError(f"a {type(value).__name__}, which is no answer")


def is_reference(text: str | None, kind: AnswerKind | None) -> bool:
    """Whether a reference answer can be one.

    Of kind `text`, as the solution of a crossword, every word can be: "none" and "proof" as well.
    """
    return text is not None and (bool(text.strip()) if kind == "text" else _folded(text) not in NOT_REFERENCES)


def _folded(text: str) -> str:
    text = WRAPPED.sub(r"\1", WRAPPED.sub(r"\1", text.strip().strip("$")))  # the one in the other
    return " ".join(text.replace("_", " ").split()).strip(" .!()[]\"'*").casefold()
