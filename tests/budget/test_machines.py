"""What an hour of a card costs: whose price is charged, for how long it holds, and the recipe's machine."""

import datetime

import pytest

from tenner.budget import machines
from tenner.core import recipe
from tenner.core.errors import TennerError

BEFORE = datetime.datetime(2026, 11, 15, 23, 59, 59, tzinfo=datetime.UTC)


def test_every_offer_is_of_a_known_card_dated_and_in_order():
    for offer in machines.offers():
        assert offer.card in machines.cards()
        assert offer.source
        assert offer.low_usd_per_hour <= offer.high_usd_per_hour
        assert offer.checked <= datetime.date.today()


def test_an_offer_ends_at_midnight_utc():
    assert machines.charged("h100", provider="lambda", at=BEFORE).high_usd_per_hour == 4.29
    with pytest.raises(TennerError, match="the price of h100, on-demand, is known until 2026-11-15 only") as caught:
        machines.charged("h100", provider="lambda", at=BEFORE + datetime.timedelta(seconds=1))
    assert "machine.price_usd_per_hour" in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("overrides", "price_usd_per_hour"),
    [
        ([], 63.84),  # sixteen H100 of RunPod's secure cloud
        (["machine.count=8"], 31.92),
        (["machine.card=a100", "machine.count=1"], 1.79),
        (["machine.provider=nebius"], 72.0),
        (["machine.card=rtx-pro-6000", "machine.count=1"], 2.04),  # RunPod's is not known: the dearest
        (["machine.price_usd_per_hour=7.5"], 7.5),
        (["machine.terms=spot", "machine.count=1"], 6.58),
    ],
)
def test_a_recipe_names_a_card_or_dollars(overrides, price_usd_per_hour):
    assert recipe.load("s1", overrides=overrides).machine.price_usd_per_hour == price_usd_per_hour


@pytest.mark.parametrize(
    ("name", "override", "message"),
    [
        ("s1", "machine.card=h10", r"no card is called h10 \(did you mean h100\?\)"),
        ("s1", "machine.provider=Nebus", r"what Nebus asks for h100, on-demand, is not known \(did you mean Nebius"),
        ("gsm8k-small", "machine.terms=spot", "the price of rtx-4090, spot, is not known"),
        ("s1", "machine.count=0", "machine.count: Input should be greater than 0"),
        ("demo", "machine.count=2", "machine.count has no effect without machine.card"),
    ],
)
def test_a_machine_without_a_price_is_refused(name, override, message):
    with pytest.raises(TennerError, match=message):
        recipe.load(name, overrides=[override])


def test_the_users_offer_is_charged(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    file = tmp_path / "tenner" / "prices.toml"
    file.parent.mkdir()
    offer = (
        '[[machine]]\nprovider = "us"\ncard = "h100"\nlow_usd_per_hour = 1.0\nhigh_usd_per_hour = 1.5\n'
        'source = "invoice"\nchecked = 2026-11-20\n'
    )
    file.write_text(offer + '\n[card.mi300x]\nname = "MI300X"\ndevice_name = "MI300X"\nmemory_gb = 192\n'
                    "peak_tflops = 1307\nbandwidth_gb_per_second = 5300\n")  # fmt: skip
    assert recipe.load("s1").machine.price_usd_per_hour == 24.0
    assert machines.card("mi300x").memory_gb == 192
    file.write_text(offer.replace("h100", "h10"))
    with pytest.raises(TennerError, match="no card is called h10"):
        machines.offers()
