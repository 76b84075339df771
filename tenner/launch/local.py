"""A run on this machine, or on this node of a job: its training by a group of processes, all else by this one."""

import time
from pathlib import Path

from tenner import pipeline
from tenner.core.errors import BudgetReached, Preempted, TennerError
from tenner.core.progress import Screen
from tenner.core.recipe import Recipe
from tenner.core.run import open_run, stored_recipe
from tenner.core.run_folder import RunFolder
from tenner.core.sections import Device
from tenner.launch import processes
from tenner.launch.processes import Group
from tenner.training.signals import termination_noted

POLL_SECONDS = 1.0


def run(
    path: Path, described: Recipe, group: Group, *, budget_usd: float | None = None, device: Device | None = None
) -> None:
    """Run the recipe to the end, or go on with it; `group` trains. On another node than the first: train, when it
    is time to.

    Raises as `pipeline.run_stages` and `processes.train` do.
    """
    if group.node_rank > 0:
        _follow(path, group)
        return
    stages = described.stages
    before, after = stages[: stages.index("train")], stages[stages.index("train") + 1 :]
    with open_run(path, described, Screen(), budget_usd=budget_usd, device=device) as opened:
        if group.size == 1:
            pipeline.run_stages(opened, stages)
            return
        pipeline.check_ready(opened, stages, processes=group.size)
        opened.go_through(before, pipeline.STAGES)
    if not RunFolder(path).done("train"):
        processes.train(path, group)
    with open_run(path, described, Screen(), budget_usd=None, device=device) as opened:
        pipeline.run_stages(opened, after)


def _follow(path: Path, group: Group) -> None:
    """Train beside the first node, which keeps the run in `path` and tells how it ended.

    A stop that the processes have agreed on is no failure of this node.
    """
    with termination_noted(ctrl_c=False) as termination:
        while not _ready(path):
            if termination.asked:
                return
            time.sleep(POLL_SECONDS)
    if RunFolder(path).done("train"):
        return
    try:
        processes.train(path, group)
    except Preempted:
        return
    except SystemExit as e:
        if e.code not in (Preempted.exit_code, BudgetReached.exit_code):
            raise


def _ready(path: Path) -> bool:
    """Whether the run in `path` is done up to its training."""
    try:
        folder = RunFolder.existing(path)
    except TennerError:  # the first node has not made it yet
        return False
    described = stored_recipe(folder)
    assert described is not None, "the folder is a run's"
    before = described.stages[described.stages.index("train") - 1]
    return folder.done(before) is not None
