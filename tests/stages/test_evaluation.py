"""Several benchmarks in one evaluation: each is decoded, resumed, scored and reported by itself."""

import json
import re
import shutil
from pathlib import Path

import pytest
from pydantic import ValidationError

from tenner import pipeline
from tenner.commands import compare, export, show
from tenner.core import recipe
from tenner.core.errors import TennerError
from tenner.core.progress import Screen
from tenner.core.records import Completion, EarlyExit, Grace, Policy, Question, Score, Setting
from tenner.core.run import open_run
from tenner.core.run_folder import RunFolder
from tenner.core.sections import Evaluate

pytestmark = pytest.mark.slow  # a run from its first stage to its report; those of one benchmark are in others
RIGHT = {"Contest": (0, 6), "Homework": (4, 4), "Quiz": (1, 2)}
"""The distilled student's right answers and the questions of each benchmark. Pooled it would be 5 of 12."""


@pytest.fixture(scope="module")
def benchmarks(tmp_path_factory) -> str:
    """Three tables of sums, as the recipe's value."""
    folder, tables = tmp_path_factory.mktemp("benchmarks"), []
    for number, (name, (_, count)) in enumerate(RIGHT.items()):
        sums = [(1000 * (number + 1) + i, i) for i in range(count)]
        rows = [{"question": f"What is {a} plus {b}?", "answer": str(a + b)} for a, b in sums]
        path = folder / f"{name}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        tables.append(f"{{name = '{name}', file = '{path}'}}")
    return f"[{', '.join(tables)}]"


def run_up_to_the_end(path: Path, described) -> RunFolder:
    with open_run(path, described, Screen(), budget_usd=None) as run:
        pipeline.run_stages(run, described.stages)
    return RunFolder(path)


@pytest.fixture(scope="module")
def described(tiny_recipe, benchmarks):
    return recipe.load(
        str(tiny_recipe),
        overrides=[
            f"evaluate.benchmarks={benchmarks}", "evaluate.questions=0", "evaluate.thinking_tokens_max=[0, 4]",
            "evaluate.waits=[]", "evaluate.rows=4", "select.samples=8", "gather.questions=400", "attempt.questions=4",
        ],
    )  # fmt: skip


@pytest.fixture(scope="module")
def decoded(described, tmp_path_factory) -> RunFolder:
    return run_up_to_the_end(tmp_path_factory.mktemp("runs") / "run", described)


@pytest.fixture(scope="module")
def folder(decoded, described, tmp_path_factory) -> RunFolder:
    """A copy of the run with invented verdicts, scored and reported again: a random model is hardly ever right."""
    path = tmp_path_factory.mktemp("runs") / "graded"
    shutil.copytree(decoded.path, path)
    copy = RunFolder(path)
    left = {name: right for name, (right, _) in RIGHT.items()}
    questions = {name: list(of) for name, of in ids_by_benchmark(decoded).items()}
    changed = []
    for c in decoded.read("completions", Completion):
        is_right = c.student == "distilled" and questions[c.task].index(c.question_id) < left[c.task]
        grade = c.grade.model_copy(update={"verdict": "correct" if is_right else "wrong"})
        changed.append(c.model_copy(update={"grade": grade}))
    copy.write("completions", changed)
    for stage in ("evaluate", "report"):
        (path / "stages" / f"{stage}.json").unlink()
    return run_up_to_the_end(path, described)


def ids_by_benchmark(folder: RunFolder) -> dict[str, dict[str, None]]:
    found: dict[str, dict[str, None]] = {}
    for q in folder.read("benchmark", Question):
        found.setdefault(q.source, {})[q.id] = None
    return found


def test_benchmarks_are_decoded_one_after_the_other_and_each_has_its_settings(decoded):
    done = decoded.read("completions", Completion)
    assert list(dict.fromkeys((c.student, c.task) for c in done)) == [
        (student, task) for student in ("base", "distilled") for task in RIGHT
    ]
    ids = ids_by_benchmark(decoded)
    assert all(c.question_id in ids[c.task] for c in done)
    settings = [s for s in decoded.read("settings", Setting) if s.task in RIGHT]
    assert [(s.student, s.task, s.questions) for s in settings] == [
        (student, task, count) for student in ("base", "distilled") for task, (_, count) in RIGHT.items()
    ]


@pytest.mark.slow
def test_a_resumed_evaluation_decodes_only_the_benchmarks_that_are_missing(decoded, described):
    path = decoded.path / "completions.jsonl"
    whole = path.read_bytes()
    done = decoded.read("completions", Completion)
    kept = [c for c in done if c.student == "base" and c.task == "Contest"]
    kept_bytes = b"".join(whole.splitlines(keepends=True)[: len(kept)])
    path.write_bytes(kept_bytes)
    (decoded.path / "stages" / "evaluate.json").unlink()
    (decoded.path / "stages" / "report.json").unlink()
    run_up_to_the_end(decoded.path, described)
    assert path.read_bytes() == whole


def test_every_score_belongs_to_one_benchmark(folder):
    whole = [s for s in folder.read("scores", Score) if s.domain is None and s.student == "distilled"]
    assert {(s.task, round(s.accuracy * s.n), s.n, s.missing) for s in whole} == {
        (task, right, count, 0) for task, (right, count) in RIGHT.items()
    }


