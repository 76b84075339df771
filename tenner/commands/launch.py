"""`tenner launch RECIPE`: a run by several processes here, or on machines that Slurm or SkyPilot start."""

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from tenner.commands import options
from tenner.core.errors import TennerError
from tenner.core.terminal import say, write_rendered

if TYPE_CHECKING:
    from tenner.core.recipe import Recipe
    from tenner.launch.job import Job
    from tenner.launch.processes import Group

ENGINES = ("local", "slurm", "skypilot")
ONLY_WITH = {
    "gpus": ("slurm", "skypilot"),
    "hours": ("slurm", "skypilot"),
    "options": ("slurm", "skypilot"),
    "spot": ("skypilot",),
    "bucket": ("skypilot",),
    "package": ("skypilot",),
    "rendezvous": ("local",),
    "node_rank": ("local",),
    "rented_since": ("local",),
    "copy_to": ("local",),
}
"""Options that are of some engines only."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of the verb."""
    from tenner.launch.job import GRACE_SECONDS

    parser.add_argument("recipe", metavar="RECIPE", help="a built-in recipe (see `tenner recipes`) or a .toml file")
    parser.add_argument("--on", choices=ENGINES, required=True, help="where it runs")
    parser.add_argument("--run-dir", metavar="DIR", type=Path, help="the run's folder (default: runs/NAME)")
    parser.add_argument("--dry-run", action="store_true", help="only print what would be launched")
    options.add_overrides(parser)
    options.add_budget(parser)
    options.add_device(parser)
    options.add_processes(parser)
    parser.add_argument(
        "--nodes",
        metavar="N",
        type=options.up_to(options.PROCESSES_MAX),
        default=1,
        help="machines that train together (default: %(default)s)",
    )
    parser.add_argument(
        "--grace-seconds", metavar="X", type=options.up_to(options.SECONDS_MAX),
        help=f"what a job is given to save its state before the cap or a preemption (default: {GRACE_SECONDS:g})",
    )  # fmt: skip
    ordered = parser.add_argument_group("machines of Slurm and SkyPilot")
    ordered.add_argument("--gpus", metavar="[TYPE:]N", help="GPUs of each node (default: the recipe's cards)")
    ordered.add_argument(
        "--hours",
        metavar="X",
        type=options.up_to(options.SECONDS_MAX / 3600),
        help="the longest it takes (default: what the cap pays)",
    )
    ordered.add_argument(
        "--option", metavar="KEY=VALUE", action="append", default=[], dest="options",
        help="a further option of sbatch, or field of the resources of SkyPilot's task",
    )  # fmt: skip
    ordered.add_argument("--spot", action="store_true", default=None, help="SkyPilot: a machine that may be taken away")
    ordered.add_argument("--bucket", metavar="URL", help="SkyPilot: where the run folder is kept, as s3://NAME")
    ordered.add_argument("--package", metavar="SPEC", help="SkyPilot: what pip installs (default: this tenner)")
    inside = parser.add_argument_group("on such a machine (the script and the task give them)")
    inside.add_argument("--rendezvous", metavar="HOST:PORT", help="where the nodes meet to train")
    inside.add_argument(
        "--node-rank", metavar="K", type=options.up_to(options.PROCESSES_MAX), help="which of the nodes this is, from 0"
    )
    inside.add_argument(
        "--rented-since", metavar="SECONDS", type=options.up_to(options.SECONDS_MAX),
        help="charge the machine from then on (date +%%s), and end the job before the cap",
    )  # fmt: skip
    inside.add_argument("--copy-to", metavar="DIR", type=Path, help="keep a copy of the run folder, and begin with it")


def main(args: argparse.Namespace) -> None:
    """Launch the run, or print what would be launched."""
    from tenner.core import recipe as recipes
    from tenner.launch.job import GRACE_SECONDS, Job

    _refuse_without_effect(args)
    cap_usd, others = recipes.split_cap(args.overrides, args.budget_usd)
    described = recipes.load(args.recipe, overrides=others)
    is_file = args.recipe not in recipes.built_in()
    job = Job(
        described, str(Path(args.recipe).absolute()) if is_file else args.recipe,
        str(args.run_dir or Path("runs") / described.name), others, cap_usd, args.device, args.processes, args.nodes,
        args.gpus or _cards(described, args), args.hours, args.grace_seconds or GRACE_SECONDS, args.options,
    )  # fmt: skip
    if args.on == "local":
        _local(args, job)
    else:
        job = job._replace(run_dir=os.path.abspath(job.run_dir))
        _elsewhere(args, job, job.seconds(_cap_of(job), Path(job.run_dir)))


def _cards(described: "Recipe", args: argparse.Namespace) -> str | None:
    """The GPUs of each node by the recipe's machine, as the engine calls them; None where it names no card."""
    card, count = described.machine.card, described.machine.count
    if card is None or args.on == "local":
        return None
    if count % args.nodes:
        raise TennerError(f"{count} cards cannot be spread over {args.nodes} nodes", hint="give --nodes or --gpus")
    each = count // args.nodes
    if args.on == "slurm":  # what a cluster calls its cards is its own affair
        return str(each)
    from tenner.launch import skypilot

    return f"{skypilot.CARD_NAMES.get(card, card.upper())}:{each}"


