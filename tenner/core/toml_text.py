"""Reads TOML that users write: whole texts, and the values of options such as `--set NAME=VALUE`."""

import tomllib
from typing import Any

from tenner.core.errors import TennerError


def tables(text: str, *, where: str) -> dict[str, Any]:
    """The tables of a TOML text; `where` names it in messages. Raises TennerError where it is not TOML."""
    try:
        return tomllib.loads(text)
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
        return name.strip(), tomllib.loads(f"value = {value}")["value"]
    except ValueError:
        return name.strip(), value
    except RecursionError as e:
        raise TennerError(f"{option} {name.strip()}: its value is nested too deeply") from e
