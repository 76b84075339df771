"""Rounding to bfloat16 that lets a model see what its weights have learned.

A step moves a weight by about the learning rate, 1e-5 to 1e-4; near 0.05 the numbers of bfloat16 lie 2e-4 apart. A
copy rounded to the nearest therefore stays where it is for several steps, and then jumps: the model computes with
weights that lack a part of what was learned, and is saved without it. Here every weight has a threshold of its own,
fixed by its place, and is rounded up where the share of the gap that it has covered is above it (ordered dithering).
Over many weights the mean is exact, so a layer's products follow the smallest step. A number that bfloat16 holds stays
as it is; nothing is drawn, so the same weights give the same copy at any time and however they are spread.
"""

from collections.abc import Iterator
from functools import lru_cache

import torch
from torch import Tensor

from tenner.training import fused

LOW_BITS = 16
"""What a float32 has more than a bfloat16."""
HALF = 1 << LOW_BITS - 1
THRESHOLDS = 1 << 20
"""So many different places; then they begin anew."""
ROUNDS = {"cpu": 1, "cuda": 64, "mps": 16}
"""How often all thresholds are gone through in one operation: what lies between fits a CPU's cache, or 268 MB of a GPU,
where a billion numbers by the million would be thousands of kernels. A compiled one goes through a whole parameter."""
TINY = 2.0**-100
"""Not shifted: the bits below a nought are those of no number."""


@torch.no_grad()
def round_into(lowered: Tensor, wide: Tensor, *, first: int = 0) -> None:
    """Fill `lowered` (bfloat16) from `wide` (float32) of the same shape, both contiguous.

    `first` is the place of the first number in the whole parameter, where this is a part of it.
    """
    numbers, out = wide.view(-1), lowered.view(-1)
    if fused.runs_on(numbers.device):
        _round_at_once(numbers, out, table(numbers.device, first))
        return
    for part, thresholds_N in parts(numbers, first):
        rows_RN = numbers[part].view(-1, len(thresholds_N))
        round_by(rows_RN, out[part].view_as(rows_RN), thresholds_N)


@fused.one_kernel
def _round_at_once(wide_N: Tensor, lowered_N: Tensor, table_P: Tensor) -> None:
    round_by(wide_N, lowered_N, picked(table_P, wide_N))


def round_by(wide: Tensor, lowered: Tensor, thresholds: Tensor) -> None:
    """`round_into` by thresholds that are at hand, each number's or each column's."""
    lowered.view(torch.int16).copy_((wide.view(torch.int32) + thresholds).bitwise_right_shift_(LOW_BITS))


def rounded(wide: Tensor, dtype: torch.dtype) -> Tensor:
    """A whole parameter in `dtype`: by thresholds from float32 to bfloat16, as PyTorch does otherwise."""
    if (wide.dtype, dtype) != (torch.float32, torch.bfloat16):
        return wide.to(dtype)
    lowered = torch.empty_like(wide, dtype=dtype)
    round_into(lowered, wide)
    return lowered


@torch.no_grad()
def shift(wide: Tensor, *, first: int, back: bool = False) -> None:
    """Move float32 numbers in place so that rounding them to the nearest afterwards gives what `round_into` gives.

    (But for one in 65,536, which lies in the middle.) `back` undoes it to the bit, for all but numbers as small as
    TINY, which may lose what a shift is: no weight would notice.
    """
    numbers = wide.view(-1)
    if fused.runs_on(numbers.device):
        (_shift_back_at_once if back else _shift_at_once)(numbers, table(numbers.device, first))
        return
    for part, thresholds_N in parts(numbers, first):
        (_shift_back_by if back else _shift_by)(numbers[part].view(-1, len(thresholds_N)), thresholds_N)


@fused.one_kernel
def _shift_at_once(wide_N: Tensor, table_P: Tensor) -> None:
    _shift_by(wide_N, picked(table_P, wide_N))


@fused.one_kernel
def _shift_back_at_once(wide_N: Tensor, table_P: Tensor) -> None:
    _shift_back_by(wide_N, picked(table_P, wide_N))


def _shift_by(wide: Tensor, thresholds: Tensor) -> None:
    wide.view(torch.int32).add_((thresholds - HALF) * (wide.abs() >= TINY))


def _shift_back_by(wide: Tensor, thresholds: Tensor) -> None:
    wide.view(torch.int32).sub_((thresholds - HALF) * (wide.abs() >= TINY))


def parts(numbers: Tensor, first: int) -> Iterator[tuple[slice, Tensor]]:
    """Slices of a flat tensor, each with its numbers' thresholds: 1 to 65,535, in units of float32's last place.

    A slice may be some times as long as its thresholds, which then begin anew in it.
    """
    thresholds = _thresholds(numbers.device)
    rounds, start, count = ROUNDS[numbers.device.type], 0, numbers.numel()
    while start < count:
        place = (first + start) % THRESHOLDS
        whole = min(rounds, (count - start) // THRESHOLDS)
        end = start + whole * THRESHOLDS if whole else count
        yield slice(start, end), thresholds[place : place + min(THRESHOLDS, end - start)]
        start = end


def table(device: torch.device, first: int) -> Tensor:
    """All thresholds, from that of the place `first` on (P,); after the last one they begin anew."""
    place = first % THRESHOLDS
    return _thresholds(device)[place : place + THRESHOLDS]


def picked(table_P: Tensor, numbers_N: Tensor) -> Tensor:
    """The threshold of each number, within a compiled chain, where it takes no memory."""
    places_N = torch.arange(numbers_N.shape[0], device=table_P.device)
    return table_P[places_N.bitwise_and(THRESHOLDS - 1)]


@lru_cache
def _thresholds(device: torch.device) -> Tensor:
    """All of them, twice: so many from any place on lie together."""
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randint(1, 1 << LOW_BITS, (THRESHOLDS,), generator=generator, dtype=torch.int32)
    return drawn.repeat(2).to(device)
