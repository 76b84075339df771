import pytest

from tenner.core import recipe
from tenner.core.errors import BudgetReached, TennerError
from tenner.core.progress import Screen
from tenner.core.run import FIRST_STRETCH_SECONDS, open_run

HOUR_USD = recipe.load("demo").machine.price_usd_per_hour


def opened(path, budget_usd=None, overrides=()):
    return open_run(path, recipe.load("demo", overrides=list(overrides)), Screen(), budget_usd=budget_usd)


def test_nothing_is_begun_that_the_cap_may_not_hold(tmp_path):
    almost = FIRST_STRETCH_SECONDS * HOUR_USD / 3600 * 0.99
    with opened(tmp_path, almost) as run, pytest.raises(BudgetReached), run.machine_time("train"):
        raise AssertionError("the first stretch does not fit")
    assert not list(tmp_path.glob("stages/*"))


def test_machine_time_is_charged_as_it_passes(tmp_path):
    with opened(tmp_path, 1.0) as run:
        with run.machine_time("train") as meter:
            meter._last -= 36
            meter.tick()
            assert run.ledger.spent_usd() == pytest.approx(36 * HOUR_USD / 3600, rel=0.01)
        assert run.ledger.rows()[0].machine_seconds == pytest.approx(36, abs=1)


def test_the_next_stretch_must_fit_with_a_margin(tmp_path):
    with opened(tmp_path, 2.9 * 36 * HOUR_USD / 3600) as run, run.machine_time("train") as meter:
        meter._last -= 36
        meter.tick()
        with pytest.raises(BudgetReached):  # one spent, and twice the longest ahead
            meter.check()


def test_a_raised_cap_is_kept_and_another_recipe_refused(tmp_path):
    with opened(tmp_path, 0.5):
        pass
    with opened(tmp_path) as run:
        assert run.recipe.budget_usd == 0.5
    with pytest.raises(TennerError, match="seed is 0 there and 9 here"), opened(tmp_path, overrides=["seed=9"]):
        pass
