"""Products of linear layers in float8, on GPUs that multiply it: forward, and back to what came in.

Each token has a scale of its own: what comes out for it does not depend on other tokens, so that the documents of a row
stay isolated to the bit. A weight has one scale, found anew whenever it is used, or once where it is frozen and kept in
float8. The gradient of a weight, a sum over all tokens, stays a product in the compute dtype, as in torchao's recipe
`rowwise_with_gw_hp`.

Letters in names: T tokens, D inputs of a linear layer, O its outputs, K what a product sums over, N its columns.
"""

from collections.abc import Sequence
from functools import lru_cache
from types import MethodType
from typing import Any, cast

import torch
from torch import Tensor, nn

from tenner.core.errors import TennerError
from tenner.training import fused

FLOAT8 = torch.float8_e4m3fn
"""Four bits of exponent and three of mantissa, for activations, weights and gradients alike."""
LARGEST = torch.finfo(FLOAT8).max
SMALLEST = 2.0**-100
"""The largest number of a token is taken as no smaller: noughts have a scale, too."""
MULTIPLE = 16
"""Both sizes of a weight have to be one of these: the kernels read 16 bytes at a time."""
CAPABILITY_MIN = (8, 9)
"""Ada; Hopper is 9.0."""
SCALES_BY_ROW = ("cuda",)
"""Where `torch._scaled_mm` takes a scale for each row. On a CPU it takes one for all, and only on the newest: there the
same numbers are multiplied in float32."""
TRIAL_TOLERANCE = 2**-3
"""Of a product of 16 terms, relative to its largest number: each is rounded to 4 bits, by 2^-4 at most."""


def check(device: torch.device) -> None:
    """Raise TennerError where the device does not multiply float8."""
    if why := failure(device):
        raise TennerError(f"train.fp8 is for CUDA cards from Ada and Hopper on: {why}", hint="leave train.fp8 out")


def check_sizes(linears: Sequence[tuple[str, nn.Linear]]) -> None:
    """Raise TennerError where one of these linear layers, each with its name, is of a size that float8 has not."""
    for name, layer in linears:
        if layer.in_features % MULTIPLE or layer.out_features % MULTIPLE:
            raise TennerError(
                f"train.fp8: {name} has {layer.in_features:,} inputs and {layer.out_features:,} outputs, and float8 "
                f"needs multiples of {MULTIPLE}",
                hint="leave train.fp8 out",
            )


@lru_cache
def failure(device: torch.device) -> str | None:
    """Why this device does not multiply float8, found out by trying; None where it does."""
    if device.type != "cuda":
        return f"this device is {device.type}"
    if (capability := torch.cuda.get_device_capability(device)) < CAPABILITY_MIN:
        return f"{torch.cuda.get_device_name(device)} has compute capability {capability[0]}.{capability[1]}"
    generator = torch.Generator().manual_seed(0)
    x_TD, weight_OD = (torch.randn(n, MULTIPLE, generator=generator).to(device, torch.bfloat16) for n in (5, MULTIPLE))
    wanted_TO = x_TD @ weight_OD.T
    try:
        found_TO = product(x_TD, weight_OD, _scale(weight_OD))
    except (RuntimeError, NotImplementedError) as error:
        return " ".join(str(error).split())[:200]
    if not torch.allclose(found_TO, wanted_TO, rtol=0, atol=TRIAL_TOLERANCE * float(wanted_TO.abs().max())):
        return "its products in float8 are wrong"
    return None


def lower(layers: Sequence[nn.Linear]) -> None:
    """From now on the products of these layers are in float8."""
    layer: Any
    for layer in layers:
        layer.register_buffer("float8_scale", None, persistent=False)
        layer.forward = MethodType(_forward, layer)


def keep(layers: Sequence[nn.Linear]) -> None:
    """Keep the frozen weights of `lower`ed layers in float8, in half of the memory."""
    for layer in layers:
        assert not layer.weight.requires_grad
        scale = _scale(layer.weight.detach())
        layer.weight.data = _lowered(layer.weight.detach(), scale)
        layer.float8_scale = scale


def scale_of(layer: nn.Module) -> Tensor | None:
    """That of a layer's weight, as it is now; None where the layer's products are not in float8."""
    if "float8_scale" not in layer._buffers:
        return None
    kept = layer._buffers["float8_scale"]
    return _scale(cast(Tensor, layer.weight).detach()) if kept is None else kept


