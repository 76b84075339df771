"""The samples that are held out of a training, and when their loss is measured: whether it learns or only memorises."""

from collections.abc import Sequence

from tenner.core.errors import TennerError
from tenner.core.records import Sample
from tenner.core.sections import Train
from tenner.core.seeds import rng

INTERVALS = 10
"""The loss is measured before the first step, before the last, and at so many intervals between them."""
FORWARD_SHARE = 1 / 3
"""What a forward pass alone takes of a training step, which goes back at twice the price of going forward."""


def choose(samples: Sequence[Sample], count: int, *, seed: int) -> set[str]:
    """The ids of the samples that are held out: `count`, or a few more, as all samples of a question go together.

    Raises TennerError where none would be left to train on.
    """
    by_question: dict[str, list[str]] = {}
    for sample in samples:
        by_question.setdefault(sample.question_id, []).append(sample.id)
    questions = sorted(by_question)
    rng(seed, "validation").shuffle(questions)
    found: set[str] = set()
    for question_id in questions:
        if len(found) >= count:
            return found
        found.update(by_question[question_id])
    raise TennerError(
        f"train.validation_samples = {count} leaves none of {len(samples):,} samples to train on", hint="lower it"
    )


def is_due(step: int, steps: int) -> bool:
    """Whether the loss is measured before `step` (from 0) of `steps`."""
    every = max(1, round(steps / INTERVALS))
    return step % every == 0 or step == steps - 1


def passes(samples: int, settings: Train) -> float:
    """What a training on `samples` in all epochs takes, in passes forward and back over one sample, what is held out
    and measured included."""
    count = settings.validation_samples or 0
    return (samples - count) * settings.epochs + count * (INTERVALS + 1) * FORWARD_SHARE
