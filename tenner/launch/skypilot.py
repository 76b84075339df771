"""A run as a SkyPilot managed job: a machine with its GPUs, on spot if wished, that stops by itself, and recovers.

The machine's disk is lost with it, so the run folder is copied to a bucket as the run goes, and made again from there.
"""

import math
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import yaml

from tenner import __version__
from tenner.clients import openai
from tenner.core.errors import Preempted, TennerError
from tenner.core.recipe import Recipe
from tenner.core.sections import PaidModel
from tenner.core.toml_text import named_value
from tenner.launch.job import Job

OWN = {"accelerators", "use_spot", "max_hourly_cost", "autostop", "job_recovery"}
"""Fields of a task's resources that are set here."""
CARD_NAMES = {
    "a100": "A100-80GB", "h100-pcie": "H100", "rtx-4090": "RTX4090", "rtx-pro-6000": "RTXPRO6000",
}  # fmt: skip
"""What SkyPilot calls the cards of the price list where that is not the same in capitals."""
IDLE_MINUTES = 5
MOUNT, HOME, RECIPE = "/tenner", "~/tenner", "~/tenner/recipe.toml"
RUN = """\
mkdir -p {home}
tenner {words} --copy-to {copy} --rented-since "$(date -d "$(ps -o lstart= -p 1)" +%s)"
"""
"""The rental is counted from the start of the machine, or of the container: that of its first process."""


def task(job: Job, *, bucket: str, spot: bool, seconds: float, package: str | None = None) -> dict[str, Any]:
    """The task that may take so long, as SkyPilot's YAML has it. Raises TennerError for fields that are set here.

    `bucket` is a URL (s3://name, gs://name, …); `package` is what pip installs, by default this version of tenner.
    """
    if job.nodes > 1:
        raise TennerError(
            "a run on several nodes needs a folder that all see, which a bucket is not",
            hint="take one node with more GPUs, or Slurm",
        )
    if job.gpu_count() is None or job.gpus is None or ":" not in job.gpus:
        raise TennerError("SkyPilot needs to know which card", hint="give --gpus H100:8")
    price = job.described.machine.price_usd_per_hour
    resources: dict[str, Any] = {
        "accelerators": job.gpus,
        "use_spot": spot,
        "autostop": {"idle_minutes": IDLE_MINUTES, "down": True},
        "job_recovery": {"recover_on_exit_codes": [Preempted.exit_code]},
    }
    if price:
        resources["max_hourly_cost"] = price
    for key, value in map(_option, job.options):
        if key in OWN:
            raise TennerError(f"--option {key} is set by tenner itself", hint="leave it out")
        resources[key] = value
    is_file = Path(job.recipe).suffix == ".toml"
    on_machine = job._replace(recipe=RECIPE if is_file else job.recipe, run_dir=f"{HOME}/{job.described.name}")
    # The shell reads the home's tilde; everything else is quoted.
    words = " ".join(word if word.startswith(HOME) else shlex.quote(word) for word in on_machine.words())
    run = RUN.format(home=HOME, words=words, copy=f"{MOUNT}/{job.described.name}")
    limit = f"timeout --signal=TERM --kill-after={math.ceil(job.grace_seconds)} {math.floor(seconds)}"
    found: dict[str, Any] = {
        "name": f"tenner-{job.described.name}",
        "resources": resources,
        "num_nodes": 1,
        "file_mounts": {MOUNT: {"source": bucket, "mode": "MOUNT"}},
        "setup": f"pip install {shlex.quote(package or f'tenner=={__version__}')}",
        "run": run.replace("\ntenner ", f"\n{limit} tenner "),
    }
    if is_file:
        found["file_mounts"][RECIPE] = str(Path(job.recipe).absolute())
    if names := key_names(job.described):
        found["secrets"] = dict.fromkeys(names)
    return found


def as_yaml(found: dict[str, Any]) -> str:
    """The task's file."""
    return str(yaml.safe_dump(found, sort_keys=False))


def key_names(described: Recipe) -> list[str]:
    """The environment variables that hold the keys of the models that the recipe pays for."""
    evaluate = described.evaluate
    sections: list[PaidModel | None] = [
        *described.trace.teachers, described.domains.labeller, evaluate.referee, *evaluate.models
    ]  # fmt: skip
    found = []
    for section in sections:
        if section is None:
            continue
        preset = openai.presets().get(section.preset) if section.preset else None
        default = "GEMINI_API_KEY" if section.client == "gemini" else preset.api_key_env if preset else None
        found.append(section.api_key_env or default)
    found.append(described.train.tinker.api_key_env if described.train.tinker is not None else None)
    return sorted({name for name in found if name is not None})


def submit(found: dict[str, Any], file: Path) -> None:
    """Launch the task as a managed job from a file. Raises TennerError where SkyPilot is missing or refuses it."""
    if shutil.which("sky") is None:
        raise TennerError("SkyPilot is not installed here", hint="pip install 'skypilot[CLOUD]'; or see --dry-run")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(as_yaml(found), encoding="utf-8")
    secrets = [word for name in found.get("secrets", {}) for word in ("--secret", name)]
    done = subprocess.run(["sky", "jobs", "launch", "--yes", "--detach-run", *secrets, str(file)])
    if done.returncode:
        raise TennerError(f"sky jobs launch failed with exit code {done.returncode}", hint=f"the task is in {file}")


def _option(option: str) -> tuple[str, Any]:
    return named_value("--option", option, example="infra=aws")
