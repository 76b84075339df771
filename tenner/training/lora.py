"""Low-rank adapters by peft: put beside a model's linear layers, saved on their own, and merged into the weights."""

import warnings
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from transformers import BitsAndBytesConfig, PreTrainedModel

from tenner.core.sections import Train
from tenner.core.seeds import derived
from tenner.training.bf16_rounding import rounded


class Adapters:
    """The adapters of one model. The model's other weights are frozen."""

    def __init__(self, model: PreTrainedModel, settings: Train) -> None:
        """Put them in, in float32 and not drawn yet."""
        from peft import LoraConfig, get_peft_model

        config = LoraConfig(
            task_type="CAUSAL_LM", r=settings.lora_rank, lora_alpha=settings.lora_alpha, target_modules="all-linear"
        )
        with torch.random.fork_rng(), warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # peft asks transformers by an older name
            self._peft: Any = get_peft_model(model, config)

    def save(self, folder: Path, *, base_model: str) -> None:
        """Write them as a folder that peft puts on top of `base_model`."""
        self._peft.peft_config["default"].base_model_name_or_path = base_model
        self._peft.save_pretrained(folder, save_embedding_layers=False)  # else it asks a hub about the base
        (folder / "README.md").unlink()  # peft's template: empty headings

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


def nf4(compute: torch.dtype) -> BitsAndBytesConfig:
    """The frozen weights of linear layers in 4 bits, their scales in 8, products in `compute`, as in QLoRA's paper."""
    return BitsAndBytesConfig(  # type: ignore[no-untyped-call]
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=compute
    )


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
