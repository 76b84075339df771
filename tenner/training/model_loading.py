"""A student on the devices that train it: loaded, given adapters, spread over the processes, ready to be moved."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn
from transformers import PreTrainedModel

from tenner.core.errors import TennerError
from tenner.core.sections import Train
from tenner.training import activation_checkpointing, attention, context_parallel, float8, kernels, lora, student
from tenner.training.architecture import decoder_layers
from tenner.training.bf16_rounding import rounded
from tenner.training.distributed import World, check_rows_shared, first_row, local_part, whole
from tenner.training.flops import Arithmetic
from tenner.training.packed_loss import PackedLoss
from tenner.training.stored_weights import StoredWeights
from tenner.training.weights import Weights, weights_of


class Learner(NamedTuple):
    """A model in training."""

    model: PreTrainedModel
    loss: PackedLoss
    """The model with its loss: what goes forward."""
    weights: Weights
    adapters: lora.Adapters | None
    arithmetic: Arithmetic


def compute_dtype(settings: Train) -> torch.dtype:
    """What products are computed in."""
    assert settings.precision != "auto", "`train.train` has chosen one"
    return torch.float32 if settings.precision == "fp32" else torch.bfloat16


def stored_dtype(settings: Train) -> torch.dtype:
    """What the student comes in before it is trained."""
    full = settings.method == "full" and settings.precision != "pure-bf16"
    return torch.float32 if full else compute_dtype(settings)


def load(base: Path | PreTrainedModel, settings: Train, world: World, *, seed: int) -> Learner:
    """Every process loads its part of the model in the folder `base`, or takes the model itself where it is alone.

    Raises TennerError for a folder or a family of models that cannot be trained.
    """
    compute, stored = compute_dtype(settings), stored_dtype(settings)
    check_rows_shared(world.size, settings.context_parallel)
    assert world.context_parallel == settings.context_parallel, "the processes have met for these settings"
    if settings.quantization:
        model = _quantized(base, compute, world)
    elif isinstance(base, PreTrainedModel):
        assert world.size == 1, "several processes read their parts from a folder"
        model = _prepared(base, stored)
    else:
        model = (student.load if world.size == 1 else student.load_empty)(base, stored, attention.NAME)
    if settings.context_parallel > 1:
        context_parallel.check_model(model, settings)
    layers = decoder_layers(model)
    freeze(model, layers, settings.frozen_layers)
    in_float8 = _layers_in_float8(model, settings, world.device)
    adapters = lora.Adapters(model, settings) if settings.method == "lora" else None
    arithmetic = Arithmetic.of(model, layers, frozen_layers=settings.frozen_layers)
    kernels.fuse(model, on_gpu=world.device.type == "cuda", activations=settings.activations)
    float8.lower(in_float8)
    activation_checkpointing.apply_activation_checkpointing(layers, settings, world.device)
    loss = PackedLoss(model)
    if world.size == 1:
        for name, p in model.named_parameters():
            if ".lora_" in name:
                p.data = lora.init_lora(name, p.shape, seed=seed)
        nn.Module.to(model, world.device)
    else:
        world.shard(loss, layers, compute=compute)
        assert isinstance(base, Path)
        _fill(model, base, world, seed=seed)
    weights = weights_of(model, loss, world, compute)
    if _base_is_lossy(base, settings, world):
        float8.keep(in_float8)
    return Learner(model, loss, weights, adapters, arithmetic)


def _layers_in_float8(model: PreTrainedModel, settings: Train, device: torch.device) -> list[nn.Linear]:
    """Raises TennerError where the recipe asks for float8 and this device, precision or model does not go with it."""
    if not settings.fp8:
        return []
    if compute_dtype(settings) == torch.float32:
        raise TennerError("train.fp8 goes with bf16, and this device computes in fp32", hint="leave train.fp8 out")
    linears = lora.adaptable(model)
    float8.check(device)
    float8.check_sizes(linears)
    return [layer for _, layer in linears]


def _base_is_lossy(base: Path | PreTrainedModel, settings: Train, world: World) -> bool:
    """Whether frozen weights are kept in fewer bits than the folder has, to which the adapters belong in the end.

    Several processes gather them in the compute dtype, and a model that is loaded already is all that there is of it:
    their weights are put into float8 whenever they are used.
    """
    if settings.quantization:
        return True
    return settings.fp8 and settings.method == "lora" and world.size == 1 and isinstance(base, Path)


def _quantized(base: Path | PreTrainedModel, compute: torch.dtype, world: World) -> PreTrainedModel:
    """The model with its frozen weights in 4 bits. Raises TennerError for several processes and for a loaded model."""
    if world.size > 1 or isinstance(base, PreTrainedModel):
        what = f"{world.size} processes" if world.size > 1 else "a model that is loaded already"
        raise TennerError(
            f'train.quantization = "nf4" is not for {what}',
            hint="train a model folder with one process, or leave it out",
        )
    on_gpu = world.device.type == "cuda"
    model = student.load(base, compute, attention.NAME, lora.nf4(compute), world.device if on_gpu else None)
    for module in model.modules():
        if isinstance(module, nn.Linear) and not module.weight.is_floating_point():
            module.training = True  # else bitsandbytes packs the weights for inference, on a CPU that can
    return model


def _prepared(model: PreTrainedModel, stored: torch.dtype) -> PreTrainedModel:
    """The model as `student.load` would give it, in place."""
    model.set_attn_implementation(attention.NAME)
    model.eval()  # type: ignore[no-untyped-call]
    for p in model.parameters():  # not buffers: a table of angles in bfloat16 would bend all positions
        p.data = p.data.to(stored)
    return model


def freeze(model: PreTrainedModel, layers: Sequence[nn.Module], count: int) -> None:
    """Take the first `count` layers, and what comes before them, out of the training.

    A head that is tied to the embedding is frozen with it: a gradient of the embedding would have to come through all
    the layers. Raises TennerError where nothing would be left to train.
    """
    if not count:
        return
    if count >= len(layers):
        raise TennerError(
            f"train.frozen_layers = {count} leaves none of the {len(layers)} layers to be trained", hint="lower it"
        )
    for module in (model.get_input_embeddings(), *layers[:count]):
        module.requires_grad_(False)


@torch.no_grad()
def _fill(model: PreTrainedModel, base: Path, world: World, *, seed: int) -> None:
    """Give a sharded model that has no memory yet its rows of the weights, and all of what buffers are stored."""
    buffers = dict(model.named_buffers())
    named = (*model.named_parameters(), *buffers.items())
    stored = StoredWeights(base, model, {lora.stored_name(name): tensor for name, tensor in named})
    nn.Module.to_empty(model, device=world.device)
    for name, buffer in buffers.items():
        owner_name, _, own_name = name.rpartition(".")
        owner = model.get_submodule(owner_name)
        if own_name not in owner._non_persistent_buffers_set:
            stays_wide = any(part in name for part in model._keep_in_fp32_modules_strict or ())
            buffer = stored.whole(lora.stored_name(name)).to(torch.float32 if stays_wide else buffer.dtype)
        setattr(owner, own_name, buffer.to(world.device))
    model.tie_weights()
    for name, p in model.named_parameters():
        mine = local_part(p.detach())
        if ".lora_" in name:
            start = first_row(p, world)
            mine.copy_(lora.init_lora(name, p.shape, seed=seed)[start : start + mine.shape[0]])
        elif mine.numel():
            mine.copy_(stored.rows(lora.stored_name(name), first_row(p, world), mine.shape[0]))


class Whole(NamedTuple):
    """A trained model in one piece; None in the processes that do not hold it."""

    model: PreTrainedModel | None
    adapters: lora.Adapters | None


@torch.no_grad()
def unsharded(learner: Learner, base: Path | PreTrainedModel, settings: Train, world: World) -> Whole:
    """The trained model in the first process' memory, adapters in float32; every process must ask."""
    if world.size == 1 and not _base_is_lossy(base, settings, world):
        learner.weights.release()
        for name, p in learner.model.named_parameters():
            if ".lora_" in name:
                p.data = learner.weights.moved[name]
        return Whole(learner.model, learner.adapters)
    assert isinstance(base, Path)
    model, adapters = None, None
    if world.rank == 0:
        model = student.load(base, compute_dtype(settings), attention.NAME)
        adapters = lora.Adapters(model, settings) if settings.method == "lora" else None
    places = {} if model is None else dict(model.named_parameters())
    for name, p in learner.model.named_parameters():
        if not p.requires_grad:
            continue
        # One process alone has float32 masters of its adapters. One weight at a time: all in float32 are twice a model.
        tensor = learner.weights.moved[name] if world.size == 1 else whole(p.detach())
        if model is not None:
            places[name].data = (tensor if adapters else rounded(tensor, places[name].dtype)).cpu()
    return Whole(model, adapters)
