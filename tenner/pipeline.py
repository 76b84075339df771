"""The one page: the stages in order, and what each is given.

gather -> clean -> attempt -> select -> trace -> verify -> train -> evaluate -> report
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from difflib import get_close_matches
from functools import cache, partial
from itertools import islice, zip_longest
from pathlib import Path

from tenner.ask import counterfactual, overlap, quality, selection, worked
from tenner.errors import TennerError
from tenner.formats import FORMATS
from tenner.learn.memory import ask_for_huge_pages
from tenner.prove import card, facts, report, stats
from tenner.prove.evaluate import complete
from tenner.prove.grading import grade_essay
from tenner.recipe import PromptForm, Recipe
from tenner.records import (
    Completion,
    Difficulty,
    FailedCall,
    Policy,
    Question,
    Sample,
    StudentName,
    Trace,
    TrainStep,
)
from tenner.run import Run
from tenner.seeds import digest
from tenner.teach import traces, verification
from tenner.think.engine import Engine

Stage = Callable[[Run], tuple[int, int]]
"""A stage works on the run's folder and returns how many items went in and came out."""


def gather(run: Run) -> tuple[int, int]:
    """Fill the pool, and set the held-out questions apart that the student will be judged by."""
    recipe = run.recipe
    families, seed = recipe.gather.families, recipe.seed
    pool = list(worked.generate(recipe.gather.questions, families=families, split="train", seed=seed))
    heldout = worked.generate(recipe.evaluate.questions, families=families, split="heldout", seed=seed, distinct=True)
    run.folder.write("questions", pool)
    run.folder.write("benchmark", heldout)
    return len(pool), len(pool)


def clean(run: Run) -> tuple[int, int]:
    """Drop what is no good question, duplicates, and what the benchmark also asks."""
    pool, benchmark = run.folder.read("questions", Question), run.folder.read("benchmark", Question)
    rules = run.recipe.clean
    good, flawed = quality.sift(pool, rules.filters, quality.QUESTION_FILTERS)
    cleaned = overlap.clean(good, benchmark, rules)
    run.folder.write("clean", cleaned.kept)
    run.folder.write("dropped-clean", [*flawed, *cleaned.dropped])
    run.folder.write("hits", cleaned.hits)
    return len(pool), len(cleaned.kept)


def attempt(run: Run) -> tuple[int, int]:
    """Let the untrained student try a sample of the questions, in every prompt form, with and without thinking."""
    recipe = run.recipe
    pool = run.folder.read("clean", Question)
    sample = _stratified(pool, recipe.attempt.questions, recipe.seed)
    policies = [Policy(thinking_tokens_max=0), Policy(thinking_tokens_max=recipe.attempt.thinking_tokens_max)]
    load_engine = cache(partial(engine_for, run, "base"))  # once for all forms, and only if one is missing
    for form in recipe.attempt.prompts:
        complete(
            run, sample, form, policies, stage="attempt", task="attempts", student="base",
            load_engine=load_engine, answer_tokens_max=recipe.attempt.answer_tokens_max,
        )  # fmt: skip
    tries: dict[str, list[Completion]] = {}
    for c in run.folder.read("attempts", Completion):
        tries.setdefault(c.question_id, []).append(c)
    run.folder.write("difficulties", [_difficulty(question_id, made) for question_id, made in tries.items()])
    return len(pool), len(sample)


def select(run: Run) -> tuple[int, int]:
    """Pick the questions that are worth a trace; or, where all have one, those that are worth training on."""
    recipe, pool = run.recipe, run.folder.read("clean", Question)
    if recipe.order == "trace-first":
        good = {s.question_id for s in run.folder.read("verified", Sample)}
        pool = [q for q in pool if q.id in good]
    picked = _pick(run, pool, recipe.select.samples)
    if len(picked) < recipe.select.samples:
        short = f"only {len(picked):,} of {recipe.select.samples:,} samples could be selected: the pool is empty"
        if recipe.order == "select-first":
            raise TennerError(short, hint="gather more questions or lower select.samples")
        run.screen.say(short)
    if recipe.order == "trace-first":
        ids = {q.id for q in picked}
        run.folder.write("samples", [s for s in run.folder.read("verified", Sample) if s.question_id in ids])
    return len(pool), len(picked)


