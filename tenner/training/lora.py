"""Low-rank adapters by peft: put beside a model's linear layers, saved on their own, and merged into the weights."""

import json
import warnings
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoConfig, BitsAndBytesConfig, PreTrainedModel

from tenner.core import model_folder
from tenner.core.errors import TennerError
from tenner.core.sections import Train
from tenner.core.seeds import derived
from tenner.training import student
from tenner.training.architecture import decoder_layers
from tenner.training.bf16_rounding import rounded

NO_TARGETS = {"gate", "router", "shared_expert_gate"}
"""Which expert a token is sent to stays as it is."""
ADAPTER_MAX = 1_000_000
"""Above every rank and every alpha."""
MAMBA_LAYERS = ("out_proj", "conv1d")


class Adapters:
    """The adapters of one model. The model's other weights are frozen."""

    def __init__(self, model: PreTrainedModel, settings: Train) -> None:
        """Put them in, in float32 and not drawn yet. Raises TennerError where peft has none for this model."""
        from peft import LoraConfig, get_peft_model

        config = LoraConfig(
            task_type="CAUSAL_LM", r=settings.lora_rank, lora_alpha=settings.lora_alpha, target_modules=_targets(model)
        )
        drawing_gpus = [model.device] if model.device.type == "cuda" else []  # else all, with a warning
        with torch.random.fork_rng(devices=drawing_gpus), warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # peft asks transformers by an older name
            try:
                self._peft: Any = get_peft_model(model, config)
            except ValueError as e:
                raise TennerError(
                    f"peft has no adapters for a {type(model).__name__}: {' '.join(str(e).split())[:200]}",
                    hint='train.method = "full", or choose another student',
                ) from e

    def save(self, folder: Path, *, base_model: str) -> None:
        """Write them as a folder that peft puts on top of `base_model`, all or nothing. Raises StorageFull."""
        self._peft.peft_config["default"].base_model_name_or_path = base_model
        with student.whole_folder(folder) as partial:
            self._peft.save_pretrained(partial, save_embedding_layers=False)  # else it asks a hub about the base
            (partial / "README.md").unlink()  # peft's template: empty headings

    def merge(self) -> PreTrainedModel:
        """Add them to the weights and take them out; computed in float32, rounded once."""
        for name, p in self._peft.named_parameters():
            if ".lora_" in name:
                p.data = p.data.float()
        for module in self._peft.modules():
            if (change := getattr(module, "get_delta_weight", None)) is not None:
                weight = module.base_layer.weight
                whole = weight.detach().float().add_(change("default").detach())
                weight.data = rounded(whole, weight.dtype)
        return cast(PreTrainedModel, self._peft.unload())


def complete_config(folder: Path, *, base_model: str) -> None:
    """Write into an adapter folder's configuration what peft needs to put it on top of `base_model`."""
    path = folder / "adapter_config.json"
    config = model_folder.read_json(path)
    adapted = (name.partition(".lora_A.") for name in _adapter_tensors(folder))
    targets = {module.rpartition(".")[2] for module, found, _ in adapted if found}
    config |= {
        "base_model_name_or_path": base_model, "task_type": "CAUSAL_LM",
        "target_modules": config.get("target_modules") or sorted(targets),
    }  # fmt: skip
    path.write_text(json.dumps(config, indent=2), "utf-8")


def merge_folder(base: Path, folder: Path) -> PreTrainedModel:
    """The model in `base`, in the precision that it is stored in, with the adapters of a folder added to its weights.

    The sum is computed in float32 and rounded once. Raises TennerError for adapters of weights that it has not.
    """
    model = student.load(base, AutoConfig.from_pretrained(base).dtype or torch.float32, "eager")
    scale, tensors = _scale(folder / "adapter_config.json"), _adapter_tensors(folder)
    weights = dict(model.named_parameters())
    for name, down in tensors.items():
        if not name.endswith(".lora_A.weight"):
            continue
        target = name.removeprefix("base_model.model.").replace(".lora_A.weight", ".weight")
        up = tensors.get(name.replace(".lora_A.", ".lora_B."))
        weight = weights.get(target)
        if weight is None or up is None or not _fit(weight, up, down):
            raise TennerError(
                f"the adapter {name} fits no weight of the student", hint=f"{folder} holds the adapters as they came"
            )
        whole = weight.detach().float() + scale * (up.float() @ down.float())
        weight.data = rounded(whole, weight.dtype)
    return model


