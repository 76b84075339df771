"""Attention over packed rows: each document sees itself and nothing else, on any device.

Letters in names: B documents of a row, L slots for the longest, T tokens of the row, H query heads, K key heads,
G query heads to each key head (H = K G), D size of queries and keys, E size of values, N pairs of document and key head
(N = B K).
"""

from collections.abc import Callable
from functools import lru_cache
from importlib.util import find_spec
from inspect import signature
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from tenner.training import context_parallel
from tenner.training.distributed import ContextGroup
from tenner.training.documents import BLOCK, SHORT_LENGTH_MAX, Documents
from tenner.training.masked_attention import MaskFunction, Visibility, masked_attention

NAME = "tenner_packed"
"""The name under which transformers knows `packed_attention`."""


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
        length, size = docs.slots, query_TH_D.shape[-1]
        key_BK_LD, value_BK_LD = docs.padded(key_TK_D), docs.padded(value_TK_D)
        query_BK_GLD = docs.padded(query_TH_D).view(key_BK_LD.shape[0], -1, size)
        causal_GL_L = docs.causal_LL.repeat(query_BK_GLD.shape[1] // length, 1)
        scores_BK_GL_L = torch.baddbmm(causal_GL_L, query_BK_GLD, key_BK_LD.mT, alpha=scaling)
        seen_BK_GL_L = functional.softmax(scores_BK_GL_L, dim=-1)
        ctx.save_for_backward(query_BK_GLD, key_BK_LD, value_BK_LD, seen_BK_GL_L)
        ctx.docs, ctx.scaling = docs, scaling
        places_TH = docs.places_TH(query_TH_D.shape[0] // docs.tokens)
        return torch.bmm(seen_BK_GL_L, value_BK_LD).view(-1, size).index_select(0, places_TH)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        query_BK_GLD, key_BK_LD, value_BK_LD, seen_BK_GL_L = ctx.saved_tensors
        docs, size = ctx.docs, query_BK_GLD.shape[-1]
        places_TH = docs.places_TH(grads[0].shape[0] // docs.tokens)
        places_TK = docs.places_TH(key_BK_LD.shape[0] // docs.count)
        grad_out = torch.zeros_like(query_BK_GLD)
        grad_out.view(-1, size).index_copy_(0, places_TH, grads[0])
        grad_value = torch.bmm(seen_BK_GL_L.mT, grad_out)
        grad_seen = torch.bmm(grad_out, value_BK_LD.mT)
        grad_scores = torch._softmax_backward_data(grad_seen, seen_BK_GL_L, -1, seen_BK_GL_L.dtype)
        grad_query = torch.bmm(grad_scores, key_BK_LD).mul_(ctx.scaling)
        grad_key = torch.bmm(grad_scores.mT, query_BK_GLD).mul_(ctx.scaling)
        return (
            grad_query.view(-1, size).index_select(0, places_TH),
            grad_key.view(-1, size).index_select(0, places_TK),
            grad_value.view(-1, size).index_select(0, places_TK),
            None,
            None,
        )


class _BlockAttention(torch.autograd.Function):
    """Causal attention block of queries by block, each against the keys up to its end, for longer documents on a CPU,
    and in float32 on CUDA, where PyTorch has no fused kernel whose query heads share keys (untried on a GPU).

    Nothing as large as L x L is ever held: backward computes each block's scores again. PyTorch's fused kernel
    takes 1.7 to 2.7 times as long on a CPU, there and back, from 320 to 4,096 tokens.
    """

    @staticmethod
    def forward(
        ctx: Any, query_TH_D: Tensor, key_TK_D: Tensor, value_TK_D: Tensor, docs: Documents, scaling: float
    ) -> Tensor:
        length, size = docs.slots, query_TH_D.shape[-1]
        key_N_LD, value_N_LD = docs.padded(key_TK_D), docs.padded(value_TK_D)
        query_N_GLD = docs.padded(query_TH_D).view(key_N_LD.shape[0], -1, length, size)
        out_N_GLD = torch.empty_like(query_N_GLD)
        for start in range(0, length, BLOCK):
            end = min(length, start + BLOCK)
            seen, _ = _seen(query_N_GLD, key_N_LD, start, end, scaling)
            out_N_GLD[:, :, start:end] = torch.bmm(seen, value_N_LD[:, :end]).view(*out_N_GLD.shape[:2], -1, size)
        ctx.save_for_backward(query_N_GLD, key_N_LD, value_N_LD)
        ctx.docs, ctx.scaling = docs, scaling
        return out_N_GLD.view(-1, size).index_select(0, docs.places_TH(query_TH_D.shape[0] // docs.tokens))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        query_N_GLD, key_N_LD, value_N_LD = ctx.saved_tensors
        docs, scaling = ctx.docs, ctx.scaling
        count, _, length, size = query_N_GLD.shape
        places_TH = docs.places_TH(grads[0].shape[0] // docs.tokens)
        places_TK = docs.places_TH(count // docs.count)
        grad_out = torch.zeros_like(query_N_GLD)
        grad_out.view(-1, size).index_copy_(0, places_TH, grads[0])
        grad_query = torch.empty_like(query_N_GLD)
        # Added up over the blocks, so in float32.
        grad_key, grad_value = (torch.zeros_like(key_N_LD, dtype=torch.float32) for _ in range(2))
        for start in range(0, length, BLOCK):
            end = min(length, start + BLOCK)
            seen, query = _seen(query_N_GLD, key_N_LD, start, end, scaling)
            grad_block = grad_out[:, :, start:end].reshape(count, -1, size)
            grad_value[:, :end] += torch.bmm(seen.mT, grad_block)
            grad_seen = torch.bmm(grad_block, value_N_LD[:, :end].mT)
            grad_scores = torch._softmax_backward_data(grad_seen, seen, -1, seen.dtype)
            grad_part = torch.bmm(grad_scores, key_N_LD[:, :end]).mul_(scaling)
            grad_query[:, :, start:end] = grad_part.view(count, -1, end - start, size)
            grad_key[:, :end] += torch.bmm(grad_scores.mT, query).mul_(scaling)
        return (
            grad_query.view(-1, size).index_select(0, places_TH),
            grad_key.to(key_N_LD.dtype).view(-1, size).index_select(0, places_TK),
            grad_value.to(value_N_LD.dtype).view(-1, size).index_select(0, places_TK),
            None,
            None,
        )


def _seen(query_N_GLD: Tensor, key_N_LD: Tensor, start: int, end: int, scaling: float) -> tuple[Tensor, Tensor]:
    """How much each query of a block sees of each key up to the block's end, (N, G x block, end); and the queries."""
    count, groups, _, size = query_N_GLD.shape
    query = query_N_GLD[:, :, start:end].reshape(count, -1, size)
    scores = torch.bmm(query, key_N_LD[:, :end].mT).mul_(scaling)
    hidden = scores.new_full((end - start, end - start), -torch.inf).triu_(1)
    scores.view(count, groups, end - start, end)[..., start:].add_(hidden)
    return functional.softmax(scores, dim=-1), query


def _fused_attention(
    query_TH_D: Tensor, key_TK_D: Tensor, value_TK_D: Tensor, docs: Documents, scaling: float
) -> Tensor:
    """The same by PyTorch's fused kernel, for GPUs without a kernel for packed rows."""
    shape = (docs.count, -1, docs.slots, query_TH_D.shape[-1])
    key_BKLD, value_BKLD = docs.padded(key_TK_D).view(shape), docs.padded(value_TK_D).view(shape)
    heads = query_TH_D.shape[0] // docs.tokens
    shares_keys = _can_share_keys(query_TH_D.device)
    if not shares_keys:
        groups = query_TH_D.shape[0] // key_TK_D.shape[0]
        key_BKLD, value_BKLD = (x.repeat_interleave(groups, dim=1) for x in (key_BKLD, value_BKLD))
    out_BHLD = functional.scaled_dot_product_attention(
        docs.padded(query_TH_D).view(shape),
        key_BKLD,
        value_BKLD,
        is_causal=True,
        scale=scaling,
        enable_gqa=shares_keys,
    )
    return out_BHLD.reshape(-1, query_TH_D.shape[-1]).index_select(0, docs.places_TH(heads))


@lru_cache
def _can_share_keys(device: torch.device) -> bool:
    """Whether PyTorch's fused kernel of this device lets several query heads read one key head, found out by trying."""
    query, key = (torch.ones(1, heads, 2, 8, device=device) for heads in (2, 1))
    try:
        functional.scaled_dot_product_attention(query, key, key, is_causal=True, enable_gqa=True)
    except (RuntimeError, NotImplementedError):
        return False
    return True


def _varlen_kernel() -> Callable[..., Tensor] | None:
    """A kernel for packed rows on a GPU: PyTorch's own, else FlashAttention's where it is installed, else None.

    It takes queries, keys and values (T, heads, D), the documents and the scale; gives (T, H, D).
    """
    if find_spec("torch.nn.attention.varlen") is not None:
        from torch.nn.attention.varlen import varlen_attn

        known = signature(varlen_attn).parameters
        causal: dict[str, Any] = {"is_causal": True} if "is_causal" in known else {"window_size": (-1, 0)}
        if "enable_gqa" in known:  # before there was this argument the kernel took fewer key heads unasked
            causal["enable_gqa"] = True

        def by_torch(query: Tensor, key: Tensor, value: Tensor, docs: Documents, scaling: float) -> Tensor:
            ends, longest = docs.starts_and_end, docs.longest
            out: Any = varlen_attn(query, key, value, ends, ends, longest, longest, scale=scaling, **causal)
            return cast(Tensor, out)

        if "scale" in known:
            return by_torch
    if find_spec("flash_attn") is not None:
        from flash_attn import flash_attn_varlen_func

        def by_flash(query: Tensor, key: Tensor, value: Tensor, docs: Documents, scaling: float) -> Tensor:
            ends, longest = docs.starts_and_end, docs.longest
            out: Tensor = flash_attn_varlen_func(
                query, key, value, ends, ends, longest, longest, softmax_scale=scaling, causal=True
            )
            return out

        return by_flash
    return None


VARLEN = _varlen_kernel() if torch.cuda.is_available() else None


def _takes_varlen(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether `VARLEN` computes attention on this device, which it does in two bytes."""
    return VARLEN is not None and device.type == "cuda" and dtype != torch.float32


def packed_attention(
    module: torch.nn.Module,
    query_1HTD: Tensor,
    key_1KTD: Tensor,
    value_1KTE: Tensor,
    attention_mask: Visibility | None,
    *,
    scaling: float,
    documents: Documents,
    context: ContextGroup | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **_unused: object,
) -> tuple[Tensor, None]:
    """What transformers calls for every layer of a model loaded with `attention=NAME`. Returns (1, T, H, E).

    `softcap` and `s_aux` (sinks, a logit for each head) are transformers' names. Other arguments that would change what
    is computed are found by the comparison before training (`packing_check.choose_packing`). Where several processes
    share the row, T are the tokens of this one's slice, and the mask, which knows no others, is not asked.

    The batch of one is squeezed away, not indexed: backward through an index is a copy, and lays out gradients so that
    the projections before it copy them once more.

    Raises NotImplementedError for a shared row where not all that comes before a token is seen alike.
    """
    heads, tokens, size = query_1HTD.shape[1:]
    special = softcap is not None or s_aux is not None or value_1KTE.shape[-1] != size
    if context is not None:
        if special:
            raise NotImplementedError("its attention has sinks, a soft cap, or values of another size than its keys")
        parts = context_parallel.own_heads(context, query_1HTD, key_1KTD, value_1KTE)
        out_1ThD, _ = packed_attention(module, *parts, None, scaling=scaling, documents=documents)
        return context_parallel.own_tokens(context, out_1ThD), None
    if special or (attention_mask is not None and not attention_mask.is_causal(documents)):
        query_THD, key_TKD, value_TKE = (x.squeeze(0).transpose(0, 1) for x in (query_1HTD, key_1KTD, value_1KTE))
        out_THE = masked_attention(
            query_THD, key_TKD, value_TKE, documents, scaling, seen=attention_mask, softcap=softcap, sinks_H=s_aux
        )
        return out_THE[None], None
    if VARLEN is not None and _takes_varlen(query_1HTD.device, query_1HTD.dtype):
        contiguous = (x.squeeze(0).transpose(0, 1).contiguous() for x in (query_1HTD, key_1KTD, value_1KTE))
        return VARLEN(*contiguous, documents, scaling)[None], None
    query, key, value = (x.squeeze(0).transpose(0, 1).reshape(-1, size) for x in (query_1HTD, key_1KTD, value_1KTE))
    in_blocks = query.device.type == "cpu" or (query.device.type == "cuda" and query.dtype == torch.float32)
    if in_blocks:
        kernel = _ShortAttention if documents.longest <= SHORT_LENGTH_MAX else _BlockAttention
        out_TH_D: Tensor = kernel.apply(query, key, value, documents, scaling)  # type: ignore[no-untyped-call]
    else:
        out_TH_D = _fused_attention(query, key, value, documents, scaling)
    return out_TH_D.view(1, tokens, heads, size), None


def packed_mask(*, mask_function: MaskFunction, **_: object) -> Visibility:
    """What transformers calls for the mask: the function that it would make it of."""
    return Visibility(mask_function)


ALL_ATTENTION_FUNCTIONS.register(NAME, packed_attention)
ALL_MASK_ATTENTION_FUNCTIONS.register(NAME, packed_mask)
