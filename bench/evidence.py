"""What a measurement ran on: it is printed beside every figure."""

import os
import platform
from importlib.metadata import version
from pathlib import Path

import psutil


def machine() -> dict[str, object]:
    """What it ran on."""
    models = (line.partition(":")[2].strip() for line in Path("/proc/cpuinfo").read_text().splitlines()
              if line.startswith("model name"))  # fmt: skip
    memory_gib = psutil.virtual_memory().total / 2**30
    return {
        "cores": os.cpu_count(),
        "cpu": next(models, platform.machine()),
        "memory_gib": round(memory_gib),
        "system": f"{platform.system()} {platform.release()}",
    }


def versions(*names: str) -> dict[str, str]:
    """Of Python and of installed packages."""
    return {"python": platform.python_version()} | {name: version(name) for name in names}
