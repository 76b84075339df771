"""The pipeline on one page: its stages in order, and what each reads and writes.

gather -> clean -> attempt -> select -> trace -> verify -> train -> evaluate -> report
"""

from collections import Counter
from collections.abc import Callable, Iterable
from functools import cache, partial
from pathlib import Path

from tenner.clients import registry, tinker
from tenner.core import teacher
from tenner.core.errors import TennerError
from tenner.core.progress import Screen
from tenner.core.recipe import Recipe
from tenner.core.records import (
    Completion,
    FailedCall,
    Policy,
    Question,
    Sample,
    StagePlan,
    StudentName,
    Trace,
)
from tenner.core.run import Run, Stage
from tenner.core.sections import PromptForm
from tenner.core.stage_names import CONTROL
from tenner.core.suggest import did_you_mean
from tenner.data import domains, overlap, puzzles, quality_filters, samplers, sources
from tenner.data.selection import difficulties_of
from tenner.data.workers import workers_for
from tenner.evaluation import benchmarks
from tenner.evaluation.evaluate import EvaluatedStudent, complete
from tenner.evaluation.report import charts, facts, html, markdown, model_card, sentences
from tenner.inference.engine import LocalEngine
from tenner.stages import (
    evaluation,
    plan_page,
    resource_check,
    run_plan,
    selection,
    service_comparison,
    teacher_choice,
    time_estimate,
)
from tenner.training import optional_libraries
from tenner.training.allocator import ask_for_expandable_segments, ask_for_huge_pages


def gather(run: Run) -> tuple[int, int]:
    """Read and generate the pool of questions, and the benchmark questions."""
    recipe, seed = run.recipe, run.recipe.seed
    families, count = recipe.gather.families, recipe.gather.questions
    read = sources.gather(recipe.gather.sources, seed=seed)
    for note in read.notes:
        run.screen.say(note)
    generated = list(puzzles.generate(count, families=families, split="train", seed=seed))
    pool, counts = [*read.questions, *generated], read.counts
    if generated:
        counts.append(puzzles.source_count(families, count))
    benchmark = benchmarks.load_questions(recipe.evaluate.benchmarks, partial(sources.gather, seed=seed))
    heldout = recipe.evaluate.questions
    benchmark += puzzles.generate(heldout, families=families, split="heldout", seed=seed, distinct=True)
    run.folder.write("questions", pool)
    run.folder.write("dropped-gather", read.dropped)
    run.folder.write("sources", counts)
    run.folder.write("benchmark", benchmark)
    return len(pool) + len(read.dropped), len(pool)


def clean(run: Run) -> tuple[int, int]:
    """Drop flawed questions, duplicates, and questions that overlap the benchmark."""
    pool, benchmark = run.folder.read("questions", Question), run.folder.read("benchmark", Question)
    rules = run.recipe.clean
    good, flawed = quality_filters.apply(pool, rules.filters, quality_filters.QUESTION_FILTERS)
    cleaned = overlap.clean(good, benchmark, rules, workers_for(rules.engine))
    run.folder.write("clean", cleaned.kept)
    run.folder.write("dropped-clean", [*flawed, *cleaned.dropped])
    run.folder.write("hits", cleaned.hits)
    return len(pool), len(cleaned.kept)


def attempt(run: Run) -> tuple[int, int]:
    """Let the untrained student answer a sample of the questions, in every prompt form, with and without thinking.

    The recipe may name a second model. Questions without a reference answer cannot be graded and are left out.
    """
    recipe = run.recipe
    formats = [recipe.student.format, *(form.format for form in recipe.attempt.prompts)]
    evaluation.check_template(run, base_student(run), formats)
    pool = run.folder.read("clean", Question)
    if recipe.order == "select-first" and len(pool) < recipe.select.samples:
        raise TennerError(
            f"{len(pool):,} questions are left after cleaning, and select.samples = {recipe.select.samples:,}",
            hint="gather more questions or lower select.samples; nothing has been paid yet",
        )
    gradable = [q for q in pool if q.answer is not None]
    sample = samplers.stratified(gradable, recipe.attempt.questions, recipe.seed)
    policies = time_estimate.attempt_policies(recipe.attempt)
    names: tuple[StudentName, ...] = ("base", "second") if recipe.attempt.second_model else ("base",)
    for name in names:
        load_engine = cache(partial(engine_for, run, name, "attempt"))  # loaded once for all forms, on first use
        if name == "base" and sample and not run.folder.read("attempts", Completion):
            _estimate_time(run, load_engine)
        for form in recipe.attempt.prompts:
            evaluated = EvaluatedStudent(name, _model_of(run, name), form, load_engine)
            complete(
                run, {"attempts": sample}, evaluated, policies, stage="attempt", file="attempts",
                answer_tokens_max=recipe.attempt.answer_tokens_max,
            )  # fmt: skip
    run.folder.write("difficulties", difficulties_of(run.folder.read("attempts", Completion)))
    return len(pool), len(sample)


