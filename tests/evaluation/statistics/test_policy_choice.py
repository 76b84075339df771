import pytest
from example_run import completion

from tenner.core.records import Completion, EarlyExit, Grace, Policy
from tenner.evaluation.statistics.paired import bonett_price
from tenner.evaluation.statistics.policy_choice import Candidate, candidates, choose, questions_needed

FULL, HALF, TINY = (Policy(thinking_tokens_max=n) for n in (64, 32, 8))
EXIT = Policy(thinking_tokens_max=64, early_exit=EarlyExit(every_tokens=8))


def answers(policy: Policy, wrong: int, tokens: int, *, trial: int = 0, n: int = 400) -> list[Completion]:
    """The answers to n questions, of which the first are wrong."""
    return [
        completion(
            str(i), "wrong" if i < wrong else "correct", student="distilled", policy=policy, thinking_tokens=tokens
        ).model_copy(update={"trial_tokens": trial})
        for i in range(n)
    ]  # fmt: skip


def compared(*groups: list[Completion], margin: float = 0.02) -> dict[Policy, Candidate]:
    found = candidates([c for group in groups for c in group], FULL, margin)
    return {c.policy: c for c in found}


def test_the_cheapest_that_is_no_worse_is_chosen() -> None:
    by_policy = compared(answers(FULL, 40, 40), answers(HALF, 41, 30), answers(TINY, 200, 8))
    assert {policy: c.is_no_worse for policy, c in by_policy.items()} == {FULL: True, HALF: True, TINY: False}
    assert by_policy[HALF].difference.mean == pytest.approx(-1 / 400)
    assert by_policy[HALF].difference.ci == pytest.approx(bonett_price([-1.0] + [0.0] * 399))
    assert choose(list(by_policy.values()), FULL).policy == HALF


def test_a_loss_that_may_be_larger_than_the_margin_is_not_good_enough() -> None:
    """Five of 400 is 1.25 points, and within 2; its interval goes below them."""
    groups = answers(FULL, 40, 40), answers(HALF, 45, 30)
    assert choose(list(compared(*groups).values()), FULL).policy == FULL
    assert choose(list(compared(*groups, margin=0.03).values()), FULL).policy == HALF


def test_trial_answers_are_part_of_the_price() -> None:
    assert choose(list(compared(answers(FULL, 40, 40), answers(EXIT, 40, 30, trial=9)).values()), FULL).policy == EXIT
    dear = compared(answers(FULL, 40, 40), answers(EXIT, 40, 30, trial=11))
    assert dear[EXIT].tokens == 41
    assert choose(list(dear.values()), FULL).policy == FULL


def test_equally_cheap_ones_are_chosen_by_accuracy() -> None:
    other = EXIT.model_copy(update={"early_exit": EarlyExit(every_tokens=4)})
    by_policy = compared(answers(FULL, 40, 40), answers(other, 40, 30), answers(EXIT, 39, 30))
    assert choose(list(by_policy.values()), FULL).policy == EXIT


@pytest.mark.parametrize(
    "measured", [EXIT, Policy(thinking_tokens_max=64, grace=Grace(tokens=32))], ids=["exit", "grace"]
)
def test_what_is_measured_must_save_more_than_a_trace_of_tokens(measured: Policy) -> None:
    """A measured token takes time, here up to half more; the tokens of the answers do not show it."""
    beside_full = compared(answers(FULL, 40, 1000), answers(measured, 39, 991))
    assert choose(list(beside_full.values()), FULL).policy == FULL
    beside_plain = compared(answers(FULL, 40, 1000), answers(measured, 39, 891), answers(HALF, 40, 899))
    assert choose(list(beside_plain.values()), FULL).policy == HALF
    saving = compared(answers(FULL, 40, 1000), answers(measured, 39, 880), answers(HALF, 40, 899))
    assert choose(list(saving.values()), FULL).policy == measured


@pytest.mark.parametrize("margin", [0.01, 0.02, 0.1])
def test_fewer_questions_could_never_show_it(margin: float) -> None:
    n = questions_needed(margin)
    assert bonett_price([0.0] * n).low > -margin >= bonett_price([0.0] * (n - 1)).low
