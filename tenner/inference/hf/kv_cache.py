"""The KV cache, one slot for each row, and the attention that fills and reads it.

Each step feeds rows their uncached ids (a whole prompt, a forced delimiter, or the last sampled id), concatenated
into one sequence, so that no padding passes through the model. A model whose recurrent layers need an axis of rows
is fed one row, or one id of each row; the attention concatenates these itself.

What a layer needs is taken from what transformers passes to its attention: the numbers and sizes of heads from the
queries, keys and values; the window from the mask function that the model would build its mask with; the scaling, the
soft cap and the sinks from the arguments.

Shape suffixes: R rows, T tokens fed in a step, N rows fed more than one token, C tokens of the longest such feed,
L cached length, H query heads, K key heads, G query heads to each key head (H = K G), D size of queries and keys,
E size of values (often D), B rows and S tokens as the model has them (T = B S).
"""

import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, causal_mask_function
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

ATTENTION_NAME = "tenner_slots"
LENGTH_STEP_TOKENS = 64
"""The capacity of a slot is a multiple of this."""

MaskFunction = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""A mask function of transformers: (batch index, head index, query position, key position) to whether it is seen."""


def index_of(slots: Sequence[int], device: torch.device) -> slice | Tensor:
    """What selects these slots, in this order: a slice where they follow one another, which copies nothing."""
    if list(slots) == list(range(slots[0], slots[0] + len(slots))):
        return slice(slots[0], slots[0] + len(slots))
    return torch.tensor(slots, device=device)


class Visibility:
    """Which earlier positions a layer sees, where it is not all of them: a window or chunks."""

    def __init__(self, mask_function: MaskFunction) -> None:
        self._mask_function = mask_function

    def hidden(self, query_position: Tensor, key_position: Tensor) -> Tensor:
        """True where the key is not seen; the two positions are broadcast."""
        zero = query_position.new_zeros(())
        return ~self._mask_function(zero, zero, query_position, key_position)


class Chunks(NamedTuple):
    """The rows of a step that are fed more than one token, as a padded batch."""

    slot_N: Tensor
    length: int
    """The longest cached length of these rows, after the step."""
    source_NC: Tensor
    """The index in T of each query; padding repeats the row's last one."""
    filled_NC: Tensor
    """False for padding."""
    target_T: Tensor
    """The indices in T of the filled queries, in row-major order of NC."""
    position_NC: Tensor


