"""What the report says of a control arm, and of the teachers that were asked."""

import pytest
from example_run import completion, run_facts

from tenner.core.records import Policy, TeacherProbe
from tenner.evaluation.report import selection_worth, teachers
from tenner.evaluation.report.facts import ControlArm, RunFacts, benchmark_facts
from tenner.evaluation.report.markdown import render_markdown
from tenner.evaluation.report.model_card import model_card
from tenner.evaluation.report.tables import DASH
from tenner.evaluation.statistics.scores import score

SHORT, LONG = Policy(thinking_tokens_max=8), Policy(thinking_tokens_max=64)
PROBES = [
    TeacherProbe(place=0, teacher="a/large", questions=20, verified=18, failed=0, output_tokens_mean=912.25,
                 cost_usd=0.18, p_value=1.0, is_chosen=False),
    TeacherProbe(place=1, teacher="b/small", questions=20, verified=0, failed=3, output_tokens_mean=None,
                 cost_usd=0.0, p_value=0.00001, is_chosen=False),
]  # fmt: skip


def facts_of(selected_right: int, random_right: int, *, questions: int = 100) -> RunFacts:
    """A run whose students answered the first so many questions under the long policy, and none under the short."""
    right = {"base": 0, "distilled": selected_right, "distilled-random": random_right}
    done = [
        completion(f"q{i:03}", "correct" if policy == LONG and i < right[student] else "wrong", student=student,
                   policy=policy)
        for student in ("base", "distilled", "distilled-random") for policy in (SHORT, LONG) for i in range(questions)
    ]  # fmt: skip
    domains: dict[str, str | None] = {f"q{i:03}": None for i in range(questions)}
    found = benchmark_facts("heldout", score(done, domains), done, machine_usd=0.0)
    return run_facts()._replace(benchmarks=[found], questions_count=24, control=ControlArm(24, 5))


def plain(text: str) -> str:
    return text.replace("\u00a0", " ")


def test_what_selection_was_worth_is_a_paired_difference_with_its_interval():
    facts = facts_of(60, 40)
    note = plain(selection_worth.note(facts))
    assert note.startswith("What selection was worth: +20.0 points (95 % interval +11.")
    assert "p < 0.001). Of n = 100 questions the student of 24 selected questions answered 60.0 %, one" in note
    assert "24 random ones 40.0 % (≤ 64 thinking tokens)." in note
    assert "5 of 24 are among the selected ones, too." in note
    assert "Chance alone" not in note
    (table,) = selection_worth.tables(facts)
    assert [row[:5] for row in table.rows] == [
        ("≤ 8", "0", "0.0\u00a0%", "0.0\u00a0%", "100"),
        ("≤ 64", "0", "60.0\u00a0%", "40.0\u00a0%", "100"),
    ]


def test_a_difference_that_chance_can_make_is_called_so():
    note = plain(selection_worth.note(facts_of(42, 40)))
    assert "What selection was worth: +2.0 points" in note
    assert "Chance alone may make such a difference; of as many questions, a real one of" in note
    assert "What selection was worth: -2.0 points" in plain(selection_worth.note(facts_of(40, 42)))


@pytest.mark.parametrize("render", [render_markdown, model_card])
def test_report_and_card_say_it_where_there_is_a_control_arm(render):
    facts = facts_of(60, 40)
    assert selection_worth.note(facts) in render(facts)
    without = render(run_facts())
    assert "election was worth" not in without
    assert "teachers that were asked" not in without


def test_the_teachers_are_shown_with_rate_and_cost():
    chosen = PROBES[0].model_copy(update={"is_chosen": True})
    facts = run_facts()._replace(teacher_probes=[chosen, PROBES[1]])
    (table,) = teachers.tables(facts)
    assert table.rows == [
        ("a/large", "18 of 20", "0", "912.2", "$0.180000", "$0.010000", "p\u00a0=\u00a01.000", "chosen"),
        ("b/small", "0 of 20", "3", DASH, "$0.000000", DASH, "p\u00a0<\u00a00.001", ""),
    ]
    assert teachers.NOTE in render_markdown(facts)
