"""Models that the engines' tests share."""

import shutil
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def lively_model_dir(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with weights so large that its output wanders, and with delimiters made likely."""
    import torch  # not above: what PyTorch reads when it is imported is set later than this file is read
    from short_format import SHORT
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = tmp_path_factory.mktemp("lively") / "model"
    shutil.copytree(tiny_model_dir, folder)
    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir, dtype=torch.float32)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.copy_(0.35 * torch.randn(parameter.shape, generator=generator))
        close = AutoTokenizer.from_pretrained(tiny_model_dir).encode(SHORT.close, add_special_tokens=False)
        model.get_output_embeddings().weight[[*close, 2]] *= 2.0
    model.save_pretrained(folder)
    return folder
