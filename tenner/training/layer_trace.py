"""What one token costs in each layer of a model, found by a forward pass on the meta device, where nothing is computed.

Autograd says there which tensors a layer keeps for its backward pass, PyTorch's counter how many operations its
products take, and attention which heads it was called with; so no formula has to know the family of the model.
Functions that keep the same tensors stand in for what `training/kernels.py` fuses and `training/attention.py` computes.

Letters in names: T tokens, D hidden size, I intermediate size, H query heads, K key heads, S head size.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import MethodType
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.modules.conv import _ConvNd
from torch.utils.flop_counter import FlopCounterMode
from transformers import PreTrainedModel
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from tenner.training.kernels import fuses_norm

NAME = "tenner_traced"
TOKENS = 256
"""Of the pass: as many as the longest chunk of the recurrent layers that transformers has, which pad to it."""


_LayersOf = Callable[[PreTrainedModel], Sequence[nn.Module]]


class Attention(NamedTuple):
    """The attention of one layer."""

    heads: int
    key_heads: int
    key_size: int
    value_size: int
    window: int | None = None
    """How many tokens it looks back, itself included; None: all."""

    @property
    def pair_flops(self) -> int:
        """Of one query and one key in all heads, forward: a product for the score and one for the value."""
        return 2 * self.heads * (self.key_size + self.value_size)


@dataclass(frozen=True)
class Layer:
    """The sizes of one decoder layer, and what a token costs in it."""

    parameters: int
    linears: tuple[tuple[int, int], ...]
    """Inputs and outputs of each of its linear layers."""
    token_flops: float
    """Of all products in the forward pass, without those of attention's pairs."""
    kept_numbers: float
    """What autograd keeps of a token, in numbers of the compute dtype; and beside them:"""
    kept_bytes: float
    """whatever the compute dtype is."""
    widest_numbers: float
    """The largest tensor among them, of a token."""
    attention: Attention | None
    experts: int = 0
    """Of a mixture, see `expert_weights`."""

    @property
    def linear_parameters(self) -> int:
        """The weights of its linear layers."""
        return sum(inputs * outputs for inputs, outputs in self.linears)

    @property
    def product_numbers(self) -> int:
        """What comes out of its linear layers and of attention, of a token."""
        attention = self.attention
        return sum(outputs for _, outputs in self.linears) + (
            attention.heads * attention.value_size if attention else 0
        )


def traced(low: PreTrainedModel, wide: PreTrainedModel, layers: _LayersOf) -> list[Layer]:
    """The layers of a model on the meta device, given in bfloat16 and in float32.

    Raises whatever the model raises where its forward pass in bfloat16 cannot run there. Where only the other one
    cannot (mixtures of experts have a kernel that knows no other type there), all that is kept counts as numbers.
    """
    costs = _costs(low, layers(low))
    try:
        wide_costs = _costs(wide, layers(wide))
    except RuntimeError:
        wide_costs = [cost._replace(bytes=2 * cost.bytes) for cost in costs]
    found: dict[_Cost, Layer] = {}
    for module, cost, wide_cost in zip(layers(low), costs, wide_costs, strict=True):
        if cost not in found:
            numbers = (wide_cost.bytes - cost.bytes) / 2
            found[cost] = Layer(
                **_sizes(module), token_flops=cost.flops, kept_numbers=numbers, kept_bytes=cost.bytes - 2 * numbers,
                widest_numbers=cost.widest_bytes / 2, attention=cost.attention,
            )  # fmt: skip
    return [found[cost] for cost in costs]


def estimated(layers: Sequence[nn.Module], attentions: Sequence[Attention | None]) -> list[Layer]:
    """The same without a forward pass: as if inputs and outputs of all linear layers were kept, which is too much."""
    out = []
    for module, attention in zip(layers, attentions, strict=True):
        sizes = _sizes(module)
        linears = sizes["linears"]
        out.append(
            Layer(
                **sizes, token_flops=2 * sum(i * o for i, o in linears), kept_numbers=sum(i + o for i, o in linears),
                kept_bytes=0, widest_numbers=max((max(pair) for pair in linears), default=0), attention=attention,
            )
        )  # fmt: skip
    return out


