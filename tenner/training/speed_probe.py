"""How fast a student is trained, found out by a few real steps on samples like those to come."""

import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from tenner.core.sections import Train
from tenner.training.distributed import World
from tenner.training.loop import StepReport, train
from tenner.training.loss_mask import Encoded

STEPS = 3
STEP_TOKENS_MAX = 1024
"""A larger step is tried in part."""


class TrainingSpeed(NamedTuple):
    """Of a step and of the loading before the first one."""

    token_seconds: float
    loading_seconds: float


def training_speed(
    base: Path, samples: Sequence[Encoded], settings: Train, world: World, *, seed: int
) -> TrainingSpeed:
    """Train on the first of the samples, and throw away what comes out."""
    wanted_tokens, few = STEPS * min(settings.tokens_per_step, STEP_TOKENS_MAX), list[Encoded]()
    for sample in samples:
        few.append(sample)
        if sum(len(e.ids) for e in few) >= wanted_tokens:
            break
    reports: list[StepReport] = []
    alike = {"epochs": 1, "context_parallel": world.context_parallel}  # the run may have other processes
    tried = settings.model_copy(update=alike | {"tokens_per_step": wanted_tokens // STEPS})
    with tempfile.TemporaryDirectory() as workdir:
        train(base, few, tried, seed=seed, workdir=Path(workdir), on_step=reports.append, world=world)
    first, *others = reports
    per_token = statistics.median(1 / r.tokens_per_second for r in others or [first])
    return TrainingSpeed(per_token, max(0.0, first.seconds - first.tokens * per_token))
