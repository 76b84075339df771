"""What a layer is said to keep, and to take, is what a real one keeps and takes."""

import families
import pytest
import torch
from published_configs import CONFIGS
from torch.autograd.graph import saved_tensors_hooks
from transformers import AutoConfig, AutoModelForCausalLM

from tenner.training import attention, kernels, layer_trace
from tenner.training.architecture import Architecture, decoder_layers
from tenner.training.documents import Documents

TINY = {
    "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16,
    "intermediate_size": 160, "vocab_size": 131, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
EXPERTS = {"num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 96}
TOKENS = 384


def kept_bytes(config, dtype):
    """Of each layer and token of a real row, as autograd tells, in the kernels that train it."""
    model = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation=attention.NAME).eval()
    kernels.fuse(model)
    documents = Documents((TOKENS,), dtype, torch.device("cpu"))
    weights = {p.untyped_storage().data_ptr() for p in (*model.parameters(), *model.buffers())}
    found = []

    def measured(layer, forward):
        def run(hidden, *args, **kwargs):
            handed = {x.untyped_storage().data_ptr() for x in kwargs.get("position_embeddings", ())}
            kept = []
            with saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x):
                out = forward(hidden, *args, **kwargs)
            own = {s.data_ptr(): s.nbytes() for x in kept if (s := x.untyped_storage()).data_ptr() not in weights}
            found.append(sum(n for place, n in own.items() if place not in handed) / TOKENS)
            return out

        layer.forward = run

    for layer in model.model.layers:
        measured(layer, layer.forward)
    ids = torch.arange(TOKENS)[None] % 131
    model.model(input_ids=ids, position_ids=torch.arange(TOKENS)[None], use_cache=False, documents=documents)
    return found


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize(
    ("family", "more"),
    [("llama", {}), ("qwen2", {}), ("smollm3", {}), ("olmo2", {}), ("phi3", {}), ("granite", {}), ("glm4", {}),
     ("gemma3_text", {"sliding_window": 512}), ("mixtral", EXPERTS)],
)  # fmt: skip
def test_what_is_kept_is_what_a_real_layer_keeps(family, more, dtype):
    config = AutoConfig.for_model(family, **TINY, **more)
    layers = Architecture.of(config.to_dict()).layers
    b = dtype.itemsize
    said = [b * layer.kept_numbers + layer.kept_bytes for layer in layers]
    assert said == pytest.approx(kept_bytes(config, dtype), rel=0.1)


@pytest.mark.parametrize("family", families.FAMILIES, ids=lambda family: family.name)
def test_every_family_is_counted_and_its_norms_and_gates_are_known(family):
    model = families.model_of(family)
    described = Architecture.of(model.config.to_dict())
    assert described.traced
    assert described.parameters == model.num_parameters()
    assert described.lora_parameters(1) > 0
    kernels.fuse(model)
    with torch.device("meta"):
        traced = AutoModelForCausalLM.from_config(model.config)
    for layer in decoder_layers(traced):
        layer_trace._stand_in(layer)
    fused, stood_in = (
        {name for name, module in made.named_modules() if "layers." in name and "forward" in vars(module)}
        for made in (model, traced)
    )
    assert fused == stood_in


def test_a_llama_keeps_what_the_formula_says():
    (layer, _) = Architecture.of({"model_type": "llama", **TINY}).layers
    queries, keys = 4 * 16, 2 * 16
    assert (layer.kept_numbers, layer.kept_bytes) == (4 * 64 + 2 * queries + 2 * keys + 3 * 160, 8)
    assert layer.token_flops == 2 * layer.linear_parameters == 2 * (64 * (2 * queries + 2 * keys) + 3 * 64 * 160)
    assert layer.product_numbers == 2 * 64 + 2 * queries + 2 * keys + 2 * 160


def test_experts_count_as_often_as_they_are_used():
    """Qwen3-30B-A3B is published with 3.3 billion active parameters; embedding and head are 0.6 of them."""
    described = Architecture.of(CONFIGS["Qwen3-30B-A3B"])
    active = sum(layer.token_flops / 2 for layer in described.layers) + described.tables
    assert active == pytest.approx(3.35e9, rel=0.01)


def test_windows_and_latent_attention_are_seen():
    windows = [layer.attention.window for layer in Architecture.of(CONFIGS["gpt-oss-20b"]).layers]
    assert windows == [128, None] * 12
    gemma = [layer.attention.window for layer in Architecture.of(CONFIGS["Gemma-3-27B"]).layers]
    assert (gemma.count(1024), gemma.count(None)) == (52, 10)
    latent = Architecture.of(CONFIGS["DeepSeek-V3"]).layers[0].attention
    assert (latent.key_heads, latent.key_size, latent.value_size) == (128, 192, 128)


def test_recurrent_layers_have_no_attention():
    layers = Architecture.of(CONFIGS["Qwen3.5-4B"]).layers
    assert [layer.attention is None for layer in layers] == [True, True, True, False] * 8
    assert all(layer.kept_numbers > 0 for layer in layers)


def test_layers_are_found_wherever_a_family_has_them():
    for family in ("gpt2", "gpt_neox", "opt"):
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family))
        assert len(decoder_layers(model)) == model.config.num_hidden_layers
