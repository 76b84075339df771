"""`tenner recipes`: the recipes that come with tenner."""

import argparse
import json

from tenner.core.terminal import say


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of the verb."""
    parser.add_argument("--json", action="store_true", help="one JSON object")


def main(args: argparse.Namespace) -> None:
    """Print their names and what they do."""
    say(listed(as_json=args.json))


def listed(*, as_json: bool) -> str:
    """A line each, or one JSON object of name to description."""
    from tenner.core import recipe

    found = [recipe.load(name) for name in recipe.built_in()]
    if as_json:
        return json.dumps({r.name: r.description for r in found}, ensure_ascii=False)
    return "\n".join(f"{r.name}: {r.description} (cap ${r.budget_usd:g})" for r in found)
