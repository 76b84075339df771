"""Where the documents of a packed row lie, and what is long among them, as attention's kernels need it.

Letters in names: B documents of a row, L slots for the longest (its tokens and perhaps a few more, see
`kernel_shapes.py`), T tokens of the row, H heads.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate

import torch
from torch import Tensor
from torch.nn import functional

from tenner.training.kernel_shapes import DOCUMENT_MULTIPLE, missing

SHORT_LENGTH_MAX = 256
"""Tokens of a document up to which, on a CPU, the L x L scores are kept for backward; above this they take too much
memory, and are computed again."""
BLOCK = 128
"""Queries per block in longer documents."""


@dataclass(frozen=True)
class Documents:
    """Where a row's documents lie. What a kernel needs of them is laid out when one first asks.

    Two kernels move between the row (T H vectors) and a padded batch (B H L vectors). Padding needs no mask: it stands
    to the right, where causal attention of real tokens never looks. A padded slot repeats its document's last token;
    what comes of it is thrown away, so its gradient is zero.
    """

    lengths: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device
    surplus: int = 0
    """Tokens of the last document, at its end, that only fill the row."""

    def filled(self, tokens: int) -> "Documents":
        """The same, but for so many tokens that fill the row."""
        return replace(self, lengths=(*self.lengths[:-1], self.lengths[-1] + tokens), surplus=self.surplus + tokens)

    @property
    def count(self) -> int:
        return len(self.lengths)

    @cached_property
    def tokens(self) -> int:
        return sum(self.lengths)

    @cached_property
    def bounds(self) -> list[tuple[int, int]]:
        """Where each document begins and ends."""
        ends = list(accumulate(self.lengths))
        return list(zip([0, *ends], ends, strict=False))

    @cached_property
    def _indices(self) -> dict[tuple[str, int], Tensor]:
        return {}

    @cached_property
    def longest(self) -> int:
        return max(self.lengths)

    @cached_property
    def slots(self) -> int:
        """Of each document in the padded batch."""
        return self.longest + missing(self.longest, DOCUMENT_MULTIPLE, self.device, self.dtype)

    @cached_property
    def starts_and_end(self) -> Tensor:
        """B + 1 places of the row, int32: what kernels for packed rows read."""
        return functional.pad(torch.tensor(self.lengths).cumsum(0), (1, 0)).to(self.device, torch.int32)

    @cached_property
    def causal_LL(self) -> Tensor:
        """0 where a query (row) may see a key (column), else -inf."""
        square = torch.full((self.slots, self.slots), -torch.inf, dtype=self.dtype)
        return square.triu(1).to(self.device)

    def padded(self, row_TH_D: Tensor) -> Tensor:
        """The row's vectors as a padded batch (B H, L, D), head by head within each document."""
        heads = row_TH_D.shape[0] // self.tokens
        if ("slots", heads) not in self._indices:
            self._indices["slots", heads] = self._slots(heads)
        return row_TH_D.index_select(0, self._indices["slots", heads]).view(-1, self.slots, row_TH_D.shape[-1])

    def places_TH(self, heads: int) -> Tensor:
        """In which slot of the padded batch each of the row's vectors lies."""
        if ("places", heads) not in self._indices:
            self._indices["places", heads] = self._places(heads)
        return self._indices["places", heads]

    def _slots(self, heads: int) -> Tensor:
        lengths_B = torch.tensor(self.lengths)
        starts_B = lengths_B.cumsum(0) - lengths_B
        tokens_BL = starts_B[:, None] + torch.arange(self.slots).minimum(lengths_B[:, None] - 1)
        return (tokens_BL[:, None] * heads + torch.arange(heads)[:, None]).flatten().to(self.device)

    def _places(self, heads: int) -> Tensor:
        filled_BL = torch.arange(self.slots) < torch.tensor(self.lengths)[:, None]
        document_T, slot_T = filled_BL.nonzero(as_tuple=True)
        slots_TH = (document_T[:, None] * heads + torch.arange(heads)) * self.slots + slot_T[:, None]
        return slots_TH.flatten().to(self.device)
