"""The task of a SkyPilot managed job, read by the real SkyPilot where TENNER_SKYPILOT names a Python that has it."""

import json
import os
import subprocess

import pytest
from commands import tenner_here

from tenner.core import recipe
from tenner.core.errors import TennerError
from tenner.launch import skypilot
from tenner.launch.job import Job

S1K = recipe.load(
    "s1k", overrides=["budget_usd=40", "machine.price_usd_per_hour=32", 'trace.client="openai"',
                      'trace.preset="deepseek"', 'trace.model="deepseek-flash"'],
)  # fmt: skip
JOB = Job(S1K, "s1k", "runs/s1k", gpus="H100:8", options=("infra=aws", "disk_size=500"), overrides=("train.lr=1e-5",))


def test_the_task_says_what_the_machine_is_what_it_may_cost_and_when_it_ends():
    task = skypilot.task(JOB, bucket="s3://mine", spot=True, seconds=4500)
    resources = task["resources"]
    assert resources["accelerators"] == "H100:8"
    assert resources["use_spot"] is True
    assert resources["max_hourly_cost"] == 32
    assert resources["autostop"] == {"idle_minutes": 5, "down": True}
    assert resources["job_recovery"] == {"recover_on_exit_codes": [75]}
    assert (resources["infra"], resources["disk_size"]) == ("aws", 500)
    assert task["secrets"] == {"DEEPSEEK_API_KEY": None}
    assert "timeout --signal=TERM --kill-after=120 4500 tenner launch s1k --on local" in task["run"]
    assert "--run-dir ~/tenner/s1k --set train.lr=1e-5" in task["run"]
    assert "--copy-to /tenner/s1k" in task["run"]
    assert subprocess.run(["bash", "-n"], input=task["run"], text=True).returncode == 0


def test_a_recipe_of_ones_own_goes_along(tiny_recipe):
    job = JOB._replace(recipe=str(tiny_recipe))
    task = skypilot.task(job, bucket="gs://mine", spot=False, seconds=60)
    assert task["file_mounts"]["~/tenner/recipe.toml"] == str(tiny_recipe)
    assert "tenner launch ~/tenner/recipe.toml --on local" in task["run"]


def test_what_a_task_cannot_be_is_refused():
    with pytest.raises(TennerError, match="a folder that all see"):
        skypilot.task(JOB._replace(nodes=2), bucket="s3://mine", spot=False, seconds=60)
    with pytest.raises(TennerError, match="--option use_spot is set by tenner itself"):
        skypilot.task(JOB._replace(options=("use_spot=true",)), bucket="s3://mine", spot=False, seconds=60)


LOAD = """
import json, sys, sky
task = sky.Task.from_yaml(sys.argv[1])
task.validate_name()
(resources,) = task.resources
print(json.dumps([
    task.name, dict(resources.accelerators), resources.use_spot, str(resources.autostop_config),
    resources.max_hourly_cost, resources.job_recovery["recover_on_exit_codes"], list(task.storage_mounts),
]))
"""
CATALOG = 'AcceleratorName,Clouds\nH100,"[""AWS""]"\n'
"""In the place of the one that SkyPilot downloads."""


@pytest.mark.skipif("TENNER_SKYPILOT" not in os.environ, reason="TENNER_SKYPILOT names no Python with skypilot")
def test_skypilot_itself_reads_the_task(tmp_path):
    done = tenner_here(
        "launch", "s1k", "--on", "skypilot", "--gpus", "H100:8", "--spot", "--bucket", "s3://tenner-test", "--dry-run",
        "--run-dir", tmp_path / "run",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (tmp_path / "task.yaml").write_text(done.stdout)
    catalogs = tmp_path / ".sky" / "catalogs" / "v8" / "common"
    catalogs.mkdir(parents=True)
    for name in ("accelerators", "metadata"):
        (catalogs / f"{name}.csv").write_text(CATALOG)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {"HOME": str(tmp_path)}
    read = subprocess.run(
        [os.environ["TENNER_SKYPILOT"], "-c", LOAD, tmp_path / "task.yaml"], capture_output=True, text=True,
        env=environment,
    )  # fmt: skip
    assert read.returncode == 0, read.stderr
    name, accelerators, spot, autostop, hourly_usd, recovered, mounts = json.loads(read.stdout.splitlines()[-1])
    assert (name, accelerators, spot) == ("tenner-s1k", {"H100": 8}, True)
    assert "idle_minutes=5, down=True" in autostop
    assert (hourly_usd, recovered, mounts) == (recipe.load("s1k").machine.price_usd_per_hour, [75], ["/tenner"])
