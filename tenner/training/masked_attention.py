"""Attention over packed rows where a token does not see all before it: windows, chunks, sinks and soft caps.

Plain products, a document and a block of its queries at a time, against the keys that any of them sees; slower than
the kernels in `attention.py`, and as exact.

Letters in names: T tokens of the row, Q queries of a block, J keys that they see, H query heads, K key heads, G query
heads to each key head (H = K G), D size of queries and keys, E size of values.
"""

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from tenner.training.documents import BLOCK, SHORT_LENGTH_MAX, Documents

MaskFunction = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""A mask function of transformers: batch index, head index, query place and key place to whether the key is seen."""


class Visibility:
    """Which places of the row each place sees, by the function that transformers would make its mask of.

    It heeds the documents where the positions of a row begin anew.
    """

    def __init__(self, mask_function: MaskFunction) -> None:
        self._mask_function = mask_function
        self._causal: dict[Documents, bool] = {}

    def __getitem__(self, parts: tuple[object, ...]) -> "Visibility":
        """All of it: transformers cuts the mask of some families to the queries whose logits it keeps.

        Raises NotImplementedError for anything else than all of it.
        """
        if not all(isinstance(part, slice) and not part.start and part.stop is None for part in parts):
            raise NotImplementedError("its layers read a part of the mask, and a packed row has none")
        return self

    def seen(self, queries: range, keys: range, device: torch.device) -> Tensor:
        """Of each query (row) whether it sees each key (column)."""
        zero = torch.zeros((), dtype=torch.long, device=device)
        places_Q1, places_J = (torch.arange(p.start, p.stop, device=device) for p in (queries, keys))
        seen: Tensor = self._mask_function(zero, zero, places_Q1[:, None], places_J)
        return seen.expand(len(queries), len(keys))

    def is_causal(self, docs: Documents) -> bool:
        """Whether each token sees all of its document up to itself: by what the first and the last one see."""
        if docs not in self._causal:
            *whole, (last, end) = docs.bounds
            ends = []
            # What fills a row has one position again and again, and so begins a document with each token.
            for start, stop in (*whole, (last, end - docs.surplus)):
                document = range(start, stop)
                ends.append(self.seen(range(start, start + 1), document, docs.device).sum() == 1)
                ends.append(self.seen(range(stop - 1, stop), document, docs.device).all())
            self._causal[docs] = bool(torch.stack(ends).all())
        return self._causal[docs]


def masked_attention(
    query_THD: Tensor,
    key_TKD: Tensor,
    value_TKE: Tensor,
    docs: Documents,
    scaling: float,
    *,
    seen: Visibility | None,
    softcap: float | None,
    sinks_H: Tensor | None,
) -> Tensor:
    """Attention within each document: (T, H, E). `seen` None: each token sees all before it."""
    out = []
    for start, end in docs.bounds:
        for first in range(start, end, BLOCK):
            queries = range(first, min(end, first + BLOCK))
            keys = range(start, queries.stop)
            if seen is None:
                places = torch.arange(queries.stop, device=docs.device)
                seen_QJ = places[first:, None] >= places[start:]
            else:
                seen_QJ = seen.seen(queries, keys, docs.device)
                skipped = int(seen_QJ.any(0).int().argmax())  # keys before the windows of all queries
                keys, seen_QJ = range(start + skipped, keys.stop), seen_QJ[:, skipped:]
            parts = (
                query_THD[first : queries.stop], key_TKD[keys.start : keys.stop], value_TKE[keys.start : keys.stop],
                seen_QJ, scaling, softcap, sinks_H,
            )  # fmt: skip
            if end - start <= SHORT_LENGTH_MAX:
                out.append(_block(*parts))
            else:
                out.append(cast(Tensor, checkpoint(_block, *parts, use_reentrant=False)))
    return torch.cat(out)


def _block(
    query_QHD: Tensor,
    key_JKD: Tensor,
    value_JKE: Tensor,
    seen_QJ: Tensor,
    scaling: float,
    softcap: float | None,
    sinks_H: Tensor | None,
) -> Tensor:
    """One block of queries: (Q, H, E)."""
    count, heads, _ = query_QHD.shape
    key_heads = key_JKD.shape[1]
    # 1. Scores, capped. Query heads that share a key head are rows of one product.
    query_KGQD = query_QHD.transpose(0, 1).reshape(key_heads, -1, query_QHD.shape[2])
    scores_KGQJ = torch.matmul(query_KGQD, key_JKD.permute(1, 2, 0)).mul(scaling)
    scores_HQJ = scores_KGQJ.view(heads, count, -1)
    if softcap is not None:
        scores_HQJ = torch.tanh(scores_HQJ / softcap) * softcap
    scores_HQJ = scores_HQJ.masked_fill(~seen_QJ, torch.finfo(scores_HQJ.dtype).min)
    # 2. Weights; a sink takes a share and gives no value.
    if sinks_H is not None:
        sink_HQ1 = sinks_H.to(scores_HQJ.dtype).view(-1, 1, 1).expand(-1, count, 1)
        scores_HQJ = torch.cat((scores_HQJ, sink_HQ1), dim=-1)
    weights_HQJ = functional.softmax(scores_HQJ, dim=-1, dtype=torch.float32).to(value_JKE.dtype)
    if sinks_H is not None:
        weights_HQJ = weights_HQJ[..., :-1]
    # 3. Values: (K, G Q, J) by (K, J, E).
    out_KGQE = torch.matmul(weights_HQJ.reshape(key_heads, -1, weights_HQJ.shape[-1]), value_JKE.transpose(0, 1))
    return out_KGQE.view(heads, count, -1).transpose(0, 1)
