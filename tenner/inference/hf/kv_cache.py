"""The KV cache, one slot for each row, and the attention that fills and reads it.

Each step feeds every row its uncached ids (a whole prompt, a forced delimiter, or the last sampled id), concatenated
into one sequence, so that no padding passes through the model.

Shape suffixes: R rows, T tokens fed in a step, N rows fed more than one token, C tokens of the longest such feed,
L cached length, H query heads, K key heads, G query heads to each key head (H = K G), D head size.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

ATTENTION_NAME = "tenner_slots"
LENGTH_STEP_TOKENS = 64
"""The capacity of a slot is a multiple of this."""


class Chunks(NamedTuple):
    """The rows of a step that are fed more than one token, as a padded batch."""

    rows_N: Tensor
    length: int
    """The longest cached length of these rows, after the step."""
    source_NC: Tensor
    """The index in T of each query; padding repeats the row's last one."""
    filled_NC: Tensor
    """False for padding."""
    target_T: Tensor
    """The indices in T of the filled queries, in row-major order of NC."""
    mask_N1GC_L: Tensor
    """Additive mask; its third axis is G * C, one copy of C for each query head of a group."""


class Feed(NamedTuple):
    """The layout of one step, computed once and used by every layer."""

    row_T: Tensor
    position_T: Tensor
    """The row of each token, and its position in that row."""
    last_R: Tensor
    """The index in T of each row's last token."""
    length: int
    """The longest cached length of all rows, after the step."""
    mask_R11L: Tensor
    """Additive mask of each row's last token: 0 up to its own position, -inf beyond."""
    chunks: Chunks | None


