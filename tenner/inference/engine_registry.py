"""The registry of engines: check that one is available, and load a student into it."""

import os
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from tenner.core import hardware
from tenner.core.errors import TennerError
from tenner.core.sections import Device, EngineName, LocalEngineName, Precision
from tenner.core.terminal import say
from tenner.inference.engine import LocalEngine, vllm_not_installed

RESERVED = {"model", "dtype", "max_num_seqs", "generation_config", "enable_prefix_caching", "logits_processors"}
"""Options of vllm.LLM that the engine sets itself."""


def is_there(engine: EngineName) -> bool:
    """Whether the engine's library is installed."""
    return engine != "vllm" or find_spec("vllm") is not None


def check(engine: EngineName, options: Mapping[str, Any]) -> None:
    """Raise TennerError, before anything is loaded, where the engine is not available or an option is not allowed."""
    if not is_there(engine):
        raise vllm_not_installed()
    if options and engine != "vllm":
        raise TennerError("evaluate.vllm is for vLLM", hint='set evaluate.engine = "vllm", or leave it out')
    if reserved := RESERVED & options.keys():
        raise TennerError(f"evaluate.vllm: {min(reserved)} is set by tenner itself", hint="leave it out")


def load(
    engine: LocalEngineName,
    model_dir: Path,
    *,
    rows: int,
    wait_text: str,
    precision: Precision = "auto",
    device: Device = "auto",
    options: Mapping[str, Any] | None = None,
) -> LocalEngine:
    """Load a model folder into an engine that decodes `rows` completions at a time; `options` are vllm.LLM's.

    Raises TennerError where the engine is not installed, the device is not available or not the one of vLLM's build,
    or the folder holds no model that the engine can decode.
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
    engine_hf = HFEngine.load(model_dir, rows=rows, wait_text=wait_text, dtype=dtype, device=chosen.device)
    if engine_hf.notice is not None:
        say(engine_hf.notice, file=sys.stderr)
    return engine_hf


def _vllm_device(device: Device) -> Device:
    """The device of vLLM's build. Raises TennerError where another one is named."""
    own = hardware.device_kind()
    if own == "mps":
        own = "cpu"
    if device not in ("auto", own):
        raise TennerError(
            f"vLLM computes on {own} here, not on {device}", hint="leave the device out, or take engine hf"
        )
    return own
