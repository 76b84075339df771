import datetime

import pytest

from tenner.budget.prices import Peak, Price, find, load_prices, price_of
from tenner.core.errors import TennerError
from tenner.core.records import Usage
from tenner.core.sections import PriceSection

PRICE = Price("p", "m", 0.15, 0.6, "page", datetime.date(2026, 11, 1))
MONDAY_NOON = datetime.datetime(2026, 11, 23, 12, tzinfo=datetime.UTC)
MONDAY_PEAK = datetime.datetime(2026, 11, 23, 9, 59, tzinfo=datetime.UTC)
SUNDAY = datetime.datetime(2026, 11, 22, 9, 59, tzinfo=datetime.UTC)


def test_costs_are_rounded_up():
    assert PRICE.microusd(Usage(input_tokens=1, output_tokens=0)) == 1
    assert PRICE.microusd(Usage(input_tokens=100, output_tokens=100)) == 75


def test_cached_input_has_its_own_price_where_there_is_one():
    usage = Usage(input_tokens=1000, cached_input_tokens=900, output_tokens=0)
    assert PRICE.microusd(usage) == 150
    assert PRICE._replace(cached_input_usd_per_mtok=0.01).microusd(usage) == 24
    too_many = Usage(input_tokens=100, cached_input_tokens=900, output_tokens=0)
    assert PRICE._replace(cached_input_usd_per_mtok=0.0).microusd(too_many) == 0


def test_batch_mode_has_its_multiplier():
    usage = Usage(input_tokens=1000, output_tokens=1000)
    assert PRICE._replace(batch_multiplier=0.5).microusd(usage, batch=True) == 375
    assert PRICE._replace(batch_multiplier=0.5).microusd(usage) == 750


def test_a_call_that_touches_the_peak_costs_the_peak_price():
    price = PRICE._replace(peak=Peak(2.0, [[1, 4], [6, 10]], [0, 1, 2, 3, 4]))
    usage = Usage(input_tokens=0, output_tokens=1000)
    assert price.microusd(usage, MONDAY_NOON) == 600
    assert price.microusd(usage, MONDAY_PEAK, MONDAY_NOON) == 1200
    assert price.microusd(usage, SUNDAY) == 600
    beijing = datetime.timezone(datetime.timedelta(hours=8))
    assert price.microusd(usage, datetime.datetime(2026, 11, 23, 9, 0, tzinfo=beijing)) == 1200  # 01:00 UTC
    assert price.microusd(usage, MONDAY_PEAK + datetime.timedelta(minutes=1)) == 600  # the end is outside


def test_unknown_prices_and_unreported_tokens_are_errors():
    with pytest.raises(TennerError, match="price of openai/gpt-9 is not known") as caught:
        find("openai", "gpt-9")
    assert "--price-in and --price-out" in (caught.value.hint or "")
    with pytest.raises(ValueError, match="did not report its tokens"):
        find("reference-solution", "reference-solution").microusd(Usage(input_tokens=3))


def test_other_names_of_a_model_have_its_price_where_that_is_certain():
    price = find("deepseek", "deepseek-flash")
    for name in ("models/deepseek-flash", "deepseek-flash:floor", "models/deepseek-flash:floor"):
        assert find("deepseek", name) == price._replace(model=name)  # calls keep their keys
    with pytest.raises(TennerError, match="may be more than that of deepseek-flash") as caught:
        find("deepseek", "deepseek-flash:nitro")
    assert "--price-in and --price-out" in (caught.value.hint or "")
    with pytest.raises(TennerError, match="price of deepseek/deepseek-flash:free is not known"):
        find("deepseek", "deepseek-flash:free")


def test_a_given_price_comes_before_the_table():
    given = PriceSection(input_usd_per_mtok=1.0, output_usd_per_mtok=2.0)
    assert price_of("deepseek", "deepseek-flash", given).output_usd_per_mtok == 2.0
    assert price_of("deepseek", "deepseek-flash", None).output_usd_per_mtok == 0.6


def test_every_price_is_dated_and_sourced():
    assert all(price.source and price.checked for price in load_prices())


def test_a_call_that_spans_the_peak_costs_the_peak_price():
    price = PRICE._replace(peak=Peak(2.0, [[6, 10]], [0, 1, 2, 3, 4]))
    usage = Usage(input_tokens=0, output_tokens=1000)
    five, noon = MONDAY_NOON - datetime.timedelta(hours=7), MONDAY_NOON
    assert price.microusd(usage, five, noon) == price.microusd(usage, noon, five) == 1200
    assert price.microusd(usage, five, five + datetime.timedelta(minutes=59)) == 600
    assert price.microusd(usage, SUNDAY, SUNDAY + datetime.timedelta(days=1)) == 1200
    assert price.microusd(usage, noon, noon + datetime.timedelta(weeks=500)) == 1200
    saturday = SUNDAY - datetime.timedelta(days=1)
    assert price.microusd(usage, saturday, SUNDAY) == 600


def test_cached_tokens_that_cost_more_are_reserved():
    price = PRICE._replace(cached_input_usd_per_mtok=1.5)
    usage = Usage(input_tokens=1000, output_tokens=0)
    assert price.microusd(usage) == 1500
    assert price.microusd(usage.model_copy(update={"cached_input_tokens": 100})) == 135 + 150
