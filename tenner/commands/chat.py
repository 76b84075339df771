"""`tenner chat`: talk to a student in the terminal, with its thinking dimmed and injected text underlined."""

import argparse
import asyncio
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from tenner.commands import options
from tenner.core.errors import TennerError
from tenner.core.records import Message
from tenner.core.sections import LocalEngineName
from tenner.stages import resolve_student
from tenner.stages.resolve_student import StudentOptions

if TYPE_CHECKING:
    from tenner.inference.job import Request
    from tenner.inference.server.admission import UsageReport


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of the verb."""
    options.add_student(parser)
    parser.add_argument(
        "--waits", metavar="N", type=int, default=0, help="how often it must think on (default: %(default)s)"
    )


def main(args: argparse.Namespace) -> None:
    """Talk until standard input ends."""
    if args.waits < 0:
        raise TennerError(f"--waits {args.waits} is negative")
    talk(args.student, options.student_options(args), waits=args.waits, engine_name=args.engine)


def talk(address: str, options: StudentOptions, *, waits: int, engine_name: LocalEngineName | None = None) -> None:
    """Answer the lines of standard input until it ends. Raises TennerError where there is no student."""
    student, price_usd_per_hour = resolve_student.resolve_student(address, options)
    policy = student.policy(waits=waits)
    if waits and policy.thinking_tokens_max == 0:
        raise TennerError("--waits has no effect with a thinking budget of 0", hint="give a higher --thinking")
    from tenner.inference.scheduler import Scheduler
    from tenner.inference.server.admission import (
        AdmissionQueue,
    )  # imports torch, which a refused option need not wait for

    engine = resolve_student.load(student, options, rows=1, engine=engine_name)
    console = Console(highlight=False, soft_wrap=True)
    budget = policy.thinking_tokens_max
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
                print(_summary(active.usage()), file=sys.stderr)
                return active.generation.answer

        history: list[Message] = []
        for question in _lines(f"at most {budget} thinking tokens, {waits} waits; an empty line or Ctrl-D ends"):
            turns = [*history, Message(role="user", content=question)]
            request = student.request(engine.tokenizer, turns, policy, request_id="chat")
            reply = runner.run(answer(request))
            if student.keeps_history:
                history = [*turns, Message(role="assistant", content=reply)]


def _summary(report: "UsageReport") -> str:
    cost = "" if report.cost_usd is None else f", ${report.cost_usd:.6f}"
    return f"{report.thinking_tokens} tokens of thinking, {report.answer_tokens} of answer{cost}"


def _lines(greeting: str) -> Iterator[str]:
    """The questions, with a greeting and a prompt on a terminal."""
    interactive = sys.stdin.isatty()
    if interactive:
        print(greeting, file=sys.stderr)
    while True:
        try:
            line = input("> " if interactive else "").strip()
        except EOFError:
            return
        if not line:
            return
        yield line
