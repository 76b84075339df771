"""Keys are refused where they would be stored, and replaced where they can be told from words."""

import pytest

from tenner.core.errors import TennerError
from tenner.core.secrets import can_be_searched_for, redact_body, redact_message
from tenner.tracing import describe

KEY = "sk-proj-0123456789abcdef"
FIELDS = {"client": "openai", "model": "m", "base_url": "http://h/v1"}


@pytest.mark.parametrize("key", ["the", "password", "EMPTY", "correct", "1234", "sk-1"])
def test_words_are_not_looked_for_in_content(key):
    body = f"{key} is what {key} is: {key}s".encode()
    assert not can_be_searched_for(key)
    assert redact_body(body, key) == body
    assert redact_message(f"wrong key: {key}.", key) == "wrong key: [key]."


def test_keys_are_replaced_wherever_they_are():
    assert redact_body(f'{{"a": "x{KEY}y"}}'.encode(), KEY) == b'{"a": "x[key]y"}'
    assert redact_message(f"x{KEY}y", KEY) == "x[key]y"
    assert redact_message("nothing", "") == "nothing"


@pytest.mark.parametrize(
    "fields",
    [
        {"base_url": f"https://user:{KEY}@h/v1"}, {"base_url": f"https://h/v1?key={KEY}"},
        {"base_url": f"https://h/v1?api-key={KEY}"}, {"base_url": f"https://h/{KEY}/v1"},
        {"parameters": {"api_key": "abc"}}, {"parameters": {"extra_headers": {"Authorization": "Bearer x"}}},
        {"parameters": {"user": KEY}}, {"parameters": {"list": [{"x-api-key": "abc"}]}}, {"api_key_env": KEY},
    ],
)  # fmt: skip
def test_a_key_among_the_settings_is_refused_and_not_repeated(fields):
    with pytest.raises(TennerError, match="environment") as caught:
        describe(FIELDS | fields, budget_usd=1)
    assert KEY not in str(caught.value)


@pytest.mark.parametrize(
    "parameters",
    [
        {"prompt_cache_key": "class-of-2024", "user": "somebody", "stop": ["sk-"]},
        {"tools": [{"function": {"parameters": {"properties": {"password": {"type": "string"}}}}}]},
        {"metadata": {"key": "desk-organiser-for-the-hard-working"}},
    ],
)
def test_what_is_no_key_is_not_refused(parameters):
    assert describe(FIELDS | {"parameters": parameters}, budget_usd=1).trace.parameters == parameters


def test_a_query_in_a_base_url_is_refused():
    with pytest.raises(TennerError, match="a base URL has no query"):
        describe(FIELDS | {"base_url": "https://h/v1?api-version=1"}, budget_usd=1)


NUMBERS = [float("nan"), float("inf"), 1e308, -1.0]


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize(
    "name", ["deadline_seconds", "input_usd_per_mtok", "output_usd_per_mtok", "cached_input_usd_per_mtok",
             "batch_multiplier", "budget_usd"],
)  # fmt: skip
def test_numbers_that_no_ledger_counts_are_refused(name, number):
    price = {"input_usd_per_mtok": 1.0, "output_usd_per_mtok": 2.0}
    fields: dict[str, object] = FIELDS | {"price": price}
    if name == "deadline_seconds":
        fields[name] = number
    elif name != "budget_usd":
        fields["price"] = price | {name: number}
    with pytest.raises(TennerError, match=name):
        describe(fields, budget_usd=number if name == "budget_usd" else 1.0)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {1: {2}}, b"x"])
def test_parameters_that_are_no_json_are_refused(value):
    with pytest.raises(TennerError, match="not JSON"):
        describe(FIELDS | {"parameters": {"temperature": value}}, budget_usd=1)


def test_integers_beyond_the_database_are_refused():
    for name in ("output_tokens_max", "requests_per_minute", "attempts_max"):
        with pytest.raises(TennerError, match=name):
            describe(FIELDS | {name: 10**400}, budget_usd=1)
