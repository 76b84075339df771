"""A layer's norms and gates in fewer passes over memory, keeping less for the backward pass.

transformers writes them as chains of small operations, each of which reads and writes all activations and most of
which keep theirs, some in float32. Here a norm keeps its input and a number a token, and a gate its two inputs.

On a GPU each pass is one kernel (`training/fused.py`), and what linear layers and their adapters add is added within
products (`training/linears.py`). Queries and keys are turned by one kernel each, where transformers takes five, and as
many backward.

Letters in names: T tokens, D hidden size, I intermediate size, B rows, H heads, S their size.
"""

from collections.abc import Callable
from copy import deepcopy
from functools import partial
from inspect import signature
from types import FunctionType, MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from tenner.training import fused
from tenner.training.linears import adapted_forward, fuse_linears, is_adapted

PROBE_TOKENS = 5
PROBE_HEADS = 3
PROBE_TOLERANCE = 1e-4
QUANTIZED_TOLERANCE = 1e-2
ROTATION, ROTATION_ARGUMENTS = "apply_rotary_pos_emb", ["q", "k", "cos", "sin", "unsqueeze_dim"]
"""What attention calls to turn queries and keys by their positions, in most of transformers' families."""


class _Norm(torch.autograd.Function):
    """weight * x / rms(x), the quotient rounded to x's precision before the product, as transformers has it."""

    @staticmethod
    def forward(ctx: Any, x_TD: Tensor, weight_D: Tensor, epsilon: float) -> Tensor:
        out_TD, scale_T1 = _normed(x_TD, weight_D, epsilon)
        ctx.save_for_backward(x_TD, weight_D, scale_T1)
        return out_TD

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor | None, None]:
        x_TD, weight_D, scale_T1 = ctx.saved_tensors
        grad_x_TD, grad_weight_D = _norm_backward(x_TD, weight_D, scale_T1, grads[0], ctx.needs_input_grad[1])
        return grad_x_TD, grad_weight_D, None


