"""Reading JSON that anybody may have written: each reader takes what it looks for, or the nearest to nothing."""

from collections.abc import Mapping
from typing import Any

COUNT_BELOW = 2**40  # no call has as many tokens, and a database holds it


def mapping(value: object) -> Mapping[str, Any]:
    """An object, or an empty one."""
    return value if isinstance(value, dict) else {}


def mappings(value: object) -> list[Mapping[str, Any]]:
    """The objects of an array."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def text(value: object) -> str:
    """Text, or content parts put together, as UTF-8 can hold it: a JSON string may be half a surrogate pair."""
    if isinstance(value, list):
        value = "".join(text(part.get("text")) for part in mappings(value))
    return value.encode(errors="replace").decode() if isinstance(value, str) else ""


def count(value: object) -> int | None:
    """A number of tokens; None for whatever is not one."""
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < COUNT_BELOW else None
