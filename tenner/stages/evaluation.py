"""Who answers the benchmark: students in an engine and models behind APIs, graded and scored alike."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tenner.clients import registry, replies
from tenner.clients.api_keys import key_in_environment
from tenner.clients.billing import Bought
from tenner.clients.protocol import Call
from tenner.clients.registry import CallContext
from tenner.core import hardware
from tenner.core.errors import TennerError
from tenner.core.progress import Screen
from tenner.core.provenance import provenance
from tenner.core.recipe import Measurement
from tenner.core.records import Completion, FailedCall, Policy, Question, Sampling, Setting, TraceOutcome
from tenner.core.run import AnyRun
from tenner.core.sections import ApiModel, Endpoint
from tenner.core.seeds import derived
from tenner.data import sources
from tenner.evaluation import benchmarks
from tenner.evaluation.evaluate import Asked, complete, grade, remember
from tenner.evaluation.grading.grader import Grader
from tenner.evaluation.statistics import scores
from tenner.inference import engines
from tenner.inference.engine import LocalEngine
from tenner.inference.job import GREEDY

if TYPE_CHECKING:
    from tenner.inference.api import ApiEngine

TASK = "heldout"
AS_IT_IS = "chat"
"""The prompt form of a model behind an API: the question is all of its first turn."""
NO_KEY = "none"
"""Sent to a server that needs no key: the client requires one."""
UNREADABLE: tuple[TraceOutcome, ...] = ("unreadable", "wrong_content_type")


def check(described: Measurement) -> None:
    """Refuse, before anything is spent, an evaluation that cannot be. Raises TennerError."""
    wanted = described.evaluate
    sources.check([benchmarks.resolve(benchmark) for benchmark in wanted.benchmarks])
    if described.student is None:
        return
    engines.check(wanted.engine, wanted.vllm)
    if wanted.api is not None:
        key_in_environment(wanted.api.api_key_env)
        if described.machine.device != "auto":
            raise TennerError(
                "machine.device has no effect with engine api: the server computes", hint="leave the device out"
            )
    if described.machine.device != "auto":
        hardware.device_kind(described.machine.device)
    if wanted.samples > 1 and wanted.sampling.temperature == 0:
        raise TennerError(
            f"evaluate.samples is {wanted.samples} at temperature 0: all answers to a question would be the same",
            hint="set evaluate.sampling.temperature, or leave samples at 1",
        )


def check_connections(described: Measurement, screen: Screen) -> None:
    """Find out, before anything is paid, whether engine and APIs can be asked. Raises TennerError if not."""
    if described.student is not None:
        engines.check(described.evaluate.engine, described.evaluate.vllm)
    for model in described.evaluate.models:
        registry.check(model, screen)


def samplings(described: Measurement) -> list[Sampling]:
    """How each of a student's answers to a question is drawn."""
    draws = described.evaluate.sampling
    if draws.temperature == 0:
        return [GREEDY]
    seeds = [derived(described.seed, "answer", k) for k in range(described.evaluate.samples)]
    return [Sampling(temperature=draws.temperature, top_p=draws.top_p, seed=seed) for seed in seeds]


def load_engine(run: AnyRun, stage: str, folder: Path) -> LocalEngine:
    """The engine of an evaluation with the student in `folder`, as the stage computes."""
    wanted, chosen = run.recipe.evaluate, run.hardware(stage, run.recipe.evaluate.precision)
    assert chosen.precision != "pure-bf16", "it is for training"
    assert wanted.engine != "api", "see api_engine"
    return engines.load(
        wanted.engine, folder, rows=wanted.rows, wait_text=wanted.wait_text, precision=chosen.precision,
        device=run.recipe.machine.device, options=wanted.vllm,
    )  # fmt: skip


def api_engine(run: AnyRun, endpoint: Endpoint, folder: Path) -> "ApiEngine":
    """The engine of a student behind a URL; `folder` holds its tokenizer. Raises TennerError if the key is missing."""
    from transformers import AutoTokenizer

    from tenner.inference.api import ApiEngine

    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    wanted = run.recipe.evaluate
    return ApiEngine(
        endpoint.base_url, endpoint.model, tokenizer, context_tokens=endpoint.context_tokens, speaks=endpoint.speaks,
        api_key=key_in_environment(endpoint.api_key_env) or NO_KEY, requests=wanted.rows, wait_text=wanted.wait_text,
    )  # fmt: skip


