"""The shape of a language model as its config.json tells it, and how many parameters it therefore has."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from tenner.core.errors import TennerError

FAMILIES = ("llama", "qwen2")


@dataclass(frozen=True)
class Architecture:
    """A decoder of the Llama family: gated MLP, grouped key heads, two norms a layer and one after the last."""

    hidden: int
    layers: int
    heads: int
    key_heads: int
    head_size: int
    intermediate: int
    vocabulary: int
    tied: bool
    """The head is the embedding itself, and has no parameters of its own."""
    query_biases: bool
    """On the projections to queries, keys and values."""
    output_bias: bool
    mlp_biases: bool

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Self:
        """Read the fields of a config.json. Raises TennerError for another family or a missing or unusable number."""
        family = config.get("model_type")
        if family not in FAMILIES:
            raise TennerError(f"no parameter count is known for model_type {family!r}", hint=f"known: {FAMILIES}")

        def number(name: str) -> int:
            value = config.get(name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise TennerError(f"config.json: {name} is {value!r}", hint="a whole number above zero is needed")
            return value

        def optional(name: str, otherwise: int) -> int:
            return otherwise if config.get(name) is None else number(name)

        hidden, heads = number("hidden_size"), number("num_attention_heads")
        llama = family == "llama"
        if not llama and "num_key_value_heads" not in config:
            number("num_key_value_heads")  # transformers would take 32 here, whatever the heads: told, not guessed
        attention_bias = llama and bool(config.get("attention_bias"))
        return cls(
            hidden=hidden,
            layers=number("num_hidden_layers"),
            heads=heads,
            key_heads=optional("num_key_value_heads", heads),
            head_size=optional("head_dim", hidden // heads),
            intermediate=number("intermediate_size"),
            vocabulary=number("vocab_size"),
            tied=bool(config.get("tie_word_embeddings", False)),
            query_biases=attention_bias or not llama,
            output_bias=attention_bias,
            mlp_biases=llama and bool(config.get("mlp_bias")),
        )

    @property
    def layer_parameters(self) -> int:
        """Of one layer, biases and both norms included."""
        queries, keys = self.heads * self.head_size, self.key_heads * self.head_size
        attention = self.hidden * (2 * queries + 2 * keys)
        mlp = 3 * self.hidden * self.intermediate
        biases = self.query_biases * (queries + 2 * keys) + self.output_bias * self.hidden
        biases += self.mlp_biases * (2 * self.intermediate + self.hidden)
        return attention + mlp + biases + 2 * self.hidden

    @property
    def parameters(self) -> int:
        """Of the whole model; a tied head is counted once."""
        tables = (1 if self.tied else 2) * self.vocabulary * self.hidden
        return tables + self.layers * self.layer_parameters + self.hidden
