"""The kernels of packed rows give the same, forward and backward, wherever each of them is used."""

import pytest
import torch

from tenner.training import attention
from tenner.training.documents import Documents

LENGTHS, HEADS, KEY_HEADS, SIZE, SCALING = (5, 17, 3), 4, 2, 8, 8**-0.5


def parts():
    generator = torch.Generator().manual_seed(0)
    tokens = sum(LENGTHS)
    return [
        torch.randn(tokens * heads, SIZE, generator=generator, requires_grad=True)
        for heads in (HEADS, KEY_HEADS, KEY_HEADS)
    ]


def outcome(kernel):
    query, key, value = parts()
    docs = Documents(LENGTHS, torch.float32, torch.device("cpu"))
    out = kernel(query, key, value, docs, SCALING)
    out.square().sum().backward()
    return out.detach(), query.grad, key.grad, value.grad


@pytest.mark.parametrize("shares_keys", [True, False], ids=["shared keys", "repeated keys"])
def test_the_fused_kernel_agrees_with_the_products(monkeypatch, shares_keys):
    monkeypatch.setattr(attention, "_can_share_keys", lambda _: shares_keys)
    for mine, theirs in zip(outcome(attention._fused_attention), outcome(attention._ShortAttention.apply), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)


def test_this_cpu_shares_keys():
    assert attention._can_share_keys(torch.device("cpu"))
