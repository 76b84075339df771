from typing import cast

import pytest

from tenner.core import provenance, recipe
from tenner.core.errors import BudgetReached, TennerError
from tenner.core.progress import Screen
from tenner.core.recipe import Experiment, Measurement, Recipe, TraceJob
from tenner.core.run import FIRST_STRETCH_SECONDS, open_folder, open_run, stored_as
from tenner.core.run_folder import FolderState, RunFolder
from tenner.core.sections import TraceSection, Train

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
            meter._heartbeat._last -= 36
            meter.tick()
            assert run.ledger.spent_usd() == pytest.approx(36 * HOUR_USD / 3600, rel=0.01)
        assert run.ledger.rows()[0].machine_seconds == pytest.approx(36, abs=1)


def test_the_next_stretch_must_fit_with_a_margin(tmp_path):
    with opened(tmp_path, 2.9 * 36 * HOUR_USD / 3600) as run, run.machine_time("train") as meter:
        meter._heartbeat._last -= 36
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
    with open_run(tmp_path, cast("recipe.Recipe | None", None), Screen(), budget_usd=None) as run:
        assert run.recipe.budget_usd == 0.02


@pytest.mark.parametrize(
    "free",
    [
        "train.activations='inputs'", "train.tokens_per_row=512", "train.tracker='trackio'", "trace.concurrency=2",
        "trace.api_key_env='MINE'", "machine.price_usd_per_hour=2.0", "machine.device='cpu'",
        "train.checkpoint_seconds=5",
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


def test_a_training_goes_on_with_the_same_settings_as_before():
    assert Train.free_on_resume() == {
        "checkpoint_seconds", "tokens_per_row", "activations", "offload_activations", "deterministic", "shard_over",
        "context_parallel", "tracker",
    }  # fmt: skip


def test_a_cap_that_the_recipe_changed_wins_over_one_raised_earlier(tmp_path):
    with opened(tmp_path, 0.5):
        pass
    with opened(tmp_path, overrides=["budget_usd=0.3"]) as run:
        assert run.recipe.budget_usd == 0.3
        assert run.ledger.cap_microusd == 300_000
    with opened(tmp_path, overrides=["budget_usd=0.3"]) as run:
        assert run.recipe.budget_usd == 0.3


def test_a_cap_below_what_is_spent_is_refused_and_the_old_one_stays(tmp_path):
    with opened(tmp_path, 1.0) as run:
        run.ledger.charge_machine("train", 3600, 0.25)
    with pytest.raises(BudgetReached, match=r"a cap of \$0.1 is below the \$0.25"), opened(tmp_path, 0.1):
        pass
    with opened(tmp_path) as run:
        assert (run.recipe.budget_usd, run.ledger.spent_usd()) == (1.0, 0.25)


@pytest.mark.parametrize("cap_usd", [float("nan"), float("inf"), 1e300, -1.0])
def test_a_cap_that_is_no_amount_leaves_no_folder(cap_usd, tmp_path):
    with pytest.raises(TennerError, match="--budget-usd"), opened(tmp_path / "run", cap_usd):
        pass
    assert not (tmp_path / "run").exists()


def test_a_trace_job_opens_as_a_run_does_and_is_no_run(tmp_path):
    job = TraceJob(budget_usd=1.0, trace=TraceSection(client="reference-solution"))
    with open_folder(tmp_path, TraceJob, job, Screen(), budget_usd=None) as found:
        assert found.description == job
    folder = RunFolder.existing(tmp_path)
    assert stored_as(TraceJob, folder) == job
    for kind in (Recipe, Measurement, Experiment):
        with pytest.raises(TennerError, match="holds the traces of a file of questions, not a"):
            stored_as(kind, folder)


@pytest.mark.parametrize(("schema", "writer"), [(None, "an older tenner"), (99, "a newer tenner")])
def test_a_folder_of_another_schema_is_refused(schema, writer, tmp_path):
    with opened(tmp_path):
        pass
    if schema is None:
        (tmp_path / "run.json").unlink()
    else:
        RunFolder(tmp_path).write_state(FolderState(schema))
    with pytest.raises(TennerError, match=f"was written by {writer}"):
        RunFolder.existing(tmp_path)
    with pytest.raises(TennerError, match=f"was written by {writer}"), opened(tmp_path):
        pass


@pytest.mark.parametrize("left", [["run.json"], ["run.json", "provenance.json"], []])
def test_what_a_kill_leaves_of_a_start_is_started_again(left, tmp_path):
    with opened(tmp_path):
        pass
    for path in tmp_path.iterdir():
        if path.name not in left:
            path.unlink()
    with opened(tmp_path) as run:
        assert provenance.recorded(run.folder)["tenner"]
    assert stored_as(Recipe, RunFolder.existing(tmp_path)) == recipe.load("demo")
