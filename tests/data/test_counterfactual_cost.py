import pytest

from tenner.data.counterfactual_cost import compare


def test_select_first_is_told_beside_buying_all():
    told = compare("select-first", bought=1180, spent_usd=9.1, verified=1000, wanted=1000, candidates=24_496)
    assert told.sentence == (
        "select-first bought 1,180 traces for $9.10; trace-first would have bought 24,496 for about $188.91"
    )


def test_trace_first_is_told_beside_buying_until_enough_are_right():
    told = compare("trace-first", bought=24_496, spent_usd=188.9, verified=20_759, wanted=1000, candidates=24_496)
    assert told.other_bought == 1181  # 1,000 over the yield of 84.7 %, rounded up
    assert "select-first would have bought about 1,181 for about $9.11" in told.sentence


@pytest.mark.parametrize("order", ["select-first", "trace-first"])
@pytest.mark.parametrize(("bought", "kept"), [(0, 0), (5, 0), (5, 5)])
def test_no_pool_and_no_yield_are_no_trouble(order, bought, kept):
    told = compare(order, bought=bought, spent_usd=0.0, verified=kept, wanted=10, candidates=5)
    assert told.other_bought == 5
    assert told.sentence
