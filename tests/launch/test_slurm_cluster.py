"""Runs as jobs of a real Slurm: two nodes train together, a preempted job goes on, and the cap ends one."""

import time
from contextlib import closing

import pytest
import slurm_cluster
from commands import tenner, tenner_here
from launched_run import SETTINGS, assert_same_result
from paths import ROOT

from tenner import pipeline
from tenner.budget.ledger import Ledger
from tenner.budget.ledger_database import read_spend
from tenner.core import recipe
from tenner.core.progress import Screen
from tenner.core.records import TrainStep
from tenner.core.run import open_run
from tenner.core.run_folder import RunFolder

pytestmark = [
    pytest.mark.slurm,
    pytest.mark.skipif(not slurm_cluster.is_installed(), reason="Slurm is not installed: apt-get install slurm-wlm"),
]
LONGER = [*SETTINGS, "--set=train.epochs=40"]
ENDLESS = [*SETTINGS, "--set=train.epochs=10000"]
NODES = ["--on", "slurm", "--nodes", 2, "--processes", 1, "--grace-seconds", 20, "--option", "cpus-per-task=1"]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    with slurm_cluster.slurm(tmp_path_factory.mktemp("slurm")) as running:
        yield running


@pytest.fixture(scope="module")
def alone(tiny_recipe, tmp_path_factory):
    """An unbroken run by one process."""
    path = tmp_path_factory.mktemp("alone") / "run"
    done = tenner_here("run", tiny_recipe, "--run-dir", path, *LONGER)
    assert done.returncode == 0, done.stderr
    return path


def submit(cluster, recipe, path, *options):
    """The number of a job that was handed in."""
    environment = {**cluster.environment, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = tenner("launch", recipe, "--run-dir", path, *NODES, *options, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()[1].rstrip(":")


def steps_of(path):
    return RunFolder(path).read("training", TrainStep)


def wait_for_steps(path, seconds=90):
    until = time.monotonic() + seconds
    while len(steps_of(path)) < 3:
        assert time.monotonic() < until, log_of(path)
        time.sleep(0.1)


def log_of(path):
    return path.with_name(f"{path.name}.slurm.log").read_text()


def test_a_preempted_job_comes_to_what_an_unbroken_run_does(cluster, alone, tiny_recipe, tmp_path):
    path = tmp_path / "run"
    number = submit(cluster, tiny_recipe, path, *LONGER)
    wait_for_steps(path)
    cluster.call("scancel", "--signal=TERM", number)
    job = cluster.wait_for(number, "COMPLETED", "FAILED", "CANCELLED")
    assert (job["JobState"], job["Restarts"]) == ("COMPLETED", "1"), log_of(path)
    assert "everything is saved" in log_of(path)
    assert_same_result(path, alone)


def test_the_cap_ends_a_job_with_a_checkpoint(cluster, tiny_recipe, tmp_path):
    """Something else that is charged to the run leaves too little under the cap for the machine."""
    path, cap_usd = tmp_path / "run", 0.05
    described = recipe.load(str(tiny_recipe), overrides=[word.removeprefix("--set=") for word in ENDLESS])
    with open_run(path, described, Screen(), budget_usd=cap_usd) as run:
        pipeline.run_stages(run, described.stages[: described.stages.index("train")])
    number = submit(cluster, tiny_recipe, path, *ENDLESS)
    wait_for_steps(path)
    with closing(Ledger(path / "run.db", budget_usd=cap_usd)) as ledger:
        ledger.charge_machine("train", cap_usd - ledger.spent_usd() - 0.0005, 3600)  # a dollar a second
    job = cluster.wait_for(number, "COMPLETED", "FAILED", "CANCELLED")
    assert (job["JobState"], job["ExitCode"], job["Restarts"]) == ("FAILED", "3:0", "0"), log_of(path)
    assert "the cap of $0.0500 is reached in train" in log_of(path)
    assert sum(row.cost_usd for row in read_spend(path / "run.db")) <= cap_usd
    assert [saved.name for saved in (path / "checkpoint").iterdir()] == [f"step-{len(steps_of(path)):08d}"]
