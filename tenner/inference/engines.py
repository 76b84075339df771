"""The engines of this machine by name: which there are, and one of them with a student in it."""

import os
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tenner.core import hardware
from tenner.core.errors import TennerError
from tenner.core.sections import Device, EngineName, Precision

if TYPE_CHECKING:
    from tenner.inference.engine import LocalEngine


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
    precision: Precision = "auto",
    device: Device = "auto",
    options: Mapping[str, Any] | None = None,
) -> "LocalEngine":
    """The engine with a student in it, which decodes `rows` completions at a time; `options` are vllm.LLM's.

    Raises TennerError where the engine is not installed, where the device is not there or is not vLLM's own, or where
    the folder holds no model that it can decode.
    """
    if engine == "vllm":
        chosen = hardware.choose(_vllm_device(device), precision)
        os.environ.setdefault("VLLM_LOGGING_STREAM", "ext://sys.stderr")  # stdout is for data
        from tenner.inference.vllm import VLLMEngine

        name: Literal["bfloat16", "float32"] = "float32" if chosen.precision == "fp32" else "bfloat16"
        return VLLMEngine.load(model_dir, rows=rows, wait_text=wait_text, dtype=name, **(options or {}))
    import torch

    from tenner.inference.hf.engine import HFEngine

    chosen = hardware.choose(device, precision)
    dtype = torch.float32 if chosen.precision == "fp32" else torch.bfloat16
    return HFEngine.load(model_dir, rows=rows, wait_text=wait_text, dtype=dtype, device=chosen.device)


def _vllm_device(device: Device) -> Device:
    """What vLLM computes on: that of its build. Raises TennerError where another one is named."""
    own = hardware.device_kind()
    if own == "mps":
        own = "cpu"
    if device not in ("auto", own):
        raise TennerError(
            f"vLLM computes on {own} here, not on {device}", hint="leave the device out, or take engine hf"
        )
    return own