def _sizes(layer: nn.Module) -> dict[str, Any]:
    linears = (m for m in layer.modules() if isinstance(m, nn.Linear))
    return {
        "parameters": sum(p.numel() for p in layer.parameters()),
        "linears": tuple((m.in_features, m.out_features) for m in linears),
        "experts": max((len(weight) for weight in expert_weights(layer)), default=0),
    }


def expert_weights(module: nn.Module) -> list[nn.Parameter]:
    """The weights of mixtures of experts in a module, which hold a matrix for each expert."""
    modules = (m for m in module.modules() if not isinstance(m, _ConvNd))
    return [p for m in modules for p in m.parameters(recurse=False) if p.ndim == 3 and len(p) > 1]


class _Cost(NamedTuple):
    """Of one token in one layer."""

    kind: Any
    bytes: float
    widest_bytes: float
    flops: float
    attention: Attention | None


def _costs(model: PreTrainedModel, layers: Sequence[nn.Module]) -> list[_Cost]:
    """Of each layer; those of one kind (the same class, parameters, windows and flags) share one and run once."""
    kinds: dict[Any, tuple[_Cost, Any]] = {}
    own = {p.untyped_storage()._cdata for p in (*model.parameters(), *model.buffers())}
    order = []

    def run(layer: nn.Module, *args: Any, **kwargs: Any) -> Any:
        kind = _kind(layer)
        order.append(kind)
        if kind not in kinds:
            kinds[kind] = _run(layer, kind, args, kwargs, own)
        return kinds[kind][1]

    for layer in {_kind(layer): layer for layer in reversed(layers)}.values():  # the first of each
        _stand_in(layer)
    for layer in layers:
        layer.forward = MethodType(run, layer)
    ids_1T = torch.zeros(1, TOKENS, dtype=torch.long, device="meta")
    with torch.device("meta"):
        decoder: Any = model.get_decoder()  # type: ignore[no-untyped-call]
        decoder(input_ids=ids_1T, position_ids=torch.arange(TOKENS)[None], use_cache=False)
    assert len(order) == len(layers)
    return [kinds[kind][0] for kind in order]


def _kind(layer: nn.Module) -> Any:
    shapes = tuple((name, *p.shape) for name, p in layer.named_parameters())
    windows = tuple(getattr(m, "sliding_window", None) for m in layer.modules())
    # Such as whether a layer hands its keys on to later ones, or reads those of an earlier one.
    flags = tuple(
        (name, value) for m in layer.modules() for name, value in sorted(vars(m).items()) if isinstance(value, bool)
    )
    return type(layer), shapes, windows, flags


def _run(
    layer: nn.Module, kind: Any, args: tuple[Any, ...], kwargs: dict[str, Any], own: set[int]
) -> tuple[_Cost, Any]:
    """One layer's forward pass by its class; what is handed to all layers (angles, masks) is not counted as kept."""
    stream = args[0] if args else kwargs["hidden_states"]
    shared = own | {x.untyped_storage()._cdata for x in _tensors((args[1:], kwargs)) if x is not stream}
    kept: list[Tensor] = []  # holds them, or another tensor would come to lie at the same address
    counter = FlopCounterMode(display=False, custom_mapping=EXPERT_FLOPS)
    keeping = saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x)  # type: ignore[func-returns-value]
    with _attention_noted() as noted, counter, keeping:
        out = type(layer).forward(layer, *args, **kwargs)
    sizes = {s._cdata: s.nbytes() for x in kept if (s := x.untyped_storage())._cdata not in shared}
    cost = _Cost(
        kind,
        sum(sizes.values()) / TOKENS,
        max(sizes.values(), default=0) / TOKENS,
        counter.get_total_flops() / TOKENS,
        noted[0] if noted else None,
    )
    return cost, out


