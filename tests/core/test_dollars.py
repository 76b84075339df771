import pytest

from tenner.core.dollars import estimate_in_dollars, in_dollars, usd


@pytest.mark.parametrize(
    ("price", "text"),
    [
        (0.1, "$0.10"),
        (0.075, "$0.075"),
        (2.0, "$2"),
        (1.8, "$1.80"),
        (63.84, "$63.84"),
        (0.0, "$0"),
        (1e-7, "$0.0000001"),
    ],
)
def test_a_price_is_written_with_whole_cents(price, text):
    assert in_dollars(price) == text


def test_an_estimate_has_no_exponent():
    assert [estimate_in_dollars(usd) for usd in (25.24, 0.0000254, 0.0)] == ["$25.20", "$0.0000254", "$0"]


def test_what_was_spent_is_told_to_a_hundredth_of_a_cent_below_a_dollar():
    assert [usd(amount) for amount in (0.0024, 3 * 0.05, 1.005, 1234.5)] == ["$0.0024", "$0.15", "$1.00", "$1,234.50"]
