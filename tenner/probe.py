"""`tenner plan --probe N`: N real questions asked of the teacher and the student, and the plan that follows from them.

The questions are drawn from the run's own, after cleaning: from its domains in turn, as its attempts are, or, where all
of its pool is traced, from the pool as it is. A service that trains makes two steps on what is learned of them. What it
costs is booked as `probe` in the run's ledger, under its cap. The run goes on in the same folder, and its trace stage
does not pay again for a response that it has.
"""

import asyncio
import math
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

from tenner import pipeline
from tenner.budget import assumptions as assumed
from tenner.budget.estimate import Estimate
from tenner.clients import registry, tinker
from tenner.clients.billing import PaidReply
from tenner.clients.protocol import Call
from tenner.clients.registry import CallContext
from tenner.core import hardware
from tenner.core.errors import TennerError
from tenner.core.formats import FORMATS
from tenner.core.progress import Screen
from tenner.core.recipe import Recipe
from tenner.core.records import Completion, FailedCall, Policy, Question, Sample
from tenner.core.run import Run, open_run, render
from tenner.data import samplers
from tenner.evaluation.evaluate import EvaluatedStudent, complete
from tenner.evaluation.grading.grader import grade_trace
from tenner.evaluation.statistics.intervals import wilson
from tenner.inference.engine import LocalEngine
from tenner.inference.speed_probe import decoding_speed
from tenner.stages import managed_training, plan_page, resolve_student, run_plan, time_estimate
from tenner.stages.plan_page import RunPlan
from tenner.stages.run_plan import Measured, Tokens
from tenner.training.loss_mask import Encoded

STAGE = "probe"
PAYING = ("openai", "gemini")
"""The clients whose teacher is paid, and asked; the others' traces are known."""


def probe(recipe: Recipe, path: Path, *, questions: int, budget_usd: float | None = None) -> RunPlan:
    """Ask so many questions, and write and return the plan that follows; `budget_usd` takes the place of the cap.

    Raises:
        TennerError: too few questions, a run that has attempted already, or a teacher that cannot be asked.
        BudgetReached: the probe itself would cross the cap.
    """
    pipeline.check(recipe)
    recipe = resolve_student.with_format(recipe)
    screen = Screen()
    with open_run(path, recipe, screen, budget_usd=budget_usd) as run:
        if run.folder.done("attempt"):
            raise TennerError(f"the run in {path} has attempted already", hint="a probe comes before that")
        if recipe.trace.client in PAYING:
            registry.check(recipe.trace, screen)
        if recipe.train.tinker is not None:
            tinker.check(recipe.train.tinker)
        if recipe.trace.candidates is not None:
            screen.say("of the teachers that of trace alone is asked now; the run asks its candidates, too")
        pipeline.run_stages(run, ["gather", "clean"])
        pool = [q for q in run.folder.read("clean", Question) if q.answer is not None]
        if recipe.order == "select-first":
            asked = samplers.stratified(pool, questions, recipe.seed)
        else:
            asked = samplers.random_order(pool, recipe.seed)[:questions]
        if len(asked) < questions:
            raise TennerError(
                f"only {len(asked)} questions with an answer are there to be asked", hint="give a lower --probe"
            )
        measured = _measure(run, asked)
        made = plan_page.make(run.recipe, measured=measured)
        run.folder.write("plan", made.stages)
        return made


def _measure(run: Run, asked: Sequence[Question]) -> Measured:
    """What the teacher and the student do with these questions."""
    recipe = run.recipe
    replies = _ask_teacher(run, asked) if recipe.trace.client in PAYING else []
    complete_ones = [r for r in replies if r.reply.outcome == "complete"]
    if replies and not complete_ones:
        raise TennerError("the teacher gave no complete trace", hint="raise trace.output_tokens_max, or ask more")
    kept = [r for r in complete_ones if recipe.trace.keep == "first" or _is_right(r)]
    samples = [_sample(r) for r in kept or complete_ones] or time_estimate.examples_learned(run, asked)
    with run.machine_time(STAGE):
        began = time.perf_counter()
        engine = pipeline.engine_for(run, "base", "attempt")
        loading_seconds = time.perf_counter() - began
    completions = _ask_student(run, asked, engine)
    encoded = time_estimate.as_trained(run, pipeline.base_student(run), samples)
    tokens = [len(e.ids) for e in encoded]
    measured = Measured(
        questions=len(asked),
        lengths=_learned(engine, samples, tokens, recipe) if samples else run_plan.token_lengths(recipe),
        longest_tokens=_longest(tokens, recipe.select.samples) if tokens else recipe.train.tokens_max,
        base_thinking=_mean([c.thinking_tokens or 0 for c in completions]),
        base_answer=_mean([c.answer_tokens or 0 for c in completions]),
        teacher_input=_mean([r.reply.usage.input_tokens or 0 for r in replies]) if replies else None,
        teacher_output=_mean([r.reply.usage.output_tokens or 0 for r in replies]) if replies else None,
        kept_share=_kept_share(len(kept), len(replies)) if replies else None,
    )  # fmt: skip
    trained_by_service = recipe.train.tinker is not None and encoded
    if trained_by_service and (tried := managed_training.tried_speed(run, encoded, STAGE)):
        measured = measured._replace(
            service_token_seconds=tried.token_seconds, service_start_seconds=tried.loading_seconds
        )
    if _is_this_machine(recipe):
        measured = _with_speeds(run, measured._replace(loading_seconds=loading_seconds), engine, asked, encoded)
    return measured


