"""`tenner doctor`: versions, device, precision, memory, disk, engines and keys of this machine; nothing is fetched."""

import argparse
import json
import os
import shutil
import sys
from collections.abc import Iterator
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from tenner.core.terminal import say

LIBRARIES = {
    "datasets": "tables of the Hugging Face hub, Parquet files (tenner[data])",
    "peft": "LoRA (tenner[lora])",
    "bitsandbytes": "8-bit optimizer, 4-bit weights (tenner[8bit])",
    "math-verify": "a second verifier of maths answers (tenner[maths])",
    "google-genai": "Gemini (tenner[gemini])",
    "genai-prices": "prices of 2,000 more models (tenner[prices])",
    "scikit-learn": "domains by clusters (tenner[clusters])",
    "ray": "cleaning on several machines (tenner[ray])",
    "socksio": "a SOCKS proxy (tenner[socks])",
    "trl": "other trainers, for comparison",
}
GB = 1e9
MEMORY_GB = 4
"""What the demo takes."""
DISK_GB = 5


class Finding(NamedTuple):
    """A line of the report."""

    what: str
    found: str
    is_problem: bool = False


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of the verb."""
    parser.add_argument("--json", action="store_true", help="one JSON object")


def main(args: argparse.Namespace) -> None:
    """Print what was found."""
    found = list(findings())
    if args.json:
        say(json.dumps({f.what: f.found for f in found}, ensure_ascii=False))
        return
    width = max(len(f.what) for f in found)
    for f in found:
        say(f"{'!' if f.is_problem else ' '} {f.what:{width}}  {f.found}")
    if problems := sum(f.is_problem for f in found):
        say(f"{problems} of these will be in the way of some runs", file=sys.stderr)


def findings() -> Iterator[Finding]:
    """Everything, from versions to keys. The value of a key is never read further than whether there is one."""
    from tenner.core.provenance import provenance

    for name, version in provenance().items():
        yield Finding(name, version)
    yield from _hardware()
    yield from _engines()
    for name, use in LIBRARIES.items():
        yield Finding(name, f"{_version(name) or 'not installed'}: {use}")
    yield from _keys()


def _hardware() -> Iterator[Finding]:
    from tenner.core import hardware
    from tenner.training.student_address import default_cache_dir

    chosen = hardware.choose()
    yield Finding("computes on", str(chosen))
    free = hardware.free_memory_bytes(chosen.device)
    known = "unknown" if free is None else f"{free / GB:.1f} GB"
    yield Finding("free memory", known, is_problem=free is not None and free < MEMORY_GB * GB)
    for what, folder in (("this folder", Path.cwd()), ("cache of students", default_cache_dir())):
        existing = next(path for path in (folder, *folder.parents) if os.path.exists(path))
        free_gb = shutil.disk_usage(existing).free / GB
        yield Finding(what, f"{folder}: {free_gb:.1f} GB free", is_problem=free_gb < DISK_GB)
        if not os.access(existing, os.W_OK):
            yield Finding(what, f"{folder} cannot be written", is_problem=True)


def _engines() -> Iterator[Finding]:
    yield Finding("engine hf", "embedded, always there")
    if find_spec("vllm") is None:
        yield Finding("engine vllm", "not installed: scripts/install_vllm.sh DIR")
    else:
        yield Finding("engine vllm", _version("vllm") or "installed")


def _keys() -> Iterator[Finding]:
    from tenner.clients.openai import presets

    variables = {name: preset.api_key_env for name, preset in presets().items() if preset.api_key_env}
    for name, variable in (variables | {"gemini": "GEMINI_API_KEY", "hugging face hub": "HF_TOKEN"}).items():
        is_set = bool(os.environ.get(variable, "").strip())
        yield Finding(f"key of {name}", f"{variable} is {'set' if is_set else 'not set'}")


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
