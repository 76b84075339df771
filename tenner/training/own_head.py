"""A model's own head: its logits from hidden states where they are more than a product (a bias, a scale, a cap).

Letters in names: P trained positions, C of them in a chunk, D hidden size, V vocabulary.
"""

from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from tenner.core.errors import TennerError
from tenner.training.architecture import backbone
from tenner.training.cross_entropy import CHUNK_LOGITS

PROBED_ROWS = 4
PROBE_FACTOR = 1000.0
"""What is not linear in a head shows where its inputs are large."""


class _Hidden:
    """What a decoder gives, as far as its head looks at it: the hidden states, and None for all else."""

    def __init__(self, hidden_1PD: Tensor) -> None:
        self.last_hidden_state = hidden_1PD

    def __getattr__(self, name: str) -> None:
        return None

    def __getitem__(self, index: int) -> Tensor:
        assert index == 0
        return self.last_hidden_state


def own_logits(model: PreTrainedModel, hidden_PD: Tensor) -> Tensor:
    """The logits of hidden states by the model's own forward pass, its decoder left out: (P, V)."""
    decoder: Any = backbone(model)
    usual = decoder.__dict__.get("forward")
    decoder.forward = lambda *_, **__: _Hidden(hidden_PD[None])
    try:
        ids_1P = torch.zeros(1, len(hidden_PD), dtype=torch.long, device=hidden_PD.device)
        logits: Tensor = model(input_ids=ids_1P, use_cache=False).logits[0]
        return logits
    finally:
        if usual is None:
            del decoder.forward
        else:
            decoder.forward = usual


@torch.no_grad()
def head_is_linear(model: PreTrainedModel, hidden_PD: Tensor) -> bool:
    """Whether the logits are the product with the head's weights and nothing else: no bias, scale or cap."""
    head: Any = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    if getattr(head, "bias", None) is not None:  # of noughts it shows in no logit, and is to be trained
        return False
    weight_VD = head.weight
    for probe_PD in (hidden_PD, hidden_PD * PROBE_FACTOR, torch.zeros_like(hidden_PD)):
        product_PV = probe_PD @ weight_VD.T
        tolerance = 10 * torch.finfo(product_PV.dtype).eps * float(product_PV.abs().max())
        try:
            own_PV = own_logits(model, probe_PD)
        except (TypeError, AttributeError, ValueError, IndexError) as e:
            raise TennerError(f"the head of a {type(model).__name__} cannot be run by itself: {e}") from e
        if own_PV.shape != product_PV.shape or not torch.allclose(own_PV, product_PV, rtol=0, atol=tolerance):
            return False
    return True


def own_cross_entropy(model: PreTrainedModel, hidden_PD: Tensor, targets_P: Tensor) -> Tensor:
    """The summed cross entropy by the model's own head, a chunk at a time; backward computes its logits again."""
    vocabulary = model.get_output_embeddings().weight.shape[0]  # type: ignore[no-untyped-call]
    chunk = max(1, CHUNK_LOGITS[hidden_PD.device.type] // vocabulary)

    def summed(hidden_CD: Tensor, targets_C: Tensor) -> Tensor:
        return functional.cross_entropy(own_logits(model, hidden_CD).float(), targets_C, reduction="sum")

    total = torch.zeros((), dtype=torch.float32, device=hidden_PD.device)
    for hidden_CD, targets_C in zip(torch.split(hidden_PD, chunk), torch.split(targets_P, chunk), strict=True):
        total = total + cast(Tensor, checkpoint(summed, hidden_CD, targets_C, use_reentrant=False))
    return total
