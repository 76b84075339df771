"""What a measurement ran on: it is printed beside every figure."""

import os
import platform
import shutil
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil

import tenner


def machine() -> dict[str, object]:
    """What it ran on; where torch is loaded, with the instructions that it uses at most."""
    models = (line.partition(":")[2].strip() for line in Path("/proc/cpuinfo").read_text().splitlines()
              if line.startswith("model name"))  # fmt: skip
    memory_gib = psutil.virtual_memory().total / 2**30
    found: dict[str, object] = {
        "cores": os.cpu_count(),
        "cpu": next(models, platform.machine()),
        "memory_gib": round(memory_gib),
        "system": f"{platform.system()} {platform.release()}",
    }
    if torch := sys.modules.get("torch"):
        found["instructions"] = torch.backends.cpu.get_cpu_capability()
    if gpus := _gpus():
        found["gpus"] = gpus
    return found


def _gpus() -> list[str]:
    """By NVIDIA's tool, not by torch: a process that has asked torch keeps some of the GPU's memory."""
    if shutil.which("nvidia-smi") is None:
        return []
    command = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()


def versions(*names: str) -> dict[str, str]:
    """Of Python, of tenner where it is imported from, and of packages, which may not be installed."""
    return {"python": platform.python_version()} | {name: _version(name) for name in names}


def _version(name: str) -> str:
    if name == "tenner":
        return tenner.__version__
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"
