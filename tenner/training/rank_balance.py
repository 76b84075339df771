"""Rows of like work for ranks that go forward and back together, and how much of their time they wait for one another.

Ranks that share weights gather every layer together, so a turn (one row on each) takes as long as its slowest row. No
row is faster than the longest sample of its turn: a step of about as many samples as there are ranks leaves most of
them waiting, however its samples are dealt. What helps is a larger step, or ranks that share rows
(`context_parallel.py`): here a group of them is one rank, as fast as they are together.
"""

import math
from collections.abc import Callable, Sequence
from statistics import NormalDist
from typing import NamedTuple

from tenner.training import packing

IDLE_MAX = 0.1
"""A larger step is proposed where ranks wait for more of their time than this."""
STEP_GROWTH, STEP_FACTOR_MAX, ROUNDED_TOKENS = 1.25, 16, 1000
"""How finely and how far larger steps are tried, and to how many tokens they are rounded."""
ASSUMED_SIGMA = 0.55
"""Of the logarithm of a trace's tokens, where the traces are not there yet: about that of published ones."""
ASSUMED_SAMPLES_MAX = 256

Turn = Sequence[Sequence[int]]
"""A row of samples for each rank."""


class Waiting(NamedTuple):
    """How much of the time of all ranks is spent waiting for the slowest; of an epoch."""

    idle_share: float
    own_tokens_per_step: int
    tokens_per_step: int
    """A larger step with which it is at most `IDLE_MAX`; the recipe's own where it is so already, or none is found."""
    idle_share_then: float
    context_parallel: int | None = None
    """So many ranks that share each row bring the recipe's own step to at most `IDLE_MAX`; None where it is so already,
    or none do."""
    idle_share_shared: float | None = None
    """With these."""


def even_turns(
    step: Sequence[int], lengths: Sequence[int], row_tokens_max: int, ranks: int, *, work: Sequence[float]
) -> list[list[tuple[int, ...]]]:
    """A step's rows of each rank, as many for each; `work` is what each sample takes, in any unit.

    A row holds at most `row_tokens_max` tokens, or as many as the step's longest sample, for which there must be room
    anyway. Of four ways to fill the rows the one with the least waiting is taken: longest first into the row with the
    least work (Graham 1969), as far as an even share goes or as far as there is room; into the fullest row that has
    room (best fit decreasing); or even shares of tokens.
    """
    order = sorted(step, key=lambda i: (-lengths[i], i))
    room_tokens = max(row_tokens_max, lengths[order[0]])
    tried: list[list[Turn]] = [
        _turns(order, lengths, room_tokens, ranks, work, fullest=fullest, share_only=share_only)
        for fullest, share_only in ((False, True), (False, False), (True, True))
    ]
    by_tokens = packing.deal(packing.split_rows(step, lengths, row_tokens_max, ranks=ranks), lengths, ranks)
    tried.append([list(turn) for turn in zip(*by_tokens, strict=True)])
    best = min(tried, key=lambda turns: sum(_slowest(turn, work) for turn in turns))
    return [[tuple(turn[rank]) for turn in best] for rank in range(ranks)]


def _turns(
    order: Sequence[int], lengths: Sequence[int], room_tokens: int, ranks: int, work: Sequence[float], *,
    fullest: bool, share_only: bool,
) -> list[Turn]:  # fmt: skip
    """With `share_only` a turn takes as long as its longest sample alone, or as an even share of what is left if that
    is more: what exceeds it is for the next turn.
    """
    turns: list[Turn] = []
    left = list(order)
    while left:
        rows: list[list[int]] = [[] for _ in range(ranks)]
        tokens, loads, over = [0] * ranks, [0.0] * ranks, list[int]()
        share = max(work[left[0]], sum(work[i] for i in left) / ranks) * (1 + 1e-9)
        limit = share if share_only else math.inf
        for index in left:
            tokens_left, work_left = room_tokens - lengths[index], limit - work[index]
            fitting = [r for r in range(ranks) if not rows[r] or (tokens[r] <= tokens_left and loads[r] <= work_left)]
            if not fitting:
                over.append(index)
                continue
            rank = (max if fullest else min)(fitting, key=lambda rank: loads[rank])
            rows[rank].append(index)
            tokens[rank] += lengths[index]
            loads[rank] += work[index]
        turns.append(rows)
        left = over
    return turns


def _slowest(turn: Sequence[Sequence[int]], work: Sequence[float]) -> float:
    return max(sum(work[i] for i in row) for row in turn)


def idle_share(
    steps: Sequence[Sequence[int]], lengths: Sequence[int], row_tokens_max: int, ranks: int, *, work: Sequence[float]
) -> float:
    """The share of all ranks' time in which they wait, over the steps."""
    waited = busy = 0.0
    for step in steps:
        for turn in zip(*even_turns(step, lengths, row_tokens_max, ranks, work=work), strict=True):
            waited += ranks * _slowest(turn, work)
            busy += sum(work[i] for row in turn for i in row)
    return 1 - busy / waited


def waiting(
    lengths: Sequence[int], tokens_per_step: int, row_tokens_max: int, ranks: int, *, flops: Callable[[int], float],
    seed: int, sharing: int = 1, could_share: Sequence[int] = (),
) -> Waiting:  # fmt: skip
    """By the first epoch. `flops` is what a sample of so many tokens takes, and `row_tokens_max` of each rank.

    `sharing` ranks share each row; the numbers of `could_share`, ascending, are tried in its place.
    """
    work = [flops(tokens) for tokens in lengths]

    def share(step_tokens: int, shared_by: int) -> float:
        steps = packing.epoch_steps(lengths, step_tokens, seed=seed, epoch=0)
        return idle_share(steps, lengths, row_tokens_max * shared_by, ranks // shared_by, work=work)

    found = Waiting(own := share(tokens_per_step, sharing), tokens_per_step, tokens_per_step, own)
    if own <= IDLE_MAX:
        return found
    for more in could_share:
        if (then := share(tokens_per_step, more)) <= IDLE_MAX:
            found = found._replace(context_parallel=more, idle_share_shared=then)
            break
    factor = STEP_GROWTH
    while factor <= STEP_FACTOR_MAX:
        larger = math.ceil(tokens_per_step * factor / ROUNDED_TOKENS) * ROUNDED_TOKENS
        if (then := share(larger, sharing)) <= IDLE_MAX:
            return found._replace(tokens_per_step=larger, idle_share_then=then)
        factor *= STEP_GROWTH
    return found


def assumed_lengths(mean_tokens: float, count: int, *, tokens_max: int) -> list[int]:
    """Tokens of `count` samples that are not there yet, or of as many as tell the same: lognormal around their mean, at
    most `tokens_max` each.
    """
    count = min(count, ASSUMED_SAMPLES_MAX)
    normal = NormalDist(math.log(mean_tokens) - ASSUMED_SIGMA**2 / 2, ASSUMED_SIGMA)
    drawn = (normal.inv_cdf((i + 0.5) / count) for i in range(count))
    return [max(1, min(tokens_max, round(math.exp(logarithm)))) for logarithm in drawn]
