"""Generate a student's completions under thinking policies, grade them, and append them to the run folder."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from tenner.core.formats import FORMATS
from tenner.core.provenance import provenance
from tenner.core.records import Completion, Grade, Policy, Question, Sampling, Setting
from tenner.core.run import AnyRun, render
from tenner.core.sections import PromptForm
from tenner.core.seeds import digest
from tenner.evaluation.grading.grader import Grader, grade_after_cue
from tenner.inference.engine import Generation, JobEngine
from tenner.inference.job import GREEDY, Prompt


class EvaluatedStudent(NamedTuple):
    """A student, its prompt form, and how its engine is loaded."""

    name: str
    model: str
    """The address of its weights."""
    form: PromptForm
    load_engine: Callable[[], JobEngine]


def complete(
    run: AnyRun,
    tasks: Mapping[str, Sequence[Question]],
    student: EvaluatedStudent,
    policies: Sequence[Policy],
    *,
    stage: str,
    file: str,
    answer_tokens_max: int,
    samplings: Sequence[Sampling] = (GREEDY,),
) -> None:
    """Append to `FILE.jsonl` a graded completion of every question under every policy that is not there yet.

    `tasks` are the questions of each task by its name; ids are unique over all of them. Tasks are decoded one after the
    other, and each question once for each of the samplings. The questions of a task are decoded in fixed groups, each
    appended as a whole: an interrupted run decodes the same batches again, and so gets the same tokens. The engine is
    loaded only if a completion is missing. `settings.jsonl` records how the completions of each task were made.
    """
    form, fmt, rows = student.form, FORMATS[student.form.format], run.recipe.evaluate.rows

    def key(question_id: str, policy: Policy, sample_index: int) -> tuple[str, str, str, Policy, int]:
        return (question_id, student.name, form.name, policy, sample_index)

    have = {(c.question_id, c.student, c.prompt, c.policy, c.sample_index) for c in run.folder.read(file, Completion)}
    groups = [
        (task, k, questions[first : first + rows])
        for task, questions in tasks.items()
        for k in range(len(samplings))
        for first in range(0, len(questions), rows)
    ]
    missing = [(task, k, g) for task, k, g in groups if not all(key(q.id, p, k) in have for q in g for p in policies)]
    if not missing:
        return

    def graded(generation: Generation, question: Question, task: str, sample_index: int) -> Completion:
        return Completion(
            **{name: value for name, value in generation._asdict().items() if name != "prompt_id"},
            question_id=question.id,
            task=task,
            student=student.name,
            prompt=form.name,
            sample_index=sample_index,
            grade=grade(grader, generation.answer, question, cue=fmt.cue),
        )

    part, total = f"{student.name}, {form.name}", sum(map(len, tasks.values())) * len(policies) * len(samplings)
    done = total - len(policies) * sum(len(group) for _, _, group in missing)
    expected = run.expected_seconds(stage, part)
    expected = expected and expected * (total - done) / total
    with (
        run.machine_time(stage) as meter,
        run.screen.bar(f"{stage}: {part}", total, expected_seconds=expected) as bar,
        Grader(processes=1) as grader,
    ):
        engine = student.load_engine()
        for task in dict.fromkeys(task for task, _, _ in missing):
            count = len(tasks[task])
            remember(run, _setting(run, student, engine, task, policies, samplings, answer_tokens_max, count))
        for task, sample_index, group in missing:
            by_id = {q.id: q for q in group}
            prompts = [Prompt(q.id, *render(engine.tokenizer, q, form, run.recipe)) for q in group]
            sampling = samplings[sample_index]
            finished = []
            for generation in engine.sweep(
                prompts, policies, fmt, answer_tokens_max=answer_tokens_max, sampling=sampling
            ):
                finished.append(graded(generation, by_id[generation.prompt_id], task, sample_index))
                bar.update(done + len(finished), run.spent())
            done += len(finished)
            run.folder.append(file, [c for c in finished if key(c.question_id, c.policy, sample_index) not in have])
            meter.tick()
            meter.check()


def grade(grader: Grader, answer: str, question: Question, *, cue: str | None) -> Grade:
    """Grade an answer: as text after the cue where there is one, else by the question's kind anywhere in the answer."""
    reference, kind = question.answer or "", question.kind or "text"
    if kind == "text" and cue is not None:
        return grade_after_cue(answer, reference, cue=cue)
    return grader.grade(answer, reference, kind)


def remember(run: AnyRun, setting: Setting) -> None:
    """Append a setting to `settings.jsonl`, unless it is there."""
    if setting not in run.folder.read("settings", Setting):
        run.folder.append("settings", [setting])


def _setting(
    run: AnyRun, student: EvaluatedStudent, engine: JobEngine, task: str, policies: Sequence[Policy],
    samplings: Sequence[Sampling], answer_tokens_max: int, questions: int,
) -> Setting:  # fmt: skip
    section, info = run.recipe.student, engine.info
    assert section is not None, "a student is evaluated"
    hot = samplings[0].temperature > 0
    template = getattr(engine.tokenizer, "chat_template", None)
    return Setting(
        task=task,
        student=student.name,
        prompt=student.form.name,
        model=student.model,
        engine=info.name,
        precision=info.precision,
        device=info.device,
        versions=provenance(*info.packages),
        parameters=samplings[0].model_dump(exclude={"seed"}),
        seeds=tuple(s.seed for s in samplings) if hot else (),
        template_sha256=None if template is None else digest(template),
        system_prompt=section.system_prompt,
        chat_template_kwargs=section.chat_template_kwargs,
        suffix=student.form.suffix,
        policies=tuple(policies),
        wait_text=run.recipe.evaluate.wait_text,
        answer_tokens_max=answer_tokens_max,
        rows=run.recipe.evaluate.rows,
        questions=questions,
        samples=len(samplings),
    )
