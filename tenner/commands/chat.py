"""Talk to a student in the terminal: its thinking dimmed, forced words underlined, and what each answer took."""

import asyncio
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from tenner.core.records import Message
from tenner.core.sections import EngineName
from tenner.stages import resolve_student
from tenner.stages.resolve_student import StudentOptions

if TYPE_CHECKING:
    from tenner.inference.job import Request
    from tenner.inference.server.admission import UsageReport


def talk(address: str, options: StudentOptions, *, waits: int, engine_name: EngineName | None = None) -> None:
    """Answer the lines of standard input until it ends. Raises TennerError where there is no student."""
    speaker, price_usd_per_hour = resolve_student.resolve_student(address, options)
    policy = speaker.policy(waits=waits)
    from tenner.inference.scheduler import Scheduler
    from tenner.inference.server.admission import AdmissionQueue  # which loads torch: a refusal shall not wait for it

    engine = resolve_student.load(speaker, options, rows=1, engine=engine_name)
    console = Console(highlight=False, soft_wrap=True)
    budget = policy.thinking_tokens_max
    with Scheduler(engine) as scheduler, asyncio.Runner() as runner:

        async def answer(request: "Request") -> str:
            queue = AdmissionQueue(scheduler, engine.tokenizer, seats=1, price_usd_per_hour=price_usd_per_hour)
            async with queue.seat(request) as seat:
                part = ""
                async for piece in seat.pieces():
                    if part and piece.part != part:
                        console.print()
                    part = piece.part
                    style = "dim" if part == "thinking" else "bold"
                    console.print(Text(piece.text, style=f"{style} underline" if piece.forced else style), end="")
                console.print()
                assert seat.generation is not None
                print(_in_words(seat.usage()), file=sys.stderr)
                return seat.generation.answer

        said: list[Message] = []
        for question in _lines(f"at most {budget} thinking tokens, {waits} waits; an empty line or Ctrl-D ends"):
            turns = [*said, Message(role="user", content=question)]
            request = speaker.request(engine.tokenizer, turns, policy, request_id="chat")
            reply = runner.run(answer(request))
            if speaker.remembers:
                said = [*turns, Message(role="assistant", content=reply)]


def _in_words(report: "UsageReport") -> str:
    cost = "" if report.cost_usd is None else f", ${report.cost_usd:.6f}"
    return f"{report.thinking_tokens} tokens of thinking, {report.answer_tokens} of answer{cost}"


def _lines(greeting: str) -> Iterator[str]:
    """The questions, asked for with a prompt where a person is there to see it."""
    person = sys.stdin.isatty()
    if person:
        print(greeting, file=sys.stderr)
    while True:
        try:
            line = input("> " if person else "").strip()
        except EOFError:
            return
        if not line:
            return
        yield line