def trace(run: Run) -> tuple[int, int]:
    """Have the teacher think aloud about the questions; each response is bought once."""
    by_traces = run.recipe.order == "trace-first"
    questions = _worth_a_trace(run) if by_traces else run.folder.read("selected", Question)
    _buy(run, questions)
    return len(questions), len(run.folder.read("traces", Trace))


def verify(run: Run) -> tuple[int, int]:
    """Keep the traces that are whole, right and pass the filters; buy more while there are too few of them."""
    rules, by_traces = run.recipe.select, run.recipe.order == "trace-first"
    if not by_traces:
        _buy_what_is_missing(run)
    checked = _check_traces(run)
    while not by_traces and (missing := rules.samples - _questions_of(checked.kept)) > 0:
        if not rules.top_up or not _top_up(run, missing):
            reason = "the pool is empty" if rules.top_up else "select.top_up is off"
            run.screen.say(f"{missing:,} of {rules.samples:,} samples are missing: {reason}")
            break
        checked = _check_traces(run)
    if not checked.kept:
        raise TennerError("no trace survived verification", hint=f"see {run.folder.path / 'traces.jsonl'}")
    run.folder.write("verified" if by_traces else "samples", checked.kept)
    run.folder.write("dropped-verify", checked.dropped)
    _tell_counterfactual(run, kept=_questions_of(checked.kept))
    return len(run.folder.read("traces", Trace)) + len(run.folder.read("failed", FailedCall)), len(checked.kept)


def train(run: Run) -> tuple[int, int]:
    """Fine-tune the student on the samples; machine time is charged step by step."""
    from tenner.learn import checkpoint, mask, student
    from tenner.learn import train as learning

    recipe, samples = run.recipe, run.folder.read("samples", Sample)
    workdir, base = run.folder.path / "checkpoint", base_student(run)
    encoded = mask.encode_all(
        student.load_tokenizer(base), samples, FORMATS[recipe.student.format],
        system_prompt=recipe.student.system_prompt, tokens_max=recipe.train.tokens_max,
    )  # fmt: skip
    # Steps after the last checkpoint are done again, and so are their rows of the curve.
    run.folder.write("training", run.folder.read("training", TrainStep)[: checkpoint.resumes_at(workdir)])
    with run.machine_time("train") as meter, run.screen.bar("train", 0) as bar:

        def on_step(done: learning.StepReport) -> None:
            meter.tick()
            row = {name: value for name, value in done._asdict().items() if name != "seconds"}
            run.folder.append("training", [TrainStep(**row, cost_usd=run.ledger.spent_usd())])
            note = f"loss {done.loss:.3f}  {done.tokens_per_second:.0f} tokens/s  {run.spent()}"
            bar.update(done.step + 1, note, total=done.steps)
            meter.check()

        result = learning.train(base, encoded, recipe.train, seed=recipe.seed, workdir=workdir, on_step=on_step)
        learning.finish(result, base, run.folder.path / "student", workdir)
    return len(samples), len(samples)


def evaluate(run: Run) -> tuple[int, int]:
    """Answer the held-out questions, untrained and distilled, under every thinking budget and number of waits."""
    recipe = run.recipe
    benchmark = run.folder.read("benchmark", Question)
    budgets = recipe.evaluate.thinking_tokens_max
    policies = [Policy(thinking_tokens_max=budget) for budget in budgets]
    policies += [Policy(thinking_tokens_max=budgets[-1], waits=waits) for waits in recipe.evaluate.waits]
    taught = PromptForm(name=recipe.student.format, format=recipe.student.format)
    forms: dict[StudentName, PromptForm] = {"base": best_prompt(run), "distilled": taught}
    for name, form in forms.items():
        complete(
            run, benchmark, form, policies, stage="evaluate", task="heldout", student=name,
            load_engine=partial(engine_for, run, name), answer_tokens_max=recipe.evaluate.answer_tokens_max,
        )  # fmt: skip
    domains = {q.id: q.domain for q in benchmark}
    run.folder.write("scores", stats.score(run.folder.read("heldout", Completion), domains))
    return len(benchmark), len(benchmark) * len(policies) * len(forms)


