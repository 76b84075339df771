"""The settings of a tiny run that is launched, and what it must come to."""

import pytest

from tenner.core.records import Completion, Sample, TrainStep
from tenner.core.run_folder import RunFolder

SETTINGS = [
    f"--set={setting}" for setting in (
        "train.precision=fp32", "evaluate.precision=fp32", "gather.questions=400", "attempt.questions=4",
        "select.samples=12", "evaluate.questions=4", "evaluate.thinking_tokens_max=[0, 4]", "evaluate.waits=[]",
    )
]  # fmt: skip


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
