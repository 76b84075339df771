"""Talk to the distilled student: each line is a question of its own, its thinking dimmed, forced words marked."""

import sys
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.text import Text

from tenner.errors import TennerError
from tenner.formats import FORMATS
from tenner.records import Policy
from tenner.run import render, stored_recipe
from tenner.runfolder import RunFolder


def talk(path: Path, *, thinking_tokens_max: int | None, waits: int) -> None:
    """Answer the lines of standard input until it ends. Raises TennerError where there is no distilled student."""
    folder = RunFolder.existing(path)
    recipe = stored_recipe(folder)
    assert recipe is not None, "RunFolder.existing has seen it"
    student = path / "student"
    if not student.is_dir():
        raise TennerError(f"{path} has no distilled student yet", hint=f"tenner train {path}")
    from tenner.think.hf import HFEngine
    from tenner.think.job import Prompt

    budget = recipe.evaluate.thinking_tokens_max[-1] if thinking_tokens_max is None else thinking_tokens_max
    policy = Policy(thinking_tokens_max=budget, waits=waits)
    engine = HFEngine.load(student, rows=1, wait_text=recipe.evaluate.wait_text)
    console = Console(highlight=False, soft_wrap=True)
    for question in _lines(f"at most {budget} thinking tokens, {waits} waits; an empty line or Ctrl-D ends"):
        prompt = Prompt("chat", render(engine.tokenizer, question, recipe))
        fmt = FORMATS[recipe.student.format]
        part = ""
        for piece in engine.stream(prompt, policy, fmt, answer_tokens_max=recipe.evaluate.answer_tokens_max):
            if part and piece.part != part:
                console.print()
            part = piece.part
            style = "dim" if piece.part == "thinking" else "bold"
            console.print(Text(piece.text, style=f"{style} underline" if piece.forced else style), end="")
        console.print()


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
