"""Whether this machine has the memory and the disk that a run's training takes, said before anything starts."""

import os
import shutil
from pathlib import Path

import torch

from tenner.core import hardware
from tenner.core.errors import TennerError
from tenner.core.recipe import Recipe
from tenner.core.sections import Train
from tenner.training import checkpoint, context_parallel, distributed, float8, student
from tenner.training import plan as training_plan
from tenner.training.architecture import Architecture
from tenner.training.memory_plan import row_lengths, trained_parameters

GB = training_plan.GB
OTHER_FILES_BYTES = 100_000_000
"""The tokenizer, the records and the database of a run."""


def check(recipe: Recipe, folder: Path, base: Path, *, processes: int = 1) -> None:
    """Raise TennerError where the training of the student in `base` cannot fit, the run being kept in `folder`, its
    rows cannot be shared as the recipe says, this device does not multiply so, or `base` holds an adapter.

    Memory is not judged where a service trains, where the system does not tell what is free, or where what the
    student's layers keep is only estimated; nothing is judged of several processes, which share the one machine or do
    not.
    """
    student.check_no_adapter(base)
    kind = hardware.device_kind(recipe.machine.device)
    if recipe.train.fp8:
        float8.check(torch.device(kind))
    processes = max(processes, distributed.launched_size())
    shared = recipe.train.context_parallel
    distributed.check_rows_shared(processes, shared)
    if processes > 1 and shared == 1:
        return
    architecture = training_plan.read_config(base / "config.json")
    context_parallel.check(architecture, shared, longest_tokens=recipe.train.tokens_max)
    if processes > 1:
        return
    if recipe.train.backend is None and architecture.traced and (free_bytes := hardware.free_memory_bytes(kind)):
        machine = training_plan.Machine(1, on_gpu=kind != "cpu", memory_gb=free_bytes / GB)
        longest, samples = recipe.train.tokens_max, recipe.select.samples
        lengths = row_lengths(recipe.train, samples=samples, mean_tokens=longest, longest_tokens=longest)
        plan = training_plan.plan(architecture, recipe.train, machine, longest_tokens=longest, row_lengths=lengths)
        if plan.fits is False:
            where = "of memory are" if kind == "cpu" else f"of the {kind} device's memory are"
            raise TennerError(
                f"training takes {plan.forecast.total_bytes / GB:.1f} GB, and {free_bytes / GB:.1f} GB {where} free",
                hint=f"it would fit with {plan.remedies[0]}" if plan.remedies else "close other programs",
            )
    students = 1 if recipe.select.control is None else 2
    held = sum(path.stat().st_size for path in folder.rglob("*.safetensors"))  # of a run that goes on
    needed = disk_bytes(architecture, recipe.train, students=students) - held
    free = shutil.disk_usage(_existing(folder)).free
    if needed > free:
        raise TennerError(
            f"the run takes {needed / GB:.1f} GB on disk, and {free / GB:.1f} GB are free at {folder}",
            hint="free some space, or choose another --run-dir",
        )


def disk_bytes(architecture: Architecture, train: Train, *, students: int = 1) -> int:
    """The most at a time: the students, of which the last is saved beside the checkpoints that are kept, or before it
    is, these and one that is being written.
    """
    moments_bytes = 2 if train.optimizer == "adamw-8bit" else 8
    student_bytes = 4 * architecture.parameters
    checkpoint_bytes = (4 + moments_bytes) * trained_parameters(architecture, train)
    return (
        (students - 1) * student_bytes + checkpoint.KEPT * checkpoint_bytes + max(student_bytes, checkpoint_bytes)
        + OTHER_FILES_BYTES
    )  # fmt: skip


def _existing(folder: Path) -> Path:
    return next(path for path in (folder.absolute(), *folder.absolute().parents) if os.path.exists(path))
