"""Linear layers on a GPU: what an adapter adds, and what layers of one input add up, is added within large products.

A product that is added to what is there already takes no longer than one that is not: its arithmetic lasts longer than
the memory that it reads. So the small product of an adapter comes first and the base's is added to it, where peft
computes both and adds them. Queries, keys and values are projected from one input, and so are both inputs of a gate:
autograd writes each layer's part of that input's gradient and adds two of them at a time. Here the first layer that is
called computes the others' outputs as well, so that all of them go backward at once. And a weight's gradient is added
to what earlier rows of a step have left.

Letters in names: T tokens, I inputs of a linear layer, O its outputs, R rank of an adapter.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from tenner.training import float8

SIBLINGS = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))
"""Names of layers that read one input in most of transformers' families, in the order in which they are called."""


class _Layer(NamedTuple):
    """x weight^T + bias, and of an adapter + scaling (x down^T) up^T beside a weight and a bias that are frozen.

    With a `scale` of the weight its products are in float8.
    """

    weight_OI: Tensor
    bias_O: Tensor | None
    scale: Tensor | None = None
    down_RI: Tensor | None = None
    up_OR: Tensor | None = None

    @classmethod
    def of(cls, layer: Any) -> "_Layer":
        """A plain linear layer, or peft's."""
        if not is_adapted(layer):
            return cls(layer.weight, layer.bias)
        (name,), base = layer.active_adapters, layer.base_layer
        return cls(base.weight, base.bias, float8.scale_of(base), layer.lora_A[name].weight, layer.lora_B[name].weight)

    @property
    def is_mixed(self) -> bool:
        """Whether the adapter has another precision, as at a training's end."""
        return self.scale is None and self.down_RI is not None and self.down_RI.dtype != self.weight_OI.dtype

    def product(self, x_TI: Tensor, low_TR: Tensor | None, *, keeps_product: bool) -> Tensor:
        """`low_TR` is what the adapter has between its matrices, scaled. A product that is kept is not changed."""
        if low_TR is None or self.up_OR is None:
            return functional.linear(x_TI, self.weight_OI, self.bias_O)
        if self.scale is not None:  # nothing can be added to: the adapter's part comes last
            first_TO = float8.product(x_TI, self.weight_OI, self.scale, self.bias_O)
            return _added(first_TO, low_TR, self.up_OR.T, keeps_product=keeps_product)
        first_TO = functional.linear(low_TR, self.up_OR, self.bias_O)
        return _added(first_TO, x_TI, self.weight_OI.T, keeps_product=keeps_product)


PARTS = len(_Layer._fields)


class _Linears(torch.autograd.Function):
    """Layers of one input, each given by the five parts of a `_Layer`, and the scaling of each one's adapter."""

    @staticmethod
    def forward(
        ctx: Any, x_TI: Tensor, scalings: Sequence[float], keeps_product: bool, *parts: Any
    ) -> tuple[Tensor, ...]:
        layers = _layers(parts)
        lows = [None if layer.down_RI is None else x_TI @ layer.down_RI.T for layer in layers]
        ctx.save_for_backward(x_TI, *parts, *lows)
        ctx.scalings = scalings
        ctx.weights = [layer.weight_OI for layer in layers]  # themselves: a checkpoint gives what is saved as copies
        ctx.set_materialize_grads(False)
        return tuple(
            layer.product(x_TI, None if low_TR is None else low_TR * scaling, keeps_product=keeps_product)
            for layer, low_TR, scaling in zip(layers, lows, scalings, strict=True)
        )

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        x_TI, *saved = ctx.saved_tensors
        layers, lows = _layers(saved[: -len(grads)]), saved[-len(grads) :]
        of_x, _, _, *of_parts = ctx.needs_input_grad
        found: list[Tensor | None] = []
        passed: list[tuple[Tensor, _Layer]] = []
        between: list[tuple[Tensor, Tensor]] = []
        for grad_TO, layer, low_TR, scaling, own_OI, trained in zip(
            grads, layers, lows, ctx.scalings, ctx.weights, _layers(of_parts), strict=True
        ):
            if grad_TO is None:
                found.extend([None] * PARTS)
                continue
            passed.append((grad_TO, layer))
            grad_down_RI = grad_up_OR = None
            if layer.down_RI is not None and layer.up_OR is not None:
                grad_low_TR, grad_down_RI, grad_up_OR = _of_adapter(grad_TO, x_TI, low_TR, layer.up_OR, scaling)
                between.append((grad_low_TR, layer.down_RI))
            grad_weight_OI = _of_weight(own_OI, grad_TO, x_TI) if trained.weight_OI else None
            grad_bias_O = grad_TO.sum(0) if trained.bias_O else None
            found.extend([grad_weight_OI, grad_bias_O, None, grad_down_RI, grad_up_OR])
        return _back(passed, between) if of_x else None, None, None, *found


