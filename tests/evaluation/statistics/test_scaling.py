"""s1's Table 3 from the points that its paper publishes.

Accuracies are k of 30 questions; tokens are those of Tables 12 to 14, and of the dots of Figures 1 and 6.
"""

import pytest

from tenner.evaluation.statistics.scaling import Bounded, Point, control, performance, scaling


def of_30(tokens: list[float], right: list[int]) -> list[Point]:
    return [Point(t, k / 30) for t, k in zip(tokens, right, strict=True)]


def in_percent(*pairs: tuple[float, float]) -> list[Point]:
    return [Point(tokens, accuracy / 100) for tokens, accuracy in pairs]


FORCING = of_30([500, 1000, 2000, 3933.1, 5300.2, 6656.8, 7319.6], [0, 4, 9, 13, 15, 16, 17])
TOKENS = of_30([7939, 7158, 8263, 7108, 7500], [8, 9, 10, 10, 12])
TOKENS_FORCED = of_30([1024, 2048, 4031, 5664, 6330], [1, 9, 10, 10, 12])
STEPS = of_30([7252, 6277, 5396, 5552, 7551], [10, 7, 10, 11, 10])
STEPS_FORCED = of_30([1517, 2963, 4636, 5409, 7551], [7, 7, 10, 11, 10])
CLASSES = of_30([8033, 9651], [9, 11])
REJECTION = of_30([2974.2, 3702.9, 4343.8, 4733.8, 5192.7, 5292.9], [12, 11, 10, 9, 8, 7])
MATH500 = in_percent((498.7, 64.0), (983.5, 80.0), (1813.9, 85.6), (2868.0, 90.6), (3199.6, 93.2))
GPQA = in_percent((500, 37.9), (985.4, 49.5), (1742.3, 51.0), (3231.2, 57.6), (4648.9, 59.6))
LIMITS = [1024, 2048, 4096, 8192, 16384]
STEP_LIMITS = [100 * steps for steps in (16, 32, 64, 128, 256)]
DEFAULT = 6109  # what the model thinks without being told: "short" shall be less and "long" more


@pytest.mark.parametrize(
    ("points", "exact", "printed", "best"),
    [
        (FORCING, 14.82, 15, 56.7),
        (TOKENS, -23.77, -24, 40.0),
        (TOKENS_FORCED, 13.16, 13, 40.0),
        (STEPS, 2.93, 3, 36.7),
        (STEPS_FORCED, 6.41, 6, 36.7),
        (CLASSES, 25.18, 25, 36.7),
        (REJECTION[1:], -35.47, -35, 36.7),  # without the first limit, which the figure's caption leaves out
        (REJECTION, -28.60, None, 40.0),  # with it, as the printed performance has it
        (MATH500, 10.36, None, 93.2),
        (GPQA, 6.16, None, 59.6),
    ],
)
def test_the_papers_scaling_and_performance_are_reproduced(
    points: list[Point], exact: float, printed: int | None, best: float
) -> None:
    assert scaling(points) == pytest.approx(exact, abs=0.006)
    assert printed is None or round(scaling(points)) == printed
    assert round(100 * performance(points), 1) == best


@pytest.mark.parametrize(
    ("points", "most", "share"),
    [
        (TOKENS, LIMITS, 2 / 5),
        (TOKENS_FORCED, LIMITS, 1),
        (STEPS, STEP_LIMITS, 3 / 5),
        (STEPS_FORCED, STEP_LIMITS, 1),
        (REJECTION, [3500, 4000, 5000, 6000, 8000, 16000], 1),
        (FORCING[:3], [500, 1000, 2000], 1),
    ],
)
def test_the_papers_control_is_reproduced(points: list[Point], most: list[int], share: float) -> None:
    assert control([Bounded(p.thinking_tokens, most=m) for p, m in zip(points, most, strict=True)]) == share


def test_the_papers_control_by_classes_is_reproduced() -> None:
    short, long = CLASSES
    told = [Bounded(short.thinking_tokens, most=DEFAULT), Bounded(long.thinking_tokens, least=DEFAULT)]
    assert control(told) == 1 / 2


def test_a_slope_is_points_per_doubling_in_any_order() -> None:
    assert scaling(in_percent((100, 10), (200, 20), (400, 30))) == pytest.approx(10)
    assert scaling(in_percent((400, 30), (100, 10), (200, 20))) == pytest.approx(10)


@pytest.mark.parametrize(
    ("points", "reason"),
    [
        ([], "two points"),
        (in_percent((5, 1)), "two points"),
        (in_percent((5, 1), (5, 2)), "same number"),
        (in_percent((8, 1), (5, 1), (8, 1)), "same number"),
        (in_percent((6000.0, 1), (6000.000000000001, 2)), "same number"),
        (in_percent((0, 1), (5, 2)), "doubled"),
    ],
)
def test_what_has_no_slope_is_refused(points: list[Point], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        scaling(points)


def test_nothing_has_no_control_and_no_performance() -> None:
    with pytest.raises(ValueError, match="no settings"):
        control([])
    with pytest.raises(ValueError, match="empty"):
        performance([])
