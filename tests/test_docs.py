"""README and docs: links lead somewhere, and every command in them is one that the command line understands."""

import re
import shlex
from pathlib import Path

import pytest
from paths import ROOT

from tenner import cli

PAGES = [
    ROOT / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
    ROOT / "ARCHITECTURE.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "SECURITY.md",
]
LINK = re.compile(r"\]\(([^)#\s]+)[^)]*\)")
COMMAND = re.compile(r"^(?:    )?(tenner (?:[^\n\\]|\\\n)+)$", re.MULTILINE)
SYNOPSIS = re.compile(r"[\[|…]")
"""Of what may be left out, or chosen from."""


def commands_of(page: Path) -> list[str]:
    text = page.read_text("utf-8")
    code = "\n".join(
        [*re.findall(r"(?m)^    \S.*$(?:\n {5,}.*$)*", text), *re.findall(r"(?ms)^```sh$(.*?)^```$", text)]
    )
    found = (command.replace("\\\n", " ").partition("  #")[0].strip() for command in COMMAND.findall(code))
    return [command for command in found if not SYNOPSIS.search(command)]


COMMANDS = sorted({command for page in PAGES for command in commands_of(page)})


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for link in LINK.findall(page.read_text("utf-8")):
        assert "://" in link or (page.parent / link).exists(), link


def test_newcomers_read_one_short_page():
    assert len((ROOT / "README.md").read_text("utf-8").splitlines()) <= 100
    assert len(COMMANDS) > 10


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_in_the_docs_is_understood(command):
    words = shlex.split(command)[1:]
    parsed = cli.parser(words[0]).parse_args(words)
    assert parsed.verb == words[0]
