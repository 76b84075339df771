"""What the chat page offers to ask: a question of each kind, with what the untrained student had said."""

from example_run import completion

from tenner.core.records import Policy, Question
from tenner.core.run_folder import RunFolder
from tenner.evaluation.statistics.scores import score
from tenner.stages.page_examples import CHARACTERS_MAX, page_examples

LONG = "x" * (CHARACTERS_MAX + 1)
QUESTIONS = [
    Question(id=id_, question=question, source=f"puzzles:{domain}", domain=domain, answer="1")
    for id_, question, domain in (
        ("a", LONG, "sums"), ("b", "1 + 1?", "sums"), ("c", "2 + 2?", "sums"), ("d", "Heads?", "coins"),
    )
]  # fmt: skip


def test_the_first_short_question_of_each_kind_is_offered_whatever_was_answered(tmp_path):
    folder = RunFolder(tmp_path)
    folder.write("benchmark", QUESTIONS)
    assert [(e.question, e.before) for e in page_examples(folder)] == [("1 + 1?", None), ("Heads?", None)]
    budgets = [Policy(thinking_tokens_max=limit) for limit in (0, 64)]
    done = [
        completion(q.id, "wrong" if policy == budgets[0] or q.id == "b" else "correct", student=student, policy=policy)
        for student in ("base", "distilled")
        for policy in budgets
        for q in QUESTIONS
    ]
    folder.write("completions", done)
    folder.write("scores", score(done, {q.id: q.domain for q in QUESTIONS}))
    verdicts = [e.before.verdict for e in page_examples(folder) if e.before is not None]
    assert verdicts == ["wrong", "correct"]  # of the untrained student's best policy, as in the headline
