"""The control arm and the choice of a teacher: a whole run on generated questions, over HTTP, under one cap."""

from collections import Counter, defaultdict
from dataclasses import replace

import pytest
from chat_server import ChatServer

from tenner import pipeline
from tenner.budget.ledger_database import read_spend
from tenner.commands import export
from tenner.core import recipe
from tenner.core.errors import BudgetReached, TennerError
from tenner.core.fork import fork
from tenner.core.progress import Screen
from tenner.core.records import Completion, Question, Sample, TeacherProbe, Trace, TrainStep
from tenner.core.run import open_run
from tenner.core.run_folder import RunFolder
from tenner.data import samplers
from tenner.stages import selection

CAP_USD = 0.2
ASKED = 4
"""Questions for each teacher."""
SAMPLES = 6


def described(tiny_recipe, server, *overrides):
    """A run on sums, which the server's models solve, and its teacher."""
    return recipe.load(
        str(tiny_recipe),
        overrides=[
            "gather.questions=60", 'gather.families=["running_sum"]', f"select.samples={SAMPLES}",
            "attempt.questions=0", "evaluate.questions=4", "evaluate.thinking_tokens_max=[0, 4]", "train.epochs=1",
            'trace.client="openai"', f'trace.base_url="{server.url}"', 'trace.model="m"',
            "trace.output_tokens_max=500", "trace.price.input_usd_per_mtok=1.0", "trace.price.output_usd_per_mtok=2.0",
            *overrides,
        ],
    )  # fmt: skip


def both(server):
    """The settings of a control arm and of a second teacher at half the price."""
    price = "{input_usd_per_mtok=0.5, output_usd_per_mtok=1.0}"
    return (
        'select.control="random"', f"trace.candidate_questions={ASKED}",
        f'trace.candidates=[{{base_url="{server.url}", model="n", price={price}}}]',
    )  # fmt: skip


def stages_done(path, stages, settings, *, cap_usd):
    with open_run(path, settings, Screen(), budget_usd=cap_usd) as run:
        pipeline.run_stages(run, stages)
        return run.ledger.spent_usd()


@pytest.mark.slow
def test_both_run_to_the_end_under_the_cap_as_the_plan_foresaw(tiny_recipe, tmp_path):
    with ChatServer(models=("m", "n")) as server:
        settings, path = described(tiny_recipe, server, *both(server)), tmp_path / "run"
        plan = {stage.stage: stage for stage in pipeline.foresee(settings, path, cap_usd=CAP_USD, screen=Screen())}
        before = settings.stages[: settings.stages.index("control")]
        with pytest.raises(BudgetReached):  # after some calls of the first teacher
            stages_done(path, before, settings, cap_usd=0.0015)
        assert 0 < len(server.asked) < ASKED
        spent_usd = stages_done(path, before, settings, cap_usd=CAP_USD)
        asked_before = len(server.asked)
        with pytest.raises(BudgetReached):  # not one of the random questions is asked
            stages_done(path, settings.stages, settings, cap_usd=spent_usd + 0.0004)
        assert len(server.asked) == asked_before
        spent_usd = stages_done(path, settings.stages, settings, cap_usd=CAP_USD)
        models = Counter((a.question, a.body["model"]) for a in server.asked)
    assert spent_usd <= CAP_USD
    assert max(models.values()) == 1, "a question was paid twice"
    folder = RunFolder(path)
    _check_teachers(folder, models)
    _check_students(folder)
    _check_plan(folder, plan)


def _check_teachers(folder, models):
    first, second = folder.read("teachers", TeacherProbe)
    assert (first.verified, second.verified, first.questions) == (ASKED, ASKED, ASKED)
    assert (first.is_chosen, second.is_chosen) == (False, True)
    assert second.cost_usd == pytest.approx(first.cost_usd / 2, rel=0.01)
    assert Counter(model for _, model in models)["m"] == ASKED
    assert {t.teacher.rpartition("/")[2] for t in folder.read("traces", Trace)} == {"n"}


