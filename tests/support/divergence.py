"""Where the completions of two engines diverge, and how close the two tokens are for the model in float32."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer


class Divergence(NamedTuple):
    """The first place at which two completions differ."""

    at: int
    gap: float
    """The difference of the logits of the two tokens there."""


class ReferenceModel:
    """The model in float32, to measure how close a choice was."""

    def __init__(self, model_dir: Path) -> None:
        self._model = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32)
        self._tokenizer = AutoTokenizer.from_pretrained(model_dir)

    def first_divergence(self, prompt: str, ours: Sequence[int], theirs: Sequence[int]) -> Divergence:
        """The first divergence of two different completions; the one that ends first has the end of text there."""
        a, b = ((*ids, self._tokenizer.eos_token_id) for ids in (ours, theirs))
        at = next(i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y)
        ids = [*self._tokenizer.encode(prompt, add_special_tokens=False), *a[:at]]
        with torch.inference_mode():
            logits_V = self._model(torch.tensor([ids])).logits[0, -1]
        return Divergence(at, abs(float(logits_V[a[at]] - logits_V[b[at]])))
