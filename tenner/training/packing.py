"""Which samples make a step, and how they lie in a row: pure arithmetic, the same on every machine."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from tenner.core.seeds import rng
from tenner.training.loss_mask import Encoded


class Row(NamedTuple):
    """Samples laid end to end without padding; T tokens, P of them trained.

    `positions` restart at every document. The prediction made at index `predictors[i]` is for `targets[i]`.
    """

    sample_ids: tuple[str, ...]
    lengths: tuple[int, ...]
    ids: tuple[int, ...]
    positions: tuple[int, ...]
    predictors: tuple[int, ...]
    targets: tuple[int, ...]


def epoch_order(samples: int, *, seed: int, epoch: int) -> list[int]:
    """The indices 0 to `samples` - 1, shuffled for this epoch."""
    order = list(range(samples))
    rng(seed, "order", str(epoch)).shuffle(order)
    return order


def epoch_steps(lengths: Sequence[int], tokens_per_step: int, *, seed: int, epoch: int) -> list[tuple[int, ...]]:
    """One epoch as steps of sample indices, every sample once.

    The epoch's tokens are divided evenly into as many steps as bring each closest to `tokens_per_step`; a sample
    belongs to the step in which its middle falls. So no step is a small rest whose few samples would weigh more.
    """
    tokens = sum(lengths)
    count = max(1, round(tokens / tokens_per_step))
    steps: list[list[int]] = [[] for _ in range(count)]
    before = 0
    for index in epoch_order(len(lengths), seed=seed, epoch=epoch):
        steps[(2 * before + lengths[index]) * count // (2 * tokens)].append(index)
        before += lengths[index]
    return [tuple(step) for step in steps if step]  # a sample longer than two steps leaves none for its neighbours


def plan(lengths: Sequence[int], tokens_per_step: int, *, epochs: int, seed: int) -> list[tuple[int, ...]]:
    """All steps of a run, in order."""
    return [step for epoch in range(epochs) for step in epoch_steps(lengths, tokens_per_step, seed=seed, epoch=epoch)]


def split_rows(
    step: Sequence[int], lengths: Sequence[int], row_tokens_max: int, *, ranks: int = 1
) -> list[tuple[int, ...]]:
    """A step's samples as rows of at most `row_tokens_max` tokens; one longer sample has a row to itself.

    Longest first, so that a row holds samples of like length (attention pads to the longest of its row), and a row
    is closed once it has its even share, so that rows are of like size. There are enough rows for every rank, where
    there are enough samples.
    """
    tokens = sum(lengths[i] for i in step)
    count = math.ceil(tokens / row_tokens_max / ranks) * ranks
    share_tokens = tokens / count
    rows: list[list[int]] = []
    tokens = 0
    for index in sorted(step, key=lambda i: (-lengths[i], i)):
        if not rows or tokens >= share_tokens or tokens + lengths[index] > row_tokens_max:
            rows.append([])
            tokens = 0
        rows[-1].append(index)
        tokens += lengths[index]
    return [tuple(row) for row in rows]


def deal(rows: Sequence[tuple[int, ...]], lengths: Sequence[int], ranks: int) -> list[list[tuple[int, ...]]]:
    """The rows of each rank: as many for each, of about as many tokens; an empty row stands where one is missing.

    As many, since ranks that share weights go forward and back together. Dealt out from the largest, there and back.
    """
    order = sorted(rows, key=lambda row: -sum(lengths[i] for i in row))
    order += [()] * (-len(order) % ranks)
    dealt: list[list[tuple[int, ...]]] = [[] for _ in range(ranks)]
    for place, row in enumerate(order):
        turn, index = divmod(place, ranks)
        dealt[index if turn % 2 == 0 else ranks - 1 - index].append(row)
    return dealt


def pack(samples: Sequence[Encoded]) -> Row:
    """Lay samples end to end. The first token of a document is predicted by nothing, so it is never a target."""
    ids: list[int] = []
    positions: list[int] = []
    predictors: list[int] = []
    targets: list[int] = []
    for sample in samples:
        start = len(ids)
        for position in range(1, len(sample.ids)):
            if sample.loss_mask[position]:
                predictors.append(start + position - 1)
                targets.append(sample.ids[position])
        ids.extend(sample.ids)
        positions.extend(range(len(sample.ids)))
    return Row(
        sample_ids=tuple(s.sample_id for s in samples),
        lengths=tuple(len(s.ids) for s in samples),
        ids=tuple(ids),
        positions=tuple(positions),
        predictors=tuple(predictors),
        targets=tuple(targets),
    )