def select(run: Run) -> tuple[int, int]:
    """Draw the questions to buy traces for; with trace-first, those of the verified samples to train on."""
    recipe, pool = run.recipe, run.folder.read("clean", Question)
    if recipe.order == "trace-first":
        verified = {s.question_id for s in run.folder.read("verified", Sample)}
        pool = [q for q in pool if q.id in verified]
    picked = selection.pick(run, pool, recipe.select.samples)
    if len(picked) < recipe.select.samples:
        shortage = f"only {len(picked):,} of {recipe.select.samples:,} samples could be selected: the pool is empty"
        if recipe.order == "select-first":
            raise TennerError(shortage, hint="gather more questions or lower select.samples")
        run.screen.say(shortage)
    if recipe.select.control is not None:
        selection.random_order(run)  # refuses a pool that leaves it no choice, before anything is paid
    if recipe.order == "trace-first":
        ids = {q.id for q in picked}
        run.folder.write("samples", [s for s in run.folder.read("verified", Sample) if s.question_id in ids])
    return len(pool), len(picked)


def trace(run: Run) -> tuple[int, int]:
    """Buy the teacher's traces of the questions; each response is bought once."""
    trace_first = run.recipe.order == "trace-first"
    questions = selection.candidates(run) if trace_first else run.folder.read("selected", Question)
    teacher_choice.choose(run, questions)
    selection.buy_traces(run, questions)
    return len(questions), len(run.folder.read("traces", Trace))


def verify(run: Run) -> tuple[int, int]:
    """Keep the traces that are complete, right and pass the filters; select-first tops up until there are enough."""
    rules, trace_first = run.recipe.select, run.recipe.order == "trace-first"
    if not trace_first:
        selection.resume_top_up(run)
    verified = selection.verify_traces(run)
    while not trace_first and (missing := rules.samples - selection.count_questions(verified.kept)) > 0:
        if not rules.top_up or not selection.top_up(run, missing):
            reason = "the pool is empty" if rules.top_up else "select.top_up is off"
            run.screen.say(f"{missing:,} of {rules.samples:,} samples are missing: {reason}")
            break
        verified = selection.verify_traces(run)
    if not verified.kept:
        raise TennerError("no trace survived verification", hint=f"see {run.folder.path / 'traces.jsonl'}")
    run.folder.write("verified" if trace_first else "samples", verified.kept)
    run.folder.write("dropped-verify", verified.dropped)
    selection.report_counterfactual(run, verified=selection.count_questions(verified.kept))
    return len(run.folder.read("traces", Trace)) + len(run.folder.read("failed", FailedCall)), len(verified.kept)


def train(run: Run) -> tuple[int, int]:
    """Fine-tune the student on the samples: here, or by a service."""
    from tenner.stages import managed_training, training

    return training.learn(run) if run.recipe.train.backend is None else managed_training.learn(run)


def control(run: Run) -> tuple[int, int]:
    """Where the recipe has a control arm: train a second student, on random questions."""
    from tenner.stages import control_arm

    return control_arm.learn(run)


def evaluate(run: Run) -> tuple[int, int]:
    """Answer the benchmarks with all students, under every policy, and with the models behind APIs."""
    forms: dict[StudentName, PromptForm] = {"base": best_prompt(run), "distilled": run.recipe.student.form}
    if run.recipe.select.control is not None:
        forms["distilled-random"] = run.recipe.student.form
    students = [
        EvaluatedStudent(name, _model_of(run, name), form, partial(engine_for, run, name, "evaluate"))
        for name, form in forms.items()
    ]
    answered = evaluation.answer(run, students)
    service_comparison.compare(run)
    return answered


def write_report(run: Run) -> tuple[int, int]:
    """Write the report as HTML and Markdown, the chart and the model card; all read only the run folder."""
    from tenner.training import student

    run.folder.verify_folder("student")
    tokenizer = student.load_tokenizer(run.folder.path / "student")
    run_facts = facts.collect(run.folder, run.recipe, tokenizer, stages=run.recipe.stages)
    files = {
        "report.html": html.render_html(run_facts),
        "report.md": markdown.render_markdown(run_facts),
        "accuracy.svg": charts.accuracy_chart(sentences.charted_scores(run_facts)),
        "student/README.md": model_card.model_card(run_facts),
    }
    for name, text in files.items():
        run.folder.write_text(name, text)
    return len(run_facts.scores), len(files)


TRAINED: dict[StudentName, str] = {"distilled": "student", "distilled-random": f"{CONTROL}/student"}
"""The students that a run trains, and their folders in it."""
STAGES: dict[str, Stage[Recipe]] = {
    "gather": gather,
    "clean": clean,
    "attempt": attempt,
    "select": select,
    "trace": trace,
    "verify": verify,
    "train": train,
    "evaluate": evaluate,
    "report": write_report,
}


