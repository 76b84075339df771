"""A run launched on this machine by two processes, through torch's elastic launcher, against one that trains alone."""

import shutil

import pytest
from commands import tenner_here

from tenner.budget.ledger import read_spend
from tenner.core.records import Completion, Sample, TrainStep
from tenner.core.run_folder import RunFolder

SETTINGS = [
    f"--set={setting}" for setting in (
        "train.precision=fp32", "evaluate.precision=fp32", "gather.questions=400", "attempt.questions=4",
        "select.samples=12", "evaluate.questions=4", "evaluate.thinking_tokens_max=[0, 4]", "evaluate.waits=[]",
    )
]  # fmt: skip


@pytest.fixture(scope="module")
def alone(tiny_recipe, tmp_path_factory):
    """A run by one process."""
    path = tmp_path_factory.mktemp("alone") / "run"
    done = tenner_here("run", tiny_recipe, "--run-dir", path, *SETTINGS)
    assert done.returncode == 0, done.stderr
    return path


def assert_same_result(path, alone):
    """The samples, the loss of every step, and what the students answered."""
    one, two = RunFolder(alone), RunFolder(path)
    assert two.read("samples", Sample) == one.read("samples", Sample)
    ours, theirs = two.read("training", TrainStep), one.read("training", TrainStep)
    assert [step.step for step in ours] == [step.step for step in theirs]
    assert [step.loss for step in ours] == pytest.approx([step.loss for step in theirs], rel=1e-5)
    answers = [{(c.question_id, c.student, c.policy): c.token_ids for c in f.read("completions", Completion)}
               for f in (two, one)]  # fmt: skip
    assert answers[0] == answers[1]
    assert two.done("report")
    assert (path / "student" / "model.safetensors").exists()


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
