"""Put questions to a student under thinking policies, grade what comes back, and keep every completion."""

from collections.abc import Callable, Sequence

from tenner.formats import FORMATS
from tenner.prove.grading import Grader, grade_after_cue
from tenner.recipe import PromptForm
from tenner.records import Completion, Grade, Policy, Question, StudentName
from tenner.run import Run, render
from tenner.think.engine import Engine, Generation
from tenner.think.job import Prompt


def complete(
    run: Run,
    questions: Sequence[Question],
    form: PromptForm,
    policies: Sequence[Policy],
    *,
    stage: str,
    task: str,
    student: StudentName,
    load_engine: Callable[[], Engine],
    answer_tokens_max: int,
) -> None:
    """Append to `TASK.jsonl` a graded completion of every question under every policy that is not there yet.

    Questions go in fixed groups, each appended as a whole: an interrupted run decodes the same batches again, and so
    gets the same tokens. The engine is loaded only if something is missing.
    """
    fmt, rows = FORMATS[form.format], run.recipe.evaluate.rows

    def key(question_id: str, policy: Policy) -> tuple[str, str, str, Policy]:
        return (question_id, student, form.name, policy)

    have = {(c.question_id, c.student, c.prompt, c.policy) for c in run.folder.read(task, Completion)}
    groups = [questions[i : i + rows] for i in range(0, len(questions), rows)]
    missing = [g for g in groups if not all(key(q.id, p) in have for q in g for p in policies)]
    if not missing:
        return

    def grade(answer: str, question: Question) -> Grade:
        """Text counts only after the cue; what has another kind is looked for in the whole answer."""
        reference = question.answer or ""
        if question.kind is None or question.kind == "text":
            return grade_after_cue(answer, reference, cue=fmt.cue)
        return grader.grade(answer, reference, question.kind)

    def graded(generation: Generation, question: Question) -> Completion:
        return Completion(
            **{name: value for name, value in generation._asdict().items() if name != "prompt_id"},
            question_id=question.id,
            task=task,
            student=student,
            prompt=form.name,
            grade=grade(generation.answer, question),
        )

    total, per_group = len(questions) * len(policies), rows * len(policies)
    bar_name = f"{stage}: {student}, {form.name}"
    with run.machine_time(stage) as meter, run.screen.bar(bar_name, total) as bar, Grader(processes=1) as grader:
        engine = load_engine()
        done = (len(groups) - len(missing)) * per_group
        for group in missing:
            asked = {q.id: q for q in group}
            prompts = [
                Prompt(q.id, render(engine.tokenizer, q.question + q.suffix + form.suffix, run.recipe)) for q in group
            ]
            finished = []
            for generation in engine.sweep(prompts, policies, fmt, answer_tokens_max=answer_tokens_max):
                finished.append(graded(generation, asked[generation.prompt_id]))
                bar.update(done + len(finished), run.spent())
            done += len(finished)
            run.folder.append(task, [c for c in finished if key(c.question_id, c.policy) not in have])
            meter.tick()
            meter.check()
