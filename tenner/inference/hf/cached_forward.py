"""A forward pass that goes on from a cache of transformers, for models with different signatures."""

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import Cache, PreTrainedModel

from tenner.inference.hf.decoder import RowFeed


class CachedForward:
    """Calls a model with a cache. Shape suffixes: B rows, S tokens, V vocabulary."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model
        self._accepted = set(inspect.signature(model.forward).parameters)
        # Models of Mamba layers alone have another name for it.
        self._cache_argument = "cache_params" if "cache_params" in self._accepted else "past_key_values"

    def __call__(
        self, ids: Sequence[Sequence[int]], cached: Sequence[int], cache: Cache, *, all_positions: bool
    ) -> Tensor:
        """Feed each row the same number of ids, after its `cached` ones. The logits after the last id, (B, 1, V), or
        after each, (B, S, V).
        """
        device = self._model.device
        ids_BS, cached_B = torch.tensor(ids, device=device), torch.tensor(cached, device=device)
        arguments: dict[str, Any] = {
            "input_ids": ids_BS,
            "position_ids": cached_B[:, None] + torch.arange(ids_BS.shape[1], device=device),
            "use_cache": True,
            "logits_to_keep": 0 if all_positions else 1,
            self._cache_argument: cache,
        }
        logits: Tensor = self._model(**{k: v for k, v in arguments.items() if k in self._accepted}).logits
        return logits if all_positions else logits[:, -1:]


def parts_to_feed(row: RowFeed, *, one_by_one: bool) -> list[list[int]]:
    """The ids that a row is fed in one pass each, so that its state can be kept at `restart_at`.

    `one_by_one`: an id at a time once the row has a state.
    """
    if not one_by_one:
        before_restart = max(0, row.restart_at - row.cached)
        return [part for part in (row.ids[:before_restart], row.ids[before_restart:]) if part]
    first = 0 if row.cached else (min(row.restart_at, len(row.ids)) or len(row.ids))
    return ([row.ids[:first]] if first else []) + [[token] for token in row.ids[first:]]