def answer(run: AnyRun, students: Sequence[Asked]) -> tuple[int, int]:
    """Have everybody answer the benchmark, and score it; give how many questions there are and how many answers."""
    wanted, benchmark = run.recipe.evaluate, run.folder.read("benchmark", Question)
    budgets = wanted.thinking_tokens_max
    policies = [Policy(thinking_tokens_max=budget) for budget in budgets]
    policies += [Policy(thinking_tokens_max=budgets[-1], waits=waits) for waits in wanted.waits]
    for student in students:
        complete(
            run, benchmark, student, policies, stage="evaluate", task=TASK,
            answer_tokens_max=wanted.answer_tokens_max, samplings=samplings(run.recipe),
        )  # fmt: skip
    for model in wanted.models:
        _ask(run, model, benchmark)
    domain_of = {q.id: q.domain for q in benchmark}
    completions = run.folder.read(TASK, Completion)
    run.folder.write("scores", scores.score(completions, domain_of, samples=wanted.samples))
    return len(benchmark), len(completions)


def _ask(run: AnyRun, model: ApiModel, benchmark: Sequence[Question]) -> None:
    """Append a graded completion of every question that the model has not answered yet.

    Raises:
        BudgetReached, Incomplete, TennerError: see `answers.buy_replies`. What was bought until then is kept.
    """
    completions = run.folder.read(TASK, Completion)
    have = {(c.question_id, c.sample_index) for c in completions if c.student == model.name}
    asked = {q.id: q for q in benchmark}
    wanted = [(q, k) for k in range(run.recipe.evaluate.samples) for q in benchmark if (q.id, k) not in have]
    if not wanted:
        return
    calls = [Call(q.model_copy(update={"question": q.question + q.suffix}), k) for q, k in wanted]
    remember(run, _setting(run, model, len(benchmark)))
    bought: list[Bought] = []
    refused: list[FailedCall] = []
    context = CallContext(run.ledger, run.screen, stage="evaluate")
    try:
        refused = replies.buy_replies(model, calls, bought.append, context)
    finally:
        with Grader() as grader:
            read = [b for b in bought if b.reply.outcome not in UNREADABLE]
            run.folder.append(TASK, [_completion(grader, model, asked[b.call.question.id], b) for b in read])
    if lost := [f"{f.question_id}: {f.kind}" for f in refused] + [
        f"{b.call.question.id}: {b.reply.outcome}" for b in bought if b.reply.outcome in UNREADABLE
    ]:
        run.screen.say(f"{model.name}: {len(lost):,} answers are missing, {lost[0]}" + (", …" if lost[1:] else ""))
    if unmetered := sum(not b.metered for b in bought):
        run.screen.say(f"{model.name}: {unmetered:,} answers came without a count of tokens: at their worst case")


def _completion(grader: Grader, model: ApiModel, question: Question, bought: Bought) -> Completion:
    reply, usage = bought.reply, bought.reply.usage
    output_tokens = usage.output_tokens or 0
    thinking_tokens = usage.reasoning_tokens
    if thinking_tokens is None and not reply.thinking:
        thinking_tokens = 0
    return Completion(
        question_id=question.id,
        task=TASK,
        student=model.name,
        prompt=AS_IT_IS,
        policy=Policy(),
        sample_index=bought.call.sample_index,
        thinking=reply.thinking,
        answer=reply.answer,
        token_ids=(),
        thinking_tokens=thinking_tokens,
        answer_tokens=output_tokens - (thinking_tokens or 0),
        truncated=reply.outcome == "truncated",
        cost_usd=bought.cost_usd,
        interventions=(),
        grade=grade(grader, reply.answer, question, cue=None),
    )


def _setting(run: AnyRun, model: ApiModel, questions: int) -> Setting:
    return Setting(
        task=TASK,
        student=model.name,
        prompt=AS_IT_IS,
        model=f"{model.preset or model.base_url or model.client}/{model.model}",
        engine=model.client,
        precision=None,
        device=None,
        versions=provenance(),
        parameters=model.parameters,
        seeds=(),
        template_sha256=None,
        system_prompt=model.system_prompt,
        suffix=model.suffix,
        policies=(Policy(),),
        wait_text=None,
        answer_tokens_max=model.output_tokens_max,
        rows=None,
        questions=questions,
        samples=run.recipe.evaluate.samples,
    )
