"""Build the documentation site: docs/*.md, README as its first page, and a reference made from the code.

python scripts/build_docs.py            # into build/site; stops at any warning
"""

import argparse
import inspect
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import tenner
from tenner import cli
from tenner.commands import recipes

ROOT = Path(__file__).parents[1]
PAGES = ROOT / "build" / "docs"
REPOSITORY_PAGES = ("ARCHITECTURE.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")
LINK = re.compile(r"\]\((?:\.\./)?docs/")


def main() -> None:
    """Gather the pages and build the site."""
    shutil.rmtree(PAGES, ignore_errors=True)
    shutil.copytree(ROOT / "docs", PAGES)
    for name in REPOSITORY_PAGES:
        write(name, (ROOT / name).read_text("utf-8"))
    write("index.md", (ROOT / "README.md").read_text("utf-8"))
    write("reference/command-line.md", "\n\n".join(command_pages()))
    write("reference/recipe.md", "\n".join(recipe_page()))
    write("reference/python.md", "\n\n".join(python_page()))
    sys.exit(subprocess.run(["zensical", "build", "--strict", "--config-file", ROOT / "zensical.toml"]).returncode)


def write(name: str, text: str) -> None:
    """A page of the site; links into docs/ lead to the pages beside it."""
    path = PAGES / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(LINK.sub("](", text), "utf-8")


def command_pages() -> Iterator[str]:
    """The help of every command."""
    yield "# Commands"
    for verb, command in cli.COMMANDS.items():
        actions = cli.parser(verb)._actions
        (verbs,) = (action for action in actions if isinstance(action, argparse._SubParsersAction))
        said = f"{command.help[0].upper()}{command.help[1:]}."
        yield f"## tenner {verb}\n\n{said}\n\n```text\n{verbs.choices[verb].format_help()}```"


def recipe_page() -> Iterator[str]:
    """Every key of a recipe, as `tenner recipes --keys` says it."""
    yield "# Keys of a recipe\n"
    for line in recipes.keys(recipes.ALL, as_json=False).splitlines():
        key, found, facts = line.partition(": ")
        yield f"    {line.strip()}" if line.startswith("    ") or not found else f"\n`{key}`\n:   *{facts}*\n"


def python_page() -> Iterator[str]:
    """The public names with their signatures and docstrings."""
    yield "# Python API"
    for name in tenner.__all__:
        if name.startswith("__"):
            continue
        item = getattr(tenner, name)
        signature = f"{name}{inspect.signature(item)}" if inspect.isfunction(item) else f"class {name}"
        yield f"## {name}\n\n```python\n{signature}\n```\n\n{as_code(inspect.getdoc(item) or '')}"


def as_code(docstring: str) -> str:
    """A docstring as it stands: its paragraphs and lists are aligned by hand."""
    return f"```text\n{docstring}\n```"


if __name__ == "__main__":
    main()
