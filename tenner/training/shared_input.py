"""Linear layers that read the same input: their parts of its gradient are added up within the products.

Queries, keys and values are projected from one input, and so are both inputs of a gate. Autograd writes each layer's
part of that input's gradient and adds two of them at a time, in passes over memory of their own. Here the first layer
that is called computes the others' outputs as well, so that all of them go backward at once.

Letters in names: T tokens, I inputs of a linear layer, O its outputs.
"""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

SIBLINGS = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))
"""Names of layers that read one input in most of transformers' families, in the order in which they are called."""


class _Linears(torch.autograd.Function):
    """x weight^T + bias of several layers; after x all weights, then all biases."""

    @staticmethod
    def forward(ctx: Any, x_TI: Tensor, *parameters: Any) -> tuple[Tensor, ...]:
        weights, biases = parameters[: len(parameters) // 2], parameters[len(parameters) // 2 :]
        ctx.save_for_backward(x_TI, *weights)
        ctx.set_materialize_grads(False)
        return tuple(functional.linear(x_TI, w, b) for w, b in zip(weights, biases, strict=True))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        x_TI, *weights = ctx.saved_tensors
        of_x, *trained = ctx.needs_input_grad
        grad_x_TI: Tensor | None = None
        grad_weights: list[Tensor | None] = [None] * len(weights)
        grad_biases: list[Tensor | None] = [None] * len(weights)
        for i, (grad_TO, weight_OI) in enumerate(zip(grads, weights, strict=True)):
            if grad_TO is None:
                continue
            if of_x:
                grad_x_TI = grad_TO @ weight_OI if grad_x_TI is None else grad_x_TI.addmm_(grad_TO, weight_OI)
            if trained[i]:
                grad_weights[i] = grad_TO.T @ x_TI
            if trained[len(weights) + i]:
                grad_biases[i] = grad_TO.sum(0)
        return grad_x_TI, *grad_weights, *grad_biases


class _Siblings:
    """Layers of one input. A layer that is called with another input than the first was computes its output alone."""

    def __init__(self, layers: list[nn.Linear]) -> None:
        self._layers = layers
        self._x: Tensor | None = None
        """What the first layer was called with, until all the others' outputs are fetched."""
        self._waiting: dict[int, Tensor] = {}

    def first(self, x: Tensor) -> Tensor:
        parameters = [layer.weight for layer in self._layers] + [layer.bias for layer in self._layers]
        outs: tuple[Tensor, ...] = _Linears.apply(x.reshape(-1, x.shape[-1]), *parameters)  # type: ignore[no-untyped-call]
        own, *others = (out.view(*x.shape[:-1], -1) for out in outs)
        self._x, self._waiting = x, dict(enumerate(others, start=1))
        return own

    def other(self, index: int, x: Tensor) -> Tensor:
        if x is not self._x or index not in self._waiting:
            return functional.linear(x, self._layers[index].weight, self._layers[index].bias)
        out = self._waiting.pop(index)
        if not self._waiting:
            self._x = None
        return out


def fuse_siblings(model: nn.Module) -> None:
    """Have plain linear layers of one input, in each module of the model that has such, go backward together."""
    for module in model.modules():
        for names in SIBLINGS:
            layers: list[Any] = [getattr(module, name, None) for name in names]
            if not all(type(layer) is nn.Linear and "forward" not in vars(layer) for layer in layers):
                continue
            siblings = _Siblings(layers)
            for index, layer in enumerate(layers):
                layer.forward = partial(siblings.other, index) if index else siblings.first
