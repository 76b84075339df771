"""The evaluate stage: students in an engine and models behind APIs answer the benchmarks, and are scored alike."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tenner.clients import failed_calls, http, registry, replies
from tenner.clients.api_keys import key_in_environment
from tenner.clients.billing import PaidReply
from tenner.clients.protocol import Call
from tenner.clients.registry import CallContext
from tenner.core import hardware, model_folder
from tenner.core.chat_template import set_template
from tenner.core.errors import TennerError
from tenner.core.formats import FORMATS, Tokenizer
from tenner.core.progress import Screen
from tenner.core.provenance import provenance
from tenner.core.recipe import Experiment
from tenner.core.records import Completion, FailedCall, Policy, Question, Sampling, Setting, TraceOutcome
from tenner.core.run import AnyRun, chat_template_of, template_to_ask_with
from tenner.core.sections import ApiModel, Endpoint
from tenner.core.seeds import derived
from tenner.data import sources
from tenner.evaluation import benchmarks
from tenner.evaluation.evaluate import EvaluatedStudent, complete, grade, remember
from tenner.evaluation.grading.grader import Grader
from tenner.evaluation.statistics import scores
from tenner.inference import engine_registry
from tenner.inference.engine import LocalEngine
from tenner.inference.job import GREEDY
from tenner.stages import referee

if TYPE_CHECKING:
    from tenner.inference.api import ApiEngine

COMPLETIONS = "completions"
"""The file of all completions of the evaluation; each names its benchmark in `task`."""
AS_IT_IS = "chat"
"""The prompt form of a model behind an API: the first turn is the question alone."""
NO_KEY = "none"
"""Sent to a server that needs no key: the client requires one."""
UNREADABLE: tuple[TraceOutcome, ...] = ("unreadable", "wrong_content_type", "interrupted")
"""Replies that say nothing of the model: their answers are missing, and not wrong."""


def check(described: Experiment) -> None:
    """Refuse an evaluation that cannot run, before anything is spent. Raises TennerError."""
    wanted = described.evaluate
    resolved = [benchmarks.resolve(benchmark) for benchmark in wanted.benchmarks]
    benchmarks.check_names([benchmark.name for benchmark in resolved], has_generated=wanted.questions > 0)
    sources.check(resolved)
    if described.student is None:
        return
    engine_registry.check(wanted.engine, wanted.vllm)
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


def check_connections(described: Experiment, screen: Screen) -> None:
    """Check that the engine and the APIs are available, before anything is paid. Raises TennerError if not."""
    if described.student is not None:
        engine_registry.check(described.evaluate.engine, described.evaluate.vllm)
    wanted = described.evaluate
    for model in [*wanted.models, *([] if wanted.referee is None else [wanted.referee])]:
        registry.check(model, screen)


def check_template(run: AnyRun, folder: Path, formats: Sequence[str]) -> None:
    """Raise TennerError where the student cannot be asked as described; `folder` holds its tokenizer."""
    from tenner.training.student import load_tokenizer

    section = run.recipe.student
    assert section is not None, "nobody else has a chat template"
    template = chat_template_of(load_tokenizer(folder, section.chat_template), run.recipe)
    template.check(*(FORMATS[name] for name in formats))


def samplings(described: Experiment) -> list[Sampling]:
    """The sampling of each of a student's answers to a question."""
    draws = described.evaluate.sampling
    if draws.temperature == 0:
        return [GREEDY]
    seeds = [derived(described.seed, "answer", k) for k in range(described.evaluate.samples)]
    return [Sampling(temperature=draws.temperature, top_p=draws.top_p, seed=seed) for seed in seeds]


def load_engine(run: AnyRun, stage: str, folder: Path, *, own_template: bool = False) -> LocalEngine:
    """The evaluation's engine with the student in `folder`, on the hardware of the stage.

    `own_template`: it is another model than the one that `student.chat_template` is for.
    """
    wanted, chosen = run.recipe.evaluate, run.hardware(stage, run.recipe.evaluate.precision)
    assert chosen.precision != "pure-bf16", "it is for training"
    assert wanted.engine != "api", "see api_engine"
    engine = engine_registry.load(
        wanted.engine, folder, rows=wanted.rows, wait_text=wanted.wait_text, precision=chosen.precision,
        device=run.recipe.machine.device, options=wanted.vllm,
    )  # fmt: skip
    _set_template(run, engine.tokenizer, own_template=own_template)
    return engine


def api_engine(run: AnyRun, endpoint: Endpoint, folder: Path) -> "ApiEngine":
    """The engine of a student behind a URL; `folder` holds its tokenizer. Raises TennerError if the key is missing."""
    from transformers import AutoTokenizer

    from tenner.inference.api import ApiEngine

    http.check_proxies()
    with model_folder.loading(folder, "holds no usable tokenizer"):
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    _set_template(run, tokenizer, own_template=False)
    wanted = run.recipe.evaluate
    urls = [endpoint.base_url, *endpoint.further_base_urls]
    return ApiEngine(
        urls, endpoint.model, tokenizer, context_tokens=endpoint.context_tokens, speaks=endpoint.speaks,
        api_key=key_in_environment(endpoint.api_key_env) or NO_KEY, requests=wanted.rows, wait_text=wanted.wait_text,
        model_dir=folder, say=run.screen.say,
    )  # fmt: skip