def _check_students(folder):
    selected, random = folder.read("samples", Sample), folder.read("control/samples", Sample)
    assert len(selected) == len(random) == SAMPLES
    assert {s.question_id for s in selected} != {s.question_id for s in random}
    steps = folder.read("training", TrainStep), folder.read("control/training", TrainStep)
    assert len(steps[0]) > 0
    assert len(steps[1]) > 0
    students = Counter((c.student, c.policy) for c in folder.read("completions", Completion))
    assert {student for student, _ in students} == {"base", "distilled", "distilled-random"}
    assert set(students.values()) == {4}, "the same questions under the same policies"
    exported = export.run(folder.path, folder.path.with_name("lm-eval")).splitlines()
    assert len(exported) == len(set(exported)) == 3 * 3, "a file for each student and policy"
    for name in ("report.md", "report.html", "student/README.md"):
        text = (folder.path / name).read_text("utf-8")
        assert "What selection was worth: " in text
    assert "The teachers that were asked" in (folder.path / "report.md").read_text("utf-8")


def _check_plan(folder, plan):
    spent: defaultdict[str, float] = defaultdict(float)
    for row in read_spend(folder.path / "run.db"):
        spent[row.stage] += row.cost_usd
    assert {"teachers", "trace", "control"} <= plan.keys() & spent.keys()
    for stage in ("teachers", "trace", "control"):
        assert 0 < spent[stage] <= plan[stage].usd.high, stage
    assert f"2 teachers are asked {ASKED} questions each: m, n" in plan["teachers"].what


@pytest.mark.slow
def test_a_fork_adds_a_control_arm_to_a_run_and_trains_the_first_student_no_second_time(tiny_recipe, tmp_path):
    with ChatServer(models=("m", "n")) as server:
        plain = described(tiny_recipe, server)
        stages_done(tmp_path / "plain", plain.stages[:7], plain, cap_usd=CAP_USD)
        asked = len(server.asked)
        more = recipe.parse(plain.to_toml(), where="test", overrides=['select.control="random"'])
        done = fork(tmp_path / "plain", more, tmp_path / "fork")
        assert list(done.kept) == list(plain.stages[:7])
        assert list(done.redone) == ["control", "evaluate", "report"]
        stages_done(tmp_path / "fork", ["control"], more, cap_usd=CAP_USD)
        bought = {t.question_id for t in RunFolder(tmp_path / "fork").read("control/traces", Trace)}
        selected = {q.id for q in RunFolder(tmp_path / "plain").read("selected", Question)}
        assert len(server.asked) - asked == len(bought - selected)
    folders = [RunFolder(tmp_path / name) for name in ("plain", "fork")]
    assert folders[0].read("training", TrainStep) == folders[1].read("training", TrainStep)
    again = fork(tmp_path / "fork", plain, tmp_path / "without")
    assert list(again.kept) == list(plain.stages[:7])


def test_random_questions_are_those_that_could_be_selected_in_an_order_of_their_own(tiny_recipe, tmp_path):
    settings = recipe.load(
        str(tiny_recipe),
        overrides=["gather.questions=40", "attempt.questions=0", "select.samples=4", 'select.control="random"'],
    )
    with open_run(tmp_path / "run", settings, Screen(), budget_usd=None) as run:
        pipeline.run_stages(run, settings.stages[:4])
        order = selection.random_order(run)
        assert {q.id for q in order} == {q.id for q in run.folder.read("clean", Question)}  # none is too easy
        assert order == selection.random_order(run)
        assert order != samplers.random_order(order, seed=settings.seed + 1)
        selected = {q.id for q in run.folder.read("selected", Question)}
        assert selected != {q.id for q in order[: len(selected)]}
        fewer = settings.select.model_copy(update={"samples": len(order)})
        whole = replace(run, recipe=settings.model_copy(update={"select": fewer}))
        with pytest.raises(TennerError, match="no more than"):
            selection.random_order(whole)
        with pytest.raises(TennerError, match="trained by one process"):
            pipeline.check_ready(run, settings.stages, processes=2)


def test_a_run_without_a_control_arm_says_how_to_get_one(tiny_recipe, tmp_path):
    settings = recipe.load(str(tiny_recipe))
    with (
        open_run(tmp_path / "run", settings, Screen(), budget_usd=None) as run,
        pytest.raises(TennerError, match="has no control arm"),
    ):
        pipeline.run_stages(run, ["control"])
    assert "control" not in settings.stages
    assert "control" not in settings.to_toml()
    assert "candidate" not in settings.to_toml()
