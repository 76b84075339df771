"""Rounding to bfloat16 by fixed thresholds: exact in the mean, the same wherever a number lies."""

import pytest
import torch

from tenner.training import bf16_rounding
from tenner.training.bf16_rounding import THRESHOLDS, round_into, rounded, shift, table

COUNT = THRESHOLDS + 12_345


@pytest.fixture(scope="module")
def numbers():
    """Over many magnitudes, of both signs, noughts among them."""
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randn(COUNT, generator=generator) * 10 ** (torch.rand(COUNT, generator=generator) * 8 - 6)
    drawn[::1000] = 0.0
    drawn[1::1000] = -0.0
    return drawn


def test_what_bfloat16_holds_stays_as_it_is(numbers):
    held = numbers.bfloat16()
    assert torch.equal(rounded(held.float(), torch.bfloat16).view(torch.int16), held.view(torch.int16))


def test_a_number_becomes_one_of_its_two_neighbours(numbers):
    gap = (numbers.abs().float() / 128).clamp_min(1e-30)
    assert ((rounded(numbers, torch.bfloat16).float() - numbers).abs() <= gap).all()


@pytest.mark.parametrize("share", [0.01, 0.3, 0.99])
@pytest.mark.parametrize("sign", [1, -1])
def test_the_mean_is_exact(share, sign):
    """Of numbers that have gone a share of the way from 1 to 1 + 1/128; rounding to the nearest knows the two ends."""
    wide = torch.full((COUNT,), sign * (1 + share / 128))
    gone = ((rounded(wide, torch.bfloat16).double().mean().abs() - 1) * 128).item()
    assert gone == pytest.approx(share, abs=4 * (share * (1 - share) / COUNT) ** 0.5)
    assert wide.bfloat16().double().mean().abs() in (1, 1 + 1 / 128)


def test_a_part_is_rounded_as_in_the_whole(numbers):
    whole, first = rounded(numbers, torch.bfloat16), THRESHOLDS - 77
    part = torch.empty(COUNT - first, dtype=torch.bfloat16)
    round_into(part, numbers[first:], first=first)
    assert torch.equal(part, whole[first:])


def test_a_gpus_long_slices_give_the_same_bits(numbers, monkeypatch):
    wide = numbers.repeat(4)
    by_slices, shifted = rounded(wide, torch.bfloat16), [wide.clone(), wide.clone()]
    shift(shifted[0], first=77)
    monkeypatch.setitem(bf16_rounding.ROUNDS, "cpu", 3)
    shift(shifted[1], first=77)
    assert torch.equal(rounded(wide, torch.bfloat16), by_slices)
    assert torch.equal(*shifted)


def test_shifted_numbers_are_rounded_alike_by_whoever_rounds_to_the_nearest(numbers):
    shifted = numbers.clone()
    shift(shifted, first=0)
    assert (shifted.bfloat16() != rounded(numbers, torch.bfloat16)).sum() < COUNT / 16_384  # those in the very middle
    assert torch.isfinite(shifted).all()
    shift(shifted, first=0, back=True)
    assert torch.equal(shifted.view(torch.int32), numbers.view(torch.int32))


@pytest.mark.parametrize("first", [0, THRESHOLDS - 77])
def test_a_parameter_at_once_gets_the_same_bits(numbers, first):
    """As a compiled chain goes through it."""
    by_parts, at_once = (torch.empty(COUNT, dtype=torch.bfloat16) for _ in range(2))
    thresholds = table(numbers.device, first)
    round_into(by_parts, numbers, first=first)
    bf16_rounding._round_at_once(numbers, at_once, thresholds)
    assert torch.equal(by_parts, at_once)
    by_parts, at_once = numbers.clone(), numbers.clone()
    shift(by_parts, first=first)
    bf16_rounding._shift_at_once(at_once, thresholds)
    assert torch.equal(by_parts.view(torch.int32), at_once.view(torch.int32))
    bf16_rounding._shift_back_at_once(at_once, thresholds)
    assert torch.equal(numbers.view(torch.int32), at_once.view(torch.int32))