@fused.one_kernel_by_row
def _normed(x_TD: Tensor, weight_D: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
    wide_TD = x_TD.float()
    norm_T1 = torch.linalg.vector_norm(wide_TD, dim=-1, keepdim=True)
    scale_T1 = norm_T1.square_().div_(x_TD.shape[-1]).add_(epsilon).rsqrt_()
    return (wide_TD * scale_T1).to(x_TD.dtype).mul_(weight_D), scale_T1


@fused.one_kernel_by_row
def _norm_backward(
    x_TD: Tensor, weight_D: Tensor, scale_T1: Tensor, grad_TD: Tensor, trains_weight: bool
) -> tuple[Tensor, Tensor | None]:
    normed_TD = x_TD.float() * scale_T1
    grad_TD = grad_TD.float()
    products_TD = grad_TD * normed_TD
    axes = tuple(range(x_TD.ndim - 1))
    grad_weight_D = products_TD.sum(axes).to(weight_D.dtype) if trains_weight else None
    along_T1 = torch.mv(products_TD.reshape(-1, x_TD.shape[-1]), weight_D.float()).view(scale_T1.shape)
    grad_x_TD = torch.addcmul(grad_TD * weight_D, normed_TD, along_T1, value=-1 / x_TD.shape[-1])
    return grad_x_TD.mul_(scale_T1).to(x_TD.dtype), grad_weight_D


class _Gate(torch.autograd.Function):
    """silu(gate) * up."""

    @staticmethod
    def forward(ctx: Any, gate_TI: Tensor, up_TI: Tensor) -> Tensor:
        ctx.save_for_backward(gate_TI, up_TI)
        return _gate(gate_TI, up_TI)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        gate_TI, up_TI = ctx.saved_tensors
        return _gate_backward(gate_TI, up_TI, grads[0])


@fused.one_kernel
def _gate(gate_TI: Tensor, up_TI: Tensor) -> Tensor:
    return functional.silu(gate_TI).mul_(up_TI)


@fused.one_kernel
def _gate_backward(gate_TI: Tensor, up_TI: Tensor, grad_TI: Tensor) -> tuple[Tensor, Tensor]:
    grad_up_TI = functional.silu(gate_TI).mul_(grad_TI)
    return torch.ops.aten.silu_backward(grad_TI * up_TI, gate_TI), grad_up_TI


class _Rotation(torch.autograd.Function):
    """Queries or keys turned by their positions; cosines and sines of either half of a head."""

    @staticmethod
    def forward(ctx: Any, x_BHTS: Tensor, cos_B1TS: Tensor, sin_B1TS: Tensor) -> Tensor:
        ctx.save_for_backward(cos_B1TS, sin_B1TS)
        return _turned(x_BHTS, cos_B1TS, sin_B1TS)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        return _turned_back(grads[0], *ctx.saved_tensors), None, None


@fused.one_kernel
def _turned(x_BHTS: Tensor, cos_B1TS: Tensor, sin_B1TS: Tensor) -> Tensor:
    first, second = x_BHTS.chunk(2, dim=-1)
    return x_BHTS * cos_B1TS + torch.cat((-second, first), dim=-1) * sin_B1TS


@fused.one_kernel
def _turned_back(grad_BHTS: Tensor, cos_B1TS: Tensor, sin_B1TS: Tensor) -> Tensor:
    first, second = (grad_BHTS * sin_B1TS).chunk(2, dim=-1)
    return grad_BHTS * cos_B1TS + torch.cat((second, -first), dim=-1)


def rotated(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, unsqueeze_dim: int = 1) -> tuple[Tensor, Tensor]:
    """Llama's `apply_rotary_pos_emb`, by one kernel for each of the two."""
    cos, sin = cos.unsqueeze(unsqueeze_dim), sin.unsqueeze(unsqueeze_dim)
    query: Tensor = _Rotation.apply(q, cos, sin)  # type: ignore[no-untyped-call]
    key: Tensor = _Rotation.apply(k, cos, sin)  # type: ignore[no-untyped-call]
    return query, key


def fuse(model: nn.Module, *, on_gpu: bool = False, activations: str = "all") -> None:
    """Replace the forward passes of norms and gated layers that compute what is computed here; leave all others.

    `on_gpu`: also those of linear layers, and how attention turns queries and keys; which `activations` are kept
    (`train.activations`) says what may be changed in place. Whether a class computes the same is
    found out by trying, on a few random tokens, not by its name.
    """
    same: dict[tuple[type, Any], bool] = {}
    replaced: list[tuple[Callable[..., Tensor], Callable[[nn.Module], bool]]]
    replaced = [(_norm_forward, _is_norm), (_gated_forward, _is_gated)]
    if on_gpu:
        _fuse_rotations(model)
        replaced.append((partial(adapted_forward, keeps_product=activations == "products"), is_adapted))
    for module in model.modules():
        for forward, fits in replaced:
            if not fits(module):
                continue
            if (key := (type(module), forward)) not in same:
                same[key] = _is_same(module, forward)
            if same[key]:
                module.forward = MethodType(forward, module)
    if on_gpu:
        fuse_linears(model, activations=activations)


def _fuse_rotations(model: nn.Module) -> None:
    """Have attention call `rotated`, where its class does with queries and keys what that does.

    The function that it calls is a name in its module, which is everybody's: so the forward pass is copied, with a name
    of its own.
    """
    copies: dict[type, FunctionType | None] = {}
    for module in model.modules():
        if "forward" in vars(module):
            continue
        if (kind := type(module)) not in copies:
            copies[kind] = _with_rotation(kind.forward)
        if (forward := copies[kind]) is not None:
            module.forward = MethodType(forward, module)


def _with_rotation(forward: Any) -> FunctionType | None:
    """A forward pass of attention with `rotated` in it; None where it calls nothing that computes the same."""
    if not isinstance(forward, FunctionType) or ROTATION not in forward.__code__.co_names:
        return None
    if not _rotates_alike(forward.__globals__.get(ROTATION)):
        return None
    names = forward.__globals__ | {ROTATION: rotated}
    copy = FunctionType(forward.__code__, names, forward.__name__, forward.__defaults__, forward.__closure__)
    copy.__kwdefaults__ = forward.__kwdefaults__
    return copy


def _rotates_alike(theirs: Any) -> bool:
    """Whether a function turns random queries and keys as `rotated` does, there and back."""
    if not callable(theirs) or list(signature(theirs).parameters) != ROTATION_ARGUMENTS:
        return False
    generator = torch.Generator().manual_seed(0)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(*shape, PROBE_TOKENS, 2 * PROBE_TOKENS, generator=generator)

    query, key = (drawn(1, heads).requires_grad_() for heads in (PROBE_HEADS, 1))
    cos, sin = drawn(1), drawn(1)
    found: list[list[Tensor]] = []
    for function in (theirs, rotated):
        try:
            with torch.enable_grad():
                out = function(query, key, cos, sin)
                back = torch.autograd.grad(out, (query, key), [torch.sin(x.detach()) for x in out])
        except (RuntimeError, TypeError, ValueError):
            return False
        found.append([*(x.detach() for x in out), *back])
    return all(_is_close(a, b) for a, b in zip(*found, strict=True))


def fuses_norm(module: nn.Module) -> bool:
    """Whether a module is a norm whose forward pass `fuse` replaces."""
    return _is_norm(module) and _is_same(module, _norm_forward)


def _is_norm(module: nn.Module) -> bool:
    return (
        isinstance(getattr(module, "variance_epsilon", None), float)
        and isinstance(getattr(module, "weight", None), nn.Parameter)
        and _takes_one_argument(module)
    )


def _is_gated(module: nn.Module) -> bool:
    parts = (getattr(module, f"{name}_proj", None) for name in ("gate", "up", "down"))
    return all(isinstance(part, nn.Module) for part in parts) and _takes_one_argument(module)


def _takes_one_argument(module: nn.Module) -> bool:
    return len(signature(module.forward).parameters) == 1


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
            mine = _there_and_back(twin, lambda x: forward(twin, x), probe)
        except RuntimeError:  # it takes no heads, or has weights that `forward` does not know
            return False
        if not all(_is_close(a, b) for a, b in zip(theirs, mine, strict=True)):
            return False
    return True


def _is_close(theirs: Tensor, mine: Tensor) -> bool:
    """But for rounding: sums of large numbers may come near nought."""
    largest = max(1.0, float(theirs.abs().max()))
    return torch.allclose(theirs, mine, rtol=PROBE_TOLERANCE, atol=PROBE_TOLERANCE * largest)


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
