import datetime
import re

import pytest
from example_run import completion, evaluation, run_facts, without_drawings

from tenner.core.records import Completion, Question
from tenner.evaluation.benchmarks import benchmark_of
from tenner.evaluation.report import published
from tenner.evaluation.report.html import render_html
from tenner.evaluation.report.markdown import render_markdown
from tenner.evaluation.statistics.scores import score

NAMED = (
    "o1", "o1-preview", "R1", "R1-Distill-Qwen-32B", "Gemini 2.0 Flash Thinking", "QwQ-32B-preview", "Sky-T1-32B",
    "Bespoke-Stratos-32B", "s1-32B, budget forcing", "s1.1-32B, 1 wait", "Qwen2.5-32B-Instruct",
)  # fmt: skip


def asked(source: str, questions: int = 3) -> list[Question]:
    return [
        Question(id=f"{source}/{i}", question=f"How many are {i}?", answer="1", source=source) for i in range(questions)
    ]


def both(questions: list[Question], before: str, after: str) -> list[Completion]:
    names = {"c": "correct", "w": "wrong"}
    return [
        completion(q.id, names[v], student=student, task=benchmark_of(q))  # type: ignore[arg-type]
        for student, verdicts in (("base", before), ("distilled", after))
        for q, v in zip(questions, verdicts, strict=True)
    ]


def accuracies(found: published.Beside) -> list[float]:
    return [m.score.accuracy for m in found.measured]


def test_every_row_is_dated_sourced_and_a_share() -> None:
    rows = published.load()
    assert {r.benchmark for r in rows} == {"AIME24", "AIME25", "MATH500", "GPQA Diamond"}
    assert all(0 < r.accuracy < 1 and r.source and r.date > datetime.date(2025, 1, 1) for r in rows)
    assert {r.standing for r in rows} == {"published", "third party"}
    assert all((r.standing == "published") == ("2501.19393" in r.source) for r in rows)
    keys = [(r.model, r.benchmark, r.source) for r in rows]
    assert len(set(keys)) == len(keys)
    assert {r.model for r in rows if r.benchmark == "AIME24"} >= set(NAMED)


@pytest.mark.parametrize("source", ["AIME24", "aime-24", "GPQA Diamond", "gpqa_diamond"])
def test_a_benchmark_is_known_by_its_name_however_it_is_written(source: str) -> None:
    questions = asked(source)
    (found,) = published.beside(questions, both(questions, "cww", "ccw"), samples=1)
    assert found.benchmark == source
    assert {row.benchmark for row in found.published} in ({"AIME24"}, {"GPQA Diamond"})
    assert accuracies(found) == [pytest.approx(2 / 3), pytest.approx(1 / 3)]  # after, before


def test_each_benchmark_of_a_run_is_scored_on_its_own_questions() -> None:
    aime, math, own = asked("AIME24"), asked("MATH500"), asked("puzzles:sums")
    done = both(aime, "www", "www") + both(math, "ccw", "ccc") + both(own, "ccc", "ccc")
    found = {b.benchmark: b for b in published.beside([*aime, *math, *own], done, samples=1)}
    assert found.keys() == {"AIME24", "MATH500"}
    assert [accuracies(found[name])[0] for name in ("AIME24", "MATH500")] == [0, 1]
    assert found["MATH500"].measured[1].score.n == 3


def test_a_run_without_such_a_benchmark_has_no_such_section() -> None:
    done, _ = evaluation(8)
    assert published.beside(asked("puzzles:sums"), done, samples=1) == []
    for page in (render_html(without_drawings(run_facts())), render_markdown(run_facts())):
        assert "Beside what is published" not in page


def test_measured_and_published_stand_in_one_table_and_are_told_apart() -> None:
    questions = asked("AIME24", 30)
    done = both(questions, "c" * 5 + "w" * 25, "c" * 9 + "w" * 21)
    facts = run_facts()._replace(published=published.beside(questions, done, samples=1))
    (table,) = [published.table(b, student="SmolLM2") for b in facts.published]
    measured, others = table.rows[:2], table.rows[2:]
    assert [row[6] for row in measured] == ["measured", "measured"]
    assert {row[7] for row in measured} == {"this run, SmolLM2"}
    assert [(row[0], row[1]) for row in measured] == [
        ("distilled student", "30.0\u00a0%"), ("untrained student", "16.7\u00a0%")
    ]  # fmt: skip
    whole = {s.student: s for s in score(done, {q.id: None for q in questions})}
    assert f"{100 * whole['distilled'].ci_low:.1f}" in measured[0][2]
    assert {row[6] for row in others} == {"published", "published by a third party"}
    assert all(re.search(r"\d{4}-\d\d-\d\d$", row[7]) for row in others)
    assert all(row[2] == row[3] == row[4] == row[5] == "\u2013" for row in others)
    accuracies = [float(row[1].split("\u00a0")[0]) for row in others]
    assert accuracies == sorted(accuracies, reverse=True)
    for page in (render_html(without_drawings(facts)), render_markdown(facts)):
        assert "Beside what is published" in page
        assert all(name in page for name in NAMED)
        assert "open-thoughts@e3ad6c9" in page
