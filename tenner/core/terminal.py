"""Prints text that somebody else wrote: control characters are shown as their escapes, and steer no terminal."""

import re
import sys
from typing import TextIO

CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""C0 and C1 but for tab and newline; other ends of lines; marks that turn the direction of text around; halves of
characters."""
HALF_A_CHARACTER = re.compile("[\ud800-\udfff]")
"""A lone surrogate: half of a pair, or a byte of a name or an argument that is not UTF-8. No file can hold one."""


def visible(text: str) -> str:
    r"""The text with control characters as `\u001b`: in a JSON string that is the same character."""
    return CONTROL.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def one_line(text: str) -> str:
    r"""The text on one line: newlines, which a key or a file's name may hold, are shown as `\n`."""
    return visible(text).replace("\n", "\\n")


def say(text: str, *, file: TextIO | None = None) -> None:
    """Print a line, to standard output by default."""
    print(visible(text), file=file or sys.stdout, flush=True)


def write_rendered(text: str) -> None:
    """Print what a `console.SafeConsole` has rendered: its colours are its own."""
    print(text, flush=True)
