"""`tenner run RECIPE`: a whole run, or what is left of it."""

import argparse
import os
from pathlib import Path

from tenner.commands import options
from tenner.core.terminal import say, write_rendered


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of the verb."""
    parser.add_argument(
        "recipe",
        metavar="RECIPE|RUN",
        help="a built-in recipe (see `tenner recipes`), a .toml file, or a run's folder to go on with",
    )
    parser.add_argument("--run-dir", metavar="DIR", type=Path, help="the run's folder (default: runs/NAME)")
    options.add_overrides(parser)
    options.add_budget(parser)
    options.add_device(parser)
    parser.add_argument("--json", action="store_true", help="print the result as one JSON object, as `show` does")


def main(args: argparse.Namespace) -> None:
    """Run the recipe, and print what it came to."""
    from tenner import api
    from tenner.clients import failed_calls
    from tenner.commands import show
    from tenner.core.run_folder import RunFolder

    overrides = args.overrides + ([f"machine.device={args.device}"] if args.device else [])
    name, run_dir = args.recipe, args.run_dir
    if run_dir is None and os.path.isfile(Path(name) / "recipe.toml"):
        name, run_dir = str(Path(name) / "recipe.toml"), Path(name)
    done = api.run(name, run_dir=run_dir, overrides=overrides, budget_usd=args.budget_usd)
    if args.json:
        say(show.as_json(done.path))
    else:
        write_rendered(show.summary(done.path))
    failed_calls.check(RunFolder(done.path))
