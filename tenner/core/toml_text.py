"""Reads TOML that users write: whole texts, and the values of options such as `--set NAME=VALUE`."""

import tomllib
from typing import Any

from tenner.core.errors import TennerError

INTEGER_BITS_MAX = 4096
"""TOML promises 64. Of far more Python cannot write the digits, and hexadecimal ones are read all the same."""


def tables(text: str, *, where: str) -> dict[str, Any]:
    """The tables of a TOML text; `where` names it in messages. Raises TennerError where it is not TOML."""
    try:
        return _loads(text)
    except ValueError as e:  # TOMLDecodeError, and Python's own for a number of thousands of digits
        raise TennerError(f"{where} is not valid TOML: {e}") from e
    except RecursionError as e:
        raise TennerError(f"{where} is nested too deeply", hint="no setting has tables within tables so far") from e


def named_value(option: str, text: str, *, example: str) -> tuple[str, Any]:
    """The name and the value in `NAME=VALUE`, the argument of an option. The value is TOML; bare words are text.

    Raises TennerError where there is no name, or where the value is nested too deeply.
    """
    name, equals, value = text.partition("=")
    if not equals or not name.strip():
        raise TennerError(f"{option} {text} has no '='", hint=f"write {option} {example}")
    try:
        found = _loads(f"value = {value}")
        return name.strip(), found["value"] if len(found) == 1 else value  # of several lines it is text
    except ValueError:
        return name.strip(), value
    except RecursionError as e:
        raise TennerError(f"{option} {name.strip()}: its value is nested too deeply") from e


def _loads(text: str) -> dict[str, Any]:
    """The tables of a text. Raises ValueError for what is not TOML or holds too large a number, and RecursionError."""
    found = tomllib.loads(text)
    left: list[Any] = [found]
    while left:
        value = left.pop()
        if isinstance(value, dict):
            left += value.values()
        elif isinstance(value, list):
            left += value
        elif isinstance(value, int) and value.bit_length() > INTEGER_BITS_MAX:
            raise ValueError(f"an integer has {value.bit_length():,} bits")
    return found
