"""The one page: the stages in order, and what each is given.

gather -> clean -> attempt -> select -> trace -> verify -> train -> evaluate -> report
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from difflib import get_close_matches
from functools import cache, partial
from itertools import islice, zip_longest
from pathlib import Path

from tenner.ask import overlap, selection, worked
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
    """Drop duplicates and what the benchmark also asks."""
    pool, benchmark = run.folder.read("questions", Question), run.folder.read("benchmark", Question)
    cleaned = overlap.clean(pool, benchmark, run.recipe.clean)
    run.folder.write("clean", cleaned.kept)
    run.folder.write("dropped-clean", cleaned.dropped)
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
    """Pick the questions that are worth a trace."""
    pool = run.folder.read("clean", Question)
    difficulties = run.folder.read("difficulties", Difficulty)
    chosen = selection.select(pool, difficulties, count=run.recipe.select.samples, seed=run.recipe.seed)
    if len(chosen.picked) < run.recipe.select.samples:
        raise TennerError(
            f"only {len(chosen.picked)} of {run.recipe.select.samples} samples could be selected: the pool is empty",
            hint="raise gather.questions or lower select.samples",
        )
    run.folder.write("selected", chosen.picked)
    run.folder.write("dropped-select", chosen.dropped)
    return len(pool), len(chosen.picked)


def trace(run: Run) -> tuple[int, int]:
    """Have the teacher think aloud about every selected question; each response is bought once."""
    selected = run.folder.read("selected", Question)
    desk = traces.Desk(run.folder, run.ledger, run.screen, stage="trace", grade=grade_essay)
    traces.buy_traces(run.recipe.trace, lambda: selected, desk)
    return len(selected), len(run.folder.read("traces", Trace))


def verify(run: Run) -> tuple[int, int]:
    """Keep the traces that are whole and whose answer is the reference answer; of several, those the recipe wants."""
    bought = run.folder.read("traces", Trace)
    failed = run.folder.read("failed", FailedCall)
    chosen = verification.verify(bought, failed, keep=run.recipe.trace.keep, truncated=run.recipe.trace.truncated)
    if not chosen.kept:
        raise TennerError("no trace survived verification", hint=f"see {run.folder.path / 'traces.jsonl'}")
    run.folder.write("samples", chosen.kept)
    run.folder.write("dropped-verify", chosen.dropped)
    return len(bought) + len(failed), len(chosen.kept)


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
    known = facts.collect(run.folder, run.recipe, tokenizer, stages=tuple(STAGES))
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
    for family in recipe.gather.families:
        if family not in worked.FAMILIES:
            near = get_close_matches(family, worked.FAMILIES, n=1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(worked.FAMILIES)}"
            raise TennerError(f"gather.families: no family is called {family}", hint=hint)


def run_stages(run: Run, names: Iterable[str]) -> None:
    """Run the stages that are not done, in order. Raises TennerError if one that comes before is missing."""
    ask_for_huge_pages()  # before anything makes a tensor
    order, names = list(STAGES), list(names)
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
