"""The decoder that runs each row alone on transformers' own cache, for models with recurrent states or other caches.

A recurrent state cannot be shortened to a prefix: another completion of a prompt starts again from a copy of the state
at the prompt's end. Nothing is padded, because a recurrent layer would take padding for text.
"""

import copy
import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import Cache, DynamicCache, PreTrainedModel

from tenner.inference.hf.decoder import RowFeed


@dataclass
class _State:
    """The cache of one row after `length` ids, and a copy at `restart_length` that is only ever copied."""

    cache: Cache
    length: int = 0
    restart: Cache | None = None
    restart_length: int = 0


class LibraryDecoder:
    """Feeds each row in a forward pass of its own.

    `one_by_one`: feed an id at a time to a row that has a state, for models whose recurrent layers take several ids
    only at the start of a text.
    """

    def __init__(self, model: PreTrainedModel, *, one_by_one: bool = False) -> None:
        self._model = model
        self._one_by_one = one_by_one
        self._accepted = set(inspect.signature(model.forward).parameters)
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
            self._states[i] = _State(DynamicCache(config=self._model.config))
        state = self._states[i]
        assert state.length == row.cached
        before_restart = max(0, row.restart_at - row.cached)
        parts = [part for part in (row.ids[:before_restart], row.ids[before_restart:]) if part]
        logits: list[Tensor] = []
        for part in parts:
            logits.append(self._feed_part(state, part, all_positions))
            if state.length == row.restart_at:
                state.restart, state.restart_length = copy.deepcopy(state.cache), state.length
        return torch.cat(logits) if all_positions else logits[-1]

    def _feed_part(self, state: _State, ids: list[int], all_positions: bool) -> Tensor:
        """Feed ids to a row's state. The logits after the last, (1, V), or after each."""
        if state.length and self._one_by_one and len(ids) > 1:
            logits = [self._feed_part(state, [token], all_positions) for token in ids]
            return torch.cat(logits) if all_positions else logits[-1]
        device = self._model.device
        arguments: dict[str, Any] = {
            "input_ids": torch.tensor([ids], device=device),
            "position_ids": torch.arange(state.length, state.length + len(ids), device=device)[None],
            "use_cache": True,
            "logits_to_keep": 0 if all_positions else 1,
            self._cache_argument: state.cache,
        }
        state.length += len(ids)
        logits_1CV: Tensor = self._model(**{k: v for k, v in arguments.items() if k in self._accepted}).logits
        return logits_1CV[0] if all_positions else logits_1CV[0, -1:]

    @property
    def _cache_argument(self) -> str:
        """Models of Mamba layers alone have another name for it."""
        return "cache_params" if "cache_params" in self._accepted else "past_key_values"
