"""`tenner plan RECIPE`: what a run takes in hours and dollars, and whether its training fits, before it starts."""

import argparse
import json
from pathlib import Path

from tenner.commands import options
from tenner.core.errors import TennerError
from tenner.core.terminal import say


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of the verb."""
    parser.add_argument("recipe", metavar="RECIPE", nargs="?", help="a built-in recipe or a .toml file")
    parser.add_argument("--published", action="store_true", help="published runs, recomputed, instead of a recipe")
    options.add_overrides(parser)
    parser.add_argument("--config", metavar="FILE", type=Path, help="the student's config.json (a local folder has it)")
    parser.add_argument(
        "--ranks", metavar="N", type=int, help="processes, one to a device (default: the recipe's machine.count)"
    )
    parser.add_argument(
        "--memory-gb", metavar="X", type=float, help="of each device (default: that of the recipe's machine.card)"
    )
    parser.add_argument("--cpu", action="store_true", help="trained on a CPU instead of GPUs")
    parser.add_argument("--json", action="store_true", help="one JSON object")


def main(args: argparse.Namespace) -> None:
    """Print the plan, or the published runs."""
    if args.published:
        _print_published(args)
        return
    if args.recipe is None:
        raise TennerError("no recipe is named", hint="see `tenner recipes`; or give --published")
    from tenner.core import recipe as recipes
    from tenner.stages import plan_page

    recipe = recipes.load(args.recipe, overrides=args.overrides)
    made = plan_page.make(recipe, config=args.config, ranks=args.ranks, memory_gb=args.memory_gb, cpu=args.cpu)
    say(made.as_json() if args.json else made.as_text())


def _print_published(args: argparse.Namespace) -> None:
    from tenner.budget import published_runs

    alone = {"published", "json", "verb"}
    if given := [name for name, value in vars(args).items() if value and name not in alone]:
        shown = (
            "RECIPE" if "recipe" in given else "--set" if "overrides" in given else f"--{given[0].replace('_', '-')}"
        )
        raise TennerError(f"{shown} has no effect with --published", hint="leave one of them out")
    say(json.dumps(published_runs.as_rows(), default=str) if args.json else published_runs.as_text())
