"""`tenner plan --probe`: a loopback teacher and a tiny student are asked, and the plan follows from what they did."""

import json

import pytest
from chat_server import ChatServer, usage_of
from commands import tenner_here

from tenner.budget.ledger_database import read_spend
from tenner.core import recipe
from tenner.core.records import StagePlan
from tenner.core.run_folder import RunFolder

pytestmark = pytest.mark.slow


def test_what_the_teacher_was_paid_is_what_is_planned_and_what_the_run_pays(tiny_recipe, tmp_path, monkeypatch):
    monkeypatch.setenv("THE_KEY", key := "sk-right-key-789")
    with ChatServer(key=key) as server:
        paid = recipe.load(
            str(tiny_recipe),
            overrides=[
                'gather.families=["running_sum"]', "select.samples=20", 'trace.client="openai"',
                f'trace.base_url="{server.url}"', 'trace.model="m"', 'trace.api_key_env="THE_KEY"',
                "trace.output_tokens_max=500", "trace.price={input_usd_per_mtok=1.0, output_usd_per_mtok=2.0}",
                "train.epochs=1", "evaluate.questions=4", "evaluate.thinking_tokens_max=[0, 4]", "evaluate.waits=[]",
            ],
        )  # fmt: skip
        file, folder = tmp_path / "paid.toml", tmp_path / "run"
        file.write_text(paid.to_toml())
        done = tenner_here("plan", file, "--probe", 6, "--run-dir", folder, "--json")
        assert done.returncode == 0, done.stderr
        asked = [usage_of(a.question) for a in server.asked]
        assert len(asked) == 6
        spent = {row.stage: row for row in read_spend(folder / "run.db") if row.provider != "machine"}
        assert round(spent["probe"].cost_usd * 1e6) == sum(
            u["prompt_tokens"] + 2 * u["completion_tokens"] for u in asked
        )
        stages = {stage["stage"]: stage for stage in json.loads(done.stdout)["stages"]}
        assert "(of 6 asked)" in stages["trace"]["what"]
        assert [s.model_dump(mode="json") for s in RunFolder(folder).read("plan", StagePlan)] == list(stages.values())

        done = tenner_here("run", file, "--run-dir", folder)
        assert done.returncode == 0, done.stderr
        texts = [a.question for a in server.asked]
        assert len(texts) == len(set(texts)), "what the probe has bought is not bought again"
    rows = read_spend(folder / "run.db")
    bought = sum(row.cost_usd for row in rows if row.stage in ("trace", "probe") and row.provider != "machine")
    traced = next(row for row in rows if row.stage == "trace")
    low, _, high = stages["trace"]["usd"]
    assert traced.cost_usd <= 1.25 * high, "some of them the probe has bought"
    assert 0.75 * low <= bought <= 1.25 * high + spent["probe"].cost_usd
    report = (folder / "report.md").read_text()
    assert "What each stage was expected to take before the run began, and took" in report
    assert "has attempted already" in tenner_here("plan", file, "--probe", 6, "--run-dir", folder).stderr


def test_domains_are_asked_alike_and_the_share_that_is_kept_is_known_within_its_interval(
    tiny_recipe, tmp_path, monkeypatch
):
    """The loopback teacher is right of sums, and wrong of sequences, which are a quarter of the pool."""
    monkeypatch.setenv("THE_KEY", key := "sk-right-key-789")
    families = '["running_sum", "running_sum", "running_sum", "sequences"]'
    with ChatServer(key=key) as server:
        paid = recipe.load(
            str(tiny_recipe),
            overrides=[
                f"gather.families={families}", "gather.questions=80", "select.samples=20", 'trace.client="openai"',
                f'trace.base_url="{server.url}"', 'trace.model="m"', 'trace.api_key_env="THE_KEY"',
                "trace.output_tokens_max=500", "trace.price={input_usd_per_mtok=1.0, output_usd_per_mtok=2.0}",
            ],
        )  # fmt: skip
        file, folder = tmp_path / "paid.toml", tmp_path / "run"
        file.write_text(paid.to_toml())
        done = tenner_here("plan", file, "--probe", 8, "--run-dir", folder, "--json")
        assert done.returncode == 0, done.stderr
        assert sum("adds" in a.question for a in server.asked) == 4
    traced = next(s for s in json.loads(done.stdout)["stages"] if s["stage"] == "trace")
    low, expected, high = traced["usd"]
    assert traced["questions"] == 40
    assert low < 0.8 * expected < 1.2 * expected < high


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--probe", "0"], "--probe 0 asks nothing"),
        (["--probe", "2", "--cpu"], "--cpu has no effect with --probe"),
        (["--run-dir", "x"], "--run-dir has no effect without --probe"),
        (["--budget-usd", "1"], "--budget-usd has no effect without --probe"),
    ],
)
def test_what_cannot_be_probed_is_refused(tiny_recipe, options, message):
    done = tenner_here("plan", tiny_recipe, *options)
    assert done.returncode == 2
    assert message in done.stderr
