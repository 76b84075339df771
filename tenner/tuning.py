"""The tuning of a run's student: thinking policies are tried on held-out questions, and one becomes its own."""

from collections.abc import Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

from tenner import pipeline
from tenner.core import default_policy, policy_text
from tenner.core.default_policy import DefaultPolicy
from tenner.core.errors import TennerError
from tenner.core.progress import Screen
from tenner.core.recipe import Recipe
from tenner.core.records import Completion, EarlyExit, Grace, Policy, Question, Sample
from tenner.core.run import Run, open_run
from tenner.core.run_folder import MODEL_CARD
from tenner.core.sections import Device, Evaluate
from tenner.data import tuning_questions
from tenner.evaluation.evaluate import EvaluatedStudent, complete
from tenner.evaluation.report.facts import TUNING, TUNING_QUESTIONS
from tenner.evaluation.statistics import policy_choice
from tenner.evaluation.statistics.policy_choice import Candidate
from tenner.inference import engine_registry
from tenner.inference.engine import LocalEngine
from tenner.stages import evaluation

STAGE = "tune"


class TuneOptions(NamedTuple):
    """What is tried, and how much may be lost; None: the usual sweep for the student's largest budget."""

    questions: int = 600
    """Held-out questions that every policy answers."""
    margin_points: float = 2.0
    """How many percentage points of accuracy may be lost at most, with confidence."""
    thinking_tokens_max: Sequence[int] | None = None
    """Smaller budgets."""
    early_exit: Sequence[Mapping[str, Any]] | None = None
    """The fields of `records.EarlyExit`, for each rule at the largest budget."""
    grace: Sequence[Mapping[str, Any]] | None = None
    """Those of `records.Grace`."""
    budget_usd: float | None = None
    device: Device | None = None


class Tuned(NamedTuple):
    """What came out."""

    chosen: DefaultPolicy
    candidates: Sequence[Candidate]
    """In the order of a sweep, the full budget among them."""
    file: Path
    """Where the student's policy is written."""


def tune(path: Path, options: TuneOptions) -> Tuned:
    """Let the student in a run's folder answer held-out questions under every policy, and write the one it is to use.

    What was answered before, by a call that was killed too, is not asked again. The time is charged to the run.

    Raises:
        TennerError: there is no student, too few questions, or a policy that is none.
        BudgetReached: the cap would be crossed; what was answered is kept.
    """
    given: Recipe | None = None  # the one in the folder
    with open_run(path, given, Screen(), budget_usd=options.budget_usd, device=options.device) as run:
        if not run.folder.done("train"):
            raise TennerError(f"{path} has no distilled student yet", hint=f"tenner train {path}")
        full, policies = full_budget(run.recipe.evaluate), policies_to_try(run.recipe.evaluate, options)
        margin = margin_of(options)
        engine_registry.check(run.recipe.evaluate.engine, run.recipe.evaluate.vllm)
        with run.folder.stage(STAGE) as clock:
            questions = _questions(run, options.questions)
            tried = _answer(run, questions, [full, *policies], are_named=_named(options))
            found = _candidates(run, questions, tried, margin)
            clock.items_in, clock.items_out = len(questions), len(found)
        chosen = _default_policy(policy_choice.choose(found, full), found, full, margin)
        default_policy.write(path / "student", chosen)
        _write_report_again(run)
    return Tuned(chosen, found, path / "student" / default_policy.FILE)


def full_budget(evaluate: Evaluate) -> Policy:
    """The largest budget alone, as the student is served without a policy of its own."""
    return Policy(thinking_tokens_max=evaluate.thinking_tokens_max[-1])


