"""Adapters as a service hands them out: a configuration or tensors that do not fit are one line. And of mixtures."""

import json
import subprocess

import families
import pytest
import torch
from safetensors.torch import save_file
from tiny_training import run
from transformers import AutoModelForCausalLM

from tenner.core.errors import StorageFull, TennerError
from tenner.training import loop, lora, student

NAME = "base_model.model.model.layers.0.self_attn.q_proj"


@pytest.mark.parametrize(
    "config",
    [
        "no",
        "[]",
        {},
        {"r": 0, "lora_alpha": 1},
        {"r": None, "lora_alpha": 1},
        {"r": 2, "lora_alpha": "many"},
        {"r": 2, "lora_alpha": 10**400},
        {"r": 10**400, "lora_alpha": 1},
        {"r": 2, "lora_alpha": float("nan")},
    ],
)
def test_a_configuration_without_its_two_numbers_is_refused(config, tmp_path):
    path = tmp_path / "adapter_config.json"
    path.write_text(config if isinstance(config, str) else json.dumps(config))
    with pytest.raises(TennerError, match=r"adapter_config\.json"):
        lora._scale(path)


def test_the_scale_is_alpha_over_the_rank_or_its_root(tmp_path):
    path = tmp_path / "adapter_config.json"
    for config, scale in (({"r": 4, "lora_alpha": 8}, 2.0), ({"r": 4, "lora_alpha": 8, "use_rslora": True}, 4.0)):
        path.write_text(json.dumps(config))
        assert lora._scale(path) == scale


@pytest.mark.parametrize(
    "shapes",
    [{"A": (2, 32)}, {"A": (2, 32), "B": (32, 3)}, {"A": (64,), "B": (32, 2)}, {"A": (2, 31), "B": (32, 2)}],
    ids=["no B", "ranks differ", "a vector", "another width"],
)
def test_adapters_that_fit_no_weight_are_refused(shapes, tiny_model_dir, tmp_path):
    save_file(
        {f"{NAME}.lora_{which}.weight": torch.ones(shape) for which, shape in shapes.items()},
        tmp_path / "adapter_model.safetensors",
    )
    (tmp_path / "adapter_config.json").write_text(json.dumps({"r": 2, "lora_alpha": 2}))
    with pytest.raises(TennerError, match="fits no weight of the student"):
        lora.merge_folder(tiny_model_dir, tmp_path)


@pytest.mark.filterwarnings("ignore::FutureWarning")  # peft asks transformers by an older name
@pytest.mark.parametrize(
    "model_type", ["qwen3_moe", *(pytest.param(t, marks=pytest.mark.slow) for t in ("glm4_moe", "mixtral"))]
)
def test_a_mixtures_experts_and_routers_get_no_adapters_and_what_is_saved_loads(model_type, tiny_model_dir, tmp_path):
    """peft turns the names of linear layers into the weights of all experts, and `all-linear` likewise."""
    from peft import PeftModel

    base, out = tmp_path / "base", tmp_path / "student"
    families.model_of(families.family(model_type)).save_pretrained(base)
    student.load_tokenizer(tiny_model_dir).save_pretrained(base)
    said: list[str] = []
    changed = {"method": "lora", "lora_rank": 4, "precision": "fp32", "epochs": 1, "tokens_per_step": 800}
    result = run(base, tmp_path / "work", say=said.append, **changed)
    trained = {name for name, p in result.model.named_parameters() if p.requires_grad}
    assert trained
    assert all("self_attn" in name and ".lora_" in name for name in trained)
    assert [line for line in said if "experts have no adapters" in line]
    others = [line for line in said if "linear layers have no adapters, such as model.layers.0.mlp.gate_proj" in line]
    assert len(others) == (model_type == "glm4_moe")  # its first layer is dense, and the other has a shared expert
    loop.finish(result, base, out, tmp_path / "work", base_model=str(base))
    merged = AutoModelForCausalLM.from_pretrained(out)
    beside = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), tmp_path / "adapter")
    ids = torch.arange(3, 43)[None]
    with torch.no_grad():
        torch.testing.assert_close(beside(ids).logits, merged(ids).logits, atol=1e-3, rtol=1e-3)


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_a_disk_that_is_full_of_adapters_is_one_line(tiny_model_dir, tmp_path):
    changed = {"method": "lora", "lora_rank": 8, "precision": "fp32", "epochs": 1, "tokens_per_step": 800}
    result = run(tiny_model_dir, tmp_path / "work", **changed)
    (tmp_path / "disk").mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", tmp_path / "disk"]
    if subprocess.run(command, capture_output=True).returncode:
        pytest.skip("this user may not mount a tmpfs")
    try:
        with pytest.raises(StorageFull, match=r"the disk is full: .*adapter could not be written"):
            loop.finish(result, tiny_model_dir, tmp_path / "disk" / "student", tmp_path / "work", base_model="tiny")
        assert list((tmp_path / "disk").iterdir()) == []
    finally:
        subprocess.run(["umount", "--lazy", tmp_path / "disk"], check=True)
