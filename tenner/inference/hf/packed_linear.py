"""Linear layers with weights packed by oneDNN, for bf16 on a CPU."""

from typing import cast

import torch
from torch import Tensor, nn

PACKED_ROWS = 64
"""The number of input rows that the packing is optimized for; other numbers work, a little slower."""


class PackedLinear(nn.Module):
    """A linear layer whose weight is packed once instead of for every product.

    In bf16 it takes half the time for 8 rows and three quarters for 64. torch.compile does the same when it freezes a
    model for a CPU.
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self._weight = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), PACKED_ROWS)
        self._bias = None if linear.bias is None else linear.bias.detach()

    @property
    def weight(self) -> Tensor:
        """The weight as it was, unpacked anew each time: for layers that also compute with it themselves."""
        return cast(Tensor, self._weight.to_dense())

    @property
    def bias(self) -> Tensor | None:
        """The bias, which is not packed."""
        return self._bias

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, torch.ops.mkldnn._linear_pointwise(x, self._weight, self._bias, "none", [], ""))


def can_pack() -> bool:
    """Whether this build of PyTorch has the (private) oneDNN operators, and the CPU supports bf16."""
    names = ("_is_mkldnn_bf16_supported", "_reorder_linear_weight", "_linear_pointwise")
    return all(hasattr(torch.ops.mkldnn, name) for name in names) and torch.ops.mkldnn._is_mkldnn_bf16_supported()


def pack_linears(module: nn.Module) -> None:
    """Replace every linear layer in `module`."""
    for name, child in module.named_children():
        if type(child) is nn.Linear:
            setattr(module, name, PackedLinear(child))
        else:
            pack_linears(child)
