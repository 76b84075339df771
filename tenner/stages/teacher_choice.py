"""Asks several teachers the same questions, and chooses the one whose traces are bought."""

from collections.abc import Sequence
from statistics import fmean

from tenner.clients.registry import CallContext
from tenner.core import teacher
from tenner.core.errors import TennerError
from tenner.core.records import FailedCall, Question, TeacherProbe, Trace
from tenner.core.run import Run
from tenner.core.run_folder import RunFolder
from tenner.core.sections import TraceSection
from tenner.core.stage_names import TEACHERS
from tenner.data import quality_filters
from tenner.distill import traces
from tenner.distill.traces import TracePurchase
from tenner.evaluation.grading.grader import grade_trace
from tenner.evaluation.statistics import teacher_choice
from tenner.evaluation.statistics.teacher_choice import Asked


def choose(run: Run, questions: Sequence[Question]) -> None:
    """Where the recipe names candidates and none is chosen yet: ask all of them the first of the questions, and record
    what each made of them and which is chosen (see `teacher_choice.choose`).

    The calls are booked as `teachers`; those of the chosen teacher are not paid again when its traces are bought.
    Raises as `traces.buy_traces` does, and TennerError where too few questions can be graded, or no trace is verified.
    """
    section = run.recipe.trace
    if section.candidates is None or teacher.chosen(run.folder, section).candidates is None:
        return
    asked = _gradable(questions, section.candidate_questions or 0)
    folders = [_ask(run, place, one, asked) for place, one in enumerate(section.teachers)]
    found = [_result(folder, asked, section.filters) for folder in folders]
    try:
        choice = teacher_choice.choose(found)
    except ValueError as e:
        raise TennerError(
            f"{e}: none of {len(found)} teachers has solved one of {len(asked):,} questions",
            hint="their traces are in teacher-1, teacher-2, … of the run folder; try others, or a higher "
            "trace.output_tokens_max",
        ) from e
    rows = [
        _row(place, one, folder, choice.p_values[place], is_chosen=place == choice.place)
        for place, (one, folder) in enumerate(zip(found, folders, strict=True))
    ]
    run.folder.write(teacher.FILE, rows)
    for row in rows:
        run.screen.say(sentence(row))


def sentence(row: TeacherProbe) -> str:
    """What a teacher made of the questions, for people."""
    each = "" if row.usd_per_verified is None else f", ${row.usd_per_verified:.6f} for each"
    told = f"{row.teacher}: {row.verified:,} of {row.questions:,} traces are verified{each}"
    return f"teachers: {told}" + (" (chosen)" if row.is_chosen else "")


def _gradable(questions: Sequence[Question], count: int) -> list[Question]:
    found = [q for q in questions if q.answer is not None][:count]
    if len(found) < count:
        raise TennerError(
            f"trace.candidate_questions = {count:,}, and {len(found):,} of the questions to trace have a reference "
            "answer",
            hint="lower it, or gather questions with answers; nothing has been paid for the comparison",
        )
    return found


def _ask(run: Run, place: int, section: TraceSection, asked: Sequence[Question]) -> RunFolder:
    """Buy one trace of each question, by single calls, as a batch may take a day."""
    once: dict[str, object] = {"samples_per_question": 1, "keep": "first", "batch": False}
    single = section.model_copy(update=once | {"longer_output_tokens_max": None})
    name = f"teacher-{place + 1}"
    folder = RunFolder(run.folder.path / name)
    context = CallContext(run.ledger, run.screen, stage=TEACHERS)
    traces.buy_traces(TracePurchase(single, lambda: asked, folder, context, grade_trace))
    run.folder.wrote_folder(name)
    return folder


def _result(folder: RunFolder, asked: Sequence[Question], filters: Sequence[str]) -> Asked:
    bought = folder.read("traces", Trace)
    good, _ = quality_filters.apply(bought, filters, quality_filters.TRACE_FILTERS)
    right = {t.question_id for t in good if t.outcome == "complete" and t.grade and t.grade.verdict == "correct"}
    return Asked([q.id in right for q in asked], sum(t.cost_usd for t in bought))


def _row(place: int, asked: Asked, folder: RunFolder, p_value: float, *, is_chosen: bool) -> TeacherProbe:
    bought = folder.read("traces", Trace)
    tokens = [t.usage.output_tokens for t in bought if t.usage.output_tokens is not None]
    return TeacherProbe(
        place=place,
        teacher=bought[0].teacher if bought else "",
        questions=len(asked.verified),
        verified=sum(asked.verified),
        failed=len(folder.read("failed", FailedCall)),
        output_tokens_mean=fmean(tokens) if tokens else None,
        cost_usd=asked.usd,
        p_value=p_value,
        is_chosen=is_chosen,
    )
