"""Questions to begin with on the chat page: of the kinds that a run's student was trained for."""

from tenner.core.records import Completion, Question, Score
from tenner.core.run_folder import RunFolder
from tenner.evaluation.benchmarks import benchmark_of
from tenner.evaluation.statistics.scores import before_and_after
from tenner.inference.server.served_student import ExampleQuestion, RecordedAnswer

EXAMPLES_MAX = 6
CHARACTERS_MAX = 400
"""A longer question is not offered: the page shows it on a button."""


def page_examples(folder: RunFolder) -> tuple[ExampleQuestion, ...]:
    """The first question of each kind that the run's benchmarks have, as they come, whatever was answered to it.

    Each with what the untrained student answered, asked as for the headline, where the run has evaluated it.
    """
    shown: dict[tuple[str, str | None], Question] = {}
    for question in folder.stream("benchmark", Question):
        if len(question.question) <= CHARACTERS_MAX and len(shown) < EXAMPLES_MAX:
            shown.setdefault((benchmark_of(question), question.domain), question)
    recorded = _recorded(folder, {q.id for q in shown.values()})
    return tuple(ExampleQuestion(q.question, recorded.get((task, q.id))) for (task, _), q in shown.items())


def _recorded(folder: RunFolder, ids: set[str]) -> dict[tuple[str, str], RecordedAnswer]:
    """The untrained student's answers by benchmark and question."""
    scores = folder.read("scores", Score)
    tasks = dict.fromkeys(s.task for s in scores)
    headline = {task: before_and_after(s for s in scores if s.task == task)[0] for task in tasks}
    return {
        (c.task, c.question_id): RecordedAnswer(c.thinking, c.answer, c.grade.verdict)
        for c in folder.stream("completions", Completion)
        if c.question_id in ids and c.student == "base" and c.sample_index == 0 and c.task in headline
        and (c.prompt, c.policy) == (headline[c.task].prompt, headline[c.task].policy)
    }  # fmt: skip
