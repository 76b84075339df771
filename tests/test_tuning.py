"""What a tuning tries and refuses; `test_pipeline.py` tunes a student."""

import pytest

from tenner import tuning
from tenner.core import recipe
from tenner.core.errors import TennerError
from tenner.tuning import TuneOptions, usual_policies


def test_the_usual_policies_are_below_the_full_budget_or_end_it_early() -> None:
    evaluate = recipe.load("demo").evaluate
    found = usual_policies(evaluate)
    assert len(set(found)) == len(found)
    assert all(p.stops_early or 0 < (p.thinking_tokens_max or 0) < 64 for p in found)
    assert {16, 32} <= {p.thinking_tokens_max for p in found}
    assert {p.early_exit.at for p in found if p.early_exit} == {"tokens", "sentence", "wait"}
    assert max(p.early_exit.trial_tokens for p in found if p.early_exit) == evaluate.answer_tokens_max


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (TuneOptions(margin_points=0), "--margin 0 is no loss"),
        (TuneOptions(questions=100, margin_points=1), "100 questions cannot show that no more than 1 points are lost"),
        (TuneOptions(thinking_tokens_max=[64]), "--thinking 64 is not below the full budget of 64"),
        (TuneOptions(early_exit=[{}]), "--early-exit: every_tokens"),
        (TuneOptions(grace=[{"tokens": 64}]), "--grace: 64 tokens are not fewer"),
    ],
)
def test_what_could_show_nothing_is_refused(options: TuneOptions, message: str) -> None:
    with pytest.raises(TennerError, match=message):
        _ = tuning.policies_to_try(recipe.load("demo").evaluate, options), tuning.margin_of(options)
