import datetime
from contextlib import closing

import pytest

from tenner.budget import price_files
from tenner.budget.ledger import Ledger
from tenner.budget.ledger_rows import Payee
from tenner.budget.prices import (
    LongPrompt,
    Peak,
    Price,
    ceil_microusd,
    find,
    in_force,
    load_prices,
    price_of,
)
from tenner.clients.openai import presets
from tenner.core.errors import TennerError
from tenner.core.records import Usage
from tenner.core.sections import DOLLARS_MAX, PriceSection

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


PRESETS = {
    "deepseek": "deepseek-flash", "glm": "glm-5.3", "kimi": "kimi-k3", "openai": "gpt-6.1-sol",
    "openrouter": "openai/gpt-oss-120b", "qwen": "qwen3.8-flash",
}  # fmt: skip


@pytest.mark.parametrize("preset", sorted(presets()))
def test_every_preset_has_a_price_or_says_which_field_is_missing(preset):
    if preset in PRESETS:
        assert find(preset, PRESETS[preset]).output_usd_per_mtok > 0
    else:
        assert preset == "local"
    with pytest.raises(TennerError, match=f"the price of {preset}/no-such-model is not known") as caught:
        find(preset, "no-such-model")
    assert "--price-in and --price-out" in (caught.value.hint or "")


NEW_YEAR = datetime.datetime(2027, 1, 1, tzinfo=datetime.UTC)
SECOND, HOUR = datetime.timedelta(seconds=1), datetime.timedelta(hours=1)


def test_a_price_changes_at_midnight_utc():
    usage = Usage(input_tokens=1_000_000, output_tokens=1_000_000)
    price = find("gemini", "gemini-3.8-flash", at=NEW_YEAR - SECOND)
    assert price.microusd(usage, NEW_YEAR - 2 * SECOND, NEW_YEAR - SECOND) == 4_500_000
    assert price.microusd(usage, NEW_YEAR - SECOND, NEW_YEAR) == 9_000_000  # the dearer one
    assert price.microusd(usage, NEW_YEAR, NEW_YEAR + SECOND) == 9_000_000
    tokyo = datetime.timezone(datetime.timedelta(hours=9))
    assert price.microusd(usage, datetime.datetime(2027, 1, 1, 8, 59, 59, tzinfo=tokyo)) == 4_500_000
    assert price.microusd(usage, datetime.datetime(2027, 1, 1, 9, 0, 0, tzinfo=tokyo)) == 9_000_000
    assert "from 2027-01-01: $1.50 in" in price.label()
    # The moments of a batch are not known when it is reserved, and known when it is settled.
    assert price.microusd(usage, batch=True) == 4_500_000
    assert price.microusd(usage, NEW_YEAR - 2 * SECOND, NEW_YEAR - SECOND, batch=True) == 2_250_000
    later = find("gemini", "gemini-3.8-flash", at=NEW_YEAR)
    assert (later.input_usd_per_mtok, later.following) == (1.5, None)
    assert later.microusd(usage, NEW_YEAR - SECOND) == 9_000_000  # a response of last year, settled now


def test_no_call_is_made_after_the_last_known_day():
    ending = PRICE._replace(until=datetime.date(2026, 12, 31))
    usage = Usage(input_tokens=1, output_tokens=1)
    assert ending.microusd(usage, NEW_YEAR - SECOND) == 1
    with pytest.raises(TennerError, match="the price of p/m is known until 2026-12-31 only"):
        ending.microusd(usage, NEW_YEAR - SECOND, NEW_YEAR)
    with pytest.raises(TennerError, match="known until 2026-12-31 only"):
        in_force([ending], NEW_YEAR.date())


def test_a_price_that_is_only_announced_is_not_known_yet():
    announced = [PRICE._replace(since=datetime.date(2027, 3, 1)), PRICE._replace(since=datetime.date(2027, 2, 1))]
    with pytest.raises(TennerError, match="the price of p/m is known from 2027-02-01 on only") as caught:
        in_force(announced, NEW_YEAR.date())
    assert "--price-in and --price-out" in (caught.value.hint or "")


def test_between_two_rows_no_price_is_known():
    rows = [PRICE._replace(until=datetime.date(2026, 12, 31)), PRICE._replace(since=datetime.date(2027, 1, 10))]
    price, usage, day = in_force(rows, datetime.date(2026, 12, 1)), Usage(input_tokens=1, output_tokens=1), HOUR * 24
    assert price.microusd(usage, NEW_YEAR - SECOND) == price.microusd(usage, NEW_YEAR + 9 * day) == 1
    for moments in ([NEW_YEAR], [NEW_YEAR - SECOND, NEW_YEAR], [NEW_YEAR + 8 * day, NEW_YEAR + 9 * day]):
        with pytest.raises(TennerError, match="p/m is not known from 2027-01-01 to 2027-01-09"):
            price.microusd(usage, *moments)
    with pytest.raises(TennerError, match="p/m is known from 2027-01-10 on only"):
        in_force(rows, NEW_YEAR.date())


