"""`tenner` as a person meets it: its exit code and what it says, in a process of its own or in this one."""

import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from typing import Any

import pytest

from tenner import cli


def tenner(*args: object, **options: Any) -> "subprocess.CompletedProcess[str]":
    """The command in a process of its own; options are those of `subprocess.run`."""
    return subprocess.run([sys.executable, "-m", "tenner", *map(str, args)], capture_output=True, text=True, **options)


def tenner_here(*args: object) -> "subprocess.CompletedProcess[str]":
    """The same in this process, which spares the second that a new one takes to import."""
    words = list(map(str, args))
    with redirect_stdout(StringIO()) as stdout, redirect_stderr(StringIO()) as stderr, pytest.raises(SystemExit) as e:
        cli.main(words)
    assert isinstance(e.value.code, int)
    return subprocess.CompletedProcess(words, e.value.code, stdout.getvalue(), stderr.getvalue())
