"""One side of a bench in a process of its own, by another Python where it needs one: that of vLLM, say."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

ENVIRONMENT = {"PYTHONPATH": str(Path(__file__).parents[1]), "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1"}


def run(script: str, python: str, side: str, student: Path, given: object, dtype: str) -> dict[str, Any]:
    """What `script` finds with `--side`, and what it is given (as JSON) on its standard input: its last line of JSON;
    vLLM logs between.
    """
    done = subprocess.run(
        [python, script, student, "--side", side, "--dtype", dtype], input=json.dumps(given), text=True,
        stdout=subprocess.PIPE, check=True, env=os.environ | ENVIRONMENT,
    )  # fmt: skip
    found: dict[str, Any] = json.loads([line for line in done.stdout.splitlines() if line.startswith("{")][-1])
    return found