def _ask_student(run: Run, asked: Sequence[Question], engine: LocalEngine) -> list[Completion]:
    """The untrained student's completions the shortest way to the length of thinking and answer: under one policy, that
    of the largest budget.
    """
    recipe = run.recipe
    policy = Policy(thinking_tokens_max=recipe.evaluate.thinking_tokens_max[-1])
    student = EvaluatedStudent("base", recipe.student.model, recipe.attempt.prompts[0], lambda: engine)
    complete(
        run, {STAGE: asked}, student, [policy], stage=STAGE, file=STAGE,
        answer_tokens_max=recipe.evaluate.answer_tokens_max,
    )  # fmt: skip
    return run.folder.read(STAGE, Completion)


def _with_speeds(
    run: Run, measured: Measured, engine: LocalEngine, asked: Sequence[Question], encoded: Sequence[Encoded]
) -> Measured:
    """With how fast this machine decodes and trains, and how long trying that takes, which the run does again: the
    training only where what it learns is known beforehand.
    """
    recipe = run.recipe
    with run.machine_time(STAGE):
        began = time.perf_counter()
        text = render(engine.tokenizer, asked[0], recipe.attempt.prompts[0], recipe).text
        decoding = decoding_speed(engine, text, rows=recipe.evaluate.rows)
        decoded = time.perf_counter()
        speed = time_estimate.training_speed(run, pipeline.base_student(run), encoded)
        ended = time.perf_counter()
    again = ended if time_estimate.examples_learned(run, asked) else decoded
    return measured._replace(
        decoding=decoding, trial_seconds=again - began,
        train_token_seconds=speed and speed.token_seconds, train_loading_seconds=speed and speed.loading_seconds,
    )  # fmt: skip


def _ask_teacher(run: Run, asked: Sequence[Question]) -> list[PaidReply]:
    """The replies to one call for each question; single calls, as a batch may take a day."""
    section = run.recipe.trace.model_copy(update={"batch": False})
    replies: list[PaidReply] = []

    def on_result(result: PaidReply | FailedCall) -> None:
        if isinstance(result, PaidReply):
            replies.append(result)
        else:
            run.screen.say(f"the call for {result.question_id} failed: {result.kind}")

    async def ask() -> None:
        client = registry.client_for(section)
        try:
            calls = registry.calls_for(section, client, CallContext(run.ledger, run.screen, STAGE))
            await calls.run((Call(q, 0) for q in asked), on_result, total=len(asked))
        finally:
            await client.close()

    asyncio.run(ask())
    if not replies:
        raise TennerError("the teacher answered none of the questions", hint="see the lines above")
    return replies


def _sample(paid: PaidReply) -> Sample:
    q = paid.call.question
    return Sample(
        id=q.id, question_id=q.id, question=q.question, thinking=paid.reply.thinking, answer=paid.reply.answer,
        domain=q.domain,
    )  # fmt: skip


def _is_right(paid: PaidReply) -> bool:
    return grade_trace(paid.reply.answer, paid.call.question).verdict == "correct"


def _learned(engine: LocalEngine, samples: Sequence[Sample], whole: Sequence[int], recipe: Recipe) -> Tokens:
    """Lengths of what is learned, in the student's tokens, by whole samples and their parts."""

    def tokens(texts: Sequence[str]) -> Estimate:
        return _mean([len(engine.tokenizer.encode(text, add_special_tokens=False)) for text in texts])

    cue = FORMATS[recipe.student.form.format].cue
    thinking, answer = tokens([s.thinking for s in samples]), tokens([f"{cue} {s.answer}" for s in samples])
    prompt = statistics.fmean(whole) - thinking.expected - answer.expected - assumed.TEMPLATE_TOKENS
    return Tokens(Estimate.exactly(max(1.0, prompt)), thinking, answer)


def _longest(tokens: Sequence[int], count: int) -> int:
    """The longest of `count` samples, were their lengths normally distributed as these are; no less than of these."""
    mean = statistics.fmean(tokens)
    spread = statistics.stdev(tokens) if len(tokens) > 1 else mean / 4
    return round(max(*tokens, mean + spread * math.sqrt(2 * math.log(count))))


def _kept_share(kept: int, replies: int) -> Estimate:
    """Of the traces, at least half a one, with its 95 % interval; the low bill first."""
    some = max(kept, 0.5)
    low, high = wilson(some, replies)
    return Estimate(high, some / replies, low)


def _is_this_machine(recipe: Recipe) -> bool:
    """Whether the speeds of this machine are those of the run: it names no card, or this one's."""
    if recipe.machine.card is None:
        return True
    kind = hardware.device_kind()
    own = plan_page.machine_of(recipe.model_copy(update={"machine": recipe.machine.model_copy(update={"card": None})}))
    named = plan_page.machine_of(recipe)
    return kind == "cuda" and own.card == named.card and named.cards == 1


def _mean(numbers: Sequence[float]) -> Estimate:
    """The mean, and two standard errors to both sides of it."""
    mean = statistics.fmean(numbers)
    error = statistics.stdev(numbers) / len(numbers) ** 0.5 if len(numbers) > 1 else mean / 4
    return Estimate(max(0.0, mean - 2 * error), mean, mean + 2 * error)