@pytest.mark.parametrize("name", ["report.html", "report.md", "student/README.md"])
def test_every_page_names_each_benchmark_with_its_own_accuracy(folder, name):
    text = (folder.path / name).read_text("utf-8").replace("\u00a0", " ")
    for task, (right, count) in RIGHT.items():
        percent = f"{100 * right / count:.1f} %"
        assert re.search(rf"of the {task} questions \([^)]*n = {count}\) before and {percent}", text)
        assert f"{task}: distilled student, prompt" in text
    assert f"{100 * 5 / 12:.1f} %" not in text
    assert "n = 12" not in text
    if name != "student/README.md":
        assert all(f"{task}: Of the {count} questions that both" in text for task, (_, count) in RIGHT.items())
        assert all(f"{task}: what a right answer took" in text for task in RIGHT)


def test_the_chart_has_a_panel_for_each_benchmark(folder):
    svg = (folder.path / "accuracy.svg").read_text("utf-8")
    assert all(f"{task}: accuracy, %" in svg for task in RIGHT)
    assert svg.count(" 0 520 780") == 1


def test_show_has_a_row_for_each_benchmark(folder):
    scores = json.loads(show.as_json(folder.path))["scores"]
    found = {(s["task"], s["n"]) for s in scores if s["student"] == "distilled" and s["domain"] is None}
    assert found == {(task, count) for task, (_, count) in RIGHT.items()}
    text = show.summary(folder.path)
    for task, (right, count) in RIGHT.items():
        _, _, after = text.partition(f"\n{task}")
        rows = [line for line in after.partition("\n\n")[0].splitlines() if line.startswith("distilled")]
        (row,) = [line for line in rows if "≤ 4" in line]
        assert re.match(rf"distilled +≤ 4 +{100 * right / count:.1f}% .* {count} ", row)
        assert len(row) <= 80


def test_compare_and_export_keep_benchmarks_apart(folder, tmp_path):
    said = compare.run(folder.path, folder.path, students=["base", "distilled"], policy=None, as_json=True)
    found = {row["task"]: (row["b"]["accuracy"], row["n"]) for row in json.loads(said)["tasks"]}
    assert found == {task: (right / count, count) for task, (right, count) in RIGHT.items()}
    paths = [Path(line) for line in export.run(folder.path, tmp_path).splitlines()]
    assert len(paths) == 2 * 2 * len(RIGHT)
    for task, (_, count) in RIGHT.items():
        logs = [path for path in paths if path.name.startswith(f"samples_{task}-")]
        assert len(logs) == 4
        for log in logs:
            rows = [json.loads(line) for line in log.read_text("utf-8").splitlines()]
            assert [row["doc_id"] for row in rows] == list(range(count))
            assert {row["doc"]["source"] for row in rows} == {task}


@pytest.mark.parametrize(
    ("names", "questions", "message"),
    [
        (["A 1", "a-1"], 0, "a-1 is not a name of its own: another is called A 1"),
        (["Heldout"], 4, "the generated questions are called heldout"),
        (["puzzles:sums"], 0, "a name cannot begin with puzzles:"),
    ],
)
def test_benchmarks_that_could_not_be_told_apart_are_refused(names, questions, message, tiny_recipe, tmp_path):
    (tmp_path / "t.jsonl").write_text('{"question": "1+1?", "answer": "2"}\n')
    tables = ", ".join(f"{{name = '{name}', file = '{tmp_path / 't.jsonl'}'}}" for name in names)
    wanted = [f"evaluate.benchmarks=[{tables}]", f"evaluate.questions={questions}"]
    with pytest.raises(TennerError, match=message):
        pipeline.check(recipe.load(str(tiny_recipe), overrides=wanted))


def test_the_least_number_of_thinking_tokens_is_in_every_policy_and_never_above_its_budget():
    wanted = Evaluate(questions=1, thinking_tokens_max=[0, 4, 16], thinking_tokens_min=8, waits=[1])
    assert wanted.policies == [
        Policy(thinking_tokens_max=0),
        Policy(thinking_tokens_max=4, thinking_tokens_min=4),
        Policy(thinking_tokens_max=16, thinking_tokens_min=8),
        Policy(thinking_tokens_max=16, thinking_tokens_min=8, waits=1),
    ]


def test_what_ends_thinking_early_is_measured_beside_the_policies_that_do_not():
    exit_, grace = EarlyExit(at="wait", agree=1, probability=0.9), Grace(tokens=8)
    wanted = Evaluate(questions=1, thinking_tokens_max=[0, 8, 16, 32], waits=[2], early_exit=exit_, grace=grace)
    plain = wanted.model_copy(update={"early_exit": None, "grace": None}).policies
    assert wanted.policies == [
        *plain,
        Policy(thinking_tokens_max=32, early_exit=exit_),
        Policy(thinking_tokens_max=32, waits=2, early_exit=exit_),
        Policy(thinking_tokens_max=16, grace=grace),
        Policy(thinking_tokens_max=32, grace=grace),
    ]
    with pytest.raises(ValidationError, match="allows no thinking"):
        Evaluate(questions=1, thinking_tokens_max=[0], early_exit=exit_)
    with pytest.raises(ValidationError, match=r"grace.tokens must be below"):
        Evaluate(questions=1, thinking_tokens_max=[8], grace=grace)
