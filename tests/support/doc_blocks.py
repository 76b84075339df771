"""The blocks of README and docs, and what of them needs more than a test has.

python tests/support/doc_blocks.py   # how many of them the tests execute, in one line
"""

import re
import shlex
from collections import Counter
from pathlib import Path
from typing import Literal, NamedTuple

from paths import ROOT

USER_PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "skills/tenner/SKILL.md"]
PAGES = [*USER_PAGES, ROOT / "ARCHITECTURE.md", ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md"]
NEEDS = ("cluster", "gpu", "hub", "key", "lm_eval", "minutes", "port", "vllm")
"""What a block may lack in a test; `<!-- needs: NAME … -->` in the line above it says which."""
LANGUAGES = ("sh", "python", "toml", "text")
"""The first two are executed or have a mark, TOML is read, and text is what a program prints."""
WITHOUT_MODEL = {"grade", "init", "overlap", "prices"}
"""Verbs that neither load a model nor read a run: their blocks are executed by the default tests."""
BLOCK = re.compile(
    rf"(?ms)^(?:<!-- needs: (?P<needs>[^\n]*?) -->\n)?```(?P<language>{'|'.join(LANGUAGES)})\n(?P<code>.*?)^```$"
)
LINK = re.compile(r"\]\(([^)#\s]+)[^)]*\)")


class Block(NamedTuple):
    """A block of code, and where it stands."""

    page: Path
    line: int
    language: Literal["sh", "python", "toml", "text"]
    code: str
    needs: str | None
    """What it lacks, as its mark says; None for a block that is executed."""

    @property
    def commands(self) -> list[list[str]]:
        """The words of each `tenner` command of an `sh` block, without comments."""
        lines = self.code.replace("\\\n", " ").splitlines()
        return [shlex.split(line, comments=True) for line in lines if line.startswith("tenner ")]

    @property
    def is_quick(self) -> bool:
        """Whether the default tests execute it; the slow ones, else."""
        return self.language == "sh" and all(words[1] in WITHOUT_MODEL for words in self.commands)

    @property
    def fate(self) -> str:
        """What the tests do with it, as the summary says it."""
        if self.language in ("toml", "text"):
            return {"toml": "read as settings", "text": "showing what is printed"}[self.language]
        if self.needs:
            return "marked with what they need"
        return "executed by the default tests" if self.is_quick else "executed by the slow tests"

    def __str__(self) -> str:
        return f"{self.page.name}:{self.line}"


def blocks_of(page: Path) -> list[Block]:
    """All blocks of a page."""
    text = page.read_text("utf-8")
    return [
        Block(page, text[: m.start("code")].count("\n") + 1, m["language"], m["code"], m["needs"])  # type: ignore[arg-type]
        for m in BLOCK.finditer(text)
    ]


BLOCKS = [block for page in USER_PAGES for block in blocks_of(page)]


def summary() -> str:
    """How many blocks meet which fate, what those with a mark need, and how many links there are."""
    fates = Counter(block.fate for block in BLOCKS)
    needs = Counter(re.split(r"\W", block.needs, maxsplit=1)[0] for block in BLOCKS if block.needs)
    marks = ", ".join(f"{name} {number}" for name, number in sorted(needs.items()))
    links = [link for page in PAGES for link in LINK.findall(page.read_text("utf-8"))]
    web = sum("://" in link for link in links)
    return (
        f"{len(BLOCKS)} blocks in {len(USER_PAGES)} pages: {'; '.join(f'{n} {fate}' for fate, n in fates.items())}. "
        f"Needed: {marks}. {len(links) - web} links to files in {len(PAGES)} pages, all checked; {web} to the web."
    )


if __name__ == "__main__":
    print(summary())
