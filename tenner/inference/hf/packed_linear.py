"""Linear layers with weights that oneDNN packs once, on a CPU: in bfloat16, and in float32."""

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

PACKED_ROWS = 64
"""The number of input rows that the packing is optimized for; other numbers work, a little slower."""
FEW_ROWS, BLOCK_ROWS = 8, 256
"""In float32: so many rows and fewer have kernels of their own; more than so many are multiplied in blocks."""
PROBE_ROWS, PROBE_SIZE = 3, 32
PROBE_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 0.1}


class PackedLinear(nn.Module):
    """A linear layer whose weight is packed once instead of for every product.

    In bfloat16 it takes half the time for 8 rows and three quarters for 64, in float32 half for 8 and five sixths for
    100. torch.compile does the same when it freezes a model for a CPU.
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
        if x.dtype is not torch.float32:
            return self._product(x)
        x_RD = x.reshape(-1, x.shape[-1])
        blocks = [self._product(_padded(block))[: len(block)] for block in torch.split(x_RD, BLOCK_ROWS)]
        out_RO = blocks[0] if len(blocks) == 1 else torch.cat(blocks)
        return out_RO.view(*x.shape[:-1], -1)

    def _product(self, x: Tensor) -> Tensor:
        return cast(Tensor, torch.ops.mkldnn._linear_pointwise(x, self._weight, self._bias, "none", [], ""))


def _padded(x_RD: Tensor) -> Tensor:
    """With further rows of zeros, so that there are few numbers of rows.

    oneDNN compiles a kernel for every number of rows, and keeps a thousand of them. A server, whose batches have ever
    other numbers of rows, grew by 300 MB while it answered 64 clients in float32.
    """
    more = rounded_up(len(x_RD)) - len(x_RD)
    return functional.pad(x_RD, (0, 0, 0, more)) if more else x_RD  # padding by nothing would copy


def rounded_up(rows: int) -> int:
    """A number of rows no smaller, and larger by at most an eighth above 32."""
    step = max(4, 1 << (rows.bit_length() - 4)) if rows > FEW_ROWS else 1
    return -(-rows // step) * step


def can_pack(dtype: torch.dtype) -> bool:
    """Whether this build of PyTorch has the (private) oneDNN operators for a dtype, and they give the right product."""
    if dtype not in PROBE_TOLERANCE:
        return False
    generator = torch.Generator().manual_seed(0)
    linear = nn.Linear(PROBE_SIZE, PROBE_SIZE).to(dtype)
    linear.weight.data.copy_(torch.randn(PROBE_SIZE, PROBE_SIZE, generator=generator))
    x_RD = torch.randn(PROBE_ROWS, PROBE_SIZE, generator=generator).to(dtype)
    try:
        if dtype is torch.bfloat16 and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
            return False
        packed_RO = PackedLinear(linear)(x_RD)
    except (AttributeError, NotImplementedError, RuntimeError):
        return False
    tolerance = PROBE_TOLERANCE[dtype]
    return torch.allclose(packed_RO, linear(x_RD), rtol=tolerance, atol=tolerance)


def pack_linears(module: nn.Module) -> None:
    """Replace every linear layer in `module`."""
    for name, child in module.named_children():
        if type(child) is nn.Linear:
            setattr(module, name, PackedLinear(child))
        else:
            pack_linears(child)
