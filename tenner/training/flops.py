"""How much arithmetic training takes, and which share of the machine's best that is (MFU), in both conventions.

Source of the formula: A. Chowdhery et al., PaLM (arXiv 2204.02311), appendix B: 6 N + 12 L H Q T operations a token,
where attention is counted over all T x T pairs (non-causal), though causal attention needs half of them. Here N is the
linear layers (frozen ones take 4 N: no gradient of theirs is made; below the first that is trained it is 2 N, and a
third of attention, as nothing goes backward there), the head counts at trained positions only, and what is computed
twice to save memory counts once. Of a mixture of experts those that a token is sent to are counted, and products of
convolutions and recurrent states with them, as a pass over the layers on the meta device has them
(`training/layer_trace.py`); where attention looks back over a window, the pairs within it.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import nn
from transformers import PreTrainedModel

from tenner.budget import machines
from tenner.core.errors import TennerError
from tenner.training.architecture import Architecture, attentions
from tenner.training.layer_trace import estimated


class Work(NamedTuple):
    """Floating-point operations."""

    causal: float
    non_causal: float

    def __add__(self, other: object) -> "Work":
        assert isinstance(other, Work)
        return Work(self.causal + other.causal, self.non_causal + other.non_causal)


class Arithmetic(NamedTuple):
    """What one token, one trained position and one pair of tokens cost in a model, backward pass included."""

    per_token: float
    per_trained: float
    per_pair: float
    """A query and a key, over all layers that see all tokens, and all heads."""
    per_windowed_pair: tuple[tuple[int, float], ...] = ()
    """The same of layers that look back over a window, with its tokens."""

    @classmethod
    def of(cls, model: PreTrainedModel, layers: Sequence[nn.Module], *, frozen_layers: int = 0) -> "Arithmetic":
        """Counted before the model is sharded. The head's input needs a gradient even where the head is frozen."""
        try:
            described = Architecture.of(model.config.to_dict()).layers
        except TennerError:  # a class of one's own, in memory only
            described = tuple(estimated(layers, attentions(model.config, len(layers))))
        per_token, pairs = 0.0, Counter[int | None]()
        for i, (module, layer) in enumerate(zip(layers, described, strict=True)):
            frozen = i < frozen_layers
            per_token += sum(
                (2 if frozen else 6 if m.weight.requires_grad else 4) * m.in_features * m.out_features
                for m in module.modules()
                if isinstance(m, nn.Linear)
            )
            others = layer.token_flops - 2 * layer.linear_parameters  # experts, convolutions, states
            trains = any(p.requires_grad and p.ndim > 2 for p in module.parameters())
            per_token += others * (1 if frozen else 3 if trains else 2)
            if layer.attention:
                pairs[layer.attention.window] += layer.attention.pair_flops * (1 if frozen else 3)
        head = model.get_output_embeddings().weight  # type: ignore[no-untyped-call]
        windowed = tuple((window, pair) for window, pair in pairs.items() if window is not None)
        return cls(per_token, (6 if head.requires_grad else 4) * head.numel(), pairs[None], windowed)

    def work(self, lengths: Iterable[int], trained: int) -> Work:
        """Of documents of these lengths with so many trained positions in all."""
        lengths = list(lengths)
        products = self.per_token * sum(lengths) + self.per_trained * trained
        pairs = self.per_pair * sum(length * length for length in lengths)
        for window, per_pair in self.per_windowed_pair:
            pairs += per_pair * sum(length**2 - max(0, length - window) ** 2 for length in lengths)
        return Work(products + pairs / 2, products + pairs)


def peak_tflops(device: torch.device) -> float | None:
    """The best of one device in bfloat16, where it is known."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    known = sorted(machines.cards().values(), key=lambda card: -len(card.device_name))  # "H100 PCIe" before "H100"
    return next((card.peak_tflops for card in known if card.device_name in name), None)
