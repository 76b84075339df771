"""The sizes of a language model as its config.json tells them: parameters, layers, and what a token costs in each.

The model is made of its config.json by transformers, on the meta device, where it takes no memory; so every family that
transformers knows is counted as it is loaded.
"""

import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, cast

import torch
from torch import nn
from transformers import CONFIG_MAPPING, AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING
from transformers.utils import logging

from tenner.core import model_folder
from tenner.core.errors import TennerError
from tenner.core.suggest import did_you_mean
from tenner.training import layer_trace
from tenner.training.layer_trace import Attention, Layer

SIZES = ("hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size")
TOLD: dict[str, set[str]] = {"hidden_size": set(), "num_hidden_layers": {"layer_types", "layers_block_type"}}
"""What a config.json must state, or one of these instead: transformers has a default for everything, which would be
another model."""


@dataclass(frozen=True)
class Architecture:
    """A causal language model. Its decoder and its head are trained; a vision or audio tower is not."""

    hidden: int
    vocabulary: int
    """Outputs of the head."""
    parameters: int
    """Of the whole model, as transformers counts them; a tied head is counted once."""
    embedding: int
    """Parameters of the input embedding."""
    tables: int
    """Parameters of the embedding and the head together; a tied head is counted once."""
    tied: bool
    """The head is the embedding itself, and has no parameters of its own."""
    tower: int
    """Parameters outside of decoder and head: those of a vision tower."""
    layers: tuple[Layer, ...]
    traced: bool
    """False where the forward pass does not run on the meta device: what the layers keep is then estimated."""

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> "Architecture":
        """Of the contents of a config.json.

        Raises TennerError where it is not one of a causal language model that transformers knows, or a number in it is
        missing or impossible.
        """
        return _described(json.dumps(dict(config), sort_keys=True, default=str))

    @property
    def largest_layer(self) -> int:
        """Parameters of the layer that has most."""
        return max(layer.parameters for layer in self.layers)

    def lora_parameters(self, rank: int) -> int:
        """Of the adapters beside the linear layers of all layers."""
        return rank * sum(inputs + outputs for layer in self.layers for inputs, outputs in layer.linears)

    def forward_flops(self, tokens: int) -> float:
        """Of a document of so many tokens, the head at all of them; attention is counted as causal."""
        pairs = 0.0
        for layer in self.layers:
            if (attention := layer.attention) is not None:
                unseen = max(0, tokens - attention.window) if attention.window else 0
                pairs += attention.pair_flops * (tokens**2 - unseen**2) / 2
        return tokens * (sum(layer.token_flops for layer in self.layers) + 2 * self.hidden * self.vocabulary) + pairs

    def frozen_parameters(self, frozen_layers: int) -> int:
        """Of the first so many layers and the embedding, which a tied head shares; none of no layers."""
        layers = sum(layer.parameters for layer in self.layers[:frozen_layers])
        return layers + self.embedding if frozen_layers else 0


def decoder_layers(model: PreTrainedModel) -> Sequence[nn.Module]:
    """The layers of a model's decoder: its longest list of modules. Raises TennerError where there is none."""
    level: list[nn.Module] = [model.get_decoder()]  # type: ignore[no-untyped-call]
    while level:
        if lists := [module for module in level if isinstance(module, nn.ModuleList)]:
            return max((list(found) for found in lists), key=len)
        level = [child for module in level for child in module.children()]
    raise TennerError(f"the layers of a {type(model).__name__} are not found", hint="choose another student")


def backbone(model: PreTrainedModel) -> nn.Module:
    """The part of a causal language model that goes from ids to hidden states, without the head.

    Raises TennerError where there is none.
    """
    if model.base_model is not model:
        return cast(PreTrainedModel, model.base_model)
    # Some classes name a part as their base that they do not have.
    for child in model.children():
        if isinstance(child, PreTrainedModel):
            return child
    raise TennerError(f"the backbone of a {type(model).__name__} is not found", hint="choose another student")