class Feed:
    """The layout of one step, computed once and used by every layer."""

    def __init__(
        self, lengths: Sequence[int], cached: Sequence[int], device: torch.device, *, slots: Sequence[int] | None = None
    ) -> None:
        # Row i owns the tokens [end - length, end) of T; its first token has position cached[i].
        lengths_R, cached_R = torch.tensor(lengths), torch.tensor(cached)
        end_R = lengths_R.cumsum(0)
        row_T = torch.arange(len(lengths)).repeat_interleave(lengths_R)
        position_T = torch.arange(len(row_T)) + (cached_R - end_R + lengths_R)[row_T]
        slot_R = torch.arange(len(lengths)) if slots is None else torch.tensor(slots)
        self.rows = len(lengths)
        self.slots_needed = int(slot_R.max()) + 1
        self.slots = index_of(slot_R.tolist(), device)
        """The slots of the rows."""
        self.length = int((cached_R + lengths_R).max())
        """The longest cached length of all rows, after the step."""
        self.slot_T, self.position_T = slot_R[row_T].to(device), position_T.to(device)
        """The slot of each token, and its position in it."""
        self.last_R = (end_R - 1).to(device)
        """The index in T of each row's last token."""
        self._last_position_R = cached_R + lengths_R - 1
        self.chunks: Chunks | None = None
        # Prefill and injected text: pad the rows that are fed more than one token to the longest, C.
        if len(row_T) > len(lengths):
            rows_N = (lengths_R > 1).nonzero()[:, 0]
            feed_N = lengths_R[rows_N]
            step_C = torch.arange(int(feed_N.max()))
            source_NC = (end_R - lengths_R)[rows_N][:, None] + step_C.minimum(feed_N[:, None] - 1)
            filled_NC = step_C < feed_N[:, None]
            self.chunks = Chunks(
                slot_N=slot_R[rows_N].to(device),
                length=int((cached_R + lengths_R)[rows_N].max()),
                source_NC=source_NC.to(device),
                filled_NC=filled_NC.to(device),
                target_T=source_NC[filled_NC].to(device),
                position_NC=position_T[source_NC],
            )
        self._masks: dict[tuple[Visibility | None, int, torch.dtype], Tensor] = {}
        self._written: dict[int, tuple[weakref.ref[Tensor], int]] = {}

    def last_mask_R11L(self, seen: Visibility | None, dtype: torch.dtype) -> Tensor:
        """The additive mask of each row's last token: 0 for what it sees (None: all up to itself), -inf beyond."""
        key = seen, 0, dtype
        if key not in self._masks:
            self._masks[key] = self._mask(self._last_position_R[:, None, None], self.length, seen, dtype)
        return self._masks[key]

    def chunk_mask_N1GC_L(self, seen: Visibility | None, groups: int, dtype: torch.dtype) -> Tensor:
        """The additive mask of the chunks. Its third axis is G * C, one copy of C for each query head of a group."""
        assert self.chunks is not None
        key = seen, groups, dtype
        if key not in self._masks:
            mask_NCL = self._mask(self.chunks.position_NC, self.chunks.length, seen, dtype)
            self._masks[key] = mask_NCL.repeat(1, groups, 1)[:, None]
        return self._masks[key]

    def owner(self, layer: int, key: Tensor) -> int:
        """The layer whose slots hold `key`: an earlier one of this step where models share keys between layers."""
        if (found := self._written.get(id(key))) is not None and found[0]() is key:
            return found[1]
        self._written[id(key)] = weakref.ref(key), layer
        return layer

    def _mask(self, position: Tensor, length: int, seen: Visibility | None, dtype: torch.dtype) -> Tensor:
        """(*position.shape, length), on the device of the step."""
        key_position_L, device = torch.arange(length), self.slot_T.device
        if seen is None:
            hidden = (key_position_L > position[..., None]).to(device)
        else:
            hidden = seen.hidden(position[..., None].to(device), key_position_L.to(device))
        return torch.zeros(hidden.shape, dtype=dtype, device=device).masked_fill_(hidden, -torch.inf)


