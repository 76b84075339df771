import random
from fractions import Fraction
from itertools import combinations, product

import pytest

from tenner.core.records import Grade
from tenner.evaluation.statistics.pass_at_k import RIGHT, majority_at, pass_at, votes


def test_pass_at_k_is_the_mean_over_all_choices() -> None:
    for n, correct in product(range(1, 8), range(8)):
        if correct > n:
            continue
        answers = [True] * correct + [False] * (n - correct)
        for k in range(1, n + 1):
            chosen = [any(c) for c in combinations(answers, k)]
            assert pass_at(k, correct=correct, n=n) == pytest.approx(sum(chosen) / len(chosen))


def test_pass_at_k_does_not_lean_on_the_number_of_answers() -> None:
    """Where one answer in five is right, the mean of pass@2 over many questions is 1 - 0.8², whatever n is."""
    r = random.Random(0)
    for n in (2, 5, 16):
        drawn = [pass_at(2, correct=sum(r.random() < 0.2 for _ in range(n)), n=n) for _ in range(20_000)]
        assert sum(drawn) / len(drawn) == pytest.approx(0.36, abs=0.012)


def test_majority_at_k_is_the_mean_over_all_choices_with_ties_shared() -> None:
    r = random.Random(1)
    kinds = [RIGHT, "x", "y", "z", None]
    for _ in range(200):
        given = r.choices(kinds, (3, 2, 1, 1, 1), k=r.randint(1, 8))
        for k in range(1, len(given) + 1):
            assert majority_at(k, given, RIGHT) == pytest.approx(float(_brute(k, given)))


def _brute(k: int, given: list[str | None]) -> Fraction:
    won, choices = Fraction(0), list(combinations(given, k))
    for chosen in choices:
        counts = {vote: chosen.count(vote) for vote in chosen if vote is not None}
        winners = [vote for vote, count in counts.items() if count == max(counts.values())]
        won += Fraction(RIGHT in winners, max(1, len(winners)))
    return won / len(choices)


def test_majority_of_many_answers_is_exact() -> None:
    given = [RIGHT] * 20 + [str(i) for i in range(44)]
    assert majority_at(64, given, RIGHT) == 1
    assert majority_at(1, given, RIGHT) == pytest.approx(20 / 64)
    assert majority_at(2, given, RIGHT) == pytest.approx(20 / 64)  # a tie of two is half a vote
    assert majority_at(16, given, RIGHT) > 0.97


def test_the_order_of_the_answers_does_not_matter() -> None:
    assert majority_at(2, ["x", "x", RIGHT, RIGHT], RIGHT) == majority_at(2, [RIGHT, RIGHT, "x", "x"], RIGHT) == 0.5


@pytest.mark.parametrize(("k", "n"), [(0, 3), (4, 3), (1, 0)])
def test_what_the_answers_do_not_tell_is_refused(k: int, n: int) -> None:
    with pytest.raises(ValueError, match="do not tell"):
        pass_at(k, correct=0, n=n)
    with pytest.raises(ValueError, match="do not tell"):
        majority_at(k, [RIGHT] * n, RIGHT)


def test_more_right_answers_than_answers_are_refused() -> None:
    with pytest.raises(ValueError, match="cannot be right"):
        pass_at(1, correct=2, n=1)


def test_answers_vote_by_what_they_say_and_not_by_how_they_say_it() -> None:
    said = [
        ("correct", "4"), ("correct", "04"), ("wrong", "1,234"), ("wrong", "1234"), ("wrong", "right"),
        ("unparsed", None),
    ]  # fmt: skip
    a, b, c, d, e, f = votes(Grade.model_validate({"verdict": v, "extracted": x}) for v, x in said)
    assert a == b == RIGHT
    assert c == d != e
    assert RIGHT not in (c, e)
    assert f is None
