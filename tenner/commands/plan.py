"""`tenner plan RECIPE`: what a run takes in hours and dollars, and whether its training fits, before it starts."""

import argparse
import json
import os
import shutil
import sys
from collections.abc import Iterable
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
        "--ranks",
        metavar="N",
        type=options.up_to(options.PROCESSES_MAX),
        help="processes, one to a device (default: the recipe's machine.count)",
    )
    parser.add_argument(
        "--memory-gb",
        metavar="X",
        type=options.up_to(1e6),
        help="of each device (default: that of the recipe's machine.card)",
    )
    parser.add_argument("--cpu", action="store_true", help="trained on a CPU instead of GPUs")
    parser.add_argument(
        "--probe",
        metavar="N",
        type=options.up_to(options.COUNT_MAX),
        help="ask N real questions of teacher and student first, in the run's folder",
    )
    parser.add_argument("--run-dir", metavar="DIR", type=Path, help="of --probe: the run's folder (default: runs/NAME)")
    options.add_budget(parser)
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

    if args.probe is not None:
        _probe(args)
        return
    _refuse(args, ("run_dir", "budget_usd"), "without --probe")
    recipe = recipes.load(args.recipe, overrides=args.overrides)
    made = plan_page.make(recipe, config=args.config, ranks=args.ranks, memory_gb=args.memory_gb, cpu=args.cpu)
    say(made.as_json() if args.json else made.as_text(_width()))


def _probe(args: argparse.Namespace) -> None:
    from tenner import probe
    from tenner.core import recipe as recipes

    _refuse(args, ("config", "ranks", "memory_gb", "cpu"), "with --probe")
    if args.probe < 1:
        raise TennerError(f"--probe {args.probe} asks nothing", hint="give at least 1")
    cap_usd, others = recipes.split_cap(args.overrides, args.budget_usd)
    recipe = recipes.load(args.recipe, overrides=others)
    path = args.run_dir or Path("runs") / recipe.name
    made = probe.probe(recipe, path, questions=args.probe, budget_usd=cap_usd)
    say(made.as_json() if args.json else made.as_text(_width()))


def _width() -> int:
    """Of the terminal; where the plan is written elsewhere, lines end where they end."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() or "COLUMNS" in os.environ else sys.maxsize


def _refuse(args: argparse.Namespace, names: Iterable[str], where: str) -> None:
    """Raise TennerError for an option that was given and has no effect here."""
    for name in names:
        if getattr(args, name) not in (None, False, []):
            shown = {"recipe": "RECIPE", "overrides": "--set"}.get(name, f"--{name.replace('_', '-')}")
            raise TennerError(f"{shown} has no effect {where}", hint="leave one of them out")


def _print_published(args: argparse.Namespace) -> None:
    from tenner.budget import published_runs

    alone = {"published", "json", "verb"}
    _refuse(args, [name for name in vars(args) if name not in alone], "with --published")
    say(json.dumps(published_runs.as_rows(), default=str) if args.json else published_runs.as_text())
