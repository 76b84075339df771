"""A run with other settings that takes over from another run all that they leave as it is."""

import os
import shutil
from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path
from typing import NamedTuple

from tenner.budget import ledger_copy
from tenner.core.errors import TennerError
from tenner.core.recipe import Recipe
from tenner.core.records import StageHardware
from tenner.core.run import RUN_TEMPLATE, changed_settings, start, stored_recipe
from tenner.core.run_folder import RunFolder
from tenner.core.stage_names import CONTROL

FILES = {
    "gather": ("questions.jsonl", "dropped-gather.jsonl", "sources.jsonl", "benchmark.jsonl"),
    "clean": ("clean.jsonl", "dropped-clean.jsonl", "hits.jsonl"),
    "attempt": ("attempts.jsonl", "difficulties.jsonl", "forecast.jsonl"),
    "select": ("selected.jsonl", "dropped-select.jsonl", "picks.jsonl", "select-steps.jsonl", "labels.jsonl"),
    "trace": ("traces.jsonl", "failed.jsonl", "teachers.jsonl"),
    "verify": ("verified.jsonl", "dropped-verify.jsonl", "counterfactual.jsonl"),
    "train": ("training.jsonl", "dropped-train.jsonl", RUN_TEMPLATE, "student", "adapter"),
    CONTROL: (CONTROL,),
    "evaluate": ("completions.jsonl", "scores.jsonl", "settings.jsonl"),
    "report": (),
}
"""What each stage leaves in the run folder, but for the traces by which a teacher was chosen; `samples.jsonl` belongs
to the last stage before training."""
SAMPLES = "samples.jsonl"
FIRST_STAGES = (
    ("evaluate.benchmarks", "gather"),
    ("evaluate.questions", "gather"),
    ("evaluate.engine", "attempt"),
    ("evaluate.precision", "attempt"),
    ("evaluate.vllm", "attempt"),
    ("evaluate", "evaluate"),
    ("seed", "gather"),
    ("gather", "gather"),
    ("clean", "clean"),
    ("student.base_model", "report"),
    ("student.license", "report"),
    ("student", "attempt"),
    ("attempt", "attempt"),
    ("domains", "select"),
    ("select.control", CONTROL),
    ("select", "select"),
    ("trace.filters", "verify"),
    ("trace.truncated", "verify"),
    ("trace", "trace"),
    ("train", "train"),
    ("name", "report"),
    ("description", "report"),
)
"""The first stage that a setting has an effect on: that of the first row that the key is or is below."""


class Forked(NamedTuple):
    """What became of a fork."""

    path: Path
    kept: Sequence[str]
    """Finished stages that it takes over."""
    redone: Sequence[str]
    """Those that it does again, or for the first time. What was bought in them is not bought again."""
    spent_usd: float
    """What its books begin with."""


def fork(source: Path, recipe: Recipe, target: Path) -> Forked:
    """Start a run of `recipe` in `target` with the stages of the run in `source` that come out the same.

    Every paid response comes along, so that none is bought twice, and so does what was spent on it and on the stages
    that are kept. The run in `source` is not changed.

    Raises:
        TennerError: no run, one that is being written to or waits for a batch, no difference, or a folder that is not
            empty.
    """
    folder = RunFolder.existing(source)
    before = stored_recipe(folder)
    assert before is not None, "RunFolder.existing has seen it"
    changed = list(changed_settings(before, recipe))
    if not changed:
        raise TennerError(
            f"nothing that makes another run is different from {source}",
            hint=f"name one with --set; a cap or a price may change in the run itself: tenner run {source} --set …",
        )
    if os.path.exists(target) and any(target.iterdir()):
        raise TennerError(f"{target} is not empty", hint="choose another --run-dir")
    with folder.writing():
        ledger_copy.refuse_waiting_batches(source / "run.db")
        order = recipe.stages
        first = min(order.index(_first_stage(key, order)) for key in changed)
        kept = list(takewhile(folder.done, order[:first]))
        for stage in kept:
            folder.verify_stages(stage)
        redone = [stage for stage in order if stage not in kept]
        copied = RunFolder(target)
        with copied.writing():
            _copy_files(folder, copied, kept, order)
            spent_usd = ledger_copy.copy(source / "run.db", target / "run.db", without_machine_time_of=redone)
            start(copied, recipe)
    return Forked(target, kept, redone, spent_usd)


def _first_stage(key: str, order: Sequence[str]) -> str:
    if key == "order":
        return order[order.index("attempt") + 1]
    stage = next(stage for prefix, stage in FIRST_STAGES if key == prefix or key.startswith(f"{prefix}."))
    return stage if stage in order else "evaluate"  # a fork without the control arm of its run


def _copy_files(source: RunFolder, target: RunFolder, kept: Sequence[str], order: Sequence[str]) -> None:
    """Copy what the kept stages left; their markers last."""
    names = [name for stage in kept for name in FILES[stage]]
    if order[order.index("train") - 1] in kept:
        names.append(SAMPLES)
    for name in names:
        path = source.path / name
        if path.is_dir():
            shutil.copytree(path, target.path / name)
        elif path.is_file():
            shutil.copy2(path, target.path / name)
    target.append("hardware", [row for row in source.read("hardware", StageHardware) if row.stage in kept])
    for stage in kept:
        if (done := source.done(stage)) is not None:
            target.adopt(done)
