"""The decoder that runs each row alone on transformers' own cache, for models with caches of their own kind.

A cache cannot be shortened to a prefix: another completion of a prompt starts again from a copy of the one at the
prompt's end.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import Cache, DynamicCache, PreTrainedModel

from tenner.inference.hf.cached_forward import CachedForward, parts_to_feed
from tenner.inference.hf.decoder import RowFeed


@dataclass
class _State:
    """The cache of one row after `length` ids, and a copy at `restart_length` that is only ever copied."""

    cache: Cache
    length: int = 0
    restart: Cache | None = None
    restart_length: int = 0


class LibraryDecoder:
    """Feeds each row in forward passes of its own.

    `one_by_one`: feed an id at a time to a row that has a state, for models whose layers take several ids only at the
    start of a text.
    """

    def __init__(self, model: PreTrainedModel, *, one_by_one: bool = False) -> None:
        self._config = model.config
        self._forward = CachedForward(model)
        self._one_by_one = one_by_one
        self._states: dict[int, _State] = {}

    def feed(self, rows: Sequence[RowFeed], *, all_positions: bool = False) -> Tensor:
        """See `Decoder.feed`."""
        return torch.cat([self._feed_row(i, row, all_positions) for i, row in enumerate(rows)])

    def move(self, source: int, target: int, length: int) -> None:
        """See `Decoder.move`."""
        state = self._states.pop(source)
        assert state.length == length
        self._states[target] = state

    def fork(self, source: int, target: int, length: int) -> int:
        """See `Decoder.fork`; the state is kept at its end and at `restart_at`."""
        state = self._states[source]
        if length == state.length:
            if source != target:
                self._states[target] = _State(copy.deepcopy(state.cache), length, state.restart, state.restart_length)
            return length
        if state.restart is None or state.restart_length > length:
            return 0
        restored = copy.deepcopy(state.restart)
        self._states[target] = _State(restored, state.restart_length, state.restart, state.restart_length)
        return state.restart_length

    def _feed_row(self, i: int, row: RowFeed, all_positions: bool) -> Tensor:
        """The logits after the last id, (1, V), or after every id."""
        if row.cached == 0:
            self._states[i] = _State(DynamicCache(config=self._config))
        state = self._states[i]
        assert state.length == row.cached
        logits: list[Tensor] = []
        for part in parts_to_feed(row, one_by_one=self._one_by_one):
            logits_1SV = self._forward([part], [state.length], state.cache, all_positions=all_positions)
            logits.append(logits_1SV[0])
            state.length += len(part)
            if state.length == row.restart_at:
                state.restart, state.restart_length = copy.deepcopy(state.cache), state.length
        return torch.cat(logits) if all_positions else logits[-1]
