"""AdamW in three sizes: float32 moments, moments in 8 bits, and all of it in bfloat16 with Kahan's correction.

A trained parameter of N numbers takes, in bytes, beside its gradient:

| what | weights | moments | together |
| --- | --- | --- | --- |
| adamw, computing in bfloat16 on one device | 2 + 4 N's master | 8 | 14 |
| adamw, sharded or in float32 | 4 | 8 | 12 |
| adamw-8bit | the same | 2 | 8 or 6 |
| adamw, pure bfloat16 | 2 + 2 the correction | 4 | 8 |
"""

from collections.abc import Mapping
from importlib import import_module
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from tenner.core.sections import Train
from tenner.training import fused
from tenner.training.bf16_rounding import picked, round_by, round_into, table

EPSILON = 1e-8
BLOCK_NUMBERS = 1 << 24
"""Numbers of one tensor that a step in pure bfloat16 converts to float32 at a time: a whole embedding of half a billion
numbers would take 13 GB of intermediate results."""
STEP_COPIES = 7
"""Float32 tensors of BLOCK_NUMBERS numbers that such a step holds at once."""
SCALING_DEVICES = ("cpu", "cuda")
"""Where the fused kernel divides by `grad_scale` as it goes: clipping costs no pass of its own over the gradients."""
ROWS = ("exp_avg", "exp_avg_sq", "correction")
"""State that has a parameter's own shape; it can be dealt out anew over another number of processes."""


class Optimizer(Protocol):
    """Moves tensors by the gradients that lie in their `.grad`."""

    def step(self, *, lr: float, divisor: float) -> None:
        """One step, the gradients divided by `divisor` (clipping)."""

    def state(self) -> dict[str, dict[str, Tensor]]:
        """What a checkpoint must hold beside the weights: of each kind, by the parameter's name. Shares memory."""

    def continue_at(self, step: int) -> None:
        """So many steps have been made; `state` has been filled in."""


def optimizer_of(moved: Mapping[str, Tensor], settings: Train) -> Optimizer:
    """The optimizer that the recipe names, for these tensors."""
    moved = {
        name: tensor for name, tensor in moved.items() if tensor.numel()
    }  # a process may hold no row of a small one
    if settings.optimizer == "adamw-8bit":
        return EightBitAdamW(moved, settings)
    if settings.precision == "pure-bf16":
        return KahanAdamW(moved, settings)
    return FusedAdamW(moved, settings)


