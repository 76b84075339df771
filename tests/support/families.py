"""Tiny random models of many families, with weights so large that attention is sharp and no two logits are alike.

A family is a `model_type` of transformers and what its config needs beside the common sizes. Add one by adding a row.
"""

import warnings
from typing import Any, NamedTuple

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.utils import logging

VOCABULARY = 320
SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512, "pad_token_id": 0,
    "bos_token_id": 1, "eos_token_id": 2, "tie_word_embeddings": False,
}  # fmt: skip
MATRIX_GAIN = 2.0
"""Standard deviation of a matrix's product with a vector of ones' size; 1 would keep the size of what goes through."""
VECTOR_NOISE = 0.2
"""Added to norms, biases and states, which begin as ones, noughts or a spread of their own."""
WINDOW = 24
"""Tokens that windowed layers look back; samples are longer."""


class Family(NamedTuple):
    """A family of models and the kind of its layers."""

    model_type: str
    kind: str
    more: dict[str, Any] = {}  # noqa: RUF012  never changed
    """Fields of the config beside SIZES; None takes one away."""
    slow: bool = True
    """Left out of the default tests."""
    variant: str = ""

    @property
    def name(self) -> str:
        return self.model_type + self.variant


EXPERTS = {"num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 48}
LATENT = {
    "q_lora_rank": 32, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 16, "v_head_dim": 12,
    "num_key_value_heads": 4,
}  # fmt: skip
DELTA = {
    "linear_conv_kernel_dim": 4, "linear_key_head_dim": 16, "linear_value_head_dim": 16, "linear_num_key_heads": 2,
    "linear_num_value_heads": 4, "head_dim": 16,
}  # fmt: skip
WINDOWED = {"sliding_window": WINDOW, "layer_types": ["sliding_attention", "full_attention"]}
MAMBA = {
    "mamba_n_heads": 8, "mamba_d_head": 16, "mamba_d_state": 16, "mamba_n_groups": 1, "mamba_d_conv": 4,
    "mamba_expand": 2, "mamba_chunk_size": 16,
}  # fmt: skip
FAMILIES = [
    Family("llama", "dense"),
    Family("qwen2", "dense"),
    Family("qwen3", "dense", {"head_dim": 16}),
    Family("smollm3", "dense"),
    Family("olmo2", "dense"),
    Family("phi3", "dense"),
    Family("granite", "dense", {"logits_scaling": 8.0, "attention_multiplier": 0.3, "embedding_multiplier": 2.0}),
    Family("glm4", "dense", {"head_dim": 16}),
    Family("seed_oss", "dense", {"head_dim": 16}),
    Family("ministral3", "dense", {"head_dim": 16}),
    Family("cohere", "dense", {"logit_scale": 0.3}),
    Family("starcoder2", "dense"),
    Family("nemotron", "dense"),
    Family("arcee", "dense"),
    Family("helium", "dense", {"head_dim": 16}),
    Family("mistral", "windowed", {"sliding_window": WINDOW, "head_dim": 16}),
    Family("gemma2", "windowed", WINDOWED | {"head_dim": 16, "attn_logit_softcapping": 5.0,
           "final_logit_softcapping": 3.0, "query_pre_attn_scalar": 16}),
    Family("gemma3_text", "windowed", WINDOWED | {"head_dim": 16, "query_pre_attn_scalar": 16}),
    Family("gemma4_text", "windowed", WINDOWED | {"head_dim": 16, "vocab_size_per_layer_input": VOCABULARY,
           "hidden_size_per_layer_input": 8}),
    Family("gemma4_text", "windowed", {"head_dim": 16, "global_head_dim": 32, "num_hidden_layers": 6,
           "sliding_window": WINDOW, "num_kv_shared_layers": 2, "vocab_size_per_layer_input": VOCABULARY,
           "hidden_size_per_layer_input": 8, "layer_types": ["sliding_attention", "full_attention"] * 3},
           variant=" with shared keys"),
    Family("olmo3", "windowed", WINDOWED),
    Family("exaone4", "windowed", WINDOWED),
    Family("cohere2", "windowed", WINDOWED | {"head_dim": 16}),
    Family("gpt_oss", "sinks", WINDOWED | EXPERTS | {"head_dim": 16}),
    Family("mixtral", "experts", EXPERTS),
    Family("mixtral", "experts", EXPERTS | {"output_router_logits": True, "router_aux_loss_coef": 0.5},
           variant=" with auxiliary loss"),
    Family("qwen3_moe", "experts", EXPERTS | {"head_dim": 16, "decoder_sparse_step": 1}, slow=False),
    Family("olmoe", "experts", EXPERTS),
    Family("glm4_moe", "experts", EXPERTS | {"n_routed_experts": 4, "n_group": 1, "topk_group": 1, "head_dim": 16,
           "first_k_dense_replace": 1}),
    Family("granitemoe", "experts", EXPERTS),
    Family("deepseek_v3", "latent", LATENT | EXPERTS | {"n_routed_experts": 4, "n_group": 1, "topk_group": 1,
           "first_k_dense_replace": 1}),
    Family("qwen3_5_text", "DeltaNet", DELTA | {"layer_types": ["linear_attention", "full_attention"]}),
    Family("qwen3_next", "DeltaNet", DELTA | EXPERTS | {"layer_types": ["linear_attention", "full_attention"],
           "shared_expert_intermediate_size": 32}),
    Family("lfm2", "convolution", {"layer_types": ["conv", "full_attention"]}),
    Family("falcon_h1", "state space", MAMBA | {"mamba_d_ssm": 128, "head_dim": 16}),
    Family("bamba", "state space", MAMBA | {"attn_layer_indices": [1]}),
]  # fmt: skip

MORE_FAMILIES = [
    Family("llama4_text", "chunked", {"head_dim": 16, "attention_chunk_size": 16, "num_local_experts": 4,
           "intermediate_size_mlp": 96, "num_hidden_layers": 4, "interleave_moe_layer_step": 2}),
    Family("gemma3n_text", "windowed", {"head_dim": 16, "num_hidden_layers": 6, "sliding_window": WINDOW,
           "num_kv_shared_layers": 2, "vocab_size_per_layer_input": VOCABULARY, "hidden_size_per_layer_input": 8,
           "laurel_rank": 8, "layer_types": ["sliding_attention", "full_attention"] * 3,
           "activation_sparsity_pattern": [0.5, 0.5, 0.0, 0.0, 0.0, 0.0]}),
    Family("stablelm", "dense"),
    Family("gpt_neox", "dense"),
    Family("gemma", "dense", {"head_dim": 16}),
    Family("ernie4_5", "dense", {"head_dim": 16}),
    Family("hunyuan_v1_dense", "dense", {"head_dim": 16}),
    Family("apertus", "dense"),
    Family("ministral", "windowed", WINDOWED | {"head_dim": 16}),
    Family("ernie4_5_moe", "experts", EXPERTS | {"moe_num_experts": 4, "moe_k": 2}),
    Family("hunyuan_v1_moe", "experts", EXPERTS | {"moe_topk": 2, "head_dim": 16}),
    Family("minimax_m2", "experts", EXPERTS | {"head_dim": 16}),
    Family("mimo_v2_flash", "experts", WINDOWED | EXPERTS | {"n_routed_experts": 4, "head_dim": 16, "v_head_dim": 12,
           "mlp_layer_types": ["dense", "sparse"]}),
    Family("glm4_moe_lite", "latent", LATENT | EXPERTS | {"n_routed_experts": 4}),
    Family("deepseek_v32", "indexed", LATENT | EXPERTS | {"n_routed_experts": 4, "n_group": 1, "topk_group": 1,
           "first_k_dense_replace": 1, "index_topk": 16, "index_head_dim": 16, "index_n_heads": 16}),
    Family("qwen3_5_moe_text", "DeltaNet", DELTA | EXPERTS | {"layer_types": ["linear_attention", "full_attention"],
           "shared_expert_intermediate_size": 32}),
    Family("qwen4_exp_text", "DeltaNet", DELTA | EXPERTS | {"shared_expert_intermediate_size": 32, "hc_count": 2,
           "hc_lowrank": 8, "layer_types": ["linear_attention", "indexed_attention"], "indexer_n_heads": 2,
           "indexer_kv_heads": 1, "indexer_head_dim": 16, "indexer_budget": 16, "indexer_compress_ratio": 4}),
    Family("olmo_hybrid", "DeltaNet", DELTA | {"layer_types": ["linear_attention", "full_attention"]}),
    Family("kimi_linear", "DeltaNet", LATENT | EXPERTS | {"q_lora_rank": None, "linear_head_dim": 16,
           "linear_num_heads": 4, "layer_types": ["linear_attention", "full_attention"]}),
    Family("lfm2_moe", "convolution", EXPERTS | {"layer_types": ["conv", "full_attention"], "num_dense_layers": 1}),
    Family("mamba2", "state space", {"num_heads": 8, "head_dim": 16, "state_size": 16, "n_groups": 1,
           "chunk_size": 16, "expand": 2}),
    Family("granitemoehybrid", "state space", MAMBA | EXPERTS | {"layer_types": ["mamba", "attention"],
           "shared_intermediate_size": 64}),
    Family("nemotron_h", "state space", EXPERTS | {"mamba_num_heads": 8, "mamba_head_dim": 16, "ssm_state_size": 16,
           "n_groups": 1, "chunk_size": 16, "head_dim": 16, "n_routed_experts": 4, "num_hidden_layers": 4,
           "moe_shared_expert_intermediate_size": 48,
           "layer_types": ["linear_attention", "moe", "full_attention", "mlp"]}),
]  # fmt: skip
"""For the benches only: each takes seconds."""


def family(model_type: str, variant: str = "") -> Family:
    """The row of a model type."""
    return next(f for f in FAMILIES + MORE_FAMILIES if (f.model_type, f.variant) == (model_type, variant))


def config_of(family: Family) -> PreTrainedConfig:
    fields = {name: value for name, value in (SIZES | family.more).items() if value is not None}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return AutoConfig.for_model(family.model_type, **fields)


@torch.no_grad()
def model_of(family: Family, *, seed: int = 0, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """A model of the family in evaluation mode."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model = AutoModelForCausalLM.from_config(config_of(family), dtype=torch.float32)
            for module in model.modules():
                for name, p in module.named_parameters(recurse=False):
                    if isinstance(module, nn.Embedding):
                        p.normal_()
                    elif p.ndim >= 2 and "conv" not in name:
                        p.normal_(std=MATRIX_GAIN / p.shape[-1] ** 0.5)
                    else:
                        p.add_(torch.randn_like(p), alpha=VECTOR_NOISE)
    finally:
        logging.set_verbosity(verbosity)
    return model.to(dtype).eval()