@lru_cache(maxsize=32)
def _described(text: str) -> Architecture:
    config = _config(json.loads(text))
    low, wide = _empty(config, torch.bfloat16), _empty(config, torch.float32)
    modules = decoder_layers(low)
    head, embedding = low.get_output_embeddings(), low.get_input_embeddings()  # type: ignore[no-untyped-call]
    tables = {id(p): p.numel() for module in (head, embedding) for p in module.parameters()}
    decoder: nn.Module = low.get_decoder()  # type: ignore[no-untyped-call]
    inside = {id(p): p.numel() for p in decoder.parameters()} | tables
    parameters = low.num_parameters()
    try:
        if low.config._attn_implementation != layer_trace.NAME:
            raise NotImplementedError("attention by a function of its own")
        layers, traced = layer_trace.traced(low, wide, decoder_layers), True
    except (RuntimeError, TypeError, ValueError, AttributeError, KeyError, NotImplementedError, AssertionError):
        layers, traced = layer_trace.estimated(modules, attentions(config, len(modules))), False
    return Architecture(
        hidden=head.weight.shape[1], vocabulary=head.weight.shape[0], parameters=parameters,
        embedding=sum(p.numel() for p in embedding.parameters()), tables=sum(tables.values()),
        tied=head.weight is embedding.weight, tower=parameters - sum(inside.values()), layers=tuple(layers),
        traced=traced,
    )  # fmt: skip


def _config(fields: dict[str, Any]) -> PreTrainedConfig:
    """What transformers makes of the fields of a config.json, with every number that matters checked."""
    family = fields.get("model_type")
    if not isinstance(family, str) or family not in CONFIG_MAPPING:
        hint = did_you_mean(str(family), CONFIG_MAPPING, "update transformers, if the family is a new one")
        raise TennerError(f"config.json: transformers knows no model_type {family!r}", hint=hint)
    nested = fields.get("text_config")
    for section in (fields, nested):
        if isinstance(section, dict):
            model_folder.check_sizes(section, "config.json")
    told = fields | (nested if isinstance(nested, dict) else {})
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            config = AutoConfig.for_model(**{key: value for key, value in fields.items() if key != "dtype"})
            text = config.get_text_config(decoder=True)
    except Exception as error:  # whatever a family's checks raise: huggingface_hub's, torch's or Python's own
        raise _unusable(error) from error
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise TennerError(f"config.json: a {family} is not a causal language model", hint="choose another student")
    for name, instead in TOLD.items():
        if not {name, text.attribute_map.get(name), *instead} & told.keys():
            raise TennerError(f"config.json: {name} is missing", hint="a whole number above zero is needed")
    for name in SIZES:
        value = getattr(text, name, 1)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise TennerError(f"config.json: {name} is {value!r}", hint="a whole number above zero is needed")
    heads, key_heads = (getattr(text, name, None) for name in ("num_attention_heads", "num_key_value_heads"))
    if isinstance(heads, int) and isinstance(key_heads, int) and (key_heads < 1 or heads % key_heads):
        raise TennerError(
            f"config.json: num_attention_heads = {heads} is not a multiple of num_key_value_heads = {key_heads}",
            hint="num_key_value_heads has a default of its own where config.json leaves it out",
        )
    return config


def _empty(config: PreTrainedConfig, dtype: torch.dtype) -> PreTrainedModel:
    """The model on the meta device, its attention stood in for where the family lets it be chosen."""
    level = logging.get_verbosity()
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    try:
        try:
            model = _from_config(config, dtype, layer_trace.NAME)
        except KeyError:
            model = _from_config(config, dtype, "eager")
    except Exception as error:  # as above
        raise _unusable(error) from error
    finally:
        logging.set_verbosity(level)
    model.eval()  # type: ignore[no-untyped-call]
    return model


def _from_config(config: PreTrainedConfig, dtype: torch.dtype, attention: str) -> PreTrainedModel:
    with torch.device("meta"):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(  # type: ignore[no-untyped-call]
            config, dtype=dtype, attn_implementation=attention, trust_remote_code=False
        )
    return model


def _unusable(error: Exception) -> TennerError:
    reason = " ".join(str(error).split())[:200]
    return TennerError(f"config.json: transformers cannot make a model of it: {reason}", hint="is it the whole file?")


def attentions(config: PreTrainedConfig, layers: int) -> list[Attention | None]:
    """As the numbers of the config say, layer by layer where they differ."""
    text = config.get_text_config(decoder=True)
    configs: Any = getattr(text, "per_layer_config", None)
    return [_attention(configs[i] if configs is not None else text) for i in range(layers)]


def _attention(config: PreTrainedConfig) -> Attention | None:
    if not (heads := getattr(config, "num_attention_heads", None)):
        return None
    size = getattr(config, "head_dim", None) or config.hidden_size // heads
    return Attention(heads, getattr(config, "num_key_value_heads", None) or heads, size, size)