def _grouped_flops(rows: tuple[int, int], weights: tuple[int, int, int], *_args: object, **_kwargs: object) -> int:
    """Of a product of each row with the matrix of its expert: (rows, in) by (experts, in, out)."""
    return 2 * rows[0] * weights[1] * weights[2]


EXPERT_FLOPS = {torch.ops.aten._grouped_mm: _grouped_flops}
"""PyTorch's counter does not know this one."""


def _tensors(nested: Any) -> Iterator[Tensor]:
    if isinstance(nested, Tensor):
        yield nested
    elif isinstance(nested, dict):
        yield from _tensors(list(nested.values()))
    elif isinstance(nested, list | tuple):
        for part in nested:
            yield from _tensors(part)


class _Keeps(torch.autograd.Function):
    """Gives a new tensor of a shape; keeps what it is told to, and the new one where it shall. Has no backward."""

    @staticmethod
    def forward(ctx: Any, shape: tuple[int, ...], keeps_out: bool, *kept: Tensor) -> Tensor:
        out = kept[0].new_empty(shape)
        ctx.save_for_backward(*kept, *([out] if keeps_out else []))
        return out


def _keeps(shape: tuple[int, ...], *kept: Tensor, keeps_out: bool) -> Tensor:
    return cast(Tensor, _Keeps.apply(shape, keeps_out, *kept))  # type: ignore[no-untyped-call]


_noted: list[list[Attention]] = []


@contextmanager
def _attention_noted() -> Iterator[list[Attention]]:
    """The calls of attention within the block."""
    _noted.append([])
    try:
        yield _noted[-1]
    finally:
        _noted.pop()


def _attention(
    module: nn.Module,  # noqa: ARG001  the signature is transformers'
    query_1HTS: Tensor,
    key_1KTS: Tensor,
    value_1KTS: Tensor,
    attention_mask: Tensor | None,  # noqa: ARG001
    *,
    sliding_window: int | None = None,
    **_unused: object,
) -> tuple[Tensor, None]:
    """Attention as it is computed here: queries, keys, values and what comes out are kept, scores are not."""
    heads, tokens, key_size = query_1HTS.shape[1:]
    key_heads, value_size = value_1KTS.shape[1], value_1KTS.shape[-1]
    if _noted:
        _noted[-1].append(Attention(heads, key_heads, key_size, value_size, sliding_window))
    shape = (1, tokens, heads, value_size)
    return _keeps(shape, query_1HTS, key_1KTS, value_1KTS, keeps_out=True), None


ALL_ATTENTION_FUNCTIONS.register(NAME, _attention)


def _stand_in(layer: nn.Module) -> None:
    """Have norms and gates keep what the fused ones keep, where these replace them."""
    for module in layer.modules():
        if fuses_norm(module):
            module.forward = MethodType(_norm, module)
        elif _is_silu_gate(module):
            module.forward = MethodType(_gated, module)


def _is_silu_gate(module: nn.Module) -> bool:
    """Told by its parts: to try it, as `fuse` does, would take the memory of its weights."""
    gated = all(isinstance(getattr(module, f"{name}_proj", None), nn.Linear) for name in ("gate", "up", "down"))
    return gated and type(getattr(module, "act_fn", None)).__name__ in ("SiLU", "SiLUActivation")


def _norm(module: nn.Module, hidden_states: Tensor) -> Tensor:  # noqa: ARG001
    """Keeps its input and a float32 number for each vector."""
    scales = hidden_states.new_empty(hidden_states.shape[:-1], dtype=torch.float32)
    return _keeps(hidden_states.shape, hidden_states, scales, keeps_out=False)


def _gated(module: Any, hidden_states: Tensor) -> Tensor:
    """Keeps both inputs of the gate; the linear layer behind it keeps what comes out."""
    gate_TI, up_TI = module.gate_proj(hidden_states), module.up_proj(hidden_states)
    out: Tensor = module.down_proj(_keeps(gate_TI.shape, gate_TI, up_TI, keeps_out=False))
    return out
