"""Which activations are kept between forward and backward: all, the products, or only each layer's inputs."""

import contextlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from tenner.core.errors import TennerError
from tenner.core.sections import Train

_DEAR = {
    "mm", "addmm", "linear",
    "_scaled_dot_product_flash_attention", "_scaled_dot_product_flash_attention_for_cpu",
    "_scaled_dot_product_efficient_attention", "_scaled_dot_product_cudnn_attention", "_varlen_attn",
}  # fmt: skip
"""Operators whose results a selective checkpoint keeps: the layers' products and attention by one kernel. Not the
products inside of attention (bmm): they are as large as its scores, and changed in place."""


def apply_activation_checkpointing(layers: Sequence[nn.Module], settings: Train, device: torch.device) -> None:
    """Have each layer keep what the recipe says; the rest is computed again in backward, to the same bits.

    Raises TennerError where it shall wait in the host's memory, and the device has no other.
    """
    if settings.offload_activations and device.type != "cuda":
        raise TennerError("train.offload_activations is for CUDA: here activations lie in the host's memory anyway")
    if settings.activations == "all":
        return
    kept: Callable[[], Any] | None = _products_kept if settings.activations == "products" else None
    how: dict[str, Any] = {"use_reentrant": False, "preserve_rng_state": False}  # no layer draws random numbers
    if kept is not None:
        how["context_fn"] = kept
    for layer in layers:
        layer.forward = partial(checkpoint, layer.forward, **how)


def offloaded(settings: Train) -> AbstractContextManager[Any]:
    """Within the block, if the recipe says so, what is kept for backward waits in the host's memory; the weights
    stay where they are.
    """
    if not settings.offload_activations:
        return contextlib.nullcontext()
    host = torch.autograd.graph.save_on_cpu(pin_memory=True)
    return saved_tensors_hooks(
        lambda kept: kept if _is_weight(kept) else host.pack_hook(kept),
        lambda kept: kept if isinstance(kept, Tensor) else host.unpack_hook(kept),
    )


def _is_weight(kept: Tensor) -> bool:
    """Whether it is a parameter or a view of one: every product keeps its weights, and copies of them would pile up."""
    return isinstance(kept if kept._base is None else kept._base, nn.Parameter)


def _products_kept() -> Any:
    return create_selective_checkpoint_contexts(_policy)  # type: ignore[no-untyped-call]


def _policy(_context: object, operator: Any, *_args: object, **_kwargs: object) -> CheckpointPolicy:
    name = operator.__name__.partition(".")[0]
    return CheckpointPolicy.MUST_SAVE if name in _DEAR else CheckpointPolicy.PREFER_RECOMPUTE
