"""The decoder for models with recurrent layers: one forward pass for all rows that are fed one id, one for each other.

Nothing is padded, because a recurrent layer would take padding for text. Keys and values are in the engine's KV cache,
so rows of different lengths share a pass.

A recurrent state cannot be shortened to a prefix: another completion of a prompt starts again from a copy of the state
at the prompt's end.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from transformers import PreTrainedModel

from tenner.inference.hf.cached_forward import CachedForward, parts_to_feed
from tenner.inference.hf.decoder import RowFeed
from tenner.inference.hf.kv_cache import KVCache, index_of
from tenner.inference.hf.recurrent_states import RecurrentStates, Saved


@dataclass
class _Row:
    """A row after `length` ids, and its states after `restart_length`, which are only ever copied."""

    length: int = 0
    restart: Saved | None = None
    restart_length: int = 0


class RecurrentDecoder:
    """Feeds rows that have a state and one new id together, and others alone.

    The model's attention implementation must be `kv_cache.ATTENTION_NAME`, if it has attention. `one_by_one`: feed an
    id at a time to a row that has a state, for models whose recurrent layers take several ids only at the start of a
    text.
    """

    def __init__(self, model: PreTrainedModel, *, rows_max: int, one_by_one: bool = False) -> None:
        self._device = model.device
        self._forward = CachedForward(model)
        self._keys = KVCache(rows_max=rows_max)
        self._states = RecurrentStates(model.config, rows_max=rows_max)
        self._one_by_one = one_by_one
        self._rows: dict[int, _Row] = {}

    def feed(self, rows: Sequence[RowFeed], *, all_positions: bool = False) -> Tensor:
        """See `Decoder.feed`."""
        logits: dict[int, Tensor] = {}
        together = []
        for i, row in enumerate(rows):
            if row.cached == 0:
                self._rows[i] = _Row()
            assert self._rows[i].length == row.cached
            if row.cached and row.cached >= row.restart_at and len(row.ids) == 1:
                together.append(i)
            else:
                logits[i] = self._feed_alone(i, row, all_positions)
        if together:
            logits_B1V = self._pass(together, [rows[i].ids for i in together], all_positions)
            logits |= dict(zip(together, logits_B1V, strict=True))
        return torch.cat([logits[i] for i in range(len(rows))])

    def move(self, source: int, target: int, length: int) -> None:
        """See `Decoder.move`."""
        assert self._rows[source].length == length
        self._copy(source, target, length)
        self._rows[target] = self._rows.pop(source)

    def fork(self, source: int, target: int, length: int) -> int:
        """See `Decoder.fork`; the states are kept at their end and at `restart_at`."""
        row = self._rows[source]
        if length == row.length:
            if source != target:
                self._copy(source, target, length)
                self._rows[target] = replace(row)
            return length
        if row.restart is None or row.restart_length > length:
            return 0
        if source != target:
            self._keys.copy(source, target, row.restart_length)
        self._states.restore(target, row.restart)
        self._rows[target] = replace(row, length=row.restart_length)
        return row.restart_length

    def _copy(self, source: int, target: int, length: int) -> None:
        self._keys.copy(source, target, length)
        self._states.copy(source, target)

    def _feed_alone(self, i: int, row: RowFeed, all_positions: bool) -> Tensor:
        """The logits after the last id of a row, (1, V), or after each."""
        logits: list[Tensor] = []
        for part in parts_to_feed(row, one_by_one=self._one_by_one):
            logits.append(self._pass([i], [part], all_positions)[0])
            if self._rows[i].length == row.restart_at:
                self._rows[i].restart, self._rows[i].restart_length = self._states.save(i), row.restart_at
        return torch.cat(logits) if all_positions else logits[-1]

    def _pass(self, slots: Sequence[int], ids: Sequence[list[int]], all_positions: bool) -> Tensor:
        """Feed the same number of ids to some rows: all with a state, or one without. (B, 1, V) or (B, S, V)."""
        cached = [self._rows[i].length for i in slots]
        index = index_of(slots, self._device)
        states = self._states.load(index) if all(cached) else self._states.empty()
        with self._keys.step([len(part) for part in ids], cached, self._device, slots=slots):
            logits_BSV = self._forward(ids, cached, states, all_positions=all_positions)
        self._states.store(states, index, rows=max(slots) + 1)
        for i, part in zip(slots, ids, strict=True):
            self._rows[i].length += len(part)
        return logits_BSV
