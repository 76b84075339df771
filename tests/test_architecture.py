"""Parameters counted from a config.json equal those of the real model."""

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen2Config

from tenner.architecture import Architecture
from tenner.errors import TennerError

TINY = {
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
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    assert Architecture.of(config.to_dict()).parameters == sum(p.numel() for p in model.parameters())


def test_qwen_32b_has_the_published_size():
    config = {"model_type": "qwen2", "hidden_size": 5120, "num_hidden_layers": 64, "num_attention_heads": 40}
    config |= {"num_key_value_heads": 8, "intermediate_size": 27648, "vocab_size": 152064}
    assert Architecture.of(config).parameters == pytest.approx(32.76e9, rel=2e-4)


@pytest.mark.parametrize(
    "config",
    [
        {"model_type": "mamba"},
        {"model_type": "llama"},
        {"model_type": "llama", **TINY, "hidden_size": 0},
        {"model_type": "qwen2"} | {name: n for name, n in TINY.items() if name != "num_key_value_heads"},
    ],
)
def test_what_cannot_be_counted_is_refused(config):
    with pytest.raises(TennerError):
        Architecture.of(config)
