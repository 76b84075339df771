"""The loss of a row of samples, packed where the model keeps them apart.

Letters in names: T tokens of a row, P trained positions of it, D hidden size, V vocabulary.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel

from tenner.training import context_parallel, packing
from tenner.training.architecture import backbone
from tenner.training.cross_entropy import summed_cross_entropy
from tenner.training.distributed import ContextGroup
from tenner.training.documents import Documents
from tenner.training.kernel_shapes import ROW_MULTIPLE, missing
from tenner.training.own_head import PROBED_ROWS, head_is_linear, own_cross_entropy


@dataclass(frozen=True)
class Batch:
    """A row on its device, or this process' slice of one that several share, with the documents of all of it.

    Not a tuple: FSDP would look into it, number by number.
    """

    ids_1T: Tensor
    positions_1T: Tensor
    documents: Documents
    predictors_P: Tensor
    targets_P: Tensor
    weight: float
    """What the sum of the losses is multiplied by."""
    context: ContextGroup | None = None
    """The processes that share the row; None: all of it is here."""

    @classmethod
    def of(
        cls, row: packing.Row, *, device: torch.device, dtype: torch.dtype, weight: float,
        context: ContextGroup | None = None,
    ) -> "Batch":  # fmt: skip
        """Of a whole row, which every process of `context` must be given."""
        if context is not None:
            row = context_parallel.slice_of(row, context.rank, context.size)
        if not row.predictors:  # the head needs its gradient everywhere, be it nought: processes that share it sum it
            row, weight = row._replace(predictors=(0,), targets=(0,)), 0.0
        return cls(
            ids_1T=torch.tensor([row.ids], device=device),
            positions_1T=torch.tensor([row.positions], device=device),
            documents=Documents(row.lengths, dtype, device),
            predictors_P=torch.tensor(row.predictors, device=device),
            targets_P=torch.tensor(row.targets, device=device),
            weight=weight,
            context=context,
        )

    def filled(self) -> "Batch":
        """The row with as many tokens as kernels are made for: its last document goes on, behind all that is predicted
        from. A row that is shared stays as it is.
        """
        documents = self.documents
        more = missing(documents.tokens, ROW_MULTIPLE, documents.device, documents.dtype)
        if more == 0 or self.context is not None:
            return self
        # The last position again: one more may be beyond those that the model knows.
        ids_1T, positions_1T = (torch.cat([x, x[:, -1:].expand(1, more)], 1) for x in (self.ids_1T, self.positions_1T))
        return replace(self, ids_1T=ids_1T, positions_1T=positions_1T, documents=documents.filled(more))


class PackedLoss(nn.Module):
    """A model and its loss in one, so that the head's weights are at hand where the loss needs them."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model
        self.packed = True
        """Whether a row may hold several documents; else it is fed as transformers feeds one alone."""
        self._head_is_linear: bool | None = None

    def forward(self, batch: Batch, *, as_the_library: bool = False, hidden_only: bool = False) -> Tensor:
        """`weight` times the sum of the cross entropy at the trained positions that are here, in nats.

        `as_the_library`: by transformers' own forward pass, for a whole row of one document only. `hidden_only`: the
        hidden states (T, D) instead, of the slice that is here.
        """
        model = self.model
        if as_the_library:
            out = model(input_ids=batch.ids_1T, use_cache=False, logits_to_keep=batch.predictors_P)
            loss = batch.weight * functional.cross_entropy(out.logits[0].float(), batch.targets_P, reduction="sum")
            return loss + _weighed(out.aux_loss, batch, model) if has_auxiliary_loss(model) else loss
        hidden_TD, auxiliary = self._decoded(batch)
        if hidden_only:
            return hidden_TD[: batch.ids_1T.shape[1]]
        hidden_PD = hidden_TD[batch.predictors_P]
        if self._head_is_linear is None:
            self._head_is_linear = head_is_linear(model, hidden_PD[:PROBED_ROWS].detach())
        if self._head_is_linear:
            head = model.get_output_embeddings()  # type: ignore[no-untyped-call]
            loss = summed_cross_entropy(hidden_PD, head.weight, batch.targets_P, weight=batch.weight)
        else:
            loss = batch.weight * own_cross_entropy(model, hidden_PD, batch.targets_P)
        return loss if auxiliary is None else loss + _weighed(auxiliary, batch, model)

    def _decoded(self, batch: Batch) -> tuple[Tensor, Tensor | None]:
        """The hidden states (T, D) of a row, and of what fills it, if anything does; and the auxiliary loss of a row of
        one document, if the model has one.
        """
        model = self.model
        if self.packed:
            filled = batch.filled()
            out = backbone(model)(
                input_ids=filled.ids_1T, use_cache=False, position_ids=filled.positions_1T, documents=filled.documents,
                context=filled.context,
            )  # fmt: skip
            return out.last_hidden_state.squeeze(0), None
        assert batch.documents.count == 1
        assert batch.context is None
        if not has_auxiliary_loss(model):
            return backbone(model)(input_ids=batch.ids_1T, use_cache=False).last_hidden_state.squeeze(0), None
        with _last_hidden_state(model) as states:
            auxiliary = model(input_ids=batch.ids_1T, use_cache=False, logits_to_keep=1).aux_loss
        return states[0], auxiliary


def packed_loss(model: PreTrainedModel, row: packing.Row, *, weight: float = 1.0) -> Tensor:
    """`weight` times the sum of the cross entropy at the row's trained positions, of a model on one device."""
    batch = Batch.of(row, device=model.device, dtype=model.dtype, weight=weight)
    return cast(Tensor, PackedLoss(model)(batch))


# -- mixtures of experts ---------------------------------------------------------------------------------------------


def has_auxiliary_loss(model: PreTrainedModel) -> bool:
    """Whether the model's config asks for the loss that spreads tokens over experts."""
    return bool(getattr(model.config.get_text_config(), "output_router_logits", False))


def _weighed(auxiliary: Tensor, batch: Batch, model: PreTrainedModel) -> Tensor:
    """A sample's auxiliary loss, as transformers adds it to the mean of the sample's cross entropy."""
    coefficient: float = model.config.get_text_config().router_aux_loss_coef
    return batch.weight * len(batch.targets_P) * coefficient * auxiliary


@contextmanager
def _last_hidden_state(model: PreTrainedModel) -> Iterator[list[Tensor]]:
    """Filled by the next forward pass: its hidden states (T, D)."""
    states: list[Tensor] = []
    handle = backbone(model).register_forward_hook(lambda _m, _i, out: states.append(out.last_hidden_state[0]))
    try:
        yield states
    finally:
        handle.remove()
