"""A fork takes over what its change leaves as it is, and buys nothing a second time."""

import shutil
import sqlite3
from contextlib import closing

import pytest
from chat_server import ChatServer
from commands import tenner_here

from tenner import pipeline
from tenner.budget.ledger_database import read_spend
from tenner.core import recipe
from tenner.core.errors import TennerError
from tenner.core.fork import FIRST_STAGES, _first_stage, fork
from tenner.core.progress import Screen
from tenner.core.recipe import Recipe
from tenner.core.records import Sample, Trace
from tenner.core.run import _fixed, open_run
from tenner.core.run_folder import RunFolder
from tenner.core.stage_names import CONTROL, SELECT_FIRST, with_control


@pytest.fixture(scope="module")
def bought(tiny_recipe, tmp_path_factory):
    """A run with paid traces, up to verify, its recipe, and the server that it was bought from."""
    path = tmp_path_factory.mktemp("runs") / "paid"
    with ChatServer() as server:
        paid = recipe.load(
            str(tiny_recipe),
            overrides=[
                "gather.questions=60", 'gather.families=["running_sum"]', "select.samples=6", "attempt.questions=0",
                "evaluate.questions=4", 'trace.client="openai"', f'trace.base_url="{server.url}"', 'trace.model="m"',
                "trace.output_tokens_max=500", "trace.price.input_usd_per_mtok=1.0",
                "trace.price.output_usd_per_mtok=2.0",
            ],
        )  # fmt: skip
        with open_run(path, paid, Screen(), budget_usd=None) as run:
            pipeline.run_stages(run, SELECT_FIRST[:6])
            run.ledger.charge_machine("train", 3600, 0.1)  # of a training that is then done again
        yield path, paid, server


def changed(of, *overrides):
    return recipe.parse(of.to_toml(), where="test", overrides=list(overrides))


def spent(path):
    return {(row.stage, row.provider): row.cost_usd for row in read_spend(path / "run.db")}


def test_another_training_keeps_all_that_comes_before_it(bought, tmp_path):
    path, paid, server = bought
    asked = len(server.asked)
    done = fork(path, changed(paid, "train.epochs=3"), tmp_path / "fork")
    assert (done.kept, done.redone) == (list(SELECT_FIRST[:6]), list(SELECT_FIRST[6:]))
    assert RunFolder(done.path).read("samples", Sample) == RunFolder(path).read("samples", Sample) != []
    assert ("train", "machine") in spent(path)
    assert spent(done.path) == {payee: usd for payee, usd in spent(path).items() if payee[0] != "train"}
    assert done.spent_usd == pytest.approx(sum(spent(done.path).values()))
    with open_run(done.path, changed(paid, "train.epochs=3"), Screen(), budget_usd=None) as run:
        assert run.ledger.spent_usd() == pytest.approx(done.spent_usd)
        pipeline.run_stages(run, SELECT_FIRST[:6])
    assert len(server.asked) == asked


def test_another_selection_asks_only_for_what_was_not_bought(bought, tmp_path):
    path, paid, server = bought
    more = changed(paid, "select.samples=8")
    done = fork(path, more, tmp_path / "fork")
    assert list(done.kept) == ["gather", "clean", "attempt"]
    before, asked = {t.question_id for t in RunFolder(path).read("traces", Trace)}, len(server.asked)
    with open_run(done.path, more, Screen(), budget_usd=None) as run:
        pipeline.run_stages(run, SELECT_FIRST[3:6])
    traces = RunFolder(done.path).read("traces", Trace)
    assert len(server.asked) - asked == len({t.question_id for t in traces} - before) < len(traces)


def test_the_command_says_what_it_takes_over_and_a_run_goes_on_by_its_folder(bought, tmp_path):
    path, *_ = bought
    done = tenner_here("fork", path, "--set", "train.epochs=2", "--run-dir", tmp_path / "fork")
    assert (done.returncode, done.stdout) == (0, f"{tmp_path / 'fork'}\n"), done.stderr
    assert "taken over: gather, clean, attempt, select, trace, verify, with $" in done.stderr
    assert f"still to do: train, evaluate, report: tenner run {tmp_path / 'fork'}\n" in done.stderr
    stopped = tenner_here("run", tmp_path / "fork", "--budget-usd", "0.0000001")
    assert "is below the $" in stopped.stderr  # it has found the run and its books


def test_other_settings_are_refused_with_the_fork_that_they_take(bought, tmp_path):
    path, paid, _ = bought
    (tmp_path / "edited.toml").write_text(changed(paid, "train.epochs=3").to_toml())
    done = tenner_here("run", tmp_path / "edited.toml", "--run-dir", path)
    assert done.returncode == 2
    assert f"hint: tenner fork {path} --set train.epochs=3 makes another run of it" in done.stderr
    assert "delete" not in done.stderr


def test_what_cannot_be_forked_is_refused(bought, tmp_path):
    path, paid, _ = bought
    with pytest.raises(TennerError, match="nothing that makes another run is different"):
        fork(path, changed(paid, "budget_usd=2.0"), tmp_path / "fork")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "a").touch()
    with pytest.raises(TennerError, match="full is not empty"):
        fork(path, changed(paid, "train.epochs=3"), tmp_path / "full")
    waiting = shutil.copytree(path, tmp_path / "waiting")
    with closing(sqlite3.connect(waiting / "run.db")) as db, db:
        db.execute(
            "INSERT INTO reservations (stage, provider, model, microusd, price, batch) "
            "VALUES ('trace', 'p', 'm', 1, '', 'b')"
        )
    with pytest.raises(TennerError, match=r"1 calls of .* are waiting in batches"):
        fork(waiting, changed(paid, "train.epochs=3"), tmp_path / "fork")
    assert not (tmp_path / "fork").exists()


def test_every_setting_has_a_first_stage():
    described = [*_fixed(recipe.load("s1")), *_fixed(recipe.load("demo")), *Recipe.model_fields]
    free = {"budget_usd", "machine"}
    stages = {key: _first_stage(key, SELECT_FIRST) for key in described if key not in free}
    assert stages["evaluate.benchmarks.0.task"] == "gather"
    assert (stages["train.lr"], stages["select.samples"], stages["order"]) == ("train", "select", "select")
    assert {stage for _, stage in FIRST_STAGES} <= {*SELECT_FIRST, CONTROL}


def test_a_control_arm_comes_and_goes_without_another_training():
    assert _first_stage("select.control", with_control(SELECT_FIRST)) == CONTROL
    assert _first_stage("select.control", SELECT_FIRST) == "evaluate"