def _of_weight(weight_OI: Tensor, grad_TO: Tensor, x_TI: Tensor) -> Tensor | None:
    """A weight's gradient; None where it is added at once to the one that an earlier row of the step has left."""
    if not weight_OI.is_leaf or weight_OI.grad is None:
        return grad_TO.T @ x_TI
    weight_OI.grad.addmm_(grad_TO.T, x_TI)
    return None


def _layers(parts: Sequence[Any]) -> list[_Layer]:
    return [_Layer._make(parts[start : start + PARTS]) for start in range(0, len(parts), PARTS)]


def _back(passed: Sequence[tuple[Tensor, _Layer]], between: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """The input's gradient, from those of outputs, with their layers, and those between adapters' matrices, with the
    first of these.
    """
    total_TI: Tensor | None = None

    def add(*factors: Tensor) -> Tensor:
        return torch.mm(*factors) if total_TI is None else total_TI.addmm_(*factors)

    # All adapters' in one product.
    of_adapters = tuple(torch.cat(parts, dim) for parts, dim in zip(zip(*between, strict=True), (1, 0), strict=False))
    in_float8 = any(layer.scale is not None for _, layer in passed)
    if of_adapters and not in_float8:
        total_TI = add(*of_adapters)
    for grad_TO, layer in passed:
        if layer.scale is None:
            total_TI = add(grad_TO, layer.weight_OI)
        else:
            part_TI = float8.product_back(grad_TO, layer.weight_OI, layer.scale)
            total_TI = part_TI if total_TI is None else total_TI.add_(part_TI)
    if of_adapters and in_float8:
        total_TI = add(*of_adapters)
    assert total_TI is not None
    return total_TI


def _apply(layers: Sequence[Any], x: Tensor, *, keeps_product: bool) -> list[Tensor]:
    """What each layer gives for an input of any number of axes."""
    parts = [_Layer.of(layer) for layer in layers]
    if any(part.is_mixed for part in parts):
        return [type(layer).forward(layer, x) for layer in layers]
    rows_TI = x.reshape(-1, x.shape[-1])
    outs: tuple[Tensor, ...] = _Linears.apply(  # type: ignore[no-untyped-call]
        rows_TI, list(map(_scaling, layers)), keeps_product, *(part for layer in parts for part in layer)
    )
    return [out.view(*x.shape[:-1], -1) for out in outs]


def is_adapted(module: nn.Module) -> bool:
    """A linear layer of peft's with one adapter of the plain kind beside weights that are frozen and not in 4 bits."""
    base = getattr(module, "base_layer", None)
    return (
        type(base) is nn.Linear
        and not any(p.requires_grad for p in base.parameters())
        and len(adapters := list(getattr(module, "lora_A", {}))) == 1
        and getattr(module, "active_adapters", None) == adapters
    )


def _scaling(layer: Any) -> float:
    """Of what its adapter adds."""
    return float(layer.scaling[layer.active_adapters[0]]) if is_adapted(layer) else 0.0


class _AdapterFirst(torch.autograd.Function):
    """scaling (x down^T) up^T + bias, and x once more: for a product of it that is added to the first.

    A checkpoint goes forward again up to the last tensor that is saved, which for the last layer is saved here or by
    that product before it is computed: of a function in Python only once it is.
    """

    @staticmethod
    def forward(
        ctx: Any, x_TI: Tensor, down_RI: Tensor, up_OR: Tensor, bias_O: Tensor | None, scaling: float
    ) -> tuple[Tensor, Tensor]:
        low_TR = x_TI @ down_RI.T
        ctx.save_for_backward(x_TI, low_TR, down_RI, up_OR)
        ctx.scaling = scaling
        return functional.linear(low_TR * scaling, up_OR, bias_O), x_TI

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad_TO, grad_x_TI), (x_TI, low_TR, down_RI, up_OR) = grads, ctx.saved_tensors
        grad_low_TR, grad_down_RI, grad_up_OR = _of_adapter(grad_TO, x_TI, low_TR, up_OR, ctx.scaling)
        if ctx.needs_input_grad[0]:
            grad_x_TI.addmm_(grad_low_TR, down_RI)
        return grad_x_TI, grad_down_RI, grad_up_OR, None, None


