"""`tenner chat`: talk to a student in the terminal, with its thinking dimmed and injected text underlined."""

import argparse
import asyncio
import contextlib
import importlib
import re
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from rich.text import Text

from tenner.commands import options
from tenner.core.console import SafeConsole
from tenner.core.errors import TennerError
from tenner.core.records import Message
from tenner.core.sections import LocalEngineName
from tenner.core.suggest import did_you_mean
from tenner.core.terminal import say
from tenner.stages import resolve_student
from tenner.stages.resolve_student import StudentOptions

if TYPE_CHECKING:
    from tenner.inference.job import Request
    from tenner.inference.server.admission import UsageReport


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of the verb."""
    options.add_student(parser)
    parser.add_argument(
        "--waits",
        metavar="N",
        type=options.up_to(options.COUNT_MAX),
        default=0,
        help="how often it must think on (default: %(default)s)",
    )


def main(args: argparse.Namespace) -> None:
    """Talk until standard input ends."""
    if args.waits < 0:
        raise TennerError(f"--waits {args.waits} is negative")
    talk(args.student, options.student_options(args), waits=args.waits, engine_name=args.engine)


HELP = """\
/thinking N   think for N tokens at most
/waits N      be made to think on N times
/help         these lines
Ctrl-C stops an answer; an empty line or Ctrl-D ends."""
COMMANDS = ("/thinking", "/waits", "/help")
NUMBER = re.compile("-?[0-9]{1,9}")


class Setting(NamedTuple):
    """How the next question is asked."""

    thinking_tokens_max: int
    waits: int

    def __str__(self) -> str:
        waits = "1 wait" if self.waits == 1 else f"{self.waits} waits"
        return f"at most {self.thinking_tokens_max:,} thinking tokens, {waits}"

    def check(self) -> "Setting":
        """Itself. Raises TennerError for waits that have no effect, or a number below 0."""
        if min(self) < 0:
            raise TennerError(f"{min(self)} is negative", hint="give a number from 0")
        if self.waits and self.thinking_tokens_max == 0:
            raise TennerError("waits have no effect with a thinking budget of 0", hint="give a higher budget")
        return self

    def after(self, line: str) -> "Setting":
        """The setting after a line such as "/waits 2". Raises TennerError for a line that is no command."""
        name, *values = line.split()
        if name not in COMMANDS:
            raise TennerError(f"there is no command {name}", hint=did_you_mean(name, COMMANDS))
        if name == "/help":
            return self
        if len(values) != 1 or NUMBER.fullmatch(values[0]) is None:
            raise TennerError(f"{name} needs a number", hint=f"write {name} 2")
        field = "waits" if name == "/waits" else "thinking_tokens_max"
        return self._replace(**{field: int(values[0])}).check()


def talk(address: str, options: StudentOptions, *, waits: int, engine_name: LocalEngineName | None = None) -> None:
    """Answer the lines of standard input until it ends. Raises TennerError where there is no student."""
    student, price_usd_per_hour = resolve_student.resolve_student(address, options)
    setting = Setting(student.policy().thinking_tokens_max or 0, waits)
    if waits and setting.thinking_tokens_max == 0:
        raise TennerError("--waits has no effect with a thinking budget of 0", hint="give a higher --thinking")
    from tenner.inference.scheduler import Scheduler
    from tenner.inference.server.admission import (
        AdmissionQueue,
    )  # imports torch, which a refused option need not wait for

    engine = resolve_student.load(student, options, rows=1, engine=engine_name)
    console = SafeConsole(highlight=False, soft_wrap=True)
    with Scheduler(engine) as scheduler, asyncio.Runner() as runner:

        async def answer(request: "Request") -> str:
            queue = AdmissionQueue(
                scheduler, engine.tokenizer, concurrency_max=1, price_usd_per_hour=price_usd_per_hour
            )
            async with queue.admit(engine.prepare(request)) as active:
                part = ""
                async for piece in active.pieces():
                    if part and piece.part != part:
                        console.print()
                    part = piece.part
                    style = "dim" if part == "thinking" else "bold"
                    console.print(Text(piece.text, style=f"{style} underline" if piece.forced else style), end="")
                console.print()
                assert active.generation is not None
                say(_summary(active.usage()), file=sys.stderr)
                return active.generation.answer

        history: list[Message] = []
        for line in _lines(f"{setting}; /help tells what else there is"):
            try:
                if line.startswith("/"):
                    setting = setting.after(line)
                    say(HELP if line.startswith("/help") else str(setting), file=sys.stderr)
                    continue
                turns = [*history, Message(role="user", content=line)]
                policy = student.policy(thinking_tokens_max=setting.thinking_tokens_max, waits=setting.waits)
                request = student.request(engine.tokenizer, turns, policy, request_id="chat")
            except TennerError as e:  # of a line; the next may be a better one
                say(f"{e}: {e.hint}" if e.hint else str(e), file=sys.stderr)
                continue
            try:
                reply = runner.run(answer(request))
            except KeyboardInterrupt:
                console.print()
                say("stopped", file=sys.stderr)
                continue
            if student.keeps_history:
                history = [*turns, Message(role="assistant", content=reply)]


def _summary(report: "UsageReport") -> str:
    cost = "" if not report.cost_usd else f", ${report.cost_usd:.6f}"
    return f"{report.thinking_tokens} tokens of thinking, {report.answer_tokens} of answer{cost}"


def _lines(greeting: str) -> Iterator[str]:
    """The lines, on a terminal with a greeting, a prompt, line editing and a history."""
    interactive = sys.stdin.isatty()
    if interactive:
        with contextlib.suppress(ImportError):  # a Python may be built without it
            importlib.import_module("readline")  # input() then edits lines and remembers them
        say(greeting, file=sys.stderr)
    while True:
        try:
            line = input("> " if interactive else "").strip()
        except EOFError:
            return
        if not line:
            return
        yield line
