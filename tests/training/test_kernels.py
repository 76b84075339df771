from copy import deepcopy
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers.activations import GELUActivation
from transformers.models.gemma.configuration_gemma import GemmaConfig
from transformers.models.gemma.modeling_gemma import GemmaMLP, GemmaRMSNorm
from transformers.models.glm.configuration_glm import GlmConfig
from transformers.models.glm.modeling_glm import GlmAttention
from transformers.models.llama.configuration_llama import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaAttention, LlamaMLP, LlamaRMSNorm, LlamaRotaryEmbedding
from transformers.models.qwen2.configuration_qwen2 import Qwen2Config
from transformers.models.qwen2.modeling_qwen2 import Qwen2Attention, Qwen2RMSNorm

from tenner.training.kernels import fuse

ROUNDING: dict[str, Any] = {"rtol": 1e-5, "atol": 1e-4}
"""Of sums of large numbers in another order."""


def norm(kind=LlamaRMSNorm):
    made = kind(24)
    nn.init.normal_(made.weight, generator=torch.Generator().manual_seed(1))
    return made


def gated():
    torch.manual_seed(1)
    return LlamaMLP(LlamaConfig(hidden_size=24, intermediate_size=40, num_attention_heads=2))


def fused(module):
    twin = nn.Sequential(deepcopy(module))
    fuse(twin)
    return twin[0]


@pytest.mark.parametrize("make", [norm, lambda: norm(Qwen2RMSNorm), gated], ids=["Llama", "Qwen2", "gated"])
def test_values_and_gradients_are_those_of_transformers(make):
    plain, mine = make(), fused(make())
    assert "forward" in vars(mine)
    x = torch.randn(2, 7, 24, generator=torch.Generator().manual_seed(2))
    a, b = (x.clone().requires_grad_() for _ in range(2))
    weighing = torch.randn(2, 7, 24, generator=torch.Generator().manual_seed(3))
    for module, given in ((plain, a), (mine, b)):
        (module(given) * weighing).sum().backward()
    torch.testing.assert_close(plain(x), mine(x))
    torch.testing.assert_close(a.grad, b.grad)
    for theirs, ours in zip(plain.parameters(), mine.parameters(), strict=True):
        torch.testing.assert_close(theirs.grad, ours.grad)


def test_bfloat16_rounds_where_transformers_does():
    plain, mine = norm().bfloat16(), fused(norm().bfloat16())
    x = torch.randn(9, 24, generator=torch.Generator().manual_seed(2)).bfloat16()
    torch.testing.assert_close(plain(x), mine(x), rtol=2**-7, atol=0)


@pytest.mark.parametrize(
    "module",
    [
        GemmaRMSNorm(24),  # multiplies by 1 + weight
        GemmaMLP(GemmaConfig(hidden_size=24, intermediate_size=40, hidden_act="gelu_pytorch_tanh")),
        nn.LayerNorm(24),
    ],
    ids=["Gemma's norm", "Gemma's gate", "LayerNorm"],
)
def test_what_computes_something_else_is_left_alone(module):
    assert "forward" not in vars(fused(module))


def test_another_activation_is_seen_by_what_it_does():
    module = gated()
    module.act_fn = GELUActivation()
    assert "forward" not in vars(fused(module))


def adapted(**changed):
    """A linear layer with an adapter that says something, by peft."""
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(24, 40))
    get_peft_model(model, LoraConfig(r=4, lora_alpha=12, target_modules=["0"], **changed))
    layer: Any = model[0]
    nn.init.normal_(layer.lora_B["default"].weight)
    return layer


@pytest.mark.parametrize("activations", ["all", "products", "inputs"])
def test_an_adapters_values_and_gradients_are_pefts(activations):
    plain, mine = adapted(), nn.Sequential(adapted())
    fuse(mine)
    assert "forward" not in vars(mine[0]), "on a CPU peft's own bits stay"
    fuse(mine, on_gpu=True, activations=activations)
    assert "forward" in vars(mine[0])
    x = torch.randn(2, 7, 24, generator=torch.Generator().manual_seed(2))
    a, b = (x.clone().requires_grad_() for _ in range(2))
    weighing = torch.randn(2, 7, 40, generator=torch.Generator().manual_seed(3))
    for module, given in ((plain, a), (mine, b)):
        (module(given) * weighing).sum().backward()
    torch.testing.assert_close(plain(x), mine(x), **ROUNDING)
    torch.testing.assert_close(a.grad, b.grad, **ROUNDING)
    for theirs, ours in zip(plain.parameters(), mine.parameters(), strict=True):
        torch.testing.assert_close(theirs.grad, ours.grad, **ROUNDING)


def test_an_adapter_of_another_kind_is_left_alone():
    for layer in (adapted(use_dora=True), adapted(lora_dropout=0.5)):
        mine = nn.Sequential(layer)
        fuse(mine, on_gpu=True)
        assert "forward" not in vars(mine[0])


SIZES: dict[str, Any] = {
    "hidden_size": 24, "intermediate_size": 40, "num_attention_heads": 3, "num_key_value_heads": 1,
    "num_hidden_layers": 1, "attn_implementation": "eager",
}  # fmt: skip


@pytest.mark.parametrize(("kind", "config"), [(LlamaAttention, LlamaConfig), (Qwen2Attention, Qwen2Config)])
def test_attention_turns_queries_and_keys_as_transformers_does(kind, config):
    torch.manual_seed(1)
    settings = config(**SIZES)
    plain = kind(settings, layer_idx=0)
    mine, untouched = nn.Sequential(deepcopy(plain)), nn.Sequential(deepcopy(plain))
    fuse(mine, on_gpu=True)
    fuse(untouched)
    assert "forward" in vars(mine[0])
    assert "forward" not in vars(untouched[0]), "on a CPU transformers' own bits stay"
    x = torch.randn(2, 7, 24)
    positions = LlamaRotaryEmbedding(LlamaConfig(**SIZES))(x, torch.arange(7)[None])
    a, b = (x.clone().requires_grad_() for _ in range(2))
    weighing = torch.randn(2, 7, 24)
    for module, given in ((plain, a), (mine[0], b)):
        out, _ = module(given, position_embeddings=positions, attention_mask=None)
        (out * weighing).sum().backward()
    torch.testing.assert_close(a.grad, b.grad)
    for theirs, ours in zip(plain.parameters(), mine.parameters(), strict=True):
        torch.testing.assert_close(theirs.grad, ours.grad)


def test_attention_that_turns_them_otherwise_is_left_alone():
    attention = nn.Sequential(GlmAttention(GlmConfig(**SIZES, head_dim=8, pad_token_id=0), layer_idx=0))
    fuse(attention, on_gpu=True)
    assert "forward" not in vars(attention[0])
