"""A run launched on this machine by two processes, through torch's elastic launcher, against one that trains alone."""

import shutil

import pytest
from commands import tenner_here
from launched_run import SETTINGS, assert_same_result

from tenner.budget.ledger_database import read_spend
from tenner.core.run_folder import RunFolder


@pytest.fixture(scope="module")
def alone(tiny_recipe, tmp_path_factory):
    """A run by one process."""
    path = tmp_path_factory.mktemp("alone") / "run"
    done = tenner_here("run", tiny_recipe, "--run-dir", path, *SETTINGS)
    assert done.returncode == 0, done.stderr
    return path


@pytest.mark.slow
def test_two_processes_come_to_what_one_does(alone, tiny_recipe, tmp_path):
    path = tmp_path / "run"
    launched = tenner_here("launch", tiny_recipe, "--on", "local", "--processes", 2, "--run-dir", path, *SETTINGS)
    assert launched.returncode == 0, launched.stderr
    assert_same_result(path, alone)


@pytest.mark.slow
def test_train_starts_its_processes_itself_and_ends_as_they_do(alone, tmp_path):
    path = tmp_path / "run"
    shutil.copytree(alone, path)
    (path / "stages" / "train.json").unlink()
    spent_usd = sum(row.cost_usd for row in read_spend(path / "run.db"))
    capped = tenner_here("train", path, "--processes", 2, "--budget-usd", f"{spent_usd + 1e-6:.6f}")
    assert capped.returncode == 3
    assert not RunFolder(path).done("train")