def _groups(moved: Mapping[str, Tensor], settings: Train) -> list[dict[str, Any]]:
    """As usual, norms and biases (vectors) are not decayed."""
    matrices = [tensor for tensor in moved.values() if tensor.ndim > 1]
    vectors = [tensor for tensor in moved.values() if tensor.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": settings.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def _divide_gradients(moved: Mapping[str, Tensor], divisor: float) -> None:
    torch._foreach_div_([tensor.grad for tensor in moved.values() if tensor.grad is not None], divisor)


class FusedAdamW:
    """PyTorch's, moments in float32, one pass over memory."""

    def __init__(self, moved: Mapping[str, Tensor], settings: Train) -> None:
        self._moved = moved
        betas = (settings.beta1, settings.beta2)
        self._adamw = torch.optim.AdamW(_groups(moved, settings), lr=0.0, betas=betas, eps=EPSILON, fused=True)
        for tensor in moved.values():
            self._adamw.state[tensor] = {
                "step": torch.tensor(0.0, device=tensor.device),
                "exp_avg": torch.zeros_like(tensor),
                "exp_avg_sq": torch.zeros_like(tensor),
            }

    def step(self, *, lr: float, divisor: float) -> None:
        for group in self._adamw.param_groups:
            group["lr"] = lr
        device = next(iter(self._moved.values())).device
        if device.type in SCALING_DEVICES:
            self._adamw.grad_scale = torch.tensor(divisor, device=device)  # type: ignore[attr-defined]
        else:
            _divide_gradients(self._moved, divisor)
        self._adamw.step()

    def state(self) -> dict[str, dict[str, Tensor]]:
        return {
            kind: {name: self._adamw.state[tensor][kind] for name, tensor in self._moved.items()}
            for kind in ("exp_avg", "exp_avg_sq")
        }

    def continue_at(self, step: int) -> None:
        for tensor in self._moved.values():
            self._adamw.state[tensor]["step"].fill_(step)


class EightBitAdamW:
    """bitsandbytes': moments in 8 bits, quantised in blocks (arXiv 2110.02861); small tensors keep 32."""

    def __init__(self, moved: Mapping[str, Tensor], settings: Train) -> None:
        library: Any = import_module("bitsandbytes.optim")
        self._moved = moved
        betas = (settings.beta1, settings.beta2)
        self._adamw: Any = library.AdamW8bit(_groups(moved, settings), lr=0.0, betas=betas, eps=EPSILON)
        self._adamw.check_overrides()
        for i, group in enumerate(self._adamw.param_groups):
            for j, tensor in enumerate(group["params"]):
                tensor.grad = torch.zeros_like(tensor) if tensor.grad is None else tensor.grad
                self._adamw.init_state(group, tensor, i, j)
        self._adamw.initialized = True

    def step(self, *, lr: float, divisor: float) -> None:
        for group in self._adamw.param_groups:
            group["lr"] = lr
        _divide_gradients(self._moved, divisor)
        self._adamw.step()

    def state(self) -> dict[str, dict[str, Tensor]]:
        found: dict[str, dict[str, Tensor]] = {}
        for name, tensor in self._moved.items():
            for kind, value in self._adamw.state[tensor].items():
                if isinstance(value, Tensor) and not kind.startswith("qmap"):  # the map is a constant
                    found.setdefault(kind, {})[name] = value
        return found

    def continue_at(self, step: int) -> None:
        for tensor in self._moved.values():
            self._adamw.state[tensor]["step"] = step


class KahanAdamW:
    """Weights and moments in bfloat16; what a step adds and bfloat16 cannot hold is kept for the next (Kahan 1965).

    Computed in float32, block by block, or by one kernel on a GPU. The second moment needs a beta2 that bfloat16 can
    follow: s1's 0.95 does, as 1 - beta2 is far above the 2^-8 that rounding takes.
    """

    def __init__(self, moved: Mapping[str, Tensor], settings: Train) -> None:
        self._moved, self._settings, self._steps = moved, settings, 0
        self._state = {kind: {name: torch.zeros_like(tensor) for name, tensor in moved.items()} for kind in ROWS}

    @torch.no_grad()
    def step(self, *, lr: float, divisor: float) -> None:
        self._steps += 1
        device, betas = next(iter(self._moved.values())).device, (self._settings.beta1, self._settings.beta2)
        numbers = _Numbers(
            *(fused.number(x, device) for x in (lr, divisor, *(1 - beta**self._steps for beta in betas)))
        )
        move = _move_whole if fused.runs_on(device) else _move_in_blocks
        for name, weight in self._moved.items():
            if weight.grad is None:
                continue
            decay = self._settings.weight_decay if weight.ndim > 1 else 0.0
            state = (self._state[kind][name].view(-1) for kind in ROWS)
            move(_Moved(weight.view(-1), weight.grad.view(-1), *state), numbers, betas, decay)

    def state(self) -> dict[str, dict[str, Tensor]]:
        return self._state

    def continue_at(self, step: int) -> None:
        self._steps = step


class _Moved(NamedTuple):
    """A weight, or a part of it, with what a step needs of it; all of one shape."""

    weight: Tensor
    grad: Tensor
    exp_avg: Tensor
    exp_avg_sq: Tensor
    correction: Tensor


class _Numbers(NamedTuple):
    """What differs from step to step: numbers, or tensors of one number for a compiled kernel."""

    lr: Any
    divisor: Any
    unbias1: Any
    unbias2: Any


def _move_in_blocks(whole: _Moved, numbers: _Numbers, betas: tuple[float, float], decay: float) -> None:
    for i, tensors in enumerate(zip(*(torch.split(tensor, BLOCK_NUMBERS) for tensor in whole), strict=True)):
        block = _Moved(*tensors)
        before = block.weight.float()
        change, mean, square = _kahan_change(before, block, numbers, betas, decay)
        round_into(block.weight, before + change, first=i * BLOCK_NUMBERS)
        _keep(block, before, change, mean, square)


def _move_whole(whole: _Moved, numbers: _Numbers, betas: tuple[float, float], decay: float) -> None:
    _move_at_once(whole.weight, whole, table(whole.weight.device, 0), numbers, betas, decay)


@fused.one_kernel
def _move_at_once(
    weight_N: Tensor, whole: _Moved, table_P: Tensor, numbers: _Numbers, betas: tuple[float, float], decay: float
) -> None:
    before_N = weight_N.float()
    change_N, mean_N, square_N = _kahan_change(before_N, whole, numbers, betas, decay)
    round_by(before_N + change_N, weight_N, picked(table_P, weight_N))
    _keep(whole, before_N, change_N, mean_N, square_N)


def _kahan_change(
    before: Tensor, moved: _Moved, numbers: _Numbers, betas: tuple[float, float], decay: float
) -> tuple[Tensor, Tensor, Tensor]:
    """In float32: what a step adds to the weights `before` it, and the new moments."""
    grad = moved.grad.float().div_(numbers.divisor)
    mean = moved.exp_avg.float().lerp_(grad, 1 - betas[0])
    square = moved.exp_avg_sq.float().mul_(betas[1]).addcmul_(grad, grad, value=1 - betas[1])
    root = square.div(numbers.unbias2).sqrt_().add_(EPSILON)
    change = mean.div(numbers.unbias1).div_(root).add_(before, alpha=decay)
    return change.mul_(-numbers.lr).add_(moved.correction), mean, square


def _keep(moved: _Moved, before: Tensor, change: Tensor, mean: Tensor, square: Tensor) -> None:
    """What the rounded weight lacks of the change, and the moments."""
    moved.correction.copy_(change.sub_(moved.weight.float().sub_(before)))
    moved.exp_avg.copy_(mean)
    moved.exp_avg_sq.copy_(square)