def test_a_long_prompt_costs_more():
    price = PRICE._replace(long_prompt=LongPrompt(1000, 2.0))
    assert price.microusd(Usage(input_tokens=1000, output_tokens=1000)) == 750
    assert price.microusd(Usage(input_tokens=1001, output_tokens=1000)) == 1501


def test_the_users_file_comes_first_and_is_checked(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    file = tmp_path / "tenner" / "prices.toml"
    file.parent.mkdir()
    row = (
        '[[price]]\nprovider = "deepseek"\nmodel = "deepseek-flash"\ninput_usd_per_mtok = 1\noutput_usd_per_mtok = 2\n'
        'source = "my contract"\nchecked = 2026-11-20\n'
    )
    file.write_text(row)
    assert find("deepseek", "deepseek-flash").source == "my contract"
    assert find("deepseek", "deepseek-v4-pro").output_usd_per_mtok == 1.98
    for text, message, hint in (
        (row.replace("source", "sauce"), r"\[\[price\]\] 1: unknown key sauce", "did you mean source?"),
        (row.replace("= 1", "= -1"), "input_usd_per_mtok: Input should be greater than or equal to 0", "a row has"),
        (row.replace("price]]", "prices]]"), "unknown table prices", "did you mean price?"),
        ("[", "is not valid TOML", ""),
        ("price = " + "[" * 5000, "is nested too deeply", ""),
    ):
        file.write_text(text)
        with pytest.raises(TennerError, match=message) as caught:
            find("deepseek", "deepseek-flash")
        assert hint in (caught.value.hint or "")


def test_an_old_price_is_warned_of():
    rows = [("a", datetime.date(2026, 8, 31), "page"), ("b", datetime.date(2026, 9, 1), "page")]
    (line,) = price_files.age_warnings(rows, today=datetime.date(2026, 11, 30))
    assert line == "warning: the price of a was read on 2026-08-31, 91 days ago: compare it with page"


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


@pytest.mark.parametrize("number", ["nan", "inf", "1e308", "-inf"])
def test_a_price_that_no_ledger_counts_is_refused_in_the_users_file(number, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    (tmp_path / "tenner").mkdir()
    (tmp_path / "tenner" / "prices.toml").write_text(
        f'[[price]]\nprovider = "p"\nmodel = "m"\ninput_usd_per_mtok = {number}\noutput_usd_per_mtok = 2\n'
        'source = "my contract"\nchecked = 2026-11-20\n'
    )
    with pytest.raises(TennerError, match="input_usd_per_mtok"):
        find("p", "m")


@pytest.mark.parametrize(
    ("field", "where", "said"),
    [
        ("peak = {multiplier = 2, hours_utc = [[22, 2]], weekdays = [0]}", "peak.hours_utc.0", "[[22, 24], [0, 2]]"),
        ("peak = {multiplier = 2, hours_utc = [[1]], weekdays = [0]}", "peak.hours_utc.0", "[[22, 24], [0, 2]]"),
        ("peak = {multiplier = 2, hours_utc = [[20, 25]], weekdays = [0]}", "peak.hours_utc.0", "[[22, 24], [0, 2]]"),
        ("peak = {multiplier = 2, hours_utc = [[1, 4]], weekdays = [7]}", "peak.weekdays.0", "less than or equal to 6"),
        ("peak = {multiplier = 0.5, hours_utc = [[1, 4]], weekdays = [0]}", "peak.multiplier", "greater than or equal"),
        ("long_prompt = {above_tokens = 9, multiplier = 0.5}", "long_prompt.multiplier", "greater than or equal to 1"),
    ],
)
def test_a_peak_that_would_never_come_or_make_calls_cheaper_is_refused(field, where, said, tmp_path, monkeypatch):
    """What is reserved has the dearest price that the call may have: a row's own prices are the low ones."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    (tmp_path / "tenner").mkdir()
    (tmp_path / "tenner" / "prices.toml").write_text(
        '[[price]]\nprovider = "p"\nmodel = "m"\ninput_usd_per_mtok = 1\noutput_usd_per_mtok = 2\n'
        f'source = "my contract"\nchecked = 2026-11-20\n{field}\n'
    )
    with pytest.raises(TennerError, match=r"prices\.toml: \[\[price\]\] 1: ") as caught:
        find("p", "m")
    assert where in str(caught.value)
    assert said in str(caught.value)


@pytest.mark.parametrize("claimed", [1e15, 1e300, float("inf")])
def test_a_cost_beyond_every_cap_can_be_booked(claimed, tmp_path):
    assert ceil_microusd(claimed) >= DOLLARS_MAX * 1e6
    with closing(Ledger(tmp_path / "run.db", budget_usd=1)) as ledger:
        ledger.lose(ledger.reserve(Payee("trace", "p", "m", "row"), 1))
        ledger.settle(1, Usage(input_tokens=1, output_tokens=1), ceil_microusd(claimed))
        assert ledger.spent_usd() >= 1e9
