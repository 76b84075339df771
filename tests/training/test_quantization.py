"""Adapters beside a base in 4 bits: its weights are as QLoRA has them, it learns, resumes, and is merged exactly."""

import pytest
import torch
from tiny_training import SETTINGS, run
from transformers import AutoModelForCausalLM

from tenner.core.errors import TennerError
from tenner.core.sections import Train
from tenner.training import attention, loop, lora, model_loading, student
from tenner.training.architecture import Architecture
from tenner.training.distributed import World, here
from tenner.training.flops import Arithmetic
from tenner.training.memory_plan import forecast

pytest.importorskip("bitsandbytes")
CHANGES = {"method": "lora", "lora_rank": 4, "quantization": "nf4", "precision": "fp32"}
QLORA = SETTINGS.model_copy(update=CHANGES)


@pytest.mark.slow  # 5 s
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_it_learns_and_goes_on_to_the_same_bits(tiny_model_dir, tmp_path, precision):
    """Broken off after three steps."""
    losses, changes = [], CHANGES | {"precision": precision}
    whole = run(tiny_model_dir, tmp_path / "whole", on_step=lambda r: losses.append(r.loss), **changes)
    assert losses[-1] < losses[0]

    def stop(report):
        if report.step == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tiny_model_dir, tmp_path / "broken", on_step=stop, **changes)
    resumed = []
    again = run(tiny_model_dir, tmp_path / "broken", on_step=lambda r: resumed.append(r.loss), **changes)
    assert resumed == losses[3:]
    trained = {name: p.detach() for name, p in whole.model.named_parameters() if ".lora_" in name}
    assert trained
    for name, p in again.model.named_parameters():
        assert name not in trained or torch.equal(p, trained[name])
    assert any(p.abs().sum() > 0 for name, p in trained.items() if ".lora_B." in name)


def test_the_student_is_the_base_plus_its_adapters(tiny_model_dir, tmp_path):
    result = run(tiny_model_dir, tmp_path / "work", epochs=1, **CHANGES)
    changed = {
        lora.stored_name(name): module.get_delta_weight("default").detach()
        for name, module in result.model.named_modules()
        if hasattr(module, "get_delta_weight")
    }
    assert len(changed) == 2 * 7
    loop.finish(result, tiny_model_dir, tmp_path / "student", tmp_path / "work", base_model="some/base")
    base, merged = (
        dict(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).named_parameters())
        for folder in (tiny_model_dir, tmp_path / "student")
    )
    assert (tmp_path / "adapter" / "adapter_model.safetensors").is_file()
    for name, weight in base.items():
        wanted = weight + changed.get(name.removesuffix(".weight"), 0)
        torch.testing.assert_close(merged[name], wanted)
    config = AutoModelForCausalLM.from_pretrained(tmp_path / "student").config
    assert not hasattr(config, "quantization_config")


def test_only_linear_layers_are_in_4_bits_and_norms_and_gates_are_fused(tiny_model_dir):
    learner = model_loading.load(tiny_model_dir, QLORA, here("cpu"), seed=0)
    kinds = {name: p.dtype for name, p in learner.model.named_parameters()}
    assert {name for name, kind in kinds.items() if kind == torch.uint8} == {
        name for name in kinds if name.endswith("base_layer.weight")
    }
    layer = learner.model.model.layers[0]
    assert "forward" in vars(layer.mlp)
    assert "forward" in vars(layer.input_layernorm)
    plain = student.load(tiny_model_dir, torch.float32, attention.NAME)
    layers = list(plain.model.layers)
    lora.Adapters(plain, QLORA)
    assert learner.arithmetic == Arithmetic.of(plain, layers)


def test_the_plan_knows_what_it_saves():
    llama = {
        "model_type": "llama", "hidden_size": 512, "num_hidden_layers": 8, "num_attention_heads": 8,
        "num_key_value_heads": 4, "intermediate_size": 1536, "vocab_size": 16384,
    }  # fmt: skip
    architecture = Architecture.of(llama)
    of = {
        quantization: forecast(
            architecture,
            QLORA.model_copy(update={"quantization": quantization, "precision": "bf16"}),
            longest_tokens=512,
        ).items
        for quantization in (None, "nf4")
    }
    linear = sum(layer.linear_parameters for layer in architecture.layers)
    saved = of[None]["weights"] - of["nf4"]["weights"]
    assert saved / linear == pytest.approx(2 - 0.5159, abs=1e-3)
    assert of["nf4"]["weights at work"] == 2 * 512 * 1536


def test_where_it_cannot_be_it_is_refused(tiny_model_dir):
    with pytest.raises(ValueError, match='quantization is for method = "lora"'):
        Train(**SETTINGS.model_dump(exclude={"quantization"}), quantization="nf4")
    with pytest.raises(TennerError, match=r'train\.quantization = "nf4" is not for 2 processes'):
        model_loading.load(tiny_model_dir, QLORA, World(0, 2, torch.device("cpu")), seed=0)
    loaded = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
    with pytest.raises(TennerError, match="is not for a model that is loaded already"):
        model_loading.load(loaded, QLORA, here("cpu"), seed=0)