def _of_adapter(
    grad_TO: Tensor, x_TI: Tensor, low_TR: Tensor, up_OR: Tensor, scaling: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of what an adapter has between its matrices, of the first, and of the second."""
    grad_low_TR = (grad_TO @ up_OR).mul_(scaling)
    return grad_low_TR, grad_low_TR.T @ x_TI, (grad_TO.T @ low_TR).mul_(scaling)


def adapted_forward(module: Any, x: Tensor, *, keeps_product: bool) -> Tensor:
    """The forward pass of a layer that `is_adapted`; `keeps_product`: a checkpoint keeps it, so nothing changes it."""
    layer = _Layer.of(module)
    if layer.scale is not None or layer.is_mixed:
        (out,) = _apply([module], x, keeps_product=keeps_product)
        return out
    rows_TI = x.reshape(-1, x.shape[-1])
    first_TO, rows_TI = _AdapterFirst.apply(  # type: ignore[no-untyped-call]
        rows_TI, layer.down_RI, layer.up_OR, layer.bias_O, _scaling(module)
    )
    out_TO = _added(first_TO, rows_TI, layer.weight_OI.T, keeps_product=keeps_product)
    return out_TO.view(*x.shape[:-1], -1)


def _added(first: Tensor, a: Tensor, b: Tensor, *, keeps_product: bool) -> Tensor:
    return torch.addmm(first, a, b) if keeps_product else first.addmm_(a, b)


class _Siblings:
    """Layers of one input, or one alone. What is called with another input than the first was is computed alone."""

    def __init__(self, layers: Sequence[nn.Module], *, keeps_product: bool) -> None:
        self._layers = layers
        self._apply = partial(_apply, keeps_product=keeps_product)
        self._x: Tensor | None = None
        """What the first layer was called with, until all the others' outputs are fetched."""
        self._waiting: dict[int, Tensor] = {}

    def first(self, x: Tensor) -> Tensor:
        own, *others = self._apply(self._layers, x)
        self._waiting = dict(enumerate(others, start=1))
        self._x = x if others else None
        return own

    def other(self, index: int, x: Tensor) -> Tensor:
        if x is not self._x or index not in self._waiting:
            (out,) = self._apply([self._layers[index]], x)
            return out
        out = self._waiting.pop(index)
        if not self._waiting:
            self._x = None
        return out


def fuse_linears(model: nn.Module, *, activations: str = "all") -> None:
    """Replace the forward passes of plain linear layers, those of one input together; the head's is left alone.

    Layers with an adapter whose forward pass is `adapted_forward` already are put together likewise. Where only the
    inputs of layers are kept, plain ones of an input of their own stay (see `_AdapterFirst` for what that spares).
    """

    def fits(layer: Any) -> bool:
        if type(layer) is nn.Linear:
            return "forward" not in vars(layer) and layer is not head
        return isinstance(layer, nn.Module) and is_adapted(layer) and "forward" in vars(layer)

    get_head = getattr(model, "get_output_embeddings", None)
    head = get_head() if get_head else None
    together: set[nn.Module] = set()
    for module in model.modules():
        for names in SIBLINGS:
            layers: list[Any] = [getattr(module, name, None) for name in names]
            if not all(map(fits, layers)):
                continue
            siblings = _Siblings(layers, keeps_product=activations == "products")
            for index, layer in enumerate(layers):
                layer.forward = partial(siblings.other, index) if index else siblings.first
            together.update(layers)
    if activations == "inputs":
        return
    for module in model.modules():
        if hasattr(module, "base_layer"):  # peft's, which calls what it consists of, or does not
            together.update(module.modules())
    alone: list[Any] = [layer for layer in model.modules() if layer not in together and type(layer) is nn.Linear]
    for layer in filter(fits, alone):
        layer.forward = _Siblings([layer], keeps_product=activations == "products").first