def product(x_TD: Tensor, weight_OD: Tensor, scale: Tensor, bias_O: Tensor | None = None) -> Tensor:
    """x weight^T + bias in x's precision, of a weight in any: with `scale` times what float8 holds of it."""
    x8_TD, scales_T1 = _lowered_rows(x_TD.contiguous(), scale)
    weight8_OD = weight_OD if weight_OD.dtype == FLOAT8 else _lowered(weight_OD, scale)
    return _scaled(x8_TD, weight8_OD.T, scales_T1, bias_O, x_TD.dtype, fast=True)


def product_back(grad_TO: Tensor, weight_OD: Tensor, scale: Tensor) -> Tensor:
    """grad weight, likewise."""
    grad8_TO, scales_T1 = _lowered_rows(grad_TO.contiguous(), scale)
    # The kernels want what is summed over to lie together.
    weight8_DO = weight_OD.T.contiguous() if weight_OD.dtype == FLOAT8 else _lowered_turned(weight_OD, scale)
    return _scaled(grad8_TO, weight8_DO.T, scales_T1, None, grad_TO.dtype, fast=False)


class _Linear(torch.autograd.Function):
    """x weight^T + bias."""

    @staticmethod
    def forward(ctx: Any, x_TD: Tensor, weight_OD: Tensor, bias_O: Tensor | None, scale: Tensor) -> Tensor:
        ctx.save_for_backward(x_TD if ctx.needs_input_grad[1] else None, weight_OD, scale)
        return product(x_TD, weight_OD, scale, bias_O)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
        x_TD, weight_OD, scale = ctx.saved_tensors
        needs_x, needs_weight, needs_bias, _ = ctx.needs_input_grad
        grad_x_TD = product_back(grads[0], weight_OD, scale) if needs_x else None
        grad_weight_OD = grads[0].T @ x_TD if needs_weight else None
        return grad_x_TD, grad_weight_OD, grads[0].sum(0) if needs_bias else None, None


def _forward(layer: Any, x: Tensor) -> Tensor:
    rows_TD = x.reshape(-1, x.shape[-1])
    out_TO: Tensor = _Linear.apply(rows_TD, layer.weight, layer.bias, scale_of(layer))  # type: ignore[no-untyped-call]
    return out_TO.view(*x.shape[:-1], -1)


@fused.one_kernel
def _scale(weight_OD: Tensor) -> Tensor:
    return weight_OD.abs().amax().float().clamp_min(SMALLEST) / LARGEST


@fused.one_kernel
def _lowered(weight_OD: Tensor, scale: Tensor) -> Tensor:
    return (weight_OD.float() / scale).clamp(-LARGEST, LARGEST).to(FLOAT8)


@fused.one_kernel
def _lowered_turned(weight_OD: Tensor, scale: Tensor) -> Tensor:
    return (weight_OD.float() / scale).clamp(-LARGEST, LARGEST).to(FLOAT8).T.contiguous()


@fused.one_kernel
def _lowered_rows(x_TK: Tensor, other_scale: Tensor) -> tuple[Tensor, Tensor]:
    """Each row in float8, and its scale times that of the other side of a product."""
    wide_TK = x_TK.float()
    scales_T1 = wide_TK.abs().amax(-1, keepdim=True).clamp_min(SMALLEST) / LARGEST
    return (wide_TK / scales_T1).clamp(-LARGEST, LARGEST).to(FLOAT8), scales_T1 * other_scale


def _scaled(
    left8_TK: Tensor, right8_KN: Tensor, scales_T1: Tensor, bias_N: Tensor | None, dtype: torch.dtype, *, fast: bool
) -> Tensor:
    """The product, each row times its scale, plus the bias. `fast`: sums of fewer bits, as is usual going forward."""
    if left8_TK.device.type in SCALES_BY_ROW:
        ones_1N = _ones(right8_KN.shape[1], left8_TK.device)
        return torch._scaled_mm(
            left8_TK, right8_KN, scales_T1, ones_1N, bias=bias_N, out_dtype=dtype, use_fast_accum=fast
        )
    wide_TN = (left8_TK.float() @ right8_KN.float()).mul_(scales_T1)  # float32 holds every float8
    return (wide_TN if bias_N is None else wide_TN.add_(bias_N)).to(dtype)


@lru_cache
def _ones(columns: int, device: torch.device) -> Tensor:
    return torch.ones(1, columns, device=device)
