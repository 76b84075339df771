"""A layer's norms and gates in fewer passes over memory, keeping less for the backward pass.

transformers writes them as chains of small operations, each of which reads and writes all activations and most of
which keep theirs, some in float32. Here a norm keeps its input and a number a token, and a gate its two inputs.

Letters in names: T tokens, D hidden size, I intermediate size.
"""

from collections.abc import Callable
from copy import deepcopy
from inspect import signature
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

PROBE_TOKENS = 5
PROBE_HEADS = 3
PROBE_TOLERANCE = 1e-4
QUANTIZED_TOLERANCE = 1e-2


class _Norm(torch.autograd.Function):
    """weight * x / rms(x), the quotient rounded to x's precision before the product, as transformers has it."""

    @staticmethod
    def forward(ctx: Any, x_TD: Tensor, weight_D: Tensor, epsilon: float) -> Tensor:
        wide_TD = x_TD.float()
        norm_T1 = torch.linalg.vector_norm(wide_TD, dim=-1, keepdim=True)
        scale_T1 = norm_T1.square_().div_(x_TD.shape[-1]).add_(epsilon).rsqrt_()
        ctx.save_for_backward(x_TD, weight_D, scale_T1)
        out_TD: Tensor = (wide_TD * scale_T1).to(x_TD.dtype).mul_(weight_D)
        return out_TD

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor | None, None]:
        x_TD, weight_D, scale_T1 = ctx.saved_tensors
        normed_TD = x_TD.float() * scale_T1
        grad_TD = grads[0].float()
        products_TD = grad_TD * normed_TD
        axes = tuple(range(x_TD.ndim - 1))
        grad_weight_D = products_TD.sum(axes).to(weight_D.dtype) if ctx.needs_input_grad[1] else None
        along_T1 = torch.mv(products_TD.reshape(-1, x_TD.shape[-1]), weight_D.float()).view(scale_T1.shape)
        grad_x_TD = torch.addcmul(grad_TD * weight_D, normed_TD, along_T1, value=-1 / x_TD.shape[-1])
        return grad_x_TD.mul_(scale_T1).to(x_TD.dtype), grad_weight_D, None


class _Gate(torch.autograd.Function):
    """silu(gate) * up."""

    @staticmethod
    def forward(ctx: Any, gate_TI: Tensor, up_TI: Tensor) -> Tensor:
        ctx.save_for_backward(gate_TI, up_TI)
        return functional.silu(gate_TI).mul_(up_TI)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        gate_TI, up_TI = ctx.saved_tensors
        grad_up_TI = functional.silu(gate_TI).mul_(grads[0])
        return torch.ops.aten.silu_backward(grads[0] * up_TI, gate_TI), grad_up_TI


def fuse(model: nn.Module) -> None:
    """Replace the forward passes of norms and gated layers that compute what is computed here; leave all others.

    Whether a class does is found out by trying, on a few random tokens, not by its name.
    """
    same: dict[tuple[type, Any], bool] = {}
    for module in model.modules():
        for forward, fits in ((_norm_forward, _is_norm), (_gated_forward, _is_gated)):
            if not fits(module):
                continue
            if (key := (type(module), forward)) not in same:
                same[key] = _is_same(module, forward)
            if same[key]:
                module.forward = MethodType(forward, module)


def fuses_norm(module: nn.Module) -> bool:
    """Whether a module is a norm whose forward pass `fuse` replaces."""
    return _is_norm(module) and _is_same(module, _norm_forward)


def _is_norm(module: nn.Module) -> bool:
    return isinstance(getattr(module, "variance_epsilon", None), float) and isinstance(
        getattr(module, "weight", None), nn.Parameter
    )


def _is_gated(module: nn.Module) -> bool:
    return all(isinstance(getattr(module, f"{name}_proj", None), nn.Module) for name in ("gate", "up", "down"))


def _norm_forward(module: Any, hidden_states: Tensor) -> Tensor:
    out: Tensor = _Norm.apply(hidden_states, module.weight, module.variance_epsilon)  # type: ignore[no-untyped-call]
    return out


def _gated_forward(module: Any, hidden_states: Tensor) -> Tensor:
    gated_TI: Tensor = _Gate.apply(  # type: ignore[no-untyped-call]
        module.gate_proj(hidden_states), module.up_proj(hidden_states)
    )
    out: Tensor = module.down_proj(gated_TI)
    return out


def _is_same(module: nn.Module, forward: Any) -> bool:
    """Whether a twin of the module, in float32 and with random weights, computes what `forward` does, there and back.

    Tried with what a layer gets, and with heads of it (tokens by heads), which lie otherwise in memory. Of weights in
    4 bits there is no such twin: the module itself is tried.
    """
    if len(signature(module.forward).parameters) != 1:
        return False
    if not all(p.is_floating_point() for p in module.parameters()):
        return _gives_the_same(module, forward)
    generator = torch.Generator().manual_seed(0)
    twin = nn.Module.to_empty(deepcopy(module), device="cpu").float()
    for p in twin.parameters():
        p.data.copy_(torch.randn(p.shape, generator=generator))
    size = next(twin.parameters()).shape[-1]
    probe_1TD = torch.randn(1, PROBE_TOKENS, size, generator=generator)
    probe_1HTD = torch.randn(1, PROBE_TOKENS, PROBE_HEADS, size, generator=generator).transpose(1, 2)
    for probe in (probe_1TD, probe_1HTD):
        try:
            theirs = _there_and_back(twin, twin, probe)
        except RuntimeError:  # it takes no heads
            return False
        mine = _there_and_back(twin, lambda x: forward(twin, x), probe)
        if not all(
            torch.allclose(a, b, rtol=PROBE_TOLERANCE, atol=PROBE_TOLERANCE) for a, b in zip(theirs, mine, strict=True)
        ):
            return False
    return True


@torch.no_grad()
def _gives_the_same(module: Any, forward: Any) -> bool:
    """Whether a gate whose weights are in 4 bits gives what `forward` does, as near as its products are rounded."""
    generator = torch.Generator().manual_seed(0)
    probe_1TD = torch.randn(1, PROBE_TOKENS, module.gate_proj.in_features, generator=generator)
    probe_1TD = probe_1TD.to(next(module.parameters()).device)
    theirs_1TD, mine_1TD = module(probe_1TD), forward(module, probe_1TD)
    return torch.allclose(theirs_1TD, mine_1TD, rtol=QUANTIZED_TOLERANCE, atol=QUANTIZED_TOLERANCE)


@torch.enable_grad()
def _there_and_back(module: nn.Module, forward: Callable[[Tensor], Tensor], probe: Tensor) -> list[Tensor]:
    """What comes out for a probe, and the gradients of the probe and of all weights, which come in strided, too."""
    probe = probe.detach().requires_grad_()
    out = forward(probe)
    weights = [p for p in module.parameters() if p.requires_grad]
    turned = out.transpose(1, -1)
    back = torch.autograd.grad(turned, [probe, *weights], grad_outputs=torch.sin(turned.detach()).contiguous())
    return [out.detach(), *back]
