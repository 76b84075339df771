"""Products in float8, on a CPU of the same numbers in float32: near bfloat16's, token by token, and trained."""

from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from pydantic import ValidationError
from tiny_training import SETTINGS, run, samples
from torch import nn
from transformers import AutoModelForCausalLM

from tenner.core.errors import TennerError
from tenner.core.sections import Train
from tenner.training import float8, kernels, loop, lora, model_loading
from tenner.training.distributed import here
from tenner.training.float8 import FLOAT8, SMALLEST

ROUNDING = 2**-4
"""Of a number in float8, relative; of its products with another such number at most about twice as much."""
CHANGES: dict[str, Any] = {"precision": "bf16", "fp8": True}
LORA = CHANGES | {"method": "lora", "lora_rank": 4}


@pytest.fixture
def on_this_cpu(monkeypatch):
    """Training in float8 is for GPUs; a CPU computes the same, slowly."""
    monkeypatch.setattr(float8, "failure", lambda _device: None)


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).bfloat16()


def off(found, wanted):
    """Relative, over all numbers."""
    return ((found.float() - wanted.float()).norm() / wanted.float().norm()).item()


def test_products_are_those_of_bfloat16_but_for_rounding_to_four_bits():
    x_TD, weight_OD, bias_O, grad_TO = drawn(7, 32), drawn(48, 32, seed=1), drawn(48, seed=2), drawn(7, 48, seed=3)
    scale = float8._scale(weight_OD)
    assert 0 < off(float8.product(x_TD, weight_OD, scale, bias_O), x_TD @ weight_OD.T + bias_O) < ROUNDING
    assert 0 < off(float8.product_back(grad_TO, weight_OD, scale), grad_TO @ weight_OD) < ROUNDING


def test_a_tokens_results_do_not_depend_on_the_others():
    x_TD, weight_OD = drawn(7, 32), drawn(48, 32, seed=1)
    scale = float8._scale(weight_OD)
    louder_TD = torch.cat([x_TD[:3], 1000 * x_TD[3:], torch.zeros(1, 32).bfloat16()])
    for product in (float8.product, lambda x, w, s: float8.product_back(x, w.T.contiguous(), s)):
        before, after = product(x_TD, weight_OD, scale), product(louder_TD, weight_OD, scale)
        assert torch.equal(before[:3], after[:3])
        assert torch.isfinite(after).all()
        assert not after[-1].any()


def test_numbers_of_all_sizes_fit():
    scale = torch.ones(())
    x_TD = torch.tensor([[2.0**100, -(2.0**100)], [SMALLEST, 0.0], [448.0, 1.0]]).repeat(1, 8).bfloat16()
    lowered, scales = float8._lowered_rows(x_TD, scale)
    assert torch.equal(lowered.float() * scales, x_TD.float())


def test_a_weights_gradient_is_no_product_in_float8():
    torch.manual_seed(0)
    plain, mine = nn.Linear(32, 48, dtype=torch.bfloat16), nn.Linear(32, 48, dtype=torch.bfloat16)
    mine.load_state_dict(plain.state_dict())
    float8.lower([mine])
    a, b = (drawn(2, 7, 32).requires_grad_() for _ in range(2))
    out = plain(a)
    out.backward(drawn(2, 7, 48, seed=1))
    mine(b).backward(drawn(2, 7, 48, seed=1))
    assert 0 < off(mine(b), out) < ROUNDING
    assert 0 < off(b.grad, a.grad) < ROUNDING
    for ours, theirs in zip(mine.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)


def adapted():
    """A linear layer with an adapter that says something, by peft."""
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(32, 48))
    get_peft_model(model, LoraConfig(r=4, lora_alpha=12, target_modules=["0"]))
    layer: Any = model[0]
    nn.init.normal_(layer.lora_B["default"].weight)
    return model.bfloat16()  # peft's own are in float32


