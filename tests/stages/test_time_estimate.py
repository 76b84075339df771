"""How long it will take, as it is reckoned and as it is said."""

import pytest

from tenner.budget import assumptions
from tenner.core.records import EarlyExit, Grace, Policy, StageForecast
from tenner.inference.hf.engine import HFEngine
from tenner.inference.speed_probe import DecodingSpeed, decoding_speed
from tenner.stages import time_estimate

SPEED = DecodingSpeed(step_seconds=0.1, row_seconds=0.01, prompt_token_seconds=0.001)


def test_a_sweep_thinks_once_and_answers_under_every_policy():
    lengths = time_estimate.Lengths(prompt=40, thinking=50, answer=10)
    one = time_estimate.sweep_seconds(SPEED, lengths, 100, budgets(0, 64), rows=100)
    steps, fed = 50 + 2 * 10, 100 * (40 + 2 * time_estimate.DELIMITER_TOKENS)
    assert one == pytest.approx(fed * 0.001 + steps * (0.1 + 100 * 0.01))
    assert time_estimate.sweep_seconds(SPEED, lengths, 200, budgets(0, 64), rows=100) == pytest.approx(2 * one)
    # What is over the limit is cut, and a wait ends there.
    short = time_estimate.sweep_seconds(SPEED, lengths, 100, budgets(0, 8), rows=100)
    assert one - short == pytest.approx((50 - 8) * (0.1 + 100 * 0.01))
    waited = time_estimate.sweep_seconds(SPEED, lengths, 100, budgets(0, 64, waits=[1]), rows=100)
    longer = SPEED._replace(context_token_seconds=0.001)
    by_context = time_estimate.sweep_seconds(longer, lengths, 100, budgets(0, 64), rows=100) - one
    # Thinking has 25 tokens before it on average, the two answers none and 50, and 5 of their own.
    context = 40 + (50 * 25 + 10 * 5 + 10 * 55) / 70
    assert by_context == pytest.approx(steps * 100 * 0.001 * context)
    more_fed = 100 * time_estimate.DELIMITER_TOKENS * 0.001
    assert waited - one == pytest.approx(more_fed + (14 + 10) * (0.1 + 100 * 0.01))


def test_early_exit_and_grace_have_their_own_answers_and_trials():
    lengths = time_estimate.Lengths(prompt=40, thinking=40, answer=10)
    plain = budgets(0, 64, waits=[1])
    tokens, fed = time_estimate.sweep_tokens(lengths, plain)

    def added(*extra):
        more, more_fed = time_estimate.sweep_tokens(lengths, [*plain, *extra])
        return pytest.approx(more - tokens), pytest.approx(more_fed - fed)

    every8, at_wait = EarlyExit(every_tokens=8, trial_tokens=4), EarlyExit(at="wait", agree=1, probability=0.9)
    full, waited = Policy(thinking_tokens_max=64), Policy(thinking_tokens_max=64, waits=1)
    delimiters = time_estimate.DELIMITER_TOKENS
    assert added(full.model_copy(update={"grace": Grace(tokens=8)})) == (10, delimiters)
    # A trial answer of four tokens after each of 40 / 8 stretches; with a wait there are 60 tokens, and shared trials.
    exit_full, exit_waited = (p.model_copy(update={"early_exit": every8}) for p in (full, waited))
    assert added(exit_full) == (10 + 5 * 4, 6 * delimiters)
    assert added(exit_full, exit_waited) == (20 + 7.5 * 4, 9.5 * delimiters)
    put_in = 1 + 60 / assumptions.WAIT_TOKENS
    assert added(waited.model_copy(update={"early_exit": at_wait})) == (10 + put_in * 10, (1 + put_in) * delimiters)
    with_trials = [*plain, exit_full, exit_waited]
    assert time_estimate.sweep_context(lengths, with_trials) > 40
    slower = time_estimate.sweep_seconds(SPEED, lengths, 100, with_trials, rows=100)
    assert slower > time_estimate.sweep_seconds(SPEED, lengths, 100, plain, rows=100)


def budgets(*limits, waits=()):
    """The policies of a sweep; waits are at the largest limit."""
    found = [Policy(thinking_tokens_max=n) for n in limits]
    return found + [Policy(thinking_tokens_max=limits[-1], waits=n) for n in waits]


def test_it_is_said_in_one_line():
    found = [
        StageForecast(stage=stage, part=part, seconds=seconds)
        for stage, part, seconds in (("attempt", "base, plain", 20.0), ("attempt", "base, s1", 24.0),
                                     ("train", "", 300.0), ("evaluate", "base", 7200.0))
    ]  # fmt: skip
    assert time_estimate.sentence(found) == "this will take about 2.1 h: attempt 44 s, train 5.0 min, evaluate 2.0 h"
    assert time_estimate.sentence(found[:2]).endswith("how long the training takes is told when its samples are known")


def test_an_engine_is_tried_and_left_as_it_was(tiny_model_dir):
    engine = HFEngine.load(tiny_model_dir, rows=8)
    speed = decoding_speed(engine, "<|im_start|>user\nHow long does this take, please?<|im_end|>\n", rows=8)
    assert speed.step_seconds + speed.row_seconds > 0
    assert speed.prompt_token_seconds > 0
    assert speed.context_token_seconds >= 0
    assert speed.seconds(rows=8, steps=10, prompt_tokens=100) < 60


def test_the_groups_of_a_sweep_are_counted_and_not_listed():
    """However many questions a recipe names."""
    lengths, sweep = time_estimate.Lengths(prompt=10, thinking=100, answer=10), budgets(0, 64)

    def seconds(questions: int) -> float:
        return time_estimate.sweep_seconds(SPEED, lengths, questions, sweep, rows=3)

    assert seconds(7) == pytest.approx(2 * seconds(3) + seconds(1))
    assert seconds(0) == 0
    assert seconds(3 * 10**18) == pytest.approx(10**18 * seconds(3))