class KVCache:
    """Keys and values of all layers, one slot for each row. A layer's slots are allocated at its first attention."""

    def __init__(self, *, rows_max: int) -> None:
        self._rows_max = rows_max
        self._rows, self._length = 0, 0
        self._layers: dict[int, tuple[Tensor, Tensor]] = {}
        """Keys (R, K, L, D) and values (R, K, L, E) of each layer."""

    @contextmanager
    def step(
        self, lengths: Sequence[int], cached: Sequence[int], device: torch.device, *, slots: Sequence[int] | None = None
    ) -> Iterator[Feed]:
        """Lay out a step that feeds row i `lengths[i]` tokens after its `cached[i]` cached ones.

        Row i has slot `slots[i]`, or slot i. A forward pass inside the block reads and fills this cache.
        """
        feed = Feed(lengths, cached, device, slots=slots)
        self._reserve(feed.slots_needed, feed.length)
        token = _STEP.set((self, feed))
        try:
            yield feed
        finally:
            _STEP.reset(token)

    def copy(self, source: int, target: int, length: int) -> None:
        """Copy the first `length` tokens of slot `source` to slot `target`."""
        self._reserve(target + 1, length)
        for layer, (key_RKLD, value_RKLE) in self._layers.items():
            for entry in self._grown(layer, key_RKLD, value_RKLE):
                entry[target, :, :length] = entry[source, :, :length]

    def attend(
        self,
        layer: int,
        query_HTD: Tensor,
        key_KTD: Tensor,
        value_KTE: Tensor,
        feed: Feed,
        *,
        scaling: float,
        seen: Visibility | None = None,
        softcap: float | None = None,
        sink_H: Tensor | None = None,
    ) -> Tensor:
        """Cache the new keys and values, and attend within each token's row to what is `seen`. Returns (T, H, E).

        Query heads that share a key head, and the tokens of a chunk, are rows of one matrix product, so keys and values
        are never repeated. The last token of every row reads its slot in place; only chunks gather theirs.
        """
        key_RKLD, value_RKLE = self._grown(layer, key_KTD, value_KTE)
        # 1. Write the new entries to their slots: (K, T, D) -> [row, :, position] of (R, K, L, D).
        key_RKLD[feed.slot_T, :, feed.position_T] = key_KTD.transpose(0, 1)
        value_RKLE[feed.slot_T, :, feed.position_T] = value_KTE.transpose(0, 1)
        (heads, _, size), key_heads, value_size = query_HTD.shape, key_KTD.shape[0], value_KTE.shape[2]
        rows, groups = feed.rows, heads // key_heads
        query_THD = query_HTD.transpose(0, 1)
        # 2. Decode: the last token of every row, one query each.
        chunks = feed.chunks
        query_RHD = query_THD if chunks is None else query_THD[feed.last_R]
        seen_RHE = _attend(
            query_RHD.reshape(rows, key_heads, groups, size),
            key_RKLD[feed.slots, :, : feed.length],
            value_RKLE[feed.slots, :, : feed.length],
            feed.last_mask_R11L(seen, query_HTD.dtype),
            scaling=scaling,
            softcap=softcap,
            sink_KG1=None if sink_H is None else sink_H.view(key_heads, groups, 1),
            keys_on_the_left=query_HTD.device.type == "cpu" and query_HTD.dtype is torch.float32,
        ).reshape(rows, heads, value_size)
        if chunks is None:
            return seen_RHE
        # 3. Prefill: all tokens of the rows in N, the C axis folded into the groups: (N, K, G * C, D).
        n, longest = chunks.filled_NC.shape
        query_NCKGD = query_THD[chunks.source_NC].view(n, longest, key_heads, groups, size)
        seen_NKGCE = _attend(
            query_NCKGD.permute(0, 2, 3, 1, 4).reshape(n, key_heads, -1, size),
            key_RKLD[chunks.slot_N, :, : chunks.length],
            value_RKLE[chunks.slot_N, :, : chunks.length],
            feed.chunk_mask_N1GC_L(seen, groups, query_HTD.dtype),
            scaling=scaling,
            softcap=softcap,
            sink_KG1=None if sink_H is None else sink_H.repeat_interleave(longest).view(key_heads, -1, 1),
        )
        seen_NCHE = (
            seen_NKGCE.reshape(n, key_heads, groups, longest, value_size)
            .permute(0, 3, 1, 2, 4)
            .reshape(n, longest, heads, value_size)
        )
        # 4. Scatter both back to T. A last token is in both; the chunk's value, written second, stays.
        seen_THE = query_HTD.new_empty((query_HTD.shape[1], heads, value_size))
        seen_THE[feed.last_R] = seen_RHE
        seen_THE[chunks.target_T] = seen_NCHE[chunks.filled_NC]
        return seen_THE

    def _reserve(self, rows: int, length: int) -> None:
        """Raise the capacity to at least `rows` slots of `length` tokens. Each layer grows when it is next used."""
        if rows > self._rows:  # double the slots: rows join one by one, and each growth copies the cache
            self._rows = max(rows, min(2 * self._rows, self._rows_max))
        self._length = max(self._length, -(-length // LENGTH_STEP_TOKENS) * LENGTH_STEP_TOKENS)

    def _grown(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """The slots of a layer, allocated like `key` and `value`, and grown to the capacity with their entries kept."""
        have = self._layers.get(layer)
        if have is not None and have[0].shape[0] >= self._rows and have[0].shape[2] >= self._length:
            return have
        slots = []
        for i, new in enumerate((key, value)):
            grown = new.new_zeros((self._rows, new.shape[-3], self._length, new.shape[-1]))
            if have is not None:
                rows, _, length, _ = have[i].shape
                grown[:rows, :, :length] = have[i]
            slots.append(grown)
        self._layers[layer] = slots[0], slots[1]
        return self._layers[layer]


_STEP: ContextVar[tuple[KVCache, Feed]] = ContextVar("step")
"""What the attention functions work on. Not every model passes arguments of `forward` on to them."""


def _attend(
    query_RKGD: Tensor,
    key_RKLD: Tensor,
    value_RKLE: Tensor,
    mask_R1GL: Tensor,
    *,
    scaling: float,
    softcap: float | None,
    sink_KG1: Tensor | None,
    keys_on_the_left: bool = False,
) -> Tensor:
    """Attend with G queries for each row and key head: (R, K, G, E). The mask's third axis may be 1.

    `softcap` c turns a score s into c tanh(s / c) (Gemma 2, arXiv 2408.00118); a sink is the score of one more key
    whose value is zero (gpt-oss, arXiv 2508.10925). `keys_on_the_left` is an order of the products that takes two
    thirds of the time of the fused kernel on a CPU, for few queries. In a narrower dtype it would round the scores,
    which the fused kernel keeps in float32: SmolLM2's logits come out 2 to 9 % of their spread off, Gemma 3's useless.
    """
    plain = softcap is None and sink_KG1 is None
    if plain and not keys_on_the_left:
        mask_RKGL = mask_R1GL.expand(*query_RKGD.shape[:3], -1)
        return F.scaled_dot_product_attention(query_RKGD, key_RKLD, value_RKLE, attn_mask=mask_RKGL, scale=scaling)
    if plain:
        scores_RKLG = torch.matmul(key_RKLD, (query_RKGD * scaling).mT)
        weight_RKGL = F.softmax(scores_RKLG.mT + mask_R1GL, dim=-1)
        return torch.matmul(weight_RKGL, value_RKLE)
    scores_RKGL = torch.matmul(query_RKGD, key_RKLD.mT) * scaling
    if softcap is not None:
        scores_RKGL = softcap * torch.tanh(scores_RKGL / softcap)
    scores_RKGL = scores_RKGL + mask_R1GL
    if sink_KG1 is not None:
        scores_RKGL = torch.cat([scores_RKGL, sink_KG1.to(scores_RKGL).expand(*scores_RKGL.shape[:3], 1)], dim=-1)
    weight_RKGL = F.softmax(scores_RKGL, dim=-1, dtype=torch.float32).to(query_RKGD.dtype)
    return torch.matmul(weight_RKGL[..., : key_RKLD.shape[2]], value_RKLE)


def slot_mask(*, mask_function: MaskFunction, use_vmap: bool = False, **_: Any) -> Visibility | None:
    """The mask that transformers builds for `ATTENTION_NAME`: not a tensor but its rule, None where it is causal.

    Raises NotImplementedError where a model adds a rule of its own, which may depend on more than positions.
    """
    if use_vmap:
        raise NotImplementedError("a mask function of the model's own")
    causal = cast(MaskFunction, causal_mask_function)
    return None if mask_function is causal else Visibility(mask_function)


def slot_attention(
    module: nn.Module,
    query_BHSD: Tensor,
    key_BKSD: Tensor,
    value_BKSE: Tensor,
    attention_mask: Visibility | None,
    *,
    scaling: float | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """The attention function that transformers calls in each layer, inside `KVCache.step`.

    Arguments that say how other kernels compute the same (dropout, the window beside the mask) are not needed. One that
    changes the result is noticed by the check at load.
    """
    if not (attention_mask is None or isinstance(attention_mask, Visibility)):
        raise NotImplementedError("a mask of the model's own")
    cache, feed = _STEP.get()
    layer = feed.owner(cast(int, module.layer_idx), key_BKSD)
    query_HTD, key_KTD, value_KTE = (x.transpose(0, 1).flatten(1, 2) for x in (query_BHSD, key_BKSD, value_BKSE))
    seen_THE = cache.attend(
        layer, query_HTD, key_KTD, value_KTE, feed,
        scaling=query_HTD.shape[-1] ** -0.5 if scaling is None else scaling,
        seen=attention_mask, softcap=softcap, sink_H=s_aux,
    )  # fmt: skip
    batch, tokens = query_BHSD.shape[0], query_BHSD.shape[2]
    return seen_THE.view(batch, tokens, *seen_THE.shape[1:]), None


ALL_ATTENTION_FUNCTIONS.register(ATTENTION_NAME, slot_attention)
ALL_MASK_ATTENTION_FUNCTIONS.register(ATTENTION_NAME, slot_mask)
