from typing import Any

import pytest

from tenner.commands.watch import CURVE_CHARACTERS, curve, sample_line, steps_in, training_line

STEP: dict[str, Any] = {
    "step": 9, "steps": 20, "loss": 0.5, "grad_norm": None, "lr": 0.1, "tokens": 9, "trained_tokens": 9,
    "tokens_per_second": None, "cost_usd": 0.0,
}  # fmt: skip


def line(rows: list[dict[str, Any]]) -> str:
    return training_line(list(steps_in(rows))).plain


@pytest.mark.parametrize(
    ("values", "drawn"), [([4.0, 2.0, 0.0], "█▅▁"), ([0.0], "▁"), ([1.0] * 1000, "█" * CURVE_CHARACTERS)]
)
def test_a_curve_begins_at_nought(values, drawn):
    assert curve(values) == drawn


def test_a_step_is_told_with_speed_and_time_left_where_they_are_known():
    step = STEP | {"tokens_per_second": 100.0, "tokens_left": 6000}
    assert line([step]) == "step 10 of 20  loss 0.500  █  100 tokens/s  1.0 min left"
    assert line([step | {"tokens_per_second": None}]) == "step 10 of 20  loss 0.500  █"
    measured = [step | {"tokens_per_second": None, "validation_loss": loss} for loss in (0.7, 0.8, None)]
    assert line(measured) == "step 10 of 20  loss 0.500  ███  of held-out samples 0.800, lowest 0.700"


def test_an_answer_is_told_by_its_end_and_cannot_steer_the_terminal():
    row = {"question_id": "q1", "grade": {"verdict": "wrong"}, "thinking": "a" * 500, "answer": "\x1b[2J5"}
    told = sample_line(row, "question_id", "grade").plain
    assert told.startswith("q1 wrong  …aaa")
    assert told.endswith("\\u001b[2J5")


def test_a_damaged_line_of_the_training_is_passed_over():
    damaged: list[dict[str, Any]] = [
        {}, {"step": 1}, STEP | {"loss": "low"}, STEP | {"loss": float("nan")},
        STEP | {"tokens_left": 10**400, "tokens_per_second": 1.0},
    ]  # fmt: skip
    assert list(steps_in(damaged)) == []
    assert line([*damaged, STEP]) == "step 10 of 20  loss 0.500  █"
