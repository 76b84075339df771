"""The loss of a packed row, and the same of samples one by one, by which it is checked.

Letters in names: T tokens of a row, P trained positions of it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel

from tenner.core.errors import TennerError
from tenner.training import attention, packing
from tenner.training.cross_entropy import summed_cross_entropy
from tenner.training.loss_mask import Encoded

CHECKED_SAMPLES = 3
CHECKED_TOKENS = 512
"""Of each, the last: transformers' own way holds all scores of attention and all logits."""
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2}
"""Largest relative difference of packed and unpacked loss that rounding explains."""


@dataclass(frozen=True)
class Batch:
    """A row on its device. Not a tuple: FSDP would look into it, number by number."""

    ids_1T: Tensor
    positions_1T: Tensor
    documents: attention.Documents
    predictors_P: Tensor
    targets_P: Tensor
    weight: float
    """What the sum of the losses is multiplied by."""

    @classmethod
    def of(
        cls, row: packing.Row, model: PreTrainedModel, *, device: torch.device, dtype: torch.dtype, weight: float
    ) -> "Batch":
        config = model.config
        return cls(
            ids_1T=torch.tensor([row.ids], device=device),
            positions_1T=torch.tensor([row.positions], device=device),
            documents=attention.Documents(
                row.lengths, config.num_attention_heads, config.num_key_value_heads, dtype, device
            ),
            predictors_P=torch.tensor(row.predictors, device=device),
            targets_P=torch.tensor(row.targets, device=device),
            weight=weight,
        )


class PackedLoss(nn.Module):
    """A model and its loss in one, so that the head's weights are at hand where the loss needs them."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Batch, *, as_the_library: bool = False) -> Tensor:
        """`weight` times the sum of the cross entropy at the trained positions, in nats.

        `as_the_library`: by transformers' own forward pass, for a row of one document only.
        """
        model = self.model
        if as_the_library:
            logits_PV = model(input_ids=batch.ids_1T, use_cache=False, logits_to_keep=batch.predictors_P).logits[0]
            return batch.weight * functional.cross_entropy(logits_PV.float(), batch.targets_P, reduction="sum")
        hidden_TD = model.base_model(
            input_ids=batch.ids_1T, position_ids=batch.positions_1T, use_cache=False, documents=batch.documents
        ).last_hidden_state[0]
        head = model.get_output_embeddings()  # type: ignore[no-untyped-call]
        hidden_PD = hidden_TD[batch.predictors_P]
        return summed_cross_entropy(hidden_PD, head.weight, batch.targets_P, weight=batch.weight)


def packed_loss(model: PreTrainedModel, row: packing.Row, *, weight: float = 1.0) -> Tensor:
    """`weight` times the sum of the cross entropy at the row's trained positions, of a model on one device."""
    batch = Batch.of(row, model, device=model.device, dtype=model.dtype, weight=weight)
    return cast(Tensor, PackedLoss(model)(batch))


@torch.no_grad()
def check_packing(loss: PackedLoss, encoded: Sequence[Encoded], *, device: torch.device, dtype: torch.dtype) -> None:
    """Compare the packed loss of some samples' beginnings with what transformers' own code gives each of them alone.

    Raises TennerError where they differ by more than rounding: the model then does something (another mask, a scaled
    head) that training on packed rows would leave out.
    """
    samples = [
        e._replace(ids=e.ids[-CHECKED_TOKENS:], loss_mask=e.loss_mask[-CHECKED_TOKENS:])
        for e in sorted(encoded, key=lambda e: len(e.ids))[:CHECKED_SAMPLES]
    ]

    def value(row: packing.Row, *, as_the_library: bool) -> float:
        batch = Batch.of(row, loss.model, device=device, dtype=dtype, weight=1.0)
        return float(loss(batch, as_the_library=as_the_library).item())

    together = value(packing.pack(samples), as_the_library=False)
    loss.model.set_attn_implementation("eager")
    alone = sum(value(packing.pack([sample]), as_the_library=True) for sample in samples)
    loss.model.set_attn_implementation(attention.NAME)
    if not math.isclose(together, alone, rel_tol=TOLERANCE[dtype]):
        raise TennerError(
            f"the packed loss of {len(samples)} samples is {together:.6g} but {alone:.6g} one by one: "
            f"{type(loss.model).__name__} cannot be trained on packed rows",
            hint="choose another student (Llama and Qwen2.5 models are known to work)",
        )
