"""Which teacher is chosen, by hand-made verdicts and costs."""

import pytest

from tenner.evaluation.statistics.paired import mcnemar
from tenner.evaluation.statistics.teacher_choice import Asked, choose


def asked(right: int, usd: float, *, of: int = 20) -> Asked:
    """A teacher that solved the first so many questions."""
    return Asked([number < right for number in range(of)], usd)


@pytest.mark.parametrize(
    ("teachers", "place"),
    [
        ([asked(18, 0.90), asked(17, 0.17)], 1),  # hardly worse, five times cheaper
        ([asked(18, 0.90), asked(8, 0.01)], 0),  # cheapest for each verified trace, and worse
        ([asked(18, 0.18), asked(18, 0.17)], 1),
        ([asked(10, 0.0), asked(12, 0.0)], 1),  # both free: the one with more
        ([asked(10, 0.1), asked(10, 0.1)], 0),
        ([asked(0, 0.0), asked(3, 0.9)], 1),  # what is free and never right is not chosen
        ([asked(20, 5.0), asked(15, 1.0), asked(16, 1.0)], 2),  # 15 of 20 against all: p = 0.0625
    ],
)
def test_the_cheapest_of_those_that_are_not_worse_is_chosen(teachers, place):
    assert choose(teachers).place == place


def test_the_test_is_on_the_same_questions():
    best, other = Asked([True] * 10 + [False] * 6, 1.0), Asked([False] * 10 + [True] * 6, 0.1)
    assert list(choose([best, other]).p_values) == [1.0, mcnemar(10, 6)]
    assert choose([best, other]).place == 1
    assert choose([asked(20, 1.0), asked(14, 0.01)]).p_values[1] == mcnemar(6, 0) < 0.05


def test_nobody_is_chosen_where_no_trace_is_verified():
    with pytest.raises(ValueError, match="no trace is verified"):
        choose([asked(0, 0.1), asked(0, 0.0)])