def _scale(path: Path) -> float:
    """What the product of two adapters is multiplied by. Raises TennerError where a configuration does not tell."""
    config = model_folder.read_json(path)
    alpha, rank = config.get("lora_alpha"), config.get("r")
    if not (isinstance(alpha, int | float) and isinstance(rank, int) and 0 < alpha < ADAPTER_MAX > rank > 0):
        raise TennerError(
            f"{path}: lora_alpha is {str(alpha)[:40]} and r is {str(rank)[:40]}",
            hint="two numbers above zero are needed",
        )
    return float(alpha / (rank**0.5 if config.get("use_rslora") else rank))


def _fit(weight: Tensor, up: Tensor, down: Tensor) -> bool:
    """Whether the product of two adapters has the shape of a weight."""
    return up.ndim == down.ndim == 2 and up.shape[1] == down.shape[0] and weight.shape == (up.shape[0], down.shape[1])


def _adapter_tensors(folder: Path) -> dict[str, Tensor]:
    """Raises TennerError where the folder holds no adapters."""
    try:
        return load_file(folder / "adapter_model.safetensors")
    except (OSError, SafetensorError) as e:
        raise TennerError(f"{folder} holds no adapters: {e}", hint="the same command downloads them again") from e


def nf4(compute: torch.dtype) -> BitsAndBytesConfig:
    """The frozen weights of linear layers in 4 bits, their scales in 8, products in `compute`, as in QLoRA's paper."""
    return BitsAndBytesConfig(  # type: ignore[no-untyped-call]
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=compute
    )


def _targets(model: PreTrainedModel) -> str | list[str]:
    """Which linear layers get adapters: those of the decoder's layers, but for routers and what peft cannot adapt.

    `all-linear`, peft's name for all but the head, where that is the same.
    """
    layers, taken = dict(adaptable(model)), _names_of_experts(model)
    linears = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    head = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    if not taken and all(name in layers or module is head for name, module in linears.items()):
        return "all-linear"
    targets = [name for name in layers if name.rpartition(".")[2] not in taken]
    if not targets:
        raise TennerError(f"a {type(model).__name__} has no linear layers that adapters can stand beside")
    return targets


def unadapted(model: PreTrainedModel) -> list[str]:
    """The linear layers of the decoder's layers that stay without adapters since peft takes them for experts."""
    taken = _names_of_experts(model)
    return [name for name, _ in adaptable(model) if name.rpartition(".")[2] in taken]


def _names_of_experts(model: PreTrainedModel) -> set[str]:
    """The last names of modules that peft takes for a mixture's experts and router, wherever they stand.

    Transformers once had a linear layer for each expert; for the sake of adapters of that time peft turns such a name,
    and `all-linear`, into the weights that hold all experts, when adapters are made and when they are loaded.
    """
    from peft import LoraConfig

    try:
        from peft.utils.transformers_weight_conversion import convert_peft_config_for_transformers
    except ImportError:  # an older one turns nothing
        return set()

    def is_taken(name: str) -> bool:
        config = LoraConfig(target_modules=[name])
        try:
            convert_peft_config_for_transformers(config, model=model, conversions=None)
        except ValueError:  # of a gate it wants both inputs
            return True
        return name not in (config.target_modules or ())

    return {name for name in {name.rpartition(".")[2] for name, _ in model.named_modules()} if name and is_taken(name)}


def adaptable(model: PreTrainedModel) -> list[tuple[str, nn.Linear]]:
    """The linear layers of the decoder's layers, by name, but for routers and what peft cannot adapt."""
    layers = {
        id(module)
        for layer in decoder_layers(model)
        for name, module in layer.named_modules()
        if isinstance(module, nn.Linear)
        and not (NO_TARGETS & set(name.split(".")[-1:]))
        and not _is_inside_mamba(layer, name)
    }
    return [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and id(module) in layers
    ]


def _is_inside_mamba(layer: nn.Module, name: str) -> bool:
    """peft leaves the mixers of state-space models alone, whose kernels read the weights of some layers themselves."""
    return hasattr(layer.get_submodule(name.rpartition(".")[0]), "A_log") and name.endswith(MAMBA_LAYERS)


def init_lora(name: str, shape: torch.Size, *, seed: int) -> Tensor:
    """What an adapter begins with, by seed and name, on any number of processes: A uniform, B nought, as in peft."""
    if ".lora_B." in name:
        return torch.zeros(shape)
    generator = torch.Generator().manual_seed(derived(seed, "lora", name))
    bound = shape[1] ** -0.5  # Kaiming's uniform with a = sqrt(5)
    return torch.empty(shape).uniform_(-bound, bound, generator=generator)


def stored_name(name: str) -> str:
    """What a weight is called in the folder of the model without adapters."""
    return name.replace(".base_layer.", ".")
