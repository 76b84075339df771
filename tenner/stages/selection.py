"""Which questions are bought and trained on: picking, buying, checking, and buying more where too few are right."""

from collections.abc import Sequence

from tenner.clients import replies
from tenner.clients.registry import CallContext
from tenner.core.records import Difficulty, FailedCall, Label, Question, Sample, Trace
from tenner.core.run import Run
from tenner.data import counterfactual_cost, domains, quality_filters, selection
from tenner.distill import traces, verification
from tenner.distill.traces import TracePurchase
from tenner.evaluation.grading.grader import grade_trace


def pick(run: Run, pool: Sequence[Question], count: int) -> list[Question]:
    """Draw so many questions, and write down which and why."""
    recipe, pool = run.recipe, _with_domains(run, pool)
    traces_of = {t.question_id: t for t in run.folder.read("traces", Trace)} if recipe.order == "trace-first" else {}
    taught = {question_id: _taught(t) for question_id, t in traces_of.items()}
    difficulties = run.folder.read("difficulties", Difficulty)
    chosen = selection.select(pool, difficulties, rules=recipe.select, seed=recipe.seed, count=count, taught=taught)
    run.folder.write("selected", chosen.picked)
    run.folder.write("dropped-select", chosen.dropped)
    run.folder.write("picks", chosen.picks)
    run.folder.write("select-steps", chosen.steps)
    return chosen.picked


def _with_domains(run: Run, pool: Sequence[Question]) -> list[Question]:
    """Give the questions a domain that have none and are hard enough, by the recipe's way; each is labelled once."""
    rules, labels = run.recipe.domains, {label.question_id: label for label in run.folder.read("labels", Label)}
    difficulties = run.folder.read("difficulties", Difficulty)
    bare = [q for q in selection.not_too_easy(pool, difficulties, run.recipe.select) if q.domain is None]
    new = [q for q in bare if q.id not in labels]
    if new and rules.by == "clusters":
        found = domains.clusters(bare, count=rules.clusters, seed=run.recipe.seed)
        labels |= {label.question_id: label for label in found}
    elif new and rules.labeller is not None:
        section = rules.labeller.model_copy(update={"system_prompt": domains.system_prompt()})
        context = CallContext(run.ledger, run.screen, stage="select")
        for question_id, said in replies.buy_answers(section, new, context).items():
            labels[question_id] = Label(question_id=question_id, domain=domains.parse(said), evidence=said)
    run.folder.write("labels", labels.values())
    return [
        q.model_copy(update={"domain": labels[q.id].domain}) if q.domain is None and q.id in labels else q for q in pool
    ]


def top_up(run: Run, missing: int) -> bool:
    """Continue the draw by so many questions and buy their traces; False where no question is left."""
    before = run.folder.read("selected", Question)
    picked = pick(run, run.folder.read("clean", Question), len(before) + missing)
    more = picked[len(before) :]
    if more:
        run.screen.say(f"{missing:,} samples short: {len(more):,} more questions")
        buy(run, picked)
    return bool(more)


def buy_what_is_missing(run: Run) -> None:
    """A session that ended while it topped up has selected more than it bought."""
    selected = run.folder.read("selected", Question)
    asked = {t.question_id for t in run.folder.stream("traces", Trace)}
    asked |= {f.question_id for f in run.folder.stream("failed", FailedCall)}
    if any(q.id not in asked for q in selected):
        buy(run, selected)


def buy(run: Run, questions: Sequence[Question]) -> None:
    """Have the teacher think aloud about these questions; what is there already is not bought again."""
    context = CallContext(run.ledger, run.screen, stage="trace")
    traces.buy_traces(TracePurchase(run.recipe.trace, lambda: questions, run.folder, context, grade_trace))


def worth_a_trace(run: Run) -> list[Question]:
    """All that is left when everything is known that can be known without a trace."""
    difficulties = run.folder.read("difficulties", Difficulty)
    return selection.not_too_easy(run.folder.read("clean", Question), difficulties, run.recipe.select)


def check_traces(run: Run) -> verification.Verified:
    """What passes the filters and holds the right answer."""
    section = run.recipe.trace
    bought, failed = run.folder.read("traces", Trace), run.folder.read("failed", FailedCall)
    good, flawed = quality_filters.sift(bought, section.filters, quality_filters.TRACE_FILTERS)
    checked = verification.verify(good, failed, keep=section.keep, truncated=section.truncated)
    return checked._replace(dropped=[*flawed, *checked.dropped])


def questions_of(samples: Sequence[Sample]) -> int:
    """How many questions they are of."""
    return len({s.question_id for s in samples})


def tell_counterfactual(run: Run, *, kept: int) -> None:
    """Say what the other order would have cost; `kept` questions have a good trace."""
    told = counterfactual_cost.compare(
        run.recipe.order,
        bought=len({t.question_id for t in run.folder.stream("traces", Trace)}),
        spent_usd=sum(row.cost_usd for row in run.ledger.rows() if row.stage == "trace"),
        kept=kept,
        wanted=run.recipe.select.samples,
        worth_a_trace=len(worth_a_trace(run)),
    )
    run.folder.write("counterfactual", [told])
    run.screen.say(told.sentence)


def _taught(t: Trace) -> selection.Taught:
    """What selection looks at; where the teacher counts no tokens, words stand for them."""
    thinking_tokens = t.usage.reasoning_tokens or len(t.thinking.split())
    return selection.Taught(thinking_tokens, t.grade is not None and t.grade.verdict == "correct")
