"""`tenner plan RECIPE`: whether its training fits, before anything is loaded."""

import argparse
from pathlib import Path

from tenner.commands import options
from tenner.core.terminal import say


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of the verb."""
    parser.add_argument("recipe", metavar="RECIPE", help="a built-in recipe or a .toml file")
    options.add_overrides(parser)
    parser.add_argument("--config", metavar="FILE", type=Path, help="the student's config.json (a local folder has it)")
    parser.add_argument(
        "--ranks", metavar="N", type=int, default=1, help="processes, one to a device (default: %(default)s)"
    )
    parser.add_argument("--memory-gb", metavar="X", type=float, help="of each device; without it there is no verdict")
    parser.add_argument("--cpu", action="store_true", help="trained on a CPU instead of GPUs")
    parser.add_argument("--json", action="store_true", help="one JSON object")


def main(args: argparse.Namespace) -> None:
    """Print the plan."""
    from tenner.core import recipe as recipes
    from tenner.training import plan

    machine = plan.Machine(args.ranks, on_gpu=not args.cpu, memory_gb=args.memory_gb)
    made = plan.run(recipes.load(args.recipe, overrides=args.overrides), args.config, machine)
    say(made.as_json() if args.json else made.as_text())
