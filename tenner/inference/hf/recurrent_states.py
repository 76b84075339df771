"""The recurrent states of all rows, one slot for each, lent to transformers' layers as its own cache."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from torch import Tensor
from transformers import Cache, DynamicCache, PreTrainedConfig
from transformers.cache_utils import (
    CacheLayerMixin,
    DummyLayer,
    DynamicLayer,
    DynamicSlidingWindowLayer,
    LinearAttentionAndFullAttentionLayer,
    LinearAttentionAndSlidingWindowAttentionLayer,
    LinearAttentionLayer,
)

Layer = CacheLayerMixin | LinearAttentionLayer | DummyLayer


class KeysElsewhere(CacheLayerMixin):  # type: ignore[no-untyped-call]
    """Of a layer whose keys and values are in the engine's KV cache: it hands on those of the step."""

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Nothing to set up."""

    def update(
        self, key_states: Tensor, value_states: Tensor, *_args: object, **_more: object
    ) -> tuple[Tensor, Tensor]:
        """The new keys and values alone, which the attention then caches."""
        return key_states, value_states

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Of no effect: the attention has the rule of the mask, not the mask."""
        return query_length, 0

    def get_seq_length(self) -> int:
        """Unknown here: the rows have lengths of their own, which their positions say."""
        return 0

    def get_max_length(self) -> int:
        """-1: without a limit."""
        return -1


class StatesAndKeysElsewhere(LinearAttentionLayer, KeysElsewhere):  # type: ignore[no-untyped-call, override]
    """Of a layer with both a recurrent state and attention."""

    def __init__(self, number_of_states: int) -> None:
        KeysElsewhere.__init__(self)  # type: ignore[no-untyped-call]
        LinearAttentionLayer.__init__(self, number_of_states=number_of_states)


class _Key(NamedTuple):
    """One state of one layer."""

    layer: int
    kind: str
    """`conv` or `recurrent`, as transformers' attributes begin."""
    number: int


Saved = dict[_Key, Tensor]
"""The states of one row."""


class RecurrentStates:
    """Slots of the convolutions' inputs and the recurrent states of all layers, allocated when a row first has them."""

    def __init__(self, config: PreTrainedConfig, *, rows_max: int) -> None:
        self._layers = DynamicCache(config=config).layers
        self._rows_max = rows_max
        self._slots: dict[_Key, Tensor] = {}
        """Each (R, ...)."""

    def empty(self) -> Cache:
        """The cache of a row without any ids."""
        return Cache(layers=[_empty(layer) for layer in self._layers])

    def load(self, slots: slice | Tensor) -> Cache:
        """The cache of rows that have states. Those of a slice are lent, others copied."""
        cache = self.empty()
        for key, slots_R in self._slots.items():
            layer: Any = cache.layers[key.layer]
            state = slots_R[slots]
            getattr(layer, f"{key.kind}_states")[key.number] = state
            getattr(layer, f"is_{key.kind}_states_initialized")[key.number] = True
            layer.has_previous_state[key.number] = True
            layer.dtype, layer.device = state.dtype, state.device
            if key.kind == "conv":
                layer.conv_kernel_size[key.number] = state.shape[-1]
        return cache

    def store(self, cache: Cache, slots: slice | Tensor, *, rows: int) -> None:
        """Write the states of a cache to the slots, but those that were lent and are there. `rows` are in use."""
        for key, state in _states(cache):
            slots_R = self._reserved(key, rows, state)
            if isinstance(slots, Tensor) or slots_R[slots].data_ptr() != state.data_ptr():
                slots_R[slots] = state

    def copy(self, source: int, target: int) -> None:
        """Slot `target` becomes a copy of slot `source`."""
        self.restore(target, {key: slots_R[source] for key, slots_R in self._slots.items()})

    def save(self, slot: int) -> Saved:
        """A copy of one slot."""
        return {key: slots_R[slot].clone() for key, slots_R in self._slots.items()}

    def restore(self, slot: int, saved: Saved) -> None:
        """Write what `save` returned to a slot."""
        for key, state in saved.items():
            self._reserved(key, slot + 1, state[None])[slot] = state

    def _reserved(self, key: _Key, rows: int, like_B: Tensor) -> Tensor:
        """The slots of a state, at least `rows`: doubled, since rows join one by one and growth copies all."""
        have = self._slots.get(key)
        if have is not None and have.shape[0] >= rows:
            return have
        had = 0 if have is None else have.shape[0]
        grown = like_B.new_zeros((max(rows, min(2 * had, self._rows_max)), *like_B.shape[1:]))
        if have is not None:
            grown[: have.shape[0]] = have
        self._slots[key] = grown
        return grown


def _states(cache: Cache) -> Iterator[tuple[_Key, Tensor]]:
    for i, layer in enumerate(cache.layers):
        if isinstance(layer, LinearAttentionLayer):
            for kind, states in (("conv", layer.conv_states), ("recurrent", layer.recurrent_states)):
                yield from ((_Key(i, kind, n), state) for n, state in states.items() if state is not None)


def _empty(layer: object) -> Layer:
    """The layer that stands for one of transformers' cache."""
    return KNOWN_LAYERS[type(layer)](getattr(layer, "number_of_states", 0))


KNOWN_LAYERS: dict[type, Callable[[int], Layer]] = {
    DynamicLayer: lambda _: KeysElsewhere(),  # type: ignore[no-untyped-call]
    DynamicSlidingWindowLayer: lambda _: KeysElsewhere(),  # type: ignore[no-untyped-call]
    DummyLayer: lambda _: DummyLayer(),  # type: ignore[no-untyped-call]
    LinearAttentionLayer: LinearAttentionLayer,
    LinearAttentionAndFullAttentionLayer: StatesAndKeysElsewhere,
    LinearAttentionAndSlidingWindowAttentionLayer: StatesAndKeysElsewhere,
}
"""The layers of transformers' cache that hold keys and values, recurrent states, or nothing, and what stands for each,
made for a number of recurrent states."""
