"""Chains that a GPU runs as one kernel, compiled here for a CPU: the compiler takes them, and they compute the same."""

import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch

from tenner.training import bf16_rounding, cross_entropy, float8, fused, kernels, optimizer

pytestmark = [
    pytest.mark.slow,  # each compiles its chain: seconds
    pytest.mark.filterwarnings(
        "ignore:.torch.jit.script_method. is deprecated:DeprecationWarning"
    ),  # the compiler's own
]
CLOSE: dict[str, Any] = {"rtol": 2**-7, "atol": 1e-5}
"""Of bfloat16, where a compiled chain rounds once and operators one by one each round."""


def drawn(*shape, dtype=torch.bfloat16):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(len(shape) + shape[0])).to(dtype)


def rounding(count):
    wide = drawn(count, dtype=torch.float32)
    return wide, torch.zeros(count, dtype=torch.bfloat16), bf16_rounding.table(wide.device, 77)


def shifting(count):
    return drawn(count, dtype=torch.float32), bf16_rounding.table(torch.device("cpu"), 77)


def moving(count):
    weight, grad, mean = (drawn(count + i)[:count].clone() for i in range(3))
    whole = optimizer._Moved(weight, grad, mean, grad.square(), torch.zeros_like(weight))
    numbers = optimizer._Numbers(*(torch.tensor(x) for x in (1e-3, 1.5, 0.1, 0.05)))
    return weight, whole, bf16_rounding.table(weight.device, 0), numbers, (0.9, 0.95), 1e-4


def turning(count):
    """In float32: of a difference of two products that were rounded, bfloat16 leaves little."""
    return tuple(drawn(1, heads, count, 8, dtype=torch.float32) for heads in (3, 1, 1))


CHAINS: dict[str, tuple[Callable[..., Any], Callable[[int], tuple[Any, ...]]]] = {
    "round": (bf16_rounding._round_at_once, rounding),
    "shift": (bf16_rounding._shift_at_once, shifting),
    "shift back": (bf16_rounding._shift_back_at_once, shifting),
    "move": (optimizer._move_at_once, moving),
    "norm": (kernels._normed, lambda n: (drawn(n, 32), drawn(32), 1e-6)),
    "norm, back": (
        kernels._norm_backward,
        lambda n: (drawn(n, 32), drawn(32), drawn(n, 1, dtype=torch.float32), drawn(n, 32), True),
    ),
    "gate": (kernels._gate, lambda n: (drawn(n, 32), drawn(n, 32))),
    "gate, back": (kernels._gate_backward, lambda n: (drawn(n, 32), drawn(n, 32), drawn(n, 32))),
    "turn": (kernels._turned, turning),
    "turn back": (kernels._turned_back, turning),
    "loss": (cross_entropy._to_gradients, lambda n: (drawn(n, 64), torch.arange(n)[:, None] % 64, torch.tensor(0.5))),
    "scale": (float8._scale, lambda n: (drawn(n, 32),)),
    "lower": (float8._lowered, lambda n: (drawn(n, 32), torch.tensor(0.01))),
    "lower, turned": (float8._lowered_turned, lambda n: (drawn(n, 32), torch.tensor(0.01))),
    "lower rows": (float8._lowered_rows, lambda n: (drawn(n, 32), torch.tensor(0.01))),
}  # fmt: skip


@pytest.mark.parametrize("name", CHAINS)
def test_a_compiled_chain_computes_the_same(name):
    chain, arguments = CHAINS[name]
    plain: Any = inspect.unwrap(chain)
    torch._dynamo.reset()
    compiled = torch.compile(plain, dynamic=True, fullgraph=True)
    for count in (48, 1000):
        theirs, ours = arguments(count), arguments(count)
        wanted, found = plain(*theirs), compiled(*ours)
        for a, b in zip(_tensors((wanted, theirs)), _tensors((found, ours)), strict=True):
            torch.testing.assert_close(b.float(), a.float(), **CLOSE)
            assert b.shape == a.shape
            assert b.dtype == a.dtype


def _tensors(nested: Any) -> list[torch.Tensor]:
    return [x for x in torch.utils._pytree.tree_leaves(nested) if isinstance(x, torch.Tensor)]


def test_this_machine_compiles_a_chain():
    assert fused.failure(torch.device("cpu")) is None


def test_a_row_of_the_model_is_compiled_as_a_number(monkeypatch):
    rows: list[int] = []

    def noted(graph: Any, inputs: Any) -> Any:
        rows.extend(x.shape[1] for x in inputs if isinstance(x, torch.Tensor) and x.dtype == torch.bfloat16)
        return graph.forward

    torch._dynamo.reset()
    compiled = torch.compile(inspect.unwrap(cross_entropy._to_gradients), backend=noted, dynamic=True)
    monkeypatch.setattr(fused, "runs_on", lambda _device: True)
    monkeypatch.setattr(fused, "compiled", lambda _chain: compiled)
    for count, vocabulary in ((48, 64), (1000, 64), (48, 96)):
        logits = drawn(count, vocabulary)
        cross_entropy._to_gradients(logits, torch.arange(count)[:, None] % 64, torch.tensor(0.5))
    assert rows == [64, 96], "once for each length, for any number of rows"
