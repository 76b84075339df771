"""The decoder with its own KV cache, for models whose layers share nothing between tokens but keys and values."""

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from tenner.inference.hf.decoder import RowFeed
from tenner.inference.hf.kv_cache import KVCache


class SlotDecoder:
    """Feeds all rows in one forward pass. The model's attention implementation must be `kv_cache.ATTENTION_NAME`."""

    def __init__(self, model: PreTrainedModel, *, rows_max: int) -> None:
        self._model = model
        self._cache = KVCache(rows_max=rows_max)

    def feed(self, rows: Sequence[RowFeed], *, all_positions: bool = False) -> Tensor:
        """See `Decoder.feed`."""
        device = self._model.device
        # The uncached ids of all rows, concatenated: (T,).
        ids_T = torch.tensor([token for row in rows for token in row.ids], device=device)
        with self._cache.step([len(row.ids) for row in rows], [row.cached for row in rows], device) as feed:
            logits_1TV: Tensor = self._model(
                input_ids=ids_T[None],
                # Nothing is padding. Without this mask, transformers would look for documents in the positions.
                attention_mask=torch.ones_like(ids_T, dtype=torch.bool)[None],
                position_ids=feed.position_T[None],
                use_cache=False,
                # Indices, not a number: from a number, Gemma 4 leaves out tokens in some layers.
                logits_to_keep=torch.arange(len(ids_T), device=device) if all_positions else feed.last_R,
            ).logits
        return logits_1TV[0]

    def move(self, source: int, target: int, length: int) -> None:
        """See `Decoder.move`."""
        self._cache.copy(source, target, length)

    def fork(self, source: int, target: int, length: int) -> int:
        """See `Decoder.fork`; any prefix can be copied."""
        if source != target:
            self._cache.copy(source, target, length)
        return length
