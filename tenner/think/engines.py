"""The engines of this machine by name: which there are, and one of them with a student in it."""

import os
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tenner.errors import TennerError
from tenner.sections import EngineName, Precision

if TYPE_CHECKING:
    from tenner.think.engine import LocalEngine


RESERVED = {"model", "dtype", "max_num_seqs", "generation_config", "enable_prefix_caching", "logits_processors"}
"""Options of vllm.LLM by which it would be another student, or another engine."""


def is_there(engine: EngineName) -> bool:
    """Whether what the engine is built on is installed."""
    return engine == "hf" or find_spec("vllm") is not None


def check(engine: EngineName, options: Mapping[str, Any]) -> None:
    """Find out, before anything is loaded, whether the engine can be, with these options. Raises TennerError if not."""
    if not is_there(engine):
        raise no_vllm()
    if options and engine != "vllm":
        raise TennerError("evaluate.vllm is for vLLM", hint='set evaluate.engine = "vllm", or leave it out')
    if taken := RESERVED & options.keys():
        raise TennerError(f"evaluate.vllm: {min(taken)} is set by tenner itself", hint="leave it out")


def no_vllm() -> TennerError:
    """The error of those who want vLLM where there is none."""
    return TennerError("vLLM is not installed here", hint="pip install vllm, or scripts/install_vllm.sh")


def load(
    engine: EngineName,
    model_dir: Path,
    *,
    rows: int,
    wait_text: str,
    precision: Precision = "bf16",
    options: Mapping[str, Any] | None = None,
) -> "LocalEngine":
    """The engine with a student in it, which decodes `rows` completions at a time; `options` are vllm.LLM's.

    Raises TennerError where the engine is not installed, or where the folder holds no model that it can decode.
    """
    if engine == "vllm":
        os.environ.setdefault("VLLM_LOGGING_STREAM", "ext://sys.stderr")  # stdout is for data
        from tenner.think.vllm import VLLMEngine

        name: Literal["bfloat16", "float32"] = "bfloat16" if precision == "bf16" else "float32"
        return VLLMEngine.load(model_dir, rows=rows, wait_text=wait_text, dtype=name, **(options or {}))
    import torch

    from tenner.think.hf import HFEngine

    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    return HFEngine.load(model_dir, rows=rows, wait_text=wait_text, dtype=dtype)
