"""Rows that neighbouring processes share: each has a slice of the tokens, and in attention a part of the heads.

S. A. Jacobs et al., DeepSpeed Ulysses (arXiv 2309.14509). All but attention looks at one token at a time, and so at the
slice alone. Before attention the processes exchange queries, keys and values of all heads at their own tokens for those
of their own heads at all tokens, after it what came out, back. So documents are kept apart by the same kernels as in a
row that is not shared, and it does not matter where a slice ends.

Letters in names: N processes, T tokens of the row (a multiple of N), S tokens of a slice (T = N S), H query heads, K
key heads, h and k those of one process, D size of a head.
"""

import math
from bisect import bisect_left
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from tenner.core.errors import TennerError
from tenner.core.sections import Train
from tenner.training.architecture import Architecture
from tenner.training.distributed import ContextGroup
from tenner.training.packing import Row

ATTENTION_LAYERS = {"full_attention", "sliding_attention"}
"""transformers' names of layers that see all before a token, or all within a window."""
GPUS_PER_NODE = 8
"""More than these do not share rows by a proposal of tenner's: what they exchange would go over the network."""


def slice_of(row: Row, index: int, count: int) -> Row:
    """What process `index` of `count` has of a row: as many tokens as each other one.

    A row that they do not divide ends in padding, which is one more document and nothing is predicted from. `lengths`
    stay those of all of the row, padding included. The prediction for a slice's first token is made at the end of the
    slice before it.
    """
    padding = -len(row.ids) % count
    ids, positions = row.ids + row.ids[:1] * padding, row.positions + tuple(range(padding))
    size = len(ids) // count
    start, end = index * size, (index + 1) * size
    first, last = (bisect_left(row.predictors, place) for place in (start, end))
    return row._replace(
        lengths=row.lengths + (padding,) * (padding > 0),
        ids=ids[start:end],
        positions=positions[start:end],
        predictors=tuple(place - start for place in row.predictors[first:last]),
        targets=row.targets[first:last],
    )


class _Exchange(torch.autograd.Function):
    """Each process' chunk of the first axis goes to it; backward the gradients take the same way back."""

    @staticmethod
    def forward(ctx: Any, chunks: Tensor, context: ContextGroup) -> Tensor:
        ctx.context = context
        return context.exchange(chunks)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return ctx.context.exchange(grads[0]), None


def own_heads(
    context: ContextGroup, query_1HSD: Tensor, key_1KSD: Tensor, value_1KSD: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """From all heads of this process' slice to its own heads of the whole row: (1, h, T, D) and twice (1, k, T, D).

    Key heads are repeated until there are as many for each process; each still has the queries that it had.
    """
    heads, key_heads, n = query_1HSD.shape[1], key_1KSD.shape[1], context.size
    repeats = math.lcm(key_heads, n) // key_heads
    keys_and_values = [x[0] if repeats == 1 else x[0].repeat_interleave(repeats, dim=0) for x in (key_1KSD, value_1KSD)]
    # One message: of each process, of each token, its query heads, its key heads, and their values.
    parts_NSD = [x.view(n, -1, *x.shape[1:]).transpose(1, 2) for x in (query_1HSD[0], *keys_and_values)]
    received_TD: Tensor = _Exchange.apply(torch.cat(parts_NSD, dim=2), context).flatten(0, 1)  # type: ignore[no-untyped-call]
    own = key_heads * repeats // n
    query, key, value = (x.transpose(0, 1)[None] for x in torch.split(received_TD, [heads // n, own, own], dim=1))
    return query, key, value


def own_tokens(context: ContextGroup, out_1ThD: Tensor) -> Tensor:
    """From this process' heads of the whole row to all heads of its slice: (1, S, H, D)."""
    sent_NShD = out_1ThD[0].view(context.size, -1, *out_1ThD.shape[2:])
    received_NShD: Tensor = _Exchange.apply(sent_NShD, context)  # type: ignore[no-untyped-call]
    return received_NShD.transpose(0, 1).flatten(1, 2)[None]


# -- what can be shared ----------------------------------------------------------------------------------------------


def refusal(count: int, why: str) -> TennerError:
    """Of rows that `count` processes would share."""
    return TennerError(
        f"train.context_parallel = {count} cannot be: {why}", hint="leave it out, or choose another student"
    )


def check(architecture: Architecture, count: int, *, longest_tokens: int) -> None:
    """Raise TennerError where the layers do not let `count` processes share a row with samples of such a length."""
    if count > 1 and (why := _what_forbids(architecture, count, longest_tokens)) is not None:
        raise refusal(count, why)


def possible(architecture: Architecture, count: int, *, longest_tokens: int) -> bool:
    """Whether `check` would let it be."""
    return count == 1 or _what_forbids(architecture, count, longest_tokens) is None


def check_model(model: PreTrainedModel, train: Train) -> None:
    """The same of a model at hand, and by its own types of layers; raises TennerError as `check` does."""
    count = train.context_parallel
    others = set(getattr(model.config.get_text_config(), "layer_types", None) or ()) - ATTENTION_LAYERS
    if others:
        raise refusal(count, f"it has layers of {min(others)}")
    check(Architecture.of(model.config.to_dict()), count, longest_tokens=train.tokens_max)


def _what_forbids(architecture: Architecture, count: int, longest_tokens: int) -> str | None:
    if not architecture.traced:
        return "the student's attention is computed by a function of its own"
    for layer in architecture.layers:
        attention = layer.attention
        if attention is None:
            return "the student has layers without attention, which carry a state along the row"
        if attention.window is not None and attention.window < longest_tokens:
            return f"the student's layers see {attention.window:,} tokens, and samples may have {longest_tokens:,}"
        if attention.key_size != attention.value_size:
            return "the student's attention has values of another size than its keys"
        if attention.heads % count:
            return f"the student's attention has {attention.heads} heads, which so many do not divide"
    return None
