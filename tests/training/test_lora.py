"""Adapters as a service hands them out: a configuration or tensors that do not fit are one line."""

import json

import pytest
import torch
from safetensors.torch import save_file

from tenner.core.errors import TennerError
from tenner.training import lora

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
