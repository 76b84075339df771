"""Which activations are kept between forward and backward: all, the products, or only each layer's inputs."""

import contextlib
from collections.abc import Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from tenner.core.errors import TennerError
from tenner.core.sections import Train

_PRODUCTS = {"mm": 0, "addmm": 1, "linear": 0, "_scaled_mm": 0}
"""Of a matrix with another, and which argument is the first."""
_DEAR = {
    *_PRODUCTS,
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
    how: dict[str, Any] = {"use_reentrant": False, "preserve_rng_state": False}  # no layer draws random numbers
    if settings.activations == "products":
        policy = partial(_policy, settings.lora_rank if settings.method == "lora" else 0)
        how["context_fn"] = partial(create_selective_checkpoint_contexts, policy)
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


def _policy(rank: int, _context: object, operator: Any, *args: Any, **_kwargs: object) -> CheckpointPolicy:
    """Keep a product, unless it is one of `rank` columns: an adapter's second one is as large as its base's, and made
    again for next to nothing.
    """
    name = operator.__name__.partition(".")[0]
    if name not in _DEAR or (name in _PRODUCTS and args[_PRODUCTS[name]].shape[-1] <= rank):
        return CheckpointPolicy.PREFER_RECOMPUTE
    return CheckpointPolicy.MUST_SAVE
