"""The weights that a step moves: the model's own, or float32 masters of them, and the gradients collected for both.

What is moved are plain tensors, whatever the model holds: a process' rows of a sharded parameter, a master in float32,
or the parameter itself. The optimizer and the checkpoint know nothing of the difference.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor, nn

from tenner.training.bf16_rounding import round_into, shift
from tenner.training.distributed import World, first_row, local_part


class Weights(Protocol):
    """Name -> tensor, in the model's order; `.grad` of each holds the gradient of the step at hand, once collected."""

    first_rows: dict[str, int]
    """Of each: which row of the whole parameter it begins with."""

    @property
    def moved(self) -> dict[str, Tensor]: ...

    def collect(self) -> list[str]:
        """Make the gradients of what went backward those of `moved`. Returns the names of the weights that no gradient
        came to, which have none then, and which the optimizer leaves as they are.
        """

    def clear(self) -> None:
        """Forget the gradients."""

    def in_model(self) -> AbstractContextManager[None]:
        """Let the model have what was moved, as far as its precision goes; until this ends nothing else may move it."""

    def release(self) -> None:
        """Leave the model with what was moved, and let go of what training added to it."""


def weights_of(model: nn.Module, root: nn.Module, world: World, compute: torch.dtype) -> Weights:
    """Of the parameters that are trained; `root` is what goes forward, with the model in it.

    Where they came in float32 and one process computes in another precision, they become masters, and the model goes
    to `compute`.
    """
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if world.size == 1 and any(p.dtype != compute for p in trained.values()):
        return Masters(model, compute)
    return OwnWeights(trained, root, world, compute)


class OwnWeights:
    """The model's parameters themselves, or this process' rows of them."""

    def __init__(self, trained: dict[str, nn.Parameter], root: nn.Module, world: World, compute: torch.dtype) -> None:
        self._trained, self._root, self._world, self._compute = trained, root, world, compute
        self.first_rows = {name: first_row(p, world) for name, p in trained.items()}

    @cached_property
    def moved(self) -> dict[str, Tensor]:
        """Not before the model first went forward: only then does FSDP give each parameter the memory it keeps."""
        return {name: local_part(p.detach()) for name, p in self._trained.items()}

    def collect(self) -> list[str]:
        for name, p in self._trained.items():
            self.moved[name].grad = None if p.grad is None else local_part(p.grad)
        return [name for name, p in self._trained.items() if p.grad is None]

    def clear(self) -> None:
        for name, p in self._trained.items():
            p.grad = self.moved[name].grad = None

    @contextmanager
    def in_model(self) -> Iterator[None]:
        """They are the model's own, but for what was gathered of them before; FSDP rounds to the nearest."""
        self._world.forget_gathered(self._root)
        shifted = [
            (tensor, self.first_rows[name] * tensor[0].numel())
            for name, tensor in self.moved.items()
            if tensor.numel() and tensor.dtype == torch.float32 and self._compute == torch.bfloat16
        ]
        for tensor, first in shifted:
            shift(tensor, first=first)
        try:
            yield
        finally:
            for tensor, first in shifted:
                shift(tensor, first=first, back=True)

    def release(self) -> None:
        self.clear()


class Masters:
    """float32 masters of a model that lies whole in this process' memory in another precision."""

    def __init__(self, model: nn.Module, compute: torch.dtype) -> None:
        """The trained parameters come in float32 and stay behind as masters; the model leaves in `compute`."""
        self._masters = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}
        self.first_rows = dict.fromkeys(self._masters, 0)
        for master in self._masters.values():
            assert master.dtype == torch.float32
            master.grad = torch.empty_like(master)
        for p in model.parameters():  # not buffers: a table of angles in bfloat16 would bend all positions
            if p.is_floating_point():  # weights in 4 bits are bytes
                p.data = p.data.to(compute)
        self._lowered = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self._collected: set[str] = set()
        self._hooks = [
            p.register_post_accumulate_grad_hook(self._collector(name))  # type: ignore[no-untyped-call]
            for name, p in self._lowered.items()
        ]

    @property
    def moved(self) -> dict[str, Tensor]:
        return self._masters

    def _collector(self, name: str) -> Callable[[Tensor], None]:
        """Adds a weight's gradient to its master's as soon as it is made, and lets go of it."""
        master = self.moved[name]

        def collect(weight: Tensor) -> None:
            assert weight.grad is not None
            if master.grad is None:  # there was none in the last step
                master.grad = torch.empty_like(master)
            if name in self._collected:
                master.grad.add_(weight.grad)
            else:
                master.grad.copy_(weight.grad)
                self._collected.add(name)
            weight.grad = None

        return collect

    def collect(self) -> list[str]:
        without = [name for name in self.moved if name not in self._collected]
        for name in without:
            self.moved[name].grad = None
        return without

    def clear(self) -> None:
        self._collected.clear()  # the memory of the gradients stays: it is needed again at once

    @contextmanager
    def in_model(self) -> Iterator[None]:
        self._round()
        yield

    def _round(self) -> None:
        for name, p in self._lowered.items():
            round_into(p.data, self.moved[name])

    def release(self) -> None:
        self._round()
        for hook in self._hooks:  # they would keep masters and gradients alive
            hook.remove()
