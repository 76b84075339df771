import sqlite3
from contextlib import closing

import pytest

from tenner.errors import BudgetReached, TennerError
from tenner.money.ledger import Ledger, read_spend
from tenner.money.prices import Price, find, load_prices
from tenner.records import Usage


@pytest.fixture
def ledger(tmp_path):
    with closing(Ledger(tmp_path / "run.db", budget_usd=0.001)) as opened:
        yield opened


def keep(ledger, reservation, key="k"):
    return ledger.keep(
        reservation, key=key, request="{}", body=b"raw", stage="trace", provider="p", model="m", price="row"
    )


def settle(ledger, reservation, key="k", microusd=300):
    ledger.settle(keep(ledger, reservation, key), Usage(input_tokens=10, output_tokens=20), microusd)


def test_a_reservation_counts_until_it_is_settled_or_released(ledger):
    first = ledger.reserve("trace", 600)
    with pytest.raises(BudgetReached):
        ledger.reserve("trace", 401)
    settle(ledger, first)
    second = ledger.reserve("trace", 700)
    with pytest.raises(BudgetReached):
        ledger.reserve("trace", 1)
    ledger.release(second)
    ledger.reserve("trace", 700)
    assert ledger.spent_usd() == 0.0003


def test_a_refused_reservation_leaves_nothing_behind(ledger):
    with pytest.raises(BudgetReached) as caught:
        ledger.reserve("trace", 1001)
    assert caught.value.exit_code == 3
    ledger.reserve("trace", 1000)


def test_calls_and_machine_time_share_the_cap(ledger):
    ledger.charge_machine("train", seconds=18, price_usd_per_hour=0.1)  # 500 micro-dollars
    ledger.check_machine("train", 18, 0.1)
    with pytest.raises(BudgetReached):
        ledger.check_machine("train", 18.1, 0.1)
    with pytest.raises(BudgetReached):
        ledger.reserve("trace", 501)


def test_a_response_is_kept_at_its_worst_case_until_it_is_settled(ledger):
    spend_id = keep(ledger, ledger.reserve("trace", 900))
    assert ledger.response("k") == (b"raw", spend_id)
    assert ledger.spent_usd() == 0.0009
    ledger.settle(spend_id, Usage(input_tokens=1, output_tokens=2), 300)
    assert ledger.spent_usd() == 0.0003


def test_the_same_key_cannot_be_kept_twice(ledger):
    keep(ledger, ledger.reserve("trace", 100))
    with pytest.raises(sqlite3.IntegrityError):
        keep(ledger, ledger.reserve("trace", 100))
    assert ledger.spent_usd() == 0.0001


def test_what_a_killed_process_had_reserved_is_forgotten(ledger):
    ledger.reserve("trace", 1000)
    ledger.forget_reservations()
    ledger.reserve("trace", 1000)


def test_spend_is_summed_by_stage_and_read_without_writing(ledger, tmp_path):
    assert read_spend(tmp_path / "none.db") == []
    settle(ledger, ledger.reserve("trace", 900))
    settle(ledger, ledger.reserve("trace", 600), key="k2", microusd=100)
    ledger.charge_machine("train", 3.6, 0.1)
    trace, train = read_spend(tmp_path / "run.db")
    assert (trace.stage, trace.calls, trace.input_tokens, trace.cost_usd) == ("trace", 2, 20, 0.0004)
    assert (train.stage, train.machine_seconds, train.cost_usd) == ("train", 3.6, 0.0001)


def test_a_cap_in_dollars_is_exact_in_micro_dollars(tmp_path):
    with closing(Ledger(tmp_path / "run.db", budget_usd=0.29)) as ledger:
        assert ledger.cap_microusd == 290_000  # 0.29 * 1e6 is 289999.99… in floating point


def test_costs_are_rounded_up():
    price = Price("p", "m", 0.15, 0.6, "page", None)
    assert price.microusd(Usage(input_tokens=1, output_tokens=0)) == 1
    assert price.microusd(Usage(input_tokens=100, output_tokens=100)) == 75


def test_unknown_prices_and_unreported_tokens_are_errors():
    with pytest.raises(TennerError, match="price of openai/gpt-9 is not known"):
        find("openai", "gpt-9")
    with pytest.raises(TennerError, match="cost is unknown"):
        find("worked", "worked").microusd(Usage(input_tokens=3))


def test_every_price_is_dated_and_sourced():
    assert all(price.source and price.checked for price in load_prices())