def _refuse_without_effect(args: argparse.Namespace) -> None:
    """Raise TennerError for an option that is another engine's, or of no use without another option."""
    for name, engines in ONLY_WITH.items():
        if args.on not in engines and getattr(args, name) not in (None, []):
            option = "--option" if name == "options" else f"--{name.replace('_', '-')}"
            raise TennerError(f"{option} has no effect with --on {args.on}", hint=f"it is for {' and '.join(engines)}")
    if args.grace_seconds is not None and args.grace_seconds <= 0:
        raise TennerError(
            f"--grace-seconds {args.grace_seconds:g} leave a job no time to save its state", hint="give more than 0"
        )
    if args.on != "local":
        if args.on == "skypilot" and args.bucket is None:
            raise TennerError("a machine's disk is lost with it", hint="give --bucket URL, which keeps the run folder")
        return
    for name in ("grace_seconds", "copy_to"):
        if getattr(args, name) is not None and args.rented_since is None and not args.node_rank:
            raise TennerError(f"--{name.replace('_', '-')} has no effect without --rented-since", hint="leave it out")
    if (args.nodes > 1) != (args.rendezvous is not None) or (args.nodes == 1 and args.node_rank is not None):
        raise TennerError(
            "--nodes, --rendezvous HOST:PORT and --node-rank belong together",
            hint="give --nodes above 1 with a rendezvous on the first of them, or none of them",
        )


def _cap_of(job: "Job") -> float:
    from tenner.core.run import cap_in_force, stored_recipe
    from tenner.core.run_folder import RunFolder

    folder = RunFolder(Path(job.run_dir))
    recipe_usd = folder.state().recipe_budget_usd
    return cap_in_force(stored_recipe(folder), job.described, recipe_usd, named_usd=job.budget_usd)


def _elsewhere(args: argparse.Namespace, job: "Job", seconds: float) -> None:
    """Hand the job to Slurm or SkyPilot."""
    from tenner.launch import skypilot, slurm

    if args.on == "slurm":
        text = slurm.script(job, seconds)
        say(text.rstrip("\n") if args.dry_run else slurm.told(job, slurm.submit(text)))
        return
    found = skypilot.task(job, bucket=args.bucket, spot=bool(args.spot), seconds=seconds, package=args.package)
    if args.dry_run:
        say(skypilot.as_yaml(found).rstrip("\n"))
        return
    skypilot.submit(found, Path(f"{job.run_dir}.sky.yaml"))
    say(f"the run folder is kept in {args.bucket}/{job.described.name}; sky jobs queue shows the job")


def _local(args: argparse.Namespace, job: "Job") -> None:
    """Run on this machine, or on this node of a job; under a rental by a process of its own."""
    node_rank = _node_rank(args, job.nodes) if job.nodes > 1 else 0
    if args.rented_since is not None and node_rank == 0 and not args.dry_run:
        sys.exit(_rented(args, job))  # which imports no torch: the job does
    from tenner import pipeline
    from tenner.launch import local, processes
    from tenner.stages import resolve_student

    pipeline.check(job.described)
    described = resolve_student.with_format(job.described)
    device = job.device or described.machine.device
    group = processes.group_of(described.train, device, processes=job.processes, nodes=job.nodes)
    group = group._replace(node_rank=node_rank, rendezvous=args.rendezvous)
    if args.dry_run:
        say(f"{described.name} in {job.run_dir}: the stage train by {_told(group)}, all else by one process")
        return
    local.run(Path(job.run_dir), described, group, budget_usd=job.budget_usd, device=job.device)
    if group.node_rank == 0:
        from tenner.clients import failed_calls
        from tenner.commands import show
        from tenner.core.run_folder import RunFolder

        write_rendered(show.summary(Path(job.run_dir)))
        failed_calls.check(RunFolder(Path(job.run_dir)))


def _rented(args: argparse.Namespace, job: "Job") -> int:
    """The job as a process of its own, under the rental; its exit code."""
    from tenner.launch import rental
    from tenner.launch.folder_copy import FolderCopy

    path = Path(job.run_dir)
    copy = None if args.copy_to is None else FolderCopy(path, args.copy_to)
    if copy is not None and copy.restore():
        say(f"{path} was made from {args.copy_to}", file=sys.stderr)
    rented = rental.rental_of(
        path, job.described, since=args.rented_since, grace_seconds=job.grace_seconds, named_usd=job.budget_usd
    )
    grace = job.words().index("--grace-seconds")
    command = [sys.executable, "-m", "tenner", *job.words()[:grace]]
    command += [] if args.rendezvous is None else ["--rendezvous", args.rendezvous]
    command += [] if args.node_rank is None else ["--node-rank", str(args.node_rank)]
    return rental.supervise(command, path, job.described.stages, rented, copy=copy)


def _node_rank(args: argparse.Namespace, nodes: int) -> int:
    if args.node_rank is None or not 0 <= args.node_rank < nodes:
        raise TennerError(f"which of the {nodes} nodes this is is not known", hint="give --node-rank, from 0")
    return int(args.node_rank)


def _told(group: "Group") -> str:
    several = f"{group.processes} processes" if group.processes > 1 else "one process"
    return several if group.nodes == 1 else f"{several} on each of {group.nodes} nodes"
