"""Prices out of genai-prices, as the installed version has them."""

import datetime

import pytest

from tenner.budget import library_prices, prices

pytest.importorskip("genai_prices", reason="the extra `prices` is not installed")


def test_every_provider_of_ours_has_rows():
    assert {row.provider for row in library_prices.all_rows()} == library_prices.PROVIDERS.keys()
    assert all(row.checked > datetime.date(2026, 1, 1) for row in library_prices.all_rows())


def test_a_start_date_ends_the_row_before_and_a_batch_has_its_price():
    rows = library_prices.rows_of("gemini", "gemini-3.8-flash")
    assert [(row.since, row.until) for row in rows][-2:] == [
        (None, datetime.date(2026, 12, 31)), (datetime.date(2027, 1, 1), None),
    ]  # fmt: skip
    assert [row.input_usd_per_mtok for row in rows[-2:]] == [0.75, 1.5]
    assert {row.batch_multiplier for row in rows[-2:]} == {0.5}


def test_it_is_asked_where_the_table_has_no_row():
    price = prices.find("glm", "glm-4.6")
    assert (price.model, price.source) == ("glm-4.6", "genai-prices")
    assert price.output_usd_per_mtok == 2.2
    assert prices.find("deepseek", "deepseek-flash").peak is not None, "the table comes first"
    assert prices.find("openai", "gpt-6-luna").long_prompt == prices.LongPrompt(272_000, 2.0)


def test_only_the_exact_name_is_looked_up():
    assert library_prices.rows_of("gemini", "gemini-3.8-flash-imaginary") == []
