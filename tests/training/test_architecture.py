"""Parameters counted from a config.json equal those of the real model, in every family."""

import json
import time
from typing import Any

import families
import pytest
import torch
from published_configs import CONFIGS, PUBLISHED_PARAMETERS
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, Qwen2Config

from tenner.core.errors import TennerError
from tenner.training.architecture import Architecture, attentions, backbone
from tenner.training.layer_trace import Attention

TINY: dict[str, Any] = {
    "hidden_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "intermediate_size": 80,
    "vocab_size": 131,
}


@pytest.mark.parametrize(
    "config",
    [
        LlamaConfig(**TINY),
        LlamaConfig(**TINY, tie_word_embeddings=True, head_dim=12),
        LlamaConfig(**TINY, attention_bias=True, mlp_bias=True),
        Qwen2Config(**TINY),
        Qwen2Config(**TINY, tie_word_embeddings=True),
    ],
)
def test_equals_the_real_model(config):
    model = AutoModelForCausalLM.from_config(config)
    described = Architecture.of(config.to_dict())
    assert described.parameters == sum(p.numel() for p in model.parameters())
    assert [layer.parameters for layer in described.layers] == [
        sum(p.numel() for p in layer.parameters()) for layer in model.model.layers
    ]
    assert described.tables == (1 if config.tie_word_embeddings else 2) * 131 * 48
    assert described.frozen_parameters(2) == 131 * 48 + 2 * described.layers[0].parameters


SLOW = {"DeepSeek-V3", "Gemma-3-27B", "Gemma-3-27B-text", "Qwen3.5-4B"}  # seconds each


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] if n in SLOW else []) for n in CONFIGS])
def test_equals_transformers_own_count(name):
    config = CONFIGS[name]
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**config))
    began = time.perf_counter()
    described = Architecture.of(config)
    assert time.perf_counter() - began < 5
    assert described.parameters == model.num_parameters()
    assert described.traced
    assert len(described.layers) == (config | config.get("text_config", {}))["num_hidden_layers"]
    if name in PUBLISHED_PARAMETERS:
        assert described.parameters == PUBLISHED_PARAMETERS[name]


@pytest.mark.slow
def test_a_vision_tower_is_told_apart():
    whole, text = (Architecture.of(CONFIGS[name]) for name in ("Gemma-3-27B", "Gemma-3-27B-text"))
    assert whole.parameters - whole.tower == text.parameters
    assert whole.layers == text.layers


def test_layers_that_read_the_keys_of_earlier_ones_are_gone_through():
    config = families.config_of(families.family("gemma4_text", " with shared keys"))
    described = Architecture.of(config.to_dict())
    assert described.traced
    assert [layer.attention for layer in described.layers] == [Attention(4, 2, 16, 16, 24), Attention(4, 2, 32, 32)] * 3
    assert [len(layer.linears) for layer in described.layers] == [9] * 4 + [7] * 2, "the last have no keys and values"
    assert attentions(config, 6) == [Attention(4, 2, 16, 16), Attention(4, 2, 32, 32)] * 3


def test_a_backbone_that_its_class_names_wrongly_is_found():
    model = families.model_of(next(f for f in families.MORE_FAMILIES if f.model_type == "llama4_text"))
    assert model.base_model is model
    assert backbone(model) is model.model


@pytest.mark.parametrize(
    ("hidden", "layers", "heads", "key_heads", "intermediate", "vocabulary", "tied", "parameters"),
    [
        (896, 24, 14, 2, 4864, 151936, True, 494_032_768),
        (1536, 28, 12, 2, 8960, 151936, True, 1_543_714_304),
        (3584, 28, 28, 4, 18944, 152064, False, 7_615_616_512),
        (5120, 48, 40, 8, 13824, 152064, False, 14_770_033_664),
        (5120, 64, 40, 8, 27648, 152064, False, 32_763_876_352),
    ],
)
def test_sizes_of_qwen(hidden, layers, heads, key_heads, intermediate, vocabulary, tied, parameters):
    config = Qwen2Config(
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=key_heads,
        intermediate_size=intermediate,
        vocab_size=vocabulary,
        tie_word_embeddings=tied,
    )
    assert Architecture.of(config.to_dict()).parameters == parameters


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({}, "transformers knows no model_type None"),
        ({"model_type": "lama", **TINY}, "transformers knows no model_type 'lama'"),
        ({"model_type": "siglip_vision_model", **TINY}, "a siglip_vision_model is not a causal language model"),
        ({"model_type": "llama"}, "hidden_size is missing"),
        ({"model_type": "llama", "hidden_size": 4096}, "num_hidden_layers is missing"),
        ({"model_type": "llama", **TINY, "hidden_size": 0}, "hidden_size is 0"),
        ({"model_type": "llama", **TINY, "vocab_size": "many"}, "vocab_size"),
        ({"model_type": "gemma3", "text_config": 3}, "text_config"),
        (
            {"model_type": "qwen2"} | {name: n for name, n in TINY.items() if name != "num_key_value_heads"},
            "num_attention_heads = 6 is not a multiple of num_key_value_heads = 32",
        ),
    ],
)
def test_what_cannot_be_counted_is_refused(config, message):
    with pytest.raises(TennerError) as caught:
        Architecture.of(config)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.hint


def test_what_a_hub_adds_to_a_config_changes_nothing():
    plain = CONFIGS["gpt-oss-20b"]
    added: dict[str, Any] = {
        "dtype": "bfloat16",
        "architectures": ["GptOssForCausalLM"],
        "transformers_version": "4.55.0",
    }
    added["quantization_config"] = {"quant_method": "mxfp4", "modules_to_not_convert": ["lm_head"]}
    assert Architecture.of(json.loads(json.dumps(plain | added))) == Architecture.of(plain)