def test_frozen_weights_are_kept_in_half_the_memory_and_give_the_same():
    found = []
    for kept, on_gpu in ((False, False), (True, False), (False, True), (True, True)):
        model = adapted()
        base = model[0].base_layer
        kernels.fuse(model, on_gpu=on_gpu)
        float8.lower([base])
        if kept:
            float8.keep([base])
        assert base.weight.dtype == (FLOAT8 if kept else torch.bfloat16)
        x = drawn(2, 7, 32).requires_grad_()
        out = model(x)
        out.backward(drawn(2, 7, 48, seed=1))
        found.append([out.detach(), x.grad])
        assert base.weight.grad is None
    for other in found[1:]:
        for a, b in zip(found[0], other, strict=True):
            torch.testing.assert_close(a, b, rtol=2**-6, atol=2**-4)
    for cast, stored in ((0, 1), (2, 3)):
        assert all(torch.equal(a, b) for a, b in zip(found[cast], found[stored], strict=True))


def curve(model_dir, workdir, settings):
    """The losses of a training, whose samples share rows, and what came of it."""
    losses: list[float] = []
    said: list[str] = []
    result = loop.train(
        model_dir, samples(), settings, seed=0, workdir=workdir, on_step=lambda r: losses.append(r.loss),
        say=said.append,
    )  # fmt: skip
    assert said == []
    return losses, result


@pytest.mark.usefixtures("on_this_cpu")
@pytest.mark.slow  # 4 s
@pytest.mark.parametrize("changes", [CHANGES, LORA], ids=["full", "lora"])
def test_training_follows_that_in_bfloat16(changes, tiny_model_dir, tmp_path):
    settings = SETTINGS.model_copy(update=changes)
    mine, _ = curve(tiny_model_dir, tmp_path / "fp8", settings)
    theirs, _ = curve(tiny_model_dir, tmp_path / "bf16", settings.model_copy(update={"fp8": False}))
    assert mine != theirs
    assert mine == pytest.approx(theirs, rel=0.02)


@pytest.mark.usefixtures("on_this_cpu")
def test_the_student_is_the_base_as_it_was_plus_its_adapters(tiny_model_dir, tmp_path):
    settings = SETTINGS.model_copy(update=LORA | {"epochs": 1})
    learner = model_loading.load(tiny_model_dir, settings, here("cpu"), seed=0)
    kept = {name for name, p in learner.model.named_parameters() if p.dtype == FLOAT8}
    assert kept == {name for name, _ in learner.model.named_parameters() if name.endswith("base_layer.weight")}
    assert len(kept) == 2 * 7
    _, result = curve(tiny_model_dir, tmp_path / "work", settings)
    changed = {
        lora.stored_name(name): module.get_delta_weight("default").detach()
        for name, module in result.model.named_modules()
        if hasattr(module, "get_delta_weight")
    }
    loop.finish(result, tiny_model_dir, tmp_path / "student", tmp_path / "work", base_model="some/base")
    base, merged = (
        dict(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).named_parameters())
        for folder in (tiny_model_dir, tmp_path / "student")
    )
    for name, weight in base.items():
        delta = changed.get(name.removesuffix(".weight"))
        wanted = weight if delta is None else weight + delta
        torch.testing.assert_close(merged[name], wanted, rtol=2**-7, atol=2**-9)


@pytest.mark.parametrize("method", ["full", "lora"])
def test_a_device_that_cannot_is_refused_before_the_first_step(method, tiny_model_dir, tmp_path):
    with pytest.raises(TennerError, match=r"^train\.fp8 is for CUDA cards from Ada and Hopper on: this device is cpu$"):
        run(tiny_model_dir, tmp_path, on_step=pytest.fail, **CHANGES | {"method": method})


@pytest.mark.usefixtures("on_this_cpu")
def test_a_precision_that_it_does_not_go_with_is_refused(tiny_model_dir, tmp_path):
    with pytest.raises(TennerError, match="goes with bf16"):
        run(tiny_model_dir, tmp_path, on_step=pytest.fail, **CHANGES | {"precision": "fp32"})
    wrong: tuple[dict[str, Any], ...] = ({"precision": "fp32"}, {"method": "lora", "quantization": "nf4"})
    for others in wrong:
        with pytest.raises(ValidationError, match="fp8"):
            Train(epochs=1, lr=1, tokens_per_step=1, tokens_max=1, fp8=True, **others)


def test_a_size_that_float8_has_not_is_named():
    with pytest.raises(TennerError, match=r"layers\.1\.up has 32 inputs and 40 outputs, .* multiples of 16"):
        float8.check_sizes([("layers.0.up", nn.Linear(32, 48)), ("layers.1.up", nn.Linear(32, 40))])
