"""A copy of a tiny model whose output wanders instead of repeating itself."""

import shutil
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel


def wandering_copy(model_dir: Path, folder: Path) -> PreTrainedModel:
    """The model in `folder`, loaded, with weights so large that its output wanders; they are the caller's to save."""
    shutil.copytree(model_dir, folder)
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.copy_(0.35 * torch.randn(parameter.shape, generator=generator))
    return model
