"""Readers of untrusted JSON: each returns a value of its type, empty or None where there is none."""

from collections.abc import Mapping
from typing import Any

COUNT_BELOW = 2**40  # more tokens than any call has, and well within a database integer


def mapping(value: object) -> Mapping[str, Any]:
    """A JSON object, or an empty one."""
    return value if isinstance(value, dict) else {}


def mappings(value: object) -> list[Mapping[str, Any]]:
    """The objects of an array."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def text(value: object) -> str:
    """Text, or texts and content parts joined, as valid UTF-8: a JSON string may hold half a surrogate pair.

    Parts may hold parts, nested as deeply as JSON is read.
    """
    found, left = [], [value]
    while left:
        value = left.pop()
        if isinstance(value, str):
            found.append(value)
        elif isinstance(value, list):
            left += [part.get("text") if isinstance(part, dict) else part for part in reversed(value)]
    return "".join(found).encode(errors="replace").decode()


def count(value: object) -> int | None:
    """A number of tokens, also one that is written as 20.0; None for any other value."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < COUNT_BELOW else None