class KVCache:
    """Keys and values of all layers, one slot for each row."""

    def __init__(self, model: PreTrainedModel, *, rows_max: int) -> None:
        config = model.config
        self.key_heads: int = config.num_key_value_heads
        self.groups: int = config.num_attention_heads // config.num_key_value_heads
        head_dim: int = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        self._rows_max = rows_max
        nothing = torch.zeros((2, 0, self.key_heads, 0, head_dim), dtype=model.dtype, device=model.device)
        # One tensor for each layer (axis 0: keys, values): growing copies one layer at a time.
        self._layers_2RKLD = [nothing] * config.num_hidden_layers

    def reserve(self, rows: int, length: int) -> None:
        """Grow to at least `rows` slots of `length` tokens; cached entries are kept."""
        two, have_rows, heads, have_length, head_dim = self._layers_2RKLD[0].shape
        if rows <= have_rows and length <= have_length:
            return
        if rows > have_rows:  # double the slots: rows join one by one, and each growth copies the cache
            rows = max(rows, min(2 * have_rows, self._rows_max))
        length = max(have_length, -(-length // LENGTH_STEP_TOKENS) * LENGTH_STEP_TOKENS)
        for i, old in enumerate(self._layers_2RKLD):
            grown = old.new_zeros((two, max(rows, have_rows), heads, length, head_dim))
            grown[:, :have_rows, :, :have_length] = old
            self._layers_2RKLD[i] = grown

    def copy(self, source: int, target: int, length: int) -> None:
        """Copy the first `length` tokens of slot `source` to slot `target`."""
        self.reserve(target + 1, length)
        for layer_2RKLD in self._layers_2RKLD:
            layer_2RKLD[:, target, :, :length] = layer_2RKLD[:, source, :, :length]

    def feed(self, lengths: Sequence[int], cached: Sequence[int]) -> Feed:
        """Lay out a step that feeds row i `lengths[i]` tokens after its `cached[i]` cached ones."""
        longest = max(c + n for c, n in zip(cached, lengths, strict=True))
        self.reserve(len(lengths), longest)
        device, dtype = self._layers_2RKLD[0].device, self._layers_2RKLD[0].dtype
        # Row i owns the tokens [end - length, end) of T; its first token has position cached[i].
        lengths_R, cached_R = torch.tensor(lengths), torch.tensor(cached)
        end_R = lengths_R.cumsum(0)
        row_T = torch.arange(len(lengths)).repeat_interleave(lengths_R)
        position_T = torch.arange(len(row_T)) + (cached_R - end_R + lengths_R)[row_T]

        def mask(position: Tensor, length: int) -> Tensor:
            beyond = torch.arange(length) > position[..., None]
            return torch.zeros(beyond.shape, dtype=dtype).masked_fill_(beyond, -torch.inf).to(device)

        # Prefill and injected text: pad the rows that are fed more than one token to the longest, C.
        chunks = None
        if len(row_T) > len(lengths):
            rows_N = (lengths_R > 1).nonzero()[:, 0]
            feed_N = lengths_R[rows_N]
            step_C = torch.arange(int(feed_N.max()))
            source_NC = (end_R - lengths_R)[rows_N][:, None] + step_C.minimum(feed_N[:, None] - 1)
            filled_NC = step_C < feed_N[:, None]
            length = int((cached_R + lengths_R)[rows_N].max())
            mask_NCL = mask(position_T[source_NC], length)
            chunks = Chunks(
                rows_N=rows_N.to(device),
                length=length,
                source_NC=source_NC.to(device),
                filled_NC=filled_NC.to(device),
                target_T=source_NC[filled_NC].to(device),
                mask_N1GC_L=mask_NCL.repeat(1, self.groups, 1)[:, None],
            )
        return Feed(
            row_T=row_T.to(device),
            position_T=position_T.to(device),
            last_R=(end_R - 1).to(device),
            length=longest,
            mask_R11L=mask((cached_R + lengths_R - 1)[:, None, None], longest),
            chunks=chunks,
        )

    def attend(
        self, layer: int, query_HTD: Tensor, key_KTD: Tensor, value_KTD: Tensor, feed: Feed, scaling: float
    ) -> Tensor:
        """Cache the new keys and values, and attend causally within each token's row. Returns (T, H, D).

        Query heads that share a key head, and the tokens of a chunk, are rows of one matrix product, so keys and values
        are never repeated. The last token of every row reads its slot in place; only chunks gather theirs.
        """
        key_RKLD, value_RKLD = self._layers_2RKLD[layer]
        # 1. Write the new entries to their slots: (K, T, D) -> [row, :, position] of (R, K, L, D).
        key_RKLD[feed.row_T, :, feed.position_T] = key_KTD.transpose(0, 1)
        value_RKLD[feed.row_T, :, feed.position_T] = value_KTD.transpose(0, 1)
        rows, heads, size = len(feed.last_R), query_HTD.shape[0], query_HTD.shape[2]
        query_THD = query_HTD.transpose(0, 1)
        # 2. Decode: the last token of every row, one query each.
        chunks = feed.chunks
        query_RHD = query_THD if chunks is None else query_THD[feed.last_R]
        seen_RHD = _attend_last(
            query_RHD.reshape(rows, self.key_heads, self.groups, size),
            key_RKLD[:rows, :, : feed.length],
            value_RKLD[:rows, :, : feed.length],
            feed.mask_R11L,
            scaling,
        ).reshape(rows, heads, size)
        if chunks is None:
            return seen_RHD
        # 3. Prefill: all tokens of the rows in N, the C axis folded into the groups: (N, K, G * C, D).
        n, longest = chunks.filled_NC.shape
        query_NCKGD = query_THD[chunks.source_NC].view(n, longest, self.key_heads, self.groups, size)
        seen_NKGCD = F.scaled_dot_product_attention(
            query_NCKGD.permute(0, 2, 3, 1, 4).reshape(n, self.key_heads, -1, size),
            key_RKLD[chunks.rows_N, :, : chunks.length],
            value_RKLD[chunks.rows_N, :, : chunks.length],
            attn_mask=chunks.mask_N1GC_L.expand(-1, self.key_heads, -1, -1),
            scale=scaling,
        )
        seen_NCHD = (
            seen_NKGCD.reshape(n, self.key_heads, self.groups, longest, size)
            .permute(0, 3, 1, 2, 4)
            .reshape(n, longest, heads, size)
        )
        # 4. Scatter both back to T. A last token is in both; the chunk's value, written second, stays.
        seen_THD = torch.empty_like(query_THD)
        seen_THD[feed.last_R] = seen_RHD
        seen_THD[chunks.target_T] = seen_NCHD[chunks.filled_NC]
        return seen_THD


def _attend_last(query_RKGD: Tensor, key_RKLD: Tensor, value_RKLD: Tensor, mask_R11L: Tensor, scaling: float) -> Tensor:
    """Attend with one query for each row: (R, K, G, D). On a CPU, products with the keys on the left take two thirds
    of the time of the fused kernel.
    """
    if query_RKGD.device.type != "cpu":
        mask_RKGL = mask_R11L.expand(*query_RKGD.shape[:3], -1)
        return F.scaled_dot_product_attention(query_RKGD, key_RKLD, value_RKLD, attn_mask=mask_RKGL, scale=scaling)
    scores_RKLG = torch.matmul(key_RKLD, (query_RKGD * scaling).mT)
    weight_RKGL = F.softmax(scores_RKLG.mT + mask_R11L, dim=-1)
    return torch.matmul(weight_RKGL, value_RKLD)


def slot_attention(
    module: nn.Module,
    query_1HTD: Tensor,
    key_1KTD: Tensor,
    value_1KTD: Tensor,
    attention_mask: None,
    *,
    scaling: float,
    cache: KVCache,
    feed: Feed,
    **_: Any,
) -> tuple[Tensor, None]:
    """The attention function that transformers calls in each layer; `cache` and `feed` are passed through `forward`."""
    assert attention_mask is None
    seen_THD = cache.attend(cast(int, module.layer_idx), query_1HTD[0], key_1KTD[0], value_1KTD[0], feed, scaling)
    return seen_THD[None], None


ALL_ATTENTION_FUNCTIONS.register(ATTENTION_NAME, slot_attention)
