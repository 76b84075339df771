"""Where prices are read from: the tables that come with tenner, and the user's own file, whose rows come first."""

import datetime
import os
import tomllib
from collections.abc import Sequence
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from tenner.core.errors import TennerError
from tenner.core.suggest import did_you_mean
from tenner.core.toml_text import tables

T = TypeVar("T")
DAYS_UNTIL_STALE = 90
TABLES = ("price", "machine", "card")


def user_file() -> Path:
    """$XDG_CONFIG_HOME/tenner/prices.toml, or ~/.config/tenner/prices.toml."""
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "tenner" / "prices.toml"


@cache
def built_in(file: str) -> dict[str, Any]:
    """The tables of a file that comes with tenner."""
    return tomllib.loads((resources.files("tenner.budget") / file).read_text("utf-8"))


def user_tables() -> dict[str, Any]:
    """The tables of the user's file, empty where there is none.

    Raises TennerError for a file that cannot be read, is not TOML, or has other tables than `TABLES`.
    """
    path = user_file()
    try:
        text = path.read_text("utf-8")
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, UnicodeDecodeError) as e:
        raise TennerError(f"{path} cannot be read: {e}", hint="mend it, or move it away") from e
    found = tables(text, where=str(path))
    for name in found:
        if name not in TABLES:
            raise TennerError(f"{path}: unknown table {name}", hint=did_you_mean(name, TABLES))
    return found


def user_rows(table: str, shape: TypeAdapter[T]) -> list[T]:
    """The rows of one array of tables in the user's file. Raises TennerError for a row of another shape."""
    found = user_tables().get(table, [])
    if not isinstance(found, list):
        raise TennerError(f"{user_file()}: {table} is not a list", hint=f"write [[{table}]] above every row")
    return [validated(shape, row, f"{user_file()}: [[{table}]] {i}") for i, row in enumerate(found, 1)]


def validated(shape: TypeAdapter[T], row: object, where: str) -> T:
    """A row in its shape. Raises TennerError with its first problem."""
    known = getattr(getattr(shape, "_type", None), "_fields", ())
    for key in row if isinstance(row, dict) else ():
        if key not in known:
            raise TennerError(f"{where}: unknown key {key}", hint=did_you_mean(key, known))
    try:
        return shape.validate_python(row, strict=True)
    except ValidationError as e:
        first = e.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise TennerError(f"{where}: {key}: {first['msg']}", hint=f"a row has {', '.join(known)}") from e


def utc_day(at: datetime.datetime | None = None) -> datetime.date:
    """The day in UTC; by default today's."""
    return (at or datetime.datetime.now(datetime.UTC)).astimezone(datetime.UTC).date()


def holds(day: datetime.date, since: datetime.date | None, until: datetime.date | None) -> bool:
    """Whether a row holds on `day`; both ends are included."""
    return (since is None or since <= day) and (until is None or day <= until)


def age_warnings(rows: Sequence[tuple[str, datetime.date, str]], today: datetime.date | None = None) -> list[str]:
    """A line for each row (what it is the price of, when it was read, and where) that is over 90 days old."""
    today = today or utc_day()
    return [
        f"warning: the price of {what} was read on {checked}, {(today - checked).days} days ago: compare it "
        f"with {source}"
        for what, checked, source in rows
        if (today - checked).days > DAYS_UNTIL_STALE
    ]
