"""Attention over packed rows: each document sees itself and nothing else, on any device.

Letters in names: B documents of a row, L tokens of the longest, T tokens of the row, H query heads, K key heads,
G query heads to each key head (H = K G), D head size.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from tenner.errors import TennerError

NAME = "tenner_packed"
EXPLICIT_LENGTH_MAX = 256
"""Up to here, on a CPU, plain matrix products beat the fused kernel; their L x L scores cost memory beyond it."""


@dataclass(frozen=True)
class Documents:
    """Where a row's documents lie, for moving between the row (T H vectors) and a padded batch (B H L vectors).

    Padding needs no mask: it stands to the right, where causal attention of real tokens never looks.
    A padded slot repeats its document's last token; what comes of it is thrown away, so its gradient is zero.
    """

    count: int
    longest: int
    query_slots_BHL: Tensor
    key_slots_BKL: Tensor
    query_back_TH: Tensor
    key_back_TK: Tensor
    causal_LL: Tensor
    """0 where a query (row) may see a key (column), else -inf."""


def documents(
    lengths: tuple[int, ...], *, heads: int, key_heads: int, dtype: torch.dtype, device: torch.device
) -> Documents:
    """The layout of documents of these lengths, end to end, for a model with so many heads."""
    count, longest = len(lengths), max(lengths)
    lengths_B = torch.tensor(lengths)
    starts_B = lengths_B.cumsum(0) - lengths_B
    slots_L = torch.arange(longest)
    tokens_BL = starts_B[:, None] + slots_L.minimum(lengths_B[:, None] - 1)
    filled_BL = slots_L < lengths_B[:, None]
    document_T, slot_T = filled_BL.nonzero(as_tuple=True)

    def slots(n: int) -> Tensor:
        return (tokens_BL[:, None] * n + torch.arange(n)[:, None]).flatten().to(device)

    def back(n: int) -> Tensor:
        return ((document_T[:, None] * n + torch.arange(n)) * longest + slot_T[:, None]).flatten().to(device)

    return Documents(
        count=count,
        longest=longest,
        query_slots_BHL=slots(heads),
        key_slots_BKL=slots(key_heads),
        query_back_TH=back(heads),
        key_back_TK=back(key_heads),
        causal_LL=torch.full((longest, longest), -torch.inf, dtype=dtype).triu(1).to(device),
    )


class _ShortAttention(torch.autograd.Function):
    """Causal attention by plain matrix products, for documents so short that the scores are small.

    Written with its own backward because the moves to and from the batch are copies in both directions; autograd
    would add padded rows up one by one. Query heads that share a key head are rows of the same product, so keys
    and values are never repeated.
    """

    @staticmethod
    def forward(
        ctx: Any, query_TH_D: Tensor, key_TK_D: Tensor, value_TK_D: Tensor, docs: Documents, scaling: float
    ) -> Tensor:
        length, size = docs.longest, query_TH_D.shape[-1]
        key_BK_LD = key_TK_D.index_select(0, docs.key_slots_BKL).view(-1, length, size)
        value_BK_LD = value_TK_D.index_select(0, docs.key_slots_BKL).view(-1, length, size)
        query_BK_GLD = query_TH_D.index_select(0, docs.query_slots_BHL).view(key_BK_LD.shape[0], -1, size)
        causal_GL_L = docs.causal_LL.repeat(query_BK_GLD.shape[1] // length, 1)
        scores_BK_GL_L = torch.baddbmm(causal_GL_L, query_BK_GLD, key_BK_LD.mT, alpha=scaling)
        seen_BK_GL_L = functional.softmax(scores_BK_GL_L, dim=-1)
        ctx.save_for_backward(query_BK_GLD, key_BK_LD, value_BK_LD, seen_BK_GL_L)
        ctx.docs, ctx.scaling = docs, scaling
        return torch.bmm(seen_BK_GL_L, value_BK_LD).view(-1, size).index_select(0, docs.query_back_TH)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        query_BK_GLD, key_BK_LD, value_BK_LD, seen_BK_GL_L = ctx.saved_tensors
        docs, size = ctx.docs, query_BK_GLD.shape[-1]
        grad_out = torch.zeros_like(query_BK_GLD)
        grad_out.view(-1, size).index_copy_(0, docs.query_back_TH, grads[0])
        grad_value = torch.bmm(seen_BK_GL_L.mT, grad_out)
        grad_seen = torch.bmm(grad_out, value_BK_LD.mT)
        grad_scores = torch._softmax_backward_data(grad_seen, seen_BK_GL_L, -1, seen_BK_GL_L.dtype)
        grad_query = torch.bmm(grad_scores, key_BK_LD).mul_(ctx.scaling)
        grad_key = torch.bmm(grad_scores.mT, query_BK_GLD).mul_(ctx.scaling)
        return (
            grad_query.view(-1, size).index_select(0, docs.query_back_TH),
            grad_key.view(-1, size).index_select(0, docs.key_back_TK),
            grad_value.view(-1, size).index_select(0, docs.key_back_TK),
            None,
            None,
        )


def _fused_attention(
    query_TH_D: Tensor, key_TK_D: Tensor, value_TK_D: Tensor, docs: Documents, scaling: float
) -> Tensor:
    """The same by PyTorch's fused kernel, whose memory does not grow with the square of the length."""
    shape = (docs.count, -1, docs.longest, query_TH_D.shape[-1])
    out_BHLD = functional.scaled_dot_product_attention(
        query_TH_D.index_select(0, docs.query_slots_BHL).view(shape),
        key_TK_D.index_select(0, docs.key_slots_BKL).view(shape),
        value_TK_D.index_select(0, docs.key_slots_BKL).view(shape),
        is_causal=True,
        scale=scaling,
        enable_gqa=True,
    )
    return out_BHLD.reshape(-1, query_TH_D.shape[-1]).index_select(0, docs.query_back_TH)


def packed_attention(
    module: torch.nn.Module,  # noqa: ARG001  the signature is transformers'
    query_1HTD: Tensor,
    key_1KTD: Tensor,
    value_1KTD: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float,
    documents: Documents,
    sliding_window: int | None = None,
    **_unused: object,
) -> tuple[Tensor, None]:
    """What transformers calls for every layer of a model loaded with `attention=NAME`. Returns (1, T, H, D)."""
    assert attention_mask is None
    heads, tokens, size = query_1HTD.shape[1:]
    if sliding_window is not None and sliding_window < documents.longest:
        raise TennerError(
            f"this student looks back {sliding_window} tokens only, and a sample has {documents.longest}",
            hint="sliding windows are not supported: choose another student or shorter samples",
        )
    query, key, value = (x[0].transpose(0, 1).reshape(-1, size) for x in (query_1HTD, key_1KTD, value_1KTD))
    if documents.longest <= EXPLICIT_LENGTH_MAX and query.device.type == "cpu":
        out_TH_D: Tensor = _ShortAttention.apply(query, key, value, documents, scaling)  # type: ignore[no-untyped-call]
    else:
        out_TH_D = _fused_attention(query, key, value, documents, scaling)
    return out_TH_D.view(1, tokens, heads, size), None


ALL_ATTENTION_FUNCTIONS.register(NAME, packed_attention)