def write_report(run: Run) -> tuple[int, int]:
    """Write the page, the text and the model card: pure readers of the run folder."""
    from tenner.learn import student

    tokenizer = student.load_tokenizer(run.folder.path / "student")
    known = facts.collect(run.folder, run.recipe, tokenizer, stages=run.recipe.stages)
    pages = {
        "report.html": report.render_html(known),
        "report.md": report.render_markdown(known),
        "accuracy.svg": report.accuracy_svg(known),
        "student/README.md": card.model_card(known),
    }
    for name, text in pages.items():
        run.folder.write_text(name, text)
    return len(known.scores), len(pages)


STAGES: dict[str, Stage] = {
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
    """Refuse, before anything is spent, a recipe whose names mean nothing to the rooms."""
    quality.check(recipe.clean.filters, quality.QUESTION_FILTERS, "clean.filters")
    quality.check(recipe.trace.filters, quality.TRACE_FILTERS, "trace.filters")
    for family in recipe.gather.families:
        if family not in worked.FAMILIES:
            near = get_close_matches(family, worked.FAMILIES, n=1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(worked.FAMILIES)}"
            raise TennerError(f"gather.families: no family is called {family}", hint=hint)


def run_stages(run: Run, names: Iterable[str]) -> None:
    """Run the stages that are not done, in order. Raises TennerError if one that comes before is missing."""
    ask_for_huge_pages()  # before anything makes a tensor
    order = list(run.recipe.stages)
    names = sorted(names, key=order.index)
    if "trace" in names and not run.folder.done("trace"):
        traces.check(run.recipe.trace, run.screen)  # before time is spent on what comes before it
    for name in names:
        if run.folder.done(name):
            run.screen.say(f"{name}: done before")
            continue
        if missing := next((s for s in order[: order.index(name)] if not run.folder.done(s)), None):
            raise TennerError(f"{name} needs {missing}, which is not done", hint=f"tenner {missing} {run.folder.path}")
        with run.folder.stage(name) as clock:
            clock.items_in, clock.items_out = STAGES[name](run)
        run.screen.say(f"{name}: {clock.items_in:,} in, {clock.items_out:,} out, {clock.seconds:.1f} s, {run.spent()}")


def _pick(run: Run, pool: Sequence[Question], count: int) -> list[Question]:
    """Draw so many questions, and write down which and why."""
    recipe = run.recipe
    traces_of = {t.question_id: t for t in run.folder.read("traces", Trace)} if recipe.order == "trace-first" else {}
    taught = {question_id: _taught(t) for question_id, t in traces_of.items()}
    difficulties = run.folder.read("difficulties", Difficulty)
    chosen = selection.select(
        pool, difficulties, rules=recipe.select, seed=recipe.seed, count=count, taught=taught
    )  # fmt: skip
    run.folder.write("selected", chosen.picked)
    run.folder.write("dropped-select", chosen.dropped)
    run.folder.write("picks", chosen.picks)
    run.folder.write("select-steps", chosen.steps)
    return chosen.picked


def _top_up(run: Run, missing: int) -> bool:
    """Continue the draw by so many questions and buy their traces; False where no question is left."""
    before = run.folder.read("selected", Question)
    picked = _pick(run, run.folder.read("clean", Question), len(before) + missing)
    more = picked[len(before) :]
    if more:
        run.screen.say(f"{missing:,} samples short: {len(more):,} more questions")
        _buy(run, picked)
    return bool(more)


def _buy_what_is_missing(run: Run) -> None:
    """A session that ended while it topped up has selected more than it bought."""
    selected = run.folder.read("selected", Question)
    asked = {t.question_id for t in run.folder.stream("traces", Trace)}
    asked |= {f.question_id for f in run.folder.stream("failed", FailedCall)}
    if any(q.id not in asked for q in selected):
        _buy(run, selected)


def _buy(run: Run, questions: Sequence[Question]) -> None:
    desk = traces.Desk(run.folder, run.ledger, run.screen, stage="trace", grade=grade_essay)
    traces.buy_traces(run.recipe.trace, lambda: questions, desk)


def _worth_a_trace(run: Run) -> list[Question]:
    """All that is left when everything is known that can be known without a trace."""
    difficulties = run.folder.read("difficulties", Difficulty)
    return selection.not_too_easy(run.folder.read("clean", Question), difficulties, run.recipe.select)


def _check_traces(run: Run) -> verification.Verified:
    """What passes the filters and holds the right answer."""
    section = run.recipe.trace
    bought, failed = run.folder.read("traces", Trace), run.folder.read("failed", FailedCall)
    good, flawed = quality.sift(bought, section.filters, quality.TRACE_FILTERS)
    checked = verification.verify(good, failed, keep=section.keep, truncated=section.truncated)
    return checked._replace(dropped=[*flawed, *checked.dropped])


def _questions_of(samples: Sequence[Sample]) -> int:
    return len({s.question_id for s in samples})


def _tell_counterfactual(run: Run, *, kept: int) -> None:
    told = counterfactual.compare(
        run.recipe.order,
        bought=len({t.question_id for t in run.folder.stream("traces", Trace)}),
        spent_usd=sum(row.cost_usd for row in run.ledger.rows() if row.stage == "trace"),
        kept=kept,
        wanted=run.recipe.select.samples,
        worth_a_trace=len(_worth_a_trace(run)),
    )
    run.folder.write("counterfactual", [told])
    run.screen.say(counterfactual.sentence(told))


def _taught(t: Trace) -> selection.Taught:
    """What selection looks at; where the teacher counts no tokens, words stand for them."""
    thinking_tokens = t.usage.reasoning_tokens or len(t.thinking.split())
    return selection.Taught(thinking_tokens, t.grade is not None and t.grade.verdict == "correct")


def best_prompt(run: Run) -> PromptForm:
    """The form in which the untrained student was right most often, at its better budget; the first of equals."""
    right: Counter[tuple[str, Policy]] = Counter()
    for c in run.folder.read("attempts", Completion):
        right[c.prompt, c.policy] += c.grade.verdict == "correct"
    forms = run.recipe.attempt.prompts
    return max(forms, key=lambda form: max(n for (name, _), n in right.items() if name == form.name))


def base_student(run: Run) -> Path:
    """The folder of the untrained student, fetched and converted on first use."""
    from tenner.learn import student

    return student.resolve(run.recipe.student.model)


def engine_for(run: Run, student_name: StudentName) -> Engine:
    """The embedded engine with one of the two students in it."""
    from tenner.think.hf import HFEngine

    folder = base_student(run) if student_name == "base" else run.folder.path / "student"
    return HFEngine.load(folder, rows=run.recipe.evaluate.rows, wait_text=run.recipe.evaluate.wait_text)


def _stratified(pool: Sequence[Question], count: int, seed: int) -> list[Question]:
    """The first `count` questions by seeded hash, the domains in turn."""
    by_domain: dict[str, list[Question]] = {}
    for q in sorted(pool, key=lambda q: digest(seed, "attempt", q.id)):
        by_domain.setdefault(q.domain or "", []).append(q)
    rounds = zip_longest(*(by_domain[domain] for domain in sorted(by_domain)))
    return list(islice((q for questions in rounds for q in questions if q), count))


def _difficulty(question_id: str, tries: Sequence[Completion]) -> Difficulty:
    correct = sum(c.grade.verdict == "correct" for c in tries)
    tokens = sum(c.thinking_tokens for c in tries) / len(tries)
    return Difficulty(question_id=question_id, tries=len(tries), correct=correct, thinking_tokens_mean=tokens)
