"""What the doors of both fuzzing campaigns share."""

from pathlib import Path

import pytest
from fuzzing import Place


@pytest.fixture(scope="module")
def place(tiny_model_dir: Path, tiny_recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Place:
    from transformers import AutoTokenizer

    from tenner.core import recipe

    tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir)
    return Place(tmp_path_factory.mktemp("doors"), tokenizer, tiny_model_dir, recipe.load(str(tiny_recipe)))