def _set_template(run: AnyRun, tokenizer: Tokenizer, *, own_template: bool) -> None:
    """Give the tokenizer the student's chat template, and say what is special about how it is asked."""
    section = run.recipe.student
    assert section is not None, "nobody else has a tokenizer"
    set_template(tokenizer, None if own_template else template_to_ask_with(run.folder, section))
    for note in chat_template_of(tokenizer, run.recipe).notes:
        run.screen.say(note)


def answer(run: AnyRun, students: Sequence[EvaluatedStudent]) -> tuple[int, int]:
    """Let all students and models answer all benchmarks, and score each benchmark by itself.

    Returns the number of questions and of answers.
    """
    wanted, questions = run.recipe.evaluate, run.folder.read("benchmark", Question)
    tasks = benchmarks.by_benchmark(questions)
    for student in students:
        complete(
            run, tasks, student, wanted.policies, stage="evaluate", file=COMPLETIONS,
            answer_tokens_max=wanted.answer_tokens_max, samplings=samplings(run.recipe),
        )  # fmt: skip
    failures = [failure for model in wanted.models for failure in _answer_by_api(run, model, tasks)]
    if wanted.referee is not None:
        failures += referee.settle(run, wanted.referee, COMPLETIONS, {q.id: q for q in questions})
    if wanted.models or wanted.referee is not None:
        failed_calls.record(run.folder, "evaluate", failures)
    completions = run.folder.read(COMPLETIONS, Completion)
    run.folder.write("scores", scores.score_benchmarks(completions, tasks, samples=wanted.samples))
    return len(questions), len(completions)


def _answer_by_api(run: AnyRun, model: ApiModel, tasks: Mapping[str, Sequence[Question]]) -> list[FailedCall]:
    """Append a graded completion of every question that the model has not answered yet; return what failed for good.

    Raises:
        BudgetReached, Incomplete, TennerError: see `replies.buy_replies`. What was bought until then is kept.
    """
    completions = run.folder.read(COMPLETIONS, Completion)
    have = {(c.question_id, c.sample_index) for c in completions if c.student == model.name}
    by_id = {q.id: q for questions in tasks.values() for q in questions}
    samples = range(run.recipe.evaluate.samples)
    wanted = [(q, k) for questions in tasks.values() for k in samples for q in questions if (q.id, k) not in have]
    if not wanted:
        return []
    calls = [Call(q.model_copy(update={"question": q.question + q.suffix}), k) for q, k in wanted]
    for task in dict.fromkeys(benchmarks.benchmark_of(q) for q, _ in wanted):
        remember(run, _setting(run, model, task, len(tasks[task])))
    bought: list[PaidReply] = []
    refused: list[FailedCall] = []
    context = CallContext(run.ledger, run.screen, stage="evaluate")
    try:
        refused = replies.buy_replies(model, calls, bought.append, context)
    finally:
        with Grader() as grader:
            read = [b for b in bought if b.reply.outcome not in UNREADABLE]
            run.folder.append(COMPLETIONS, [_completion(grader, model, by_id[b.call.question.id], b) for b in read])
    lost = refused + [_unreadable(b) for b in bought if b.reply.outcome in UNREADABLE]
    if lost:
        first = f"{lost[0].question_id}: {lost[0].kind}"
        run.screen.say(f"{model.name}: {len(lost):,} answers are missing, {first}" + (", …" if lost[1:] else ""))
    if odd := Counter(b.reply.evidence for b in bought if b.reply.outcome == "unknown_finish"):
        words = ", ".join(f"{evidence} {count}" for evidence, count in odd.most_common())
        run.screen.say(f"{model.name}: {odd.total():,} answers ended in a way that is not known: {words}")
    if unmetered := sum(not b.metered for b in bought):
        run.screen.say(f"{model.name}: {unmetered:,} answers came without a count of tokens: at their worst case")
    return lost


def _unreadable(bought: PaidReply) -> FailedCall:
    call, outcome = bought.call, bought.reply.outcome
    evidence = "the response is stored in run.db, and is not bought again"
    return FailedCall(
        question_id=call.question.id, sample_index=call.sample_index, kind=outcome, attempts=1, evidence=evidence
    )  # fmt: skip


def _completion(grader: Grader, model: ApiModel, question: Question, bought: PaidReply) -> Completion:
    reply, usage = bought.reply, bought.reply.usage
    output_tokens = usage.output_tokens or 0
    thinking_tokens = usage.reasoning_tokens
    if thinking_tokens is None and not reply.thinking:
        thinking_tokens = 0
    return Completion(
        question_id=question.id,
        task=benchmarks.benchmark_of(question),
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


def _setting(run: AnyRun, model: ApiModel, task: str, questions: int) -> Setting:
    return Setting(
        task=task,
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
