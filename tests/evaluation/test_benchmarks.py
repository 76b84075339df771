import json
from functools import partial
from typing import Any

import pytest
import s1_tables
from paths import DATA

from tenner import pipeline
from tenner.core import recipe
from tenner.core.errors import TennerError
from tenner.core.progress import Screen
from tenner.core.records import Completion, Policy
from tenner.core.run import open_run
from tenner.core.sections import Benchmark, Columns
from tenner.data import sources
from tenner.evaluation import benchmarks as tasks
from tenner.evaluation.evaluate import EvaluatedStudent, complete

FILES = {
    "AIME24": ("aime24", Columns(id="id", question="problem", answer="answer")),
    "AIME25": ("aime25", Columns(id="id", question="problem", answer="answer")),
    "AMC23": ("amc23", Columns(question="problem", answer="answer")),
    "MATH500": ("math500", Columns(id="unique_id", question="problem", answer="answer", domain="subject")),
    "GSM8K": ("gsm8k_test", Columns(question="question", answer="answer")),
}


def asked(*benchmarks, seed=0):
    return tasks.load_questions(benchmarks, lambda tables: sources.gather(tables, seed=seed))


@pytest.mark.parametrize("name", FILES)
def test_a_task_reads_a_file_of_ones_own(name):
    stem, columns = FILES[name]
    if not (path := DATA / f"{stem}.jsonl").exists():
        pytest.skip("the benchmarks are not here")
    questions = asked(Benchmark(task=name, file=str(path), columns=columns))
    assert len(questions) == tasks.TASKS[name].questions
    assert {(q.kind, q.suffix, q.source) for q in questions} == {(tasks.TASKS[name].kind, tasks.IN_A_BOX, name)}


def test_a_task_s_licence_is_that_of_its_own_table():
    assert tasks.resolve(Benchmark(task="GSM8K")).license == "mit"
    assert tasks.resolve(Benchmark(task="GSM8K", license="cc0-1.0")).license == "cc0-1.0"
    assert tasks.resolve(Benchmark(task="AIME24")).license is None
    assert tasks.resolve(Benchmark(task="GSM8K", file="mine.csv")).license is None


@pytest.mark.parametrize("name", tasks.TASKS)
def test_a_task_knows_its_table(name, tmp_path):
    table = tasks.resolve(Benchmark(task=name))
    assert (table.name, table.expect, table.kind) == (name, tasks.TASKS[name].questions, tasks.TASKS[name].kind)
    own: dict[str, list[dict[str, Any]]] = {
        "GSM8K": [{"question": "2+3?", "answer": "It is <<2+3=5>>5.\n#### 5"}],
        "AMC23": [{"question": "2+3?", "answer": "5"}],
        "AIME25": [{"problem": "2+3?", "answer": "005"}],
        "AIME26": [{"problem_idx": 1, "problem": "2+3?", "answer": 5}],
        "HMMT Feb 2026": [{"problem_idx": 1, "problem": "2+3?", "answer": r"\frac{10}{2}"}],
    }
    rows = own.get(name) or s1_tables.ROWS[name]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    here = {
        "dataset": None,
        "revision": None,
        "file": str(tmp_path / "t.jsonl"),
        "configs": [],
        "splits": ["train"],
        "expect": len(rows),
    }
    (question,) = asked(table.model_copy(update=here))
    assert question.kind == tasks.TASKS[name].kind
    if name == "GSM8K":
        assert question.answer == "5"
    if name == "GPQA Diamond":
        letters = {asked(table.model_copy(update=here), seed=seed)[0].answer for seed in range(20)}
        assert letters == set("ABCD")
        assert asked(table.model_copy(update=here), seed=3) == asked(table.model_copy(update=here), seed=3)


def mine(tmp_path, *rows, **fields):
    path = tmp_path / "mine.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Benchmark(**{"name": "mine", "file": str(path)} | fields)


def test_ones_own_task_is_a_file_with_questions_and_answers(tmp_path):
    (q,) = asked(mine(tmp_path, {"question": "Half of 5?", "answer": "2.5"}, suffix="\nBriefly."))
    assert (q.answer, q.kind, q.suffix, q.source) == ("2.5", "maths", "\nBriefly.", "mine")


@pytest.mark.parametrize(
    ("rows", "fields", "message"),
    [
        ([{"question": "?", "answer": "x"}], {"kind": "integer"}, "is no integer"),
        ([{"question": "?", "answer": None}], {}, "has no answer"),
        ([{"question": "?", "answer": "1"}] * 2, {}, "id taken"),
        ([{"question": "?", "answer": "1"}], {"task": "AIME24"}, "1 questions, where 30 are expected"),
        ([{"question": "?", "answer": "1"}], {"task": "AIME 24"}, "no task is called AIME 24"),
    ],
)
def test_what_cannot_be_graded_is_refused_before_it_is_asked(rows, fields, message, tmp_path):
    with pytest.raises(TennerError, match=message):
        asked(mine(tmp_path, *rows, **fields))


def test_a_question_whose_choices_leave_no_reference_is_refused_with_the_reason(tmp_path):
    rows = [{"question": "2+2?", "right": "4", "wrong": wrong} for wrong in ("5", "4")]
    with pytest.raises(TennerError, match="has no answer") as refused:
        asked(mine(tmp_path, *rows, columns={"question": "question", "choices": ["right", "wrong"]}))
    assert refused.value.hint == "source mine: 1 of 2 rows have no reference answer: right choice repeated 1"


def test_a_recipe_that_was_written_out_says_the_same():
    published = recipe.load("s1")
    again = recipe.parse(published.to_toml(), where="stored")
    assert [tasks.resolve(b) for b in again.evaluate.benchmarks] == [
        tasks.resolve(b) for b in published.evaluate.benchmarks
    ]


def test_answers_to_a_task_are_graded_by_its_kind(tiny_recipe, tmp_path):
    rows = [{"question": f"What is {n} plus {n}?", "answer": f"\\frac{{{4 * n}}}{{2}}"} for n in range(100, 104)]
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    benchmark = Benchmark(name="mine", file=str(tmp_path / "mine.jsonl"), suffix=" In a box.")
    with open_run(tmp_path / "run", recipe.load(str(tiny_recipe)), Screen(), budget_usd=None) as run:
        form, policy = run.recipe.attempt.prompts[0], Policy(thinking_tokens_max=4)
        complete(
            run, {"attempts": asked(benchmark)},
            EvaluatedStudent("base", "tiny", form, partial(pipeline.engine_for, run, "base", "attempt")), [policy],
            stage="attempt", file="attempts", answer_tokens_max=8,
        )  # fmt: skip
        completions = run.folder.read("attempts", Completion)
    assert len(completions) == 4
    assert all(c.grade.reason for c in completions)  # by the grader of maths, not as text after the cue
