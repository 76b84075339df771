import random
from itertools import product
from math import sqrt
from statistics import NormalDist

import pytest

from tenner.evaluation.statistics.paired import (
    bonett_price,
    bootstrap,
    compare,
    least_seen_single,
    mcnemar,
    mcnemar_power,
)


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


def test_single_answers_are_compared_by_mcnemar() -> None:
    found = compare(_runs("ccwwc"), _runs("cwccw"))
    assert (found.test, found.both, found.neither, found.more_before, found.more_after) == ("McNemar", 1, 0, 2, 2)
    assert (found.n, found.difference, found.p_value) == (5, 0, 1)
    assert found.ci.low == pytest.approx(-found.ci.high)


def test_the_interval_of_single_answers_is_bonett_and_prices() -> None:
    # By their formula: of 100 questions 10 only before and 25 only after, so 11 and 26 of 102.
    p1, p2 = 11 / 102, 26 / 102
    half_width = 1.959964 * sqrt((p1 + p2 - (p2 - p1) ** 2) / 102)
    differences = [-1.0] * 10 + [1.0] * 25 + [0.0] * 65
    assert bonett_price(differences) == pytest.approx((p2 - p1 - half_width, p2 - p1 + half_width), abs=1e-6)


def test_what_only_one_has_answered_is_missing_and_nothing_in_common_is_refused() -> None:
    before, after = _runs("cwcw"), _runs("ccccc")
    del after["0"]
    found = compare(before, after)
    assert (found.n, found.missing_before, found.missing_after) == (3, ["4"], ["0"])
    with pytest.raises(ValueError, match="answered by both"):
        compare({"a": [True]}, {"b": [True]})


def test_the_bootstrap_is_the_same_whenever_it_is_asked_and_mirrors() -> None:
    r = random.Random(0)
    a, b = ({str(i): [r.random() < p for _ in range(4)] for i in range(40)} for p in (0.4, 0.6))
    found, mirrored = compare(a, b), compare(b, a)
    assert found == compare(a, b)
    assert found.test == "bootstrap"
    assert found.ci == pytest.approx((-mirrored.ci.high, -mirrored.ci.low))
    assert found.p_value == mirrored.p_value < 0.05
    assert found.ci.low > 0


@pytest.mark.parametrize(("difference", "n", "p"), [(0.0, 30, 1.0), (0.25, 1, 1.0), (0.25, 10, 2 / 2**10)])
def test_where_all_questions_differ_alike_signs_decide(difference: float, n: int, p: float) -> None:
    p_value, ci, least_seen = bootstrap([difference] * n, seed=0)
    assert p_value == pytest.approx(p)
    assert ci == bonett_price([difference] * n)
    assert least_seen > 0


def test_a_difference_in_one_question_alone_is_not_resampled_to_infinity() -> None:
    p_value, ci, least_seen = bootstrap([0.25] + [0.0] * 29, seed=0)
    assert p_value > 0.3
    assert -0.1 < ci.low < 0 < ci.high < 0.11
    assert 0 < least_seen < 0.13


@pytest.mark.parametrize(
    ("answers", "alike"),
    [
        (1, True),
        pytest.param(4, True, marks=pytest.mark.slow),
        (4, False),
        *(pytest.param(16, alike, marks=pytest.mark.slow) for alike in (True, False)),
    ],
)
def test_equal_runs_are_rarely_called_different(answers: int, alike: bool) -> None:
    """The same model twice, and two models as good as each other on average but not on the same questions."""
    r = random.Random(f"{answers} {alike}")
    called = 0
    for _ in range(200):
        mean, spread = r.uniform(0.05, 0.95), r.choice([0.5, 2.0])
        first = [r.betavariate(mean * spread, (1 - mean) * spread) for _ in range(30)]
        second = first if alike else [r.betavariate(mean * spread, (1 - mean) * spread) for _ in range(30)]
        a, b = (
            {str(i): [r.random() < d for _ in range(answers)] for i, d in enumerate(difficulties)}
            for difficulties in (first, second)
        )
        called += compare(a, b).p_value <= 0.05
    # At 6 % of 200, two standard errors are 3.4 points; `bench/interval_coverage.py` has the larger simulation.
    assert called / 200 <= 0.06 + 0.034


def test_the_smallest_difference_is_found_four_times_out_of_five() -> None:
    n, churn = 100, 0.2
    least = least_seen_single(n, churn)
    below, above = least - 0.01, least + 0.01
    assert mcnemar_power(n, churn + below, below) < 0.8 < mcnemar_power(n, churn + above, above)
    r, found = random.Random(0), 0
    for _ in range(2000):
        falls = r.choices(("before", "after", "alike"), (churn / 2, churn / 2 + least, 1 - churn - least), k=n)
        found += mcnemar(falls.count("before"), falls.count("after")) <= 0.05
    assert found / 2000 == pytest.approx(0.8, abs=0.03)


def test_five_questions_can_show_nothing() -> None:
    assert least_seen_single(5, 0.5) == 1  # all five one way are p = 0.06
    assert least_seen_single(6, 0.5) > 0.9
    assert least_seen_single(10_000, 0.1) < 0.01


def test_a_large_difference_does_not_hide_how_small_a_one_could_have_been_seen() -> None:
    alike, apart = compare(_runs("cw" * 100), _runs("cw" * 100)), compare(_runs("w" * 200), _runs("c" * 200))
    assert alike.least_seen == apart.least_seen < 0.06


def test_the_smallest_difference_of_several_answers_is_found_four_times_out_of_five() -> None:
    r, found, leasts = random.Random(1), 0, []
    for _ in range(200):
        first = [r.uniform(0.1, 0.7) for _ in range(60)]
        a = {str(i): [r.random() < d for _ in range(4)] for i, d in enumerate(first)}
        b = {str(i): [r.random() < d + 0.12 for _ in range(4)] for i, d in enumerate(first)}
        result = compare(a, b)
        found += result.p_value <= 0.05
        leasts.append(result.least_seen)
    # 12 points are about what it says that it finds, and about as often.
    assert sum(leasts) / 200 == pytest.approx(0.12, abs=0.01)
    assert 0.7 < found / 200 < 0.9


def _runs(verdicts: str) -> dict[str, list[bool]]:
    return {str(i): [v == "c"] for i, v in enumerate(verdicts)}
