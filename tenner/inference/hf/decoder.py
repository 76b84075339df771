"""The interface between the continuous batch and what computes its logits and keeps the state of its rows."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from torch import Tensor


class RowFeed(NamedTuple):
    """What one row is fed in a step."""

    ids: list[int]
    """At least one."""
    cached: int
    """How many ids of the row precede them, and are cached."""
    restart_at: int = 0
    """The length at which another completion may start again: a decoder that cannot shorten a state to any length keeps
    the state of this one. 0: none will."""


class Decoder(Protocol):
    """Rows 0, 1, ... of a batch, each with the state (keys and values, or a recurrent state) of its cached ids.

    A row that is fed with `cached` 0 starts anew, whatever it held before.
    """

    def feed(self, rows: Sequence[RowFeed], *, all_positions: bool = False) -> Tensor:
        """Feed rows 0 to R - 1, and cache what they are fed.

        Returns the logits after each row's last id, (R, V); with `all_positions` those after every id fed, (T, V), row
        after row.
        """
        ...

    def move(self, source: int, target: int, length: int) -> None:
        """Row `target` becomes row `source`, which has `length` cached ids and is not used any more."""
        ...

    def fork(self, source: int, target: int, length: int) -> int:
        """Row `target` becomes a copy of the first `length` cached ids of row `source`, or of fewer where their state
        is not kept. Returns how many. The two may be the same row, which is then shortened.
        """
        ...
