"""Put questions to a student under thinking policies, grade what comes back, and keep every completion."""

from collections.abc import Callable, Sequence
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


class Asked(NamedTuple):
    """A student, and how it is asked."""

    name: str
    model: str
    """Its address."""
    form: PromptForm
    load_engine: Callable[[], JobEngine]


def complete(
    run: AnyRun,
    questions: Sequence[Question],
    asked: Asked,
    policies: Sequence[Policy],
    *,
    stage: str,
    task: str,
    answer_tokens_max: int,
    samplings: Sequence[Sampling] = (GREEDY,),
) -> None:
    """Append to `TASK.jsonl` a graded completion of every question under every policy that is not there yet.

    A question is answered once for each of the samplings. Questions go in fixed groups, each appended as a whole: an
    interrupted run decodes the same batches again, and so gets the same tokens. The engine is loaded only if something
    is missing, and how it answers is written down in `settings.jsonl`.
    """
    form, fmt, rows = asked.form, FORMATS[asked.form.format], run.recipe.evaluate.rows

    def key(question_id: str, policy: Policy, sample_index: int) -> tuple[str, str, str, Policy, int]:
        return (question_id, asked.name, form.name, policy, sample_index)

    have = {(c.question_id, c.student, c.prompt, c.policy, c.sample_index) for c in run.folder.read(task, Completion)}
    groups = [(k, questions[i : i + rows]) for k in range(len(samplings)) for i in range(0, len(questions), rows)]
    missing = [(k, g) for k, g in groups if not all(key(q.id, p, k) in have for q in g for p in policies)]
    if not missing:
        return

    def graded(generation: Generation, question: Question, sample_index: int) -> Completion:
        return Completion(
            **{name: value for name, value in generation._asdict().items() if name != "prompt_id"},
            question_id=question.id,
            task=task,
            student=asked.name,
            prompt=form.name,
            sample_index=sample_index,
            grade=grade(grader, generation.answer, question, cue=fmt.cue),
        )

    part, total = f"{asked.name}, {form.name}", len(questions) * len(policies) * len(samplings)
    done = total - len(policies) * sum(len(group) for _, group in missing)
    expected = run.expected_seconds(stage, part)
    expected = expected and expected * (total - done) / total
    with (
        run.machine_time(stage) as meter,
        run.screen.bar(f"{stage}: {part}", total, expected_seconds=expected) as bar,
        Grader(processes=1) as grader,
    ):
        engine = asked.load_engine()
        remember(run, _setting(run, asked, engine, task, policies, samplings, answer_tokens_max, len(questions)))
        for sample_index, group in missing:
            by_id = {q.id: q for q in group}
            prompts = [Prompt(q.id, render(engine.tokenizer, q, form, run.recipe)) for q in group]
            sampling = samplings[sample_index]
            finished = []
            for generation in engine.sweep(
                prompts, policies, fmt, answer_tokens_max=answer_tokens_max, sampling=sampling
            ):
                finished.append(graded(generation, by_id[generation.prompt_id], sample_index))
                bar.update(done + len(finished), run.spent())
            done += len(finished)
            run.folder.append(task, [c for c in finished if key(c.question_id, c.policy, sample_index) not in have])
            meter.tick()
            meter.check()


def grade(grader: Grader, answer: str, question: Question, *, cue: str | None) -> Grade:
    """Text counts only after the cue, where there is one; what has another kind is looked for in the whole answer."""
    reference, kind = question.answer or "", question.kind or "text"
    if kind == "text" and cue is not None:
        return grade_after_cue(answer, reference, cue=cue)
    return grader.grade(answer, reference, kind)


def remember(run: AnyRun, setting: Setting) -> None:
    """Write down how a student is asked, unless it is written there."""
    if setting not in run.folder.read("settings", Setting):
        run.folder.append("settings", [setting])


def _setting(
    run: AnyRun, asked: Asked, engine: JobEngine, task: str, policies: Sequence[Policy],
    samplings: Sequence[Sampling], answer_tokens_max: int, questions: int,
) -> Setting:  # fmt: skip
    student, about = run.recipe.student, engine.info
    assert student is not None, "it is asked"
    hot = samplings[0].temperature > 0
    template = getattr(engine.tokenizer, "chat_template", None)
    return Setting(
        task=task,
        student=asked.name,
        prompt=asked.form.name,
        model=asked.model,
        engine=about.name,
        precision=about.precision,
        device=about.device,
        versions=provenance(*about.packages),
        parameters=samplings[0].model_dump(exclude={"seed"}),
        seeds=tuple(s.seed for s in samplings) if hot else (),
        template_sha256=None if template is None else digest(template),
        system_prompt=student.system_prompt,
        suffix=asked.form.suffix,
        policies=tuple(policies),
        wait_text=run.recipe.evaluate.wait_text,
        answer_tokens_max=answer_tokens_max,
        rows=run.recipe.evaluate.rows,
        questions=questions,
        samples=len(samplings),
    )
