"""Processes that begin with everything imported, for tests that start and kill many of them.

They are forked from a server that has imported what tenner imports and has done nothing else. A process of Python's own
spends seconds of processor time on these imports, once for each kill, and none of the kills is meant to fall into them.
"""

import multiprocessing
import os
import runpy
import sys
from collections.abc import Callable
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from tenner import cli

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload([
    "tenner.commands.run", "tenner.commands.trace", "tenner.clients.openai", "tenner.pipeline",
    "tenner.inference.hf.decoders", "tenner.training.loop", "transformers.models.llama.modeling_llama",
])  # fmt: skip


def start(said: Path, function: Callable[..., object], *arguments: object) -> ForkServerProcess:
    """`function(*arguments)` under way; what it prints is appended to the file `said`."""
    process = SERVER.Process(target=_run, args=(said, function, arguments))
    process.start()
    return process


def tenner(said: Path, *words: object) -> ForkServerProcess:
    """The command line under way, as `start` starts it."""
    return start(said, cli.main, list(map(str, words)))


def program(said: Path, script: Path, *words: object) -> ForkServerProcess:
    """A Python file as a program under way, as `start` starts it."""
    return start(said, _run_script, str(script), list(map(str, words)))


def kill(process: ForkServerProcess) -> int | None:
    """Kill it, unless it has ended, and wait for its end: its exit code, negative for a signal."""
    process.kill()
    process.join()
    return process.exitcode


def _run(said: Path, function: Callable[..., object], arguments: tuple[object, ...]) -> None:
    with said.open("ab") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    function(*arguments)


def _run_script(script: str, words: list[str]) -> None:
    sys.argv = [script, *words]
    runpy.run_path(script, run_name="__main__")
