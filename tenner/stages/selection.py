"""Steps of select, trace and verify: draw questions, buy their traces, verify them, and top up."""

from collections.abc import Sequence

from tenner.clients import failed_calls
from tenner.clients.registry import CallContext
from tenner.core import teacher
from tenner.core.errors import TennerError
from tenner.core.records import Difficulty, Drop, FailedCall, Label, Question, Sample, TeacherProbe, Trace
from tenner.core.run import Run
from tenner.data import counterfactual_cost, domains, quality_filters, samplers, selection
from tenner.distill import labels, traces, verification
from tenner.distill.traces import TracePurchase
from tenner.evaluation.grading.grader import grade_trace


def pick(run: Run, pool: Sequence[Question], count: int) -> list[Question]:
    """Draw `count` questions of the pool, and record the picks, the drops and the steps."""
    recipe, pool = run.recipe, _with_domains(run, pool)
    traced: dict[str, selection.TraceFacts] = {}
    if recipe.order == "trace-first":
        traced = {t.question_id: _trace_facts(t) for t in run.folder.read("traces", Trace)}
    difficulties = run.folder.read("difficulties", Difficulty)
    chosen = selection.select(pool, difficulties, rules=recipe.select, seed=recipe.seed, count=count, traced=traced)
    run.folder.write("selected", chosen.picked)
    run.folder.write("dropped-select", chosen.dropped)
    run.folder.write("picks", chosen.picks)
    run.folder.write("select-steps", chosen.steps)
    return chosen.picked


def _with_domains(run: Run, pool: Sequence[Question]) -> list[Question]:
    """Label the questions that have no domain and are hard enough, as the recipe says; each is labelled once."""
    rules = run.recipe.domains
    known = {label.question_id: label for label in run.folder.read("labels", Label)}
    difficulties = run.folder.read("difficulties", Difficulty)
    bare = [q for q in selection.not_too_easy(pool, difficulties, run.recipe.select) if q.domain is None]
    new = [q for q in bare if q.id not in known]
    found: list[Label] = []
    if new and rules.by == "clusters":
        found = domains.clusters(bare, count=rules.clusters, seed=run.recipe.seed)
    elif new and rules.labeller is not None:
        found, failures = labels.buy_labels(rules.labeller, new, CallContext(run.ledger, run.screen, stage="select"))
        failed_calls.record(run.folder, "select", failures)
    known |= {label.question_id: label for label in found}
    run.folder.write("labels", known.values())
    return [
        q.model_copy(update={"domain": known[q.id].domain}) if q.domain is None and q.id in known else q for q in pool
    ]


def random_order(run: Run) -> list[Question]:
    """All questions that could be selected, in a random order, for the control arm.

    Raises TennerError where no more of them are there than are selected: the arm would train on the same ones.
    """
    could = {q.id for q in run.folder.stream("selected", Question)}
    could |= {d.id for d in run.folder.stream("dropped-select", Drop) if d.reason == selection.NOT_DRAWN}
    if len(could) <= run.recipe.select.samples:
        raise TennerError(
            f"select.control has no effect: select.samples = {run.recipe.select.samples:,}, and no more than "
            f"{len(could):,} questions can be selected",
            hint="gather more questions, lower select.samples, or leave select.control out",
        )
    questions = [q for q in run.folder.stream("clean", Question) if q.id in could]
    return samplers.random_order(questions, run.recipe.seed)


def top_up(run: Run, missing: int) -> bool:
    """Draw `missing` more questions and buy their traces. False if no question is left."""
    before = run.folder.read("selected", Question)
    picked = pick(run, run.folder.read("clean", Question), len(before) + missing)
    more = picked[len(before) :]
    if more:
        run.screen.say(f"samples that are missing: {missing:,}; further questions: {len(more):,}")
        buy_traces(run, picked)
    return bool(more)


def resume_top_up(run: Run) -> None:
    """Buy the traces of selected questions that an interrupted top-up has not bought."""
    selected = run.folder.read("selected", Question)
    called = {t.question_id for t in run.folder.stream("traces", Trace)}
    called |= {f.question_id for f in run.folder.stream("failed", FailedCall)}
    if any(q.id not in called for q in selected):
        buy_traces(run, selected)


def buy_traces(run: Run, questions: Sequence[Question]) -> None:
    """Buy the teacher's traces of these questions; those that exist are not bought again."""
    context, section = (
        CallContext(run.ledger, run.screen, run.label("trace")),
        teacher.chosen(run.folder, run.recipe.trace),
    )
    traces.buy_traces(TracePurchase(section, lambda: questions, run.folder, context, grade_trace))


def candidates(run: Run) -> list[Question]:
    """The questions that trace-first buys: all clean ones that are not too easy."""
    difficulties = run.folder.read("difficulties", Difficulty)
    return selection.not_too_easy(run.folder.read("clean", Question), difficulties, run.recipe.select)


def verify_traces(run: Run) -> verification.Verified:
    """Filter and verify all traces of the run."""
    section = run.recipe.trace
    bought, failed = run.folder.read("traces", Trace), run.folder.read("failed", FailedCall)
    good, flawed = quality_filters.apply(bought, section.filters, quality_filters.TRACE_FILTERS)
    verified = verification.verify(good, failed, keep=section.keep, truncated=section.truncated)
    return verified._replace(dropped=[*flawed, *verified.dropped])


def count_questions(samples: Sequence[Sample]) -> int:
    """The number of different questions of the samples."""
    return len({s.question_id for s in samples})


def report_counterfactual(run: Run, *, verified: int) -> None:
    """Record and show what the other order would have cost; `verified` questions have a verified trace."""
    counterfactual = counterfactual_cost.compare(
        run.recipe.order,
        bought=len({t.question_id for t in run.folder.stream("traces", Trace)}),
        spent_usd=sum(row.cost_usd for row in run.ledger.rows() if row.stage == "trace") + _paid_before(run),
        verified=verified,
        wanted=run.recipe.select.samples,
        candidates=len(candidates(run)),
    )
    run.folder.write("counterfactual", [counterfactual])
    run.screen.say(counterfactual.sentence)


def _paid_before(run: Run) -> float:
    """What the traces of the chosen teacher cost that it wrote before it was chosen, in dollars."""
    return sum(row.cost_usd for row in run.folder.stream(teacher.FILE, TeacherProbe) if row.is_chosen)


def _trace_facts(t: Trace) -> selection.TraceFacts:
    """The length and the verdict of a trace; where the teacher reports no thinking tokens, words are counted."""
    thinking_tokens = t.usage.reasoning_tokens or len(t.thinking.split())
    return selection.TraceFacts(thinking_tokens, t.grade is not None and t.grade.verdict == "correct")
