"""Before training: whether rows may hold several samples, and whether the loss is the one that transformers computes.

Letters in names: T tokens of a row, D hidden size.
"""

import math
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import cast

import torch
from torch import Tensor
from transformers import PreTrainedModel

from tenner.core.errors import TennerError
from tenner.training import attention, context_parallel, isolation, packing
from tenner.training.distributed import ContextGroup
from tenner.training.isolation import NotIsolated
from tenner.training.loss_mask import Encoded
from tenner.training.packed_loss import Batch, PackedLoss, has_auxiliary_loss

CHECKED_SAMPLES = 3
CHECKED_TOKENS = 512
"""Of each, the last: transformers' own way holds all scores of attention and all logits."""
POOLED_SAMPLES = 20
"""Whose tokens the documents of the proof are made of."""
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2}
"""Largest relative difference of two ways to compute a loss that rounding explains."""


def choose_packing(
    loss: PackedLoss, encoded: Sequence[Encoded], *, device: torch.device, dtype: torch.dtype, alone: bool,
    context: ContextGroup | None = None,
) -> str | None:  # fmt: skip
    """Let rows hold several documents where it is proved that they are isolated and the loss is transformers' own.

    Returns why not, otherwise; each sample then has a row of its own, which transformers' own code computes. `alone`:
    this process trains by itself; `context`: those that it shares rows with, as in the proof. Raises TennerError where
    even that is not transformers' own loss, or rows that are shared cannot hold several documents.
    """
    samples = [
        e._replace(ids=e.ids[-CHECKED_TOKENS:], loss_mask=e.loss_mask[-CHECKED_TOKENS:])
        for e in sorted(encoded, key=lambda e: len(e.ids))[:CHECKED_SAMPLES]
    ]

    def value(rows: Sequence[packing.Row], *, as_the_library: bool) -> float:
        shared = None if as_the_library else context
        batches = [Batch.of(row, device=device, dtype=dtype, weight=1.0, context=shared) for row in rows]
        with torch.no_grad():
            losses = torch.stack([loss(batch, as_the_library=as_the_library) for batch in batches])
            return math.fsum((losses if shared is None else shared.gather(losses)).tolist())

    def hidden(ids: Sequence[int], lengths: Sequence[int]) -> Tensor:
        bounds = pairwise(accumulate(lengths, initial=0))
        documents = [Encoded("", tuple(ids[a:b]), (True,) * (b - a)) for a, b in bounds]
        batch = Batch.of(packing.pack(documents), device=device, dtype=dtype, weight=1.0, context=context)
        hidden_TD = cast(Tensor, loss(batch, hidden_only=True))
        return hidden_TD if context is None else context.gather(hidden_TD)[: len(ids)]

    singly = [packing.pack([sample]) for sample in samples]
    loss.model.set_attn_implementation("eager")
    own = value(singly, as_the_library=True)
    loss.model.set_attn_implementation(attention.NAME)
    longest = max(len(e.ids) for e in encoded)
    try:
        if why := _what_forbids_packing(loss.model, longest):
            raise NotIsolated(why)
        ids = [i for e in encoded[:POOLED_SAMPLES] for i in e.ids]
        embedding = loss.model.get_input_embeddings()
        isolation.prove(hidden, embedding, ids, longest=longest, gradients=alone)
        together = value([packing.pack(samples)], as_the_library=False)
        if not math.isclose(together, own, rel_tol=TOLERANCE[dtype]):
            raise NotIsolated(f"packed, the loss of {len(samples)} samples is {together:.6g}, not {own:.6g}")
        return None
    except NotIsolated as e:
        why = str(e)
    except torch.OutOfMemoryError:  # no reason to feed the model otherwise
        raise
    except (TypeError, ValueError, RuntimeError, AttributeError, KeyError, IndexError, NotImplementedError) as e:
        why = f"{type(e).__name__}: {' '.join(str(e).split())[:160]}"  # layers that do not take a packed row
    if context is not None:
        raise context_parallel.refusal(context.size, why)
    loss.packed = False
    for implementation in ("sdpa", "eager"):
        try:
            loss.model.set_attn_implementation(implementation)
        except ValueError:  # the family has none
            continue
        value_alone = value(singly, as_the_library=False)
        if math.isclose(value_alone, own, rel_tol=TOLERANCE[dtype]):
            return why
    raise TennerError(
        f"the loss of {len(samples)} samples is {value_alone:.6g} but {own:.6g} by transformers: "
        f"{type(loss.model).__name__} cannot be trained",
        hint="choose another student",
    )


def _what_forbids_packing(model: PreTrainedModel, longest: int) -> str | None:
    """What no test on a few tokens finds: a loss over all tokens of a row, or angles that depend on its longest one."""
    config = model.config.get_text_config()
    if has_auxiliary_loss(model):
        return "its auxiliary loss is one of a row's tokens together"
    ropes = getattr(config, "rope_parameters", None) or {}
    for rope in (ropes, *(r for r in ropes.values() if isinstance(r, dict))):
        if rope.get("rope_type") in ("dynamic", "longrope"):
            known = rope.get("original_max_position_embeddings") or getattr(
                config, "original_max_position_embeddings", config.max_position_embeddings
            )
            if longest > known:
                return f"its angles change for all of a row that holds more than {known:,} positions"
    return None
