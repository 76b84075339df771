"""The command line: find the verb, run it, and turn what it raises into an exit code and a line."""

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from importlib import import_module
from io import TextIOWrapper
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from tenner import __version__
from tenner.core.errors import TennerError
from tenner.core.stage_names import CONTROL, SELECT_FIRST
from tenner.core.terminal import one_line, say

INTERRUPTED = 130


class Command(NamedTuple):
    """A verb: the module in `commands` that has its `add_options` and `main`, and its line in the help."""

    module: str
    help: str


COMMANDS = {
    "init": Command("init", "write a commented recipe for questions of your own"),
    "doctor": Command("doctor", "what is installed, found and free on this machine"),
    "run": Command("run", "run a recipe to the end, or go on with it"),
    "launch": Command("launch", "run a recipe by a process for each GPU, here, on Slurm or by SkyPilot, under one cap"),
    "fork": Command("fork", "another run with other settings that takes over what was bought and is unchanged"),
    **{stage: Command("stage", f"do the stage `{stage}` of a run") for stage in SELECT_FIRST},
    CONTROL: Command("stage", f"do the stage `{CONTROL}` of a run: a second student, of random questions"),
    "trace": Command("trace", "buy traces: for the selected questions of a run, or for a file of questions"),
    "plan": Command("plan", "what a recipe takes in hours, dollars and memory, and where it fits"),
    "prices": Command("prices", "what models and machines cost, from when and from where"),
    "show": Command("show", "what a run has come to"),
    "watch": Command("watch", "follow a run at work: stages, spend, loss, speed, the last answers"),
    "recipes": Command("recipes", "the recipes that come with tenner"),
    "overlap": Command("overlap", "find the questions of a benchmark in a file of questions"),
    "grade": Command("grade", "grade responses against reference answers"),
    "compare": Command("compare", "whether two runs differ on the questions that both have answered"),
    "measure": Command("measure", "ask a benchmark of a model as it is, or of a run's student"),
    "tune": Command("tune", "choose the cheapest thinking policy that loses no more accuracy than a margin"),
    "export": Command("export", "a run's answers or samples in the form of another tool"),
    "push": Command("push", "a run's student, report and traces on the Hugging Face hub"),
    "serve": Command("serve", "put a student behind OpenAI's chat completions, with a page to talk to it"),
    "chat": Command("chat", "talk to a student; to that of a run each line is a question of its own"),
}


class Parser(argparse.ArgumentParser):
    """Refuses as everything else does: by a TennerError with a hint."""

    def error(self, message: str) -> NoReturn:
        raise TennerError(message, hint=f"see `{self.prog} --help`")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:
        """Raises TennerError for what the command does not take, with the nearest of its options."""
        parsed, unknown = super().parse_known_args(args, namespace)
        if unknown:
            from tenner.core.suggest import did_you_mean  # which --help need not wait for

            option = unknown[0].partition("=")[0]
            hint = did_you_mean(option, self._option_string_actions, f"see `{self.prog} --help`", cutoff=0.75)
            raise TennerError(f"{self.prog.removeprefix('tenner ')} does not take {unknown[0]}", hint=hint)
        return parsed, unknown


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit: 0, or by the error (see `errors.py`), or 130 for Ctrl-C."""
    if sys.platform == "win32":
        say("tenner: Windows is not supported\nhint: run it in the Windows Subsystem for Linux", file=sys.stderr)
        sys.exit(2)
    words = sys.argv[1:] if argv is None else list(argv)
    _open_closed_streams()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal may know fewer characters than models write
    args = None
    try:
        _refuse_unknown_verb(words)
        args = parser(next((word for word in words if word in COMMANDS), None)).parse_args(words)
        import_module(f"tenner.commands.{COMMANDS[args.verb].module}").main(args)
        sys.stdout.flush()
    except TennerError as e:
        _exit_with(e)
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C shall not garble the goodbye
        say("tenner: interrupted; the same command goes on from here", file=sys.stderr)
        sys.exit(INTERRUPTED)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader has left, and that is fine
    except Exception as e:  # noqa: BLE001  the last handler: every other one is nearer to the fault
        from tenner.core import error_log

        _exit_with(error_log.explain(e, _run_folder(args)))
    sys.exit(0)


def _open_closed_streams() -> None:
    """Open /dev/null in the place of each standard stream that the parent process closed, as some schedulers do.

    Python has None there, and the next file that is opened would get its number: what libraries in C print to standard
    output would be written into that file.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115  for as long as the process


def _exit_with(error: TennerError) -> NoReturn:
    say(one_line(f"tenner: {error}"), file=sys.stderr)
    if error.hint:
        say(one_line(f"hint: {error.hint}"), file=sys.stderr)
    sys.exit(error.exit_code)


def _run_folder(args: argparse.Namespace | None) -> Path | None:
    """The folder of a run that the command line names."""
    named = [getattr(args, name, None) for name in ("run_dir", "run", "run_a", "file", "out", "student", "who")]
    return next((Path(name) for name in named if name and os.path.isfile(Path(name) / "run.json")), None)


def _refuse_unknown_verb(words: Sequence[str]) -> None:
    """Raise TennerError where there is no word, or the first is neither an option nor a verb; then with the nearest."""
    if not words:
        raise TennerError("no command is named", hint="`tenner --help` has them all; `tenner run demo` is the first")
    if words and not words[0].startswith("-") and words[0] not in COMMANDS:
        from tenner.core.suggest import did_you_mean  # which --help need not wait for

        raise TennerError(f"there is no command {words[0]}", hint=did_you_mean(words[0], COMMANDS))


def parser(verb: str | None) -> argparse.ArgumentParser:
    """The parser of the command line; only `verb` has its options, so that the others' modules are not imported."""
    top = Parser(
        prog="tenner",
        description="Make a reasoning model on a budget: s1 for a tenner.",
        epilog="Progress goes to stderr, data to stdout. Exit codes: 1 a fault of tenner, 2 unusable input, "
        "3 cap reached, 4 some calls failed, 5 an account at a provider is empty, "
        "75 the machine was taken away, 130 interrupted.",
    )
    top.add_argument("--version", action="version", version=f"tenner {__version__}")
    verbs = top.add_subparsers(metavar="VERB", dest="verb", required=True)
    for name, command in COMMANDS.items():
        sub = verbs.add_parser(name, help=command.help)
        if name == verb:
            import_module(f"tenner.commands.{command.module}").add_options(sub)
    return top
