"""The `sh` and `python` blocks of README and docs, and what of them needs more than a test has."""

import re
import shlex
from pathlib import Path
from typing import Literal, NamedTuple

from paths import ROOT

USER_PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "skills/tenner/SKILL.md"]
NEEDS = ("cluster", "gpu", "hub", "key", "lm_eval", "minutes", "port", "vllm")
"""What a block may lack in a test; `<!-- needs: NAME … -->` in the line above it says which."""
BLOCK = re.compile(r"(?ms)^(?:<!-- needs: (?P<needs>[^\n]*?) -->\n)?```(?P<language>sh|python)\n(?P<code>.*?)^```$")


class Block(NamedTuple):
    """A block of code, and where it stands."""

    page: Path
    line: int
    language: Literal["sh", "python"]
    code: str
    needs: str | None
    """What it lacks, as its mark says; None for a block that is executed."""

    @property
    def commands(self) -> list[list[str]]:
        """The words of each `tenner` command of an `sh` block, without comments."""
        lines = self.code.replace("\\\n", " ").splitlines()
        return [shlex.split(line, comments=True) for line in lines if line.startswith("tenner ")]

    def __str__(self) -> str:
        return f"{self.page.name}:{self.line}"


def blocks_of(page: Path) -> list[Block]:
    """All `sh` and `python` blocks of a page."""
    text = page.read_text("utf-8")
    return [
        Block(page, text[: m.start("code")].count("\n") + 1, m["language"], m["code"], m["needs"])  # type: ignore[arg-type]
        for m in BLOCK.finditer(text)
    ]


BLOCKS = [block for page in USER_PAGES for block in blocks_of(page)]
