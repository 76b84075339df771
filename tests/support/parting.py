"""Where two engines part, and how near the two tokens are to each other for the model in float32."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer


class Parting(NamedTuple):
    """The first id at which two completions differ."""

    at: int
    gap: float
    """Between the logits of the two tokens that were taken there."""


class Judge:
    """The model in float32, which says how near a choice was."""

    def __init__(self, model_dir: Path) -> None:
        self._model = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32)
        self._tokenizer = AutoTokenizer.from_pretrained(model_dir)

    def parting(self, prompt: str, ours: Sequence[int], theirs: Sequence[int]) -> Parting:
        """Of two completions of a prompt that are not the same; what ended first took the end of text."""
        a, b = ((*ids, self._tokenizer.eos_token_id) for ids in (ours, theirs))
        at = next(i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y)
        ids = [*self._tokenizer.encode(prompt, add_special_tokens=False), *a[:at]]
        with torch.inference_mode():
            logits_V = self._model(torch.tensor([ids])).logits[0, -1]
        return Parting(at, abs(float(logits_V[a[at]] - logits_V[b[at]])))
