"""Parameters counted from a config.json equal those of the real model."""

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen2Config

from tenner.core.errors import TennerError
from tenner.training.architecture import Architecture

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
