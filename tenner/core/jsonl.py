"""The one reader of JSONL files that users write: an object a line, and one line of error with its place."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from tenner.core.errors import TennerError

ESCAPED_SURROGATE = "\\ud"
UNDECODABLE = re.compile("[\udc80-\udcff]")
"""What Python makes of bytes that are not UTF-8."""


class Line(NamedTuple):
    """An object and where it stands."""

    number: int
    where: str
    """As `questions.jsonl, line 3`, for messages."""
    fields: dict[str, Any]


def read_objects(path: Path, *, hint: str = "give a JSONL file") -> Iterator[Line]:
    """The objects of a file; empty lines are passed over, and so is a byte order mark.

    Half a character, as a text has it that was cut inside an emoji (a lone surrogate, `\\ud83d`), is U+FFFD, as in
    browsers: no file, database or terminal takes it as it is.

    Raises:
        TennerError: the file cannot be read or is not UTF-8 text, or a line is not a JSON object.
    """
    try:
        with open(path, encoding="utf-8-sig", errors="surrogateescape") as lines:
            for number, line in enumerate(lines, 1):
                if UNDECODABLE.search(line):
                    raise TennerError(f"{path}, line {number} cannot be read: it is not UTF-8 text", hint=hint)
                if line.strip():
                    yield Line(number, f"{path}, line {number}", _object(line, f"{path}, line {number}"))
    except OSError as e:
        raise TennerError(f"{path} cannot be read: {e.strerror}", hint=hint) from e


def _object(line: str, where: str) -> dict[str, Any]:
    try:
        fields = json.loads(line)
        if ESCAPED_SURROGATE in line.casefold():
            whole = json.dumps(fields, ensure_ascii=False).encode("utf-16", "surrogatepass").decode("utf-16", "replace")
            fields = json.loads(whole)
    except (ValueError, RecursionError) as e:
        raise TennerError(f"{where} is not JSON: {e}", hint="one object a line") from e
    if not isinstance(fields, dict):
        raise TennerError(f"{where} is not an object", hint="one object a line")
    return fields
