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


def cap_of(path, **given):
    with opened(path, **given) as run:
        return run.recipe.budget_usd


def test_an_explicit_cap_always_wins(tmp_path):
    assert cap_of(tmp_path) == recipe.load("demo").budget_usd
    assert cap_of(tmp_path, overrides=["budget_usd=0.01"]) == 0.01
    assert cap_of(tmp_path, overrides=["budget_usd=0.01"], budget_usd=0.3) == 0.3
    assert cap_of(tmp_path, overrides=["budget_usd=0.01"]) == 0.3, "the recipe says what it said before"
    assert cap_of(tmp_path, overrides=["budget_usd=0.02"]) == 0.02
    with open_run(tmp_path, None, Screen(), budget_usd=None) as run:
        assert run.recipe.budget_usd == 0.02


@pytest.mark.parametrize(
    "free",
    [
        "train.activations='inputs'", "train.tokens_per_row=512", "train.tracker='trackio'", "trace.concurrency=2",
        "machine.price_usd_per_hour=2.0", "machine.device='cpu'", "train.checkpoint_seconds=5",
        "trace.price={input_usd_per_mtok = 1.0, output_usd_per_mtok = 2.0}",
    ],
)  # fmt: skip
def test_what_changes_how_and_not_what_may_change_on_resume(tmp_path, free):
    with opened(tmp_path):
        pass
    with opened(tmp_path, overrides=[free]) as run:
        section, _, key = free.partition("=")[0].partition(".")
        stored = getattr(getattr(run.recipe, section), key)
    assert stored == getattr(getattr(recipe.load("demo", overrides=[free]), section), key)


@pytest.mark.parametrize(
    "bound", ["train.lr=1e-5", "evaluate.rows=8", "trace.suffix='!'", "train.optimizer='adamw-8bit'"]
)
def test_what_changes_the_result_may_not(tmp_path, bound):
    with opened(tmp_path):
        pass
    key = bound.partition("=")[0]
    with pytest.raises(TennerError, match=f"{key} is .* there and .* here"), opened(tmp_path, overrides=[bound]):
        pass
