"""`tenner STAGE RUN`: one stage of a run."""

import argparse
import os
from pathlib import Path

from tenner.commands import options
from tenner.core.errors import TennerError
from tenner.core.terminal import say


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of a stage; `parser.prog` ends in its name."""
    from tenner.core.stage_names import COMPUTED

    stage = parser.prog.split()[-1]
    parser.add_argument("run", metavar="RUN", type=Path, help="a run's folder")
    options.add_budget(parser)
    if stage in COMPUTED:
        options.add_device(parser)
    if stage == "train":
        parser.add_argument("--dry-run", action="store_true", help="only say how much memory it will take")


def main(args: argparse.Namespace) -> None:
    """Do the stage; for `train` under torchrun, this process's part of it."""
    if args.verb == "train" and args.dry_run and args.budget_usd is not None:
        raise TennerError("--budget-usd has no effect with --dry-run: nothing is spent", hint="leave one of them out")
    is_first = os.environ.get("RANK", "0") == "0"
    if args.verb == "train" and args.dry_run:
        from tenner.stages import training

        if is_first:
            say(training.foresee(args.run, device=args.device).as_text())
        return
    if args.verb == "train" and not is_first:  # one of torchrun's: the first keeps the run
        from tenner.stages import training

        training.follow(args.run, device=args.device)
        return
    from tenner import pipeline
    from tenner.clients import failed_calls
    from tenner.core.progress import Screen
    from tenner.core.recipe import Recipe
    from tenner.core.run import open_run

    device = getattr(args, "device", None)
    recipe: Recipe | None = None  # the one in the folder
    with open_run(args.run, recipe, Screen(), budget_usd=args.budget_usd, device=device) as run:
        pipeline.run_stages(run, [args.verb])
        failed_calls.check(run.folder, [args.verb])