def check(recipe: Recipe) -> None:
    """Check, before anything is spent, the names and libraries that a recipe refers to. Raises TennerError."""
    quality_filters.check(recipe.clean.filters, quality_filters.QUESTION_FILTERS, "clean.filters")
    workers_for(recipe.clean.engine)
    domains.check(recipe.domains)
    optional_libraries.check(recipe.train)
    sources.check(recipe.gather.sources)
    evaluation.check(recipe)
    service_comparison.check(recipe)
    quality_filters.check(recipe.trace.filters, quality_filters.TRACE_FILTERS, "trace.filters")
    for family in recipe.gather.families:
        if family not in puzzles.FAMILIES:
            hint = did_you_mean(family, puzzles.FAMILIES)
            raise TennerError(f"gather.families: no family is called {family}", hint=hint)


def foresee(recipe: Recipe, path: Path, *, cap_usd: float | None, screen: Screen) -> list[StagePlan]:
    """What a run that begins in `path` is expected to take; empty where the folder holds one already.

    Raises TennerError where the cap is below even the low estimate.
    """
    if (path / recipe.FILE).is_file():
        return []
    try:
        stages = plan_page.stages_of(recipe)
    except plan_page.UnknownSize as e:
        screen.say(f"what it will take is not known: {e}")
        return []
    if warning := run_plan.check_cap(stages, recipe.budget_usd if cap_usd is None else cap_usd):
        screen.say(warning)
    for warning in plan_page.price_warnings(recipe):
        screen.say(warning)
    return stages


def run_stages(run: Run, names: Iterable[str]) -> None:
    """Run those of the named stages that are not done, in order. Raises TennerError if an earlier one is missing."""
    names = check_ready(run, names)
    run.go_through(names, {**STAGES, CONTROL: control})


def check_ready(run: Run, names: Iterable[str], *, processes: int = 1) -> list[str]:
    """Check, before the first of the named stages takes time, the connections and resources of all; return their order.

    `processes` train. Raises TennerError where something is missing, an earlier stage too.
    """
    ask_for_huge_pages()  # before anything makes a tensor
    ask_for_expandable_segments()
    if CONTROL in (names := list(names)) and run.recipe.select.control is None:
        raise TennerError(
            f"{run.folder.path} has no control arm", hint=f"tenner fork {run.folder.path} --set select.control=random"
        )
    if processes > 1 and run.recipe.select.control is not None and not run.folder.done(CONTROL):
        raise TennerError(
            f"the second student of select.control is trained by one process, and {processes} would train the first",
            hint="give --processes 1, or leave select.control out",
        )
    names = sorted(names, key=list(run.recipe.stages).index)
    if not_done := [name for name in names if not run.folder.done(name)]:
        run.check_turn(not_done[0])
    buying = ("trace",) if run.recipe.order == "trace-first" else ("trace", CONTROL)
    if any(stage in names and not run.folder.done(stage) for stage in buying):
        for section in teacher.possible(run.folder, run.recipe.trace):
            registry.check(section, run.screen)
    if "select" in names and not run.folder.done("select") and run.recipe.domains.labeller is not None:
        registry.check(run.recipe.domains.labeller, run.screen)
    if "evaluate" in names and not run.folder.done("evaluate"):
        evaluation.check_connections(run.recipe, run.screen)
    if "train" in names and not run.folder.done("train"):
        if run.recipe.train.tinker is not None:
            tinker.check(run.recipe.train.tinker)
        resource_check.check(run.recipe, run.folder.path, base_student(run), processes=processes)
    return names


def _estimate_time(run: Run, load_engine: Callable[[], LocalEngine]) -> None:
    """Record and show how long the run will take, before its first slow stage."""
    with run.machine_time("attempt"):
        found = time_estimate.foresee(run, load_engine(), base_student(run))
    run.folder.write("forecast", found)
    run.screen.say(time_estimate.sentence(found))


def best_prompt(run: Run) -> PromptForm:
    """The form with the most correct attempts of the untrained student, at its better budget; the first of equals."""
    right: Counter[tuple[str, Policy]] = Counter()
    for c in run.folder.read("attempts", Completion):
        right[c.prompt, c.policy] += c.student == "base" and c.grade.verdict == "correct"
    forms = run.recipe.attempt.prompts
    return max(forms, key=lambda form: max((n for (name, _), n in right.items() if name == form.name), default=0))


def base_student(run: Run) -> Path:
    """The model folder of the untrained student, downloaded and converted on first use."""
    from tenner.training import student_address

    return student_address.resolve(run.recipe.student.model)


def engine_for(run: Run, student_name: StudentName, stage: str) -> LocalEngine:
    """The recipe's engine, loaded with one of the students."""
    from tenner.training import student_address

    if student_name in TRAINED:
        run.folder.verify_folder(TRAINED[student_name])
    folder = student_address.resolve(_model_of(run, student_name))
    return evaluation.load_engine(run, stage, folder, own_template=student_name == "second")


def _model_of(run: Run, name: StudentName) -> str:
    if name in TRAINED:
        return str(run.folder.path / TRAINED[name])
    second = run.recipe.attempt.second_model if name == "second" else None
    return second or run.recipe.student.model
