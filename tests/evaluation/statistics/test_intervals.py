import random

import pytest

from tenner.evaluation.statistics.intervals import clustered, wilson


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


@pytest.mark.parametrize("shares", [[], [0.5, 1.5], [-0.1]])
def test_clustered_refuses_what_is_no_share(shares: list[float]) -> None:
    with pytest.raises(ValueError, match="no interval"):
        clustered(shares)


def test_one_answer_a_question_is_wilson_and_answers_that_repeat_each_other_say_no_more() -> None:
    for n in (1, 7, 30):
        for correct in range(n + 1):
            shares = [1.0] * correct + [0.0] * (n - correct)
            # So is one in which every question was answered sixteen times, always the same.
            assert clustered(shares) == pytest.approx(wilson(correct, n))


def test_answers_that_differ_within_a_question_narrow_the_interval() -> None:
    low, high = clustered([0.5] * 30)
    assert low < 0.5 < high
    assert high - low < 0.5 * (wilson(15, 30).high - wilson(15, 30).low)
    assert clustered([0.25, 0.5, 1.0]) == pytest.approx(tuple(1 - x for x in clustered([0.75, 0.5, 0.0])[::-1]))


def benchmark(r: random.Random, questions: int, answers: int, *, mean: float, spread: float) -> list[float]:
    """A benchmark of questions whose difficulties are Beta distributed, each answered several times."""
    difficulties = [r.betavariate(mean * spread, (1 - mean) * spread) for _ in range(questions)]
    return [sum(r.random() < d for _ in range(answers)) / answers for d in difficulties]


@pytest.mark.parametrize("answers", [1, 4, 16])
def test_the_interval_covers_the_truth_in_95_of_100_benchmarks(answers: int) -> None:
    """Two thousand benchmarks of 30 questions: easy and hard ones, of like questions and of all or nothing."""
    r = random.Random(answers)
    covered = 0
    for _ in range(2000):
        mean, spread = r.uniform(0.02, 0.98), r.choice([0.3, 0.6, 1.0, 3.0])
        low, high = clustered(benchmark(r, 30, answers, mean=mean, spread=spread))
        covered += low <= mean <= high
    assert 0.93 <= covered / 2000 <= 0.97


@pytest.mark.slow
@pytest.mark.parametrize("mean", [0.02, 0.05, 0.1, 0.3, 0.5, 0.9, 0.98])
@pytest.mark.parametrize("answers", [4, 16])
def test_the_interval_holds_near_the_edges_too(answers: int, mean: float) -> None:
    """The truth fixed: no mean over easy benchmarks makes up for hard ones."""
    r = random.Random(round(1000 * mean) + answers)
    for spread in (0.3, 1.0, 3.0):
        intervals = [clustered(benchmark(r, 30, answers, mean=mean, spread=spread)) for _ in range(2000)]
        assert sum(low <= mean <= high for low, high in intervals) / 2000 >= 0.92
