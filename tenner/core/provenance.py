"""Where a run came from: versions, commit and machine, as plain text facts."""

import json
import platform
import subprocess
from importlib import metadata
from pathlib import Path

from tenner import __version__
from tenner.core import hardware
from tenner.core.errors import TennerError
from tenner.core.hardware import Hardware
from tenner.core.records import StageHardware
from tenner.core.run_folder import RunFolder

PACKAGES = ("torch", "transformers", "tokenizers", "pydantic")


def provenance(*packages: str) -> dict[str, str]:
    """The facts of this process; the recipe (with its seed) is kept beside them. `packages` are named, too."""
    return {
        "tenner": __version__,
        "commit": _commit(),
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in (*PACKAGES, *packages)},
        "machine": f"{platform.system()} {platform.machine()}, {hardware.cores()} cores",
    }


def recorded(folder: RunFolder) -> dict[str, str]:
    """What a run was started with, and what each of its stages was computed on."""
    try:
        found: dict[str, str] = json.loads(folder.read_start_file("provenance.json"))
    except (ValueError, RecursionError) as e:
        if isinstance(e, TennerError):
            raise
        raise TennerError(f"{folder.path / 'provenance.json'} is not JSON", hint="restore it from a copy") from e
    for row in folder.read("hardware", StageHardware):
        where = str(Hardware(**row.model_dump(exclude={"stage"})))
        before = found.get(row.stage)
        found[row.stage] = f"{before}; then {where}" if before else where
    return found


def _commit() -> str:
    """The commit of the checkout that tenner runs from, "+changes" if it was edited; "not a checkout" elsewhere."""
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return "not a checkout"
    try:
        head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True, check=True)
        dirty = subprocess.run(["git", "status", "--porcelain"], cwd=root, capture_output=True, text=True, check=True)
    except (FileNotFoundError, subprocess.CalledProcessError):
        return "unknown: git could not be asked"
    return head.stdout.strip()[:12] + ("+changes" if dirty.stdout.strip() else "")
