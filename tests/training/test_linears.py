"""Linear layers as on a GPU: values and gradients are those of the layers one by one, and of peft's adapters."""

from copy import deepcopy
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn

from tenner.training.kernels import fuse
from tenner.training.linears import fuse_linears

TOKENS, SIZE = 7, 24


class Projections(nn.Module):
    """Queries, keys and values as attention calls for them; `of_keys` is what keys and values are made of, if told."""

    def __init__(self, *, bias: bool) -> None:
        super().__init__()
        self.q_proj, self.k_proj, self.v_proj = (nn.Linear(SIZE, n, bias=bias) for n in (24, 8, 12))

    def forward(self, x: Tensor, of_keys: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        keys_of = x if of_keys is None else of_keys
        return self.q_proj(x), self.k_proj(keys_of), self.v_proj(keys_of)


def drawn(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def twins(*, bias: bool) -> tuple[Projections, Projections]:
    torch.manual_seed(1)
    plain = Projections(bias=bias)
    mine = deepcopy(plain)
    fuse_linears(mine)
    return plain, mine


def compare(
    plain: nn.Module, mine: nn.Module, weigh: tuple[float, ...] = (1.0, 2.0, 3.0), *, keys: bool = False, seed: int = 0
) -> None:
    """There and back; `weigh` is what each output has to say, 0 for one that goes nowhere."""
    found = []
    for module in (plain, mine):
        x, other = (drawn(2, TOKENS + i + seed, SIZE)[:, :TOKENS].clone().requires_grad_() for i in range(2))
        given = module(x, other) if keys else module(x)
        outs = given if isinstance(given, tuple) else (given,)
        terms = [(w * torch.sin(out)).sum() for w, out in zip(weigh, outs, strict=False) if w]
        torch.stack(terms).sum().backward()
        grads = [x.grad, other.grad, *(p.grad for p in module.parameters())]
        found.append([*outs, *grads])
    for theirs, ours in zip(*found, strict=True):
        assert (theirs is None) == (ours is None)
        if theirs is not None:
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-4)  # sums in another order


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("weigh", [(1.0, 2.0, 3.0), (1.0, 0.0, 3.0), (0.0, 2.0, 0.0)])
def test_values_and_gradients_are_those_of_the_layers_one_by_one(bias, weigh):
    compare(*twins(bias=bias), weigh)


def test_keys_of_another_input_are_computed_from_it():
    compare(*twins(bias=True), keys=True)


def test_a_frozen_layer_has_no_gradient():
    both = twins(bias=True)
    for module in both:
        module.k_proj.requires_grad_(False)
    compare(*both)
    assert both[1].k_proj.weight.grad is None


@pytest.mark.parametrize("activations", ["all", "products", "inputs"])
@pytest.mark.parametrize("names", [["q_proj", "k_proj", "v_proj"], ["q_proj", "v_proj"]])
@pytest.mark.parametrize("weigh", [(1.0, 2.0, 3.0), (1.0, 0.0, 3.0)])
def test_adapters_values_and_gradients_are_pefts(names, weigh, activations):
    plain, _ = twins(bias=True)
    get_peft_model(plain, LoraConfig(r=4, lora_alpha=12, target_modules=names))  # in place
    for i, name in enumerate(names):
        layer: Any = getattr(plain, name)
        nn.init.normal_(layer.lora_B["default"].weight, generator=torch.Generator().manual_seed(i))
    mine = deepcopy(plain)
    fuse(mine, on_gpu=True, activations=activations)
    assert all("forward" in vars(layer) for layer in mine.children())
    compare(plain, mine, weigh)


def test_adapters_in_another_precision_than_their_base_are_left_to_peft():
    """As a training ends with: a base in bfloat16, adapters in float32."""
    plain, _ = twins(bias=True)
    plain.bfloat16()
    get_peft_model(plain, LoraConfig(r=4, lora_alpha=12, target_modules=["q_proj", "k_proj", "v_proj"]))
    assert {p.dtype for p in plain.parameters()} == {torch.float32, torch.bfloat16}
    mine = deepcopy(plain)
    fuse(mine, on_gpu=True)
    x = drawn(1, TOKENS, SIZE).bfloat16()
    for theirs, ours in zip(plain(x), mine(x), strict=True):
        assert torch.equal(theirs, ours)


def test_their_parts_of_the_gradient_are_added_within_the_products():
    _, mine = twins(bias=False)
    with torch.profiler.profile() as profile:
        x = drawn(1, TOKENS, SIZE).requires_grad_()
        torch.cat(mine(x), -1).sum().backward()
    names = [event.key for event in profile.key_averages()]
    assert "aten::addmm_" in names
    assert not {"aten::add", "aten::add_"} & set(names)


def test_a_weights_gradient_is_added_to_what_an_earlier_row_has_left():
    torch.manual_seed(1)
    plain = nn.Sequential(nn.Linear(SIZE, 40), nn.Linear(40, SIZE, bias=False))
    mine = deepcopy(plain)
    fuse_linears(mine)
    for row in range(3):
        compare(plain, mine, seed=row)
    before = mine[0].weight.grad
    compare(plain, mine, seed=3)
    assert mine[0].weight.grad is before


def test_nothing_waits_once_all_have_been_asked_for():
    _, mine = twins(bias=False)
    mine(drawn(1, TOKENS, SIZE))
    siblings: Any = vars(mine.q_proj)["forward"].__self__
    assert (siblings._x, siblings._waiting) == (None, {})
    alone = nn.Sequential(nn.Linear(SIZE, SIZE))
    fuse_linears(alone)
    alone(drawn(1, TOKENS, SIZE))
    assert vars(alone[0])["forward"].__self__._x is None


def test_layers_of_other_kinds_are_left_alone():
    class Doubled(nn.Linear):
        pass

    model = Projections(bias=False)
    model.k_proj = Doubled(SIZE, 8)
    fuse_linears(model)
    assert ["forward" in vars(layer) for layer in model.children()] == [True, False, True]
    alone = nn.Sequential(Projections(bias=False))
    fuse(alone)
    assert not any("forward" in vars(layer) for layer in alone[0].children()), "on a CPU they stay as they are"
