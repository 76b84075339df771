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
        options.add_processes(parser)


def main(args: argparse.Namespace) -> None:
    """Do the stage; `train` by a process for each GPU, and under torchrun this process's part of it."""
    if args.verb == "train":
        _train(args)
    else:
        _do(args)


def _train(args: argparse.Namespace) -> None:
    """Train in this process, or by several that this one starts; or only say what it will take."""
    if args.dry_run and args.budget_usd is not None:
        raise TennerError("--budget-usd has no effect with --dry-run: nothing is spent", hint="leave one of them out")
    from tenner.core.run import stored_recipe
    from tenner.core.run_folder import RunFolder
    from tenner.launch import processes

    recipe = stored_recipe(RunFolder.existing(args.run))
    assert recipe is not None, "the folder is a run's"
    is_first, is_worker = os.environ.get("RANK", "0") == "0", processes.is_worker()
    if is_worker and args.processes is not None:
        raise TennerError("--processes has no effect under torchrun", hint="leave it to torchrun's --nproc-per-node")
    group = processes.Group()
    if not is_worker and not RunFolder(args.run).done("train"):
        group = processes.group_of(recipe.train, args.device or recipe.machine.device, processes=args.processes)
    if args.dry_run:
        from tenner.stages import training

        if is_first:
            say(training.foresee(args.run, device=args.device, processes=group.size).as_text())
    elif not is_first:  # one of torchrun's: the first keeps the run
        from tenner.stages import training

        training.follow(args.run, device=args.device)
    elif group.size > 1:
        processes.train(args.run, group, budget_usd=args.budget_usd, device=args.device)
    else:
        _do(args)


def _do(args: argparse.Namespace) -> None:
    """Do the stage in this process."""
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