def usual_policies(evaluate: Evaluate) -> list[Policy]:
    """Smaller budgets, the recipe's among them; early exit by agreement and by probability; and grace."""
    full = full_budget(evaluate)
    most = full.thinking_tokens_max or 0
    trial = min(evaluate.answer_tokens_max, EarlyExit.model_fields["trial_tokens"].default)
    every = sorted({max(1, most // 16), max(1, most // 8)})
    exits = [
        *(EarlyExit(every_tokens=n, agree=2, trial_tokens=trial) for n in every),
        *(EarlyExit(at="sentence", agree=1, probability=p, trial_tokens=trial) for p in (0.9, 0.95, 0.99)),
        EarlyExit(at="sentence", agree=2, trial_tokens=trial),
        EarlyExit(at="wait", agree=1, probability=0.9, trial_tokens=trial),
    ]
    budgets = {most * part // 8 for part in range(2, 8)} | set(evaluate.thinking_tokens_max)
    found = [Policy(thinking_tokens_max=n) for n in sorted(budgets) if 0 < n < most]
    found += [full.model_copy(update={"early_exit": rule}) for rule in exits]
    return found + [full.model_copy(update={"grace": Grace(tokens=most // 2, candidates=2)})] * (most > 1)


def policies_to_try(evaluate: Evaluate, options: TuneOptions) -> list[Policy]:
    """What is tried beside the full budget. Raises TennerError for what is no policy, or has no effect."""
    full = full_budget(evaluate)
    most = full.thinking_tokens_max or 0
    if most == 0:
        raise TennerError("the run's student was evaluated without thinking: there is nothing to tune")
    if not _named(options):
        return usual_policies(evaluate)
    for n in options.thinking_tokens_max or ():
        if not 0 <= n < most:
            raise TennerError(f"--thinking {n} is not below the full budget of {most}", hint="name smaller budgets")
    found = [Policy(thinking_tokens_max=n) for n in options.thinking_tokens_max or ()]
    for given in options.early_exit or ():
        found.append(full.model_copy(update={"early_exit": policy_text.rule("--early-exit", EarlyExit, given)}))
    for given in options.grace or ():
        grace = policy_text.rule("--grace", Grace, given)
        if grace.tokens >= most:
            raise TennerError(f"--grace: {grace.tokens} tokens are not fewer than the full budget of {most}")
        found.append(full.model_copy(update={"grace": grace}))
    return list(dict.fromkeys(found))


def _named(options: TuneOptions) -> bool:
    """Whether the policies are named, and not the usual ones."""
    return any(given is not None for given in (options.thinking_tokens_max, options.early_exit, options.grace))


def margin_of(options: TuneOptions) -> float:
    """The margin as a share of 1. Raises TennerError where no policy could be shown to be within it."""
    if not 0 < options.margin_points <= 100:
        raise TennerError(f"--margin {options.margin_points:g} is no loss in points", hint="give a number above 0")
    margin = options.margin_points / 100
    needed = policy_choice.questions_needed(margin)
    if options.questions < needed:
        raise TennerError(
            f"{options.questions:,} questions cannot show that no more than {options.margin_points:g} points are lost",
            hint=f"--questions {needed} or more, or a larger --margin",
        )
    return margin


def _questions(run: Run, count: int) -> list[Question]:
    """The held-out questions, written down."""
    folder = run.folder
    found = tuning_questions.draw(
        count, pool=folder.read("clean", Question), benchmark=folder.read("benchmark", Question), recipe=run.recipe,
        trained_on={s.question_id for s in folder.stream("samples", Sample)},
    )  # fmt: skip
    if folder.read(TUNING_QUESTIONS, Question) != found:
        folder.write(TUNING_QUESTIONS, found)
    return found


def _answer(run: Run, questions: Sequence[Question], policies: Sequence[Policy], *, are_named: bool) -> list[Policy]:
    """Have all questions answered under those policies that the engine can decode, and return these.

    Raises TennerError for one that it cannot decode and that was named.
    """
    load = cache(partial(pipeline.engine_for, run, "distilled", STAGE))
    form, samplings = run.recipe.student.form, evaluation.samplings(run.recipe)
    answered: dict[Policy, set[tuple[str, int]]] = {}
    for c in run.folder.stream(TUNING, Completion):
        answered.setdefault(c.policy, set()).add((c.question_id, c.sample_index))
    wanted = {(q.id, k) for q in questions for k in range(len(samplings))}
    missing = [policy for policy in policies if not wanted <= answered.get(policy, set())]
    if missing:
        with run.machine_time(STAGE):
            refused = _refused(load(), missing, are_named=are_named)
        for policy, reason in refused.items():
            run.screen.say(f"{STAGE}: without {policy_text.name(policy)}: {reason}")
        student = EvaluatedStudent("distilled", str(run.folder.path / "student"), form, load)
        complete(
            run, {TUNING: questions}, student, [policy for policy in missing if policy not in refused],
            stage=STAGE, file=TUNING, answer_tokens_max=run.recipe.evaluate.answer_tokens_max, samplings=samplings,
        )  # fmt: skip
        return [policy for policy in policies if policy not in refused]
    return list(policies)


def _refused(engine: LocalEngine, policies: Sequence[Policy], *, are_named: bool) -> dict[Policy, str]:
    found = {}
    for policy in policies:
        try:
            engine.refuse(policy)
        except TennerError as e:
            if are_named:
                raise
            found[policy] = str(e)
    return found


def _candidates(run: Run, questions: Sequence[Question], policies: Sequence[Policy], margin: float) -> list[Candidate]:
    ids, wanted = {q.id for q in questions}, set(policies)
    own = (c for c in run.folder.stream(TUNING, Completion) if c.question_id in ids and c.policy in wanted)
    return policy_choice.candidates(own, policies[0], margin)


def _default_policy(best: Candidate, found: Sequence[Candidate], full: Policy, margin: float) -> DefaultPolicy:
    reference = next(c for c in found if c.policy == full)
    return DefaultPolicy(
        policy=best.policy, full=full, margin=margin, n=best.n, tried=len(found),
        accuracy=best.accuracy, full_accuracy=reference.accuracy,
        difference=best.difference.mean, ci_low=best.difference.ci.low, ci_high=best.difference.ci.high,
        thinking_tokens_mean=best.tokens, full_thinking_tokens_mean=reference.tokens,
    )  # fmt: skip


def _write_report_again(run: Run) -> None:
    """Name the policy in the report and the model card of a run that has them; a card that was edited stays."""
    folder = run.folder
    if folder.done("report") is None:
        return
    card, marker = folder.path / "student" / MODEL_CARD, folder.path / "stages" / "report.json"
    edited = card.read_text("utf-8") if card.is_file() and card.stat().st_mtime > marker.stat().st_mtime else None
    with folder.stage("report") as clock:
        clock.items_in, clock.items_out = pipeline.write_report(run)
    if edited is not None:
        folder.write_text(f"student/{MODEL_CARD}", edited)
        run.screen.say(f"{card} was edited and stays as it is: it does not name the new policy")
