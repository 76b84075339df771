import random
from itertools import product
from math import sqrt
from statistics import NormalDist

import pytest
from evidence import completion, evaluation

from tenner.prove.stats import before_and_after, compare, mcnemar, score, wilson
from tenner.records import Completion, Policy

FREE, SHORT, LONG = Policy(), Policy(thinking_tokens_max=8), Policy(thinking_tokens_max=64)


@pytest.mark.parametrize(
    ("correct", "n", "low", "high"),
    [
        # The examples of the README of github.com/msn0/wilson-score-interval, which rounds z to 1.96.
        (430, 474, 0.8776750858242243, 0.9301239839930541),
        (392, 436, 0.8672311846637769, 0.9239627360567735),
        (10, 14, 0.4535045882751561, 0.882788120898909),
    ],
)
def test_wilson_agrees_with_another_implementation(correct: int, n: int, low: float, high: float) -> None:
    assert wilson(correct, n) == pytest.approx((low, high), abs=1e-5)


def test_wilson_holds_the_proportion_and_mirrors() -> None:
    for n in (1, 2, 7, 240):
        for correct in range(n + 1):
            low, high = wilson(correct, n)
            assert 0 <= low <= correct / n <= high <= 1
            assert wilson(n - correct, n) == pytest.approx((1 - high, 1 - low))


@pytest.mark.parametrize(("correct", "n"), [(0, 0), (3, 2), (-1, 2)])
def test_wilson_refuses_what_is_no_proportion(correct: int, n: int) -> None:
    with pytest.raises(ValueError, match="no interval"):
        wilson(correct, n)


def test_a_score_counts_what_was_answered() -> None:
    done = [
        completion("a", "correct", thinking_tokens=10),
        completion("b", "wrong", thinking_tokens=20, truncated=True),
        completion("c", "unparsed", thinking_tokens=60),
    ]
    domains = {"a": "sums", "b": "sums", "c": None, "never answered": "sums"}
    whole, sums = score(done, domains)
    assert (whole.domain, whole.n, whole.accuracy) == (None, 3, pytest.approx(1 / 3))
    assert (whole.unparsed, whole.truncated, whole.thinking_tokens_mean) == (1, 1, 30)
    assert (whole.ci_low, whole.ci_high) == wilson(1, 3)
    assert (sums.domain, sums.n, sums.accuracy, sums.unparsed) == ("sums", 2, 0.5, 0)


def test_scores_come_in_one_order_whatever_the_order_of_the_completions() -> None:
    done, domains = evaluation(24)
    scores = score(done, domains)
    random.Random(1).shuffle(done)
    assert score(done, domains) == scores
    whole = [(s.student, s.policy.waits, s.policy.thinking_tokens_max) for s in scores if s.domain is None]
    budgets = [(0, 0), (0, 8), (0, 16), (0, 32), (0, 64), (0, 128), (1, 128), (2, 128)]
    assert whole == [(student, *policy) for student, policy in product(("base", "distilled"), budgets)]


def test_no_limit_is_the_largest_budget_and_a_repeated_answer_is_refused() -> None:
    done = [completion("a", "wrong", policy=p) for p in (FREE, LONG, SHORT)]
    assert [s.policy for s in score(done, {"a": None})] == [SHORT, LONG, FREE]
    with pytest.raises(AssertionError, match="answered twice"):
        score([*done, done[0]], {"a": None})


def test_the_headline_takes_the_best_before_and_the_largest_budget_after() -> None:
    done = [
        *_answers("base", "plain", LONG, "cwww"),
        *_answers("base", "s1", SHORT, "ccww"),
        *_answers("distilled", "s1", SHORT, "cccc"),
        *_answers("distilled", "s1", LONG, "cccw"),
        *_answers("distilled", "s1", Policy(thinking_tokens_max=64, waits=1), "cccc"),
    ]
    before, after = before_and_after(score(done, dict.fromkeys("0123", "any")))
    assert (before.prompt, before.policy, before.domain) == ("s1", SHORT, None)
    assert (after.policy, after.accuracy) == (LONG, 0.75)


def test_a_comparison_pairs_the_questions_that_both_answered() -> None:
    done = [
        *_answers("base", "s1", LONG, "ccwwu"),
        *_answers("base", "s1", SHORT, "ccccc"),  # another run: not compared
        *_answers("distilled", "s1", LONG, "cwccww")[1:],  # question 0 is missing there, question 5 here
    ]
    before, after = before_and_after(s for s in score(done, dict.fromkeys("012345")) if s.policy == LONG)
    found = compare(done, before, after)
    assert found[:4] == (0, 1, 2, 1)
    assert (found.n, found.p_value) == (4, mcnemar(1, 2))


def test_mcnemar_is_the_two_sided_sign_test() -> None:
    for only_a, only_b in product(range(7), repeat=2):
        n = only_a + only_b
        # Brute force: all ways in which n fair coins can fall, at least as lopsided as seen.
        falls = [abs(2 * sum(coins) - n) >= abs(only_a - only_b) for coins in product((0, 1), repeat=n)]
        assert mcnemar(only_a, only_b) == pytest.approx(sum(falls) / len(falls))
    assert mcnemar(0, 0) == 1
    assert 0 < mcnemar(1, 209) < 1e-50
    normal_with_continuity = 2 * (1 - NormalDist().cdf((560 - 500 - 1) / sqrt(560 + 500)))
    assert mcnemar(500, 560) == pytest.approx(normal_with_continuity, abs=1e-3)


def _answers(student: str, prompt: str, policy: Policy, verdicts: str) -> list[Completion]:
    names = {"c": "correct", "w": "wrong", "u": "unparsed"}
    return [
        completion(str(i), names[v], student=student, prompt=prompt, policy=policy)  # type: ignore[arg-type]
        for i, v in enumerate(verdicts)
    ]
