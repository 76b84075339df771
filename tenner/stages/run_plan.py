"""What a run will take, stage by stage, before anything starts: questions, tokens, seconds and dollars."""

import os
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

from tenner.budget import assumptions as assumed
from tenner.budget import prices
from tenner.budget.estimate import Estimate
from tenner.budget.prices import MICROUSD_PER_USD
from tenner.core.dollars import estimate_in_dollars, in_dollars
from tenner.core.errors import TennerError
from tenner.core.recipe import Recipe
from tenner.core.records import Policy, StagePlan, Usage
from tenner.core.sections import PaidModel, Table, TraceSection, TrainingService
from tenner.core.stage_names import CONTROL, TEACHERS
from tenner.data import puzzles, rows
from tenner.evaluation import benchmarks
from tenner.inference.speed_probe import DecodingSpeed
from tenner.stages.plan_speeds import Machine, Size
from tenner.stages.time_estimate import (
    PROBED_BYTES_MAX,
    Lengths,
    attempt_policies,
    sweep_context,
    sweep_seconds,
    sweep_tokens,
)
from tenner.training import held_out, memory_plan
from tenner.training import plan as memory

PUZZLES_READ = 200
"""So many generated puzzles are measured."""
COUNTED = (".jsonl", ".csv")
"""The files on this machine whose rows are counted."""
RUN_BYTES = 90_000_000
"""What the process of a whole run holds beside that of a training alone, as measured: other stages' libraries."""


class Tokens(NamedTuple):
    """Lengths of one question and of its trace."""

    prompt: Estimate
    thinking: Estimate
    answer: Estimate

    @property
    def sample(self) -> Estimate:
        """What is trained on."""
        return Estimate.total([self.prompt, self.thinking, self.answer, Estimate.exactly(assumed.TEMPLATE_TOKENS)])


class Measured(NamedTuple):
    """What a probe has found out; it takes the place of the assumptions."""

    questions: int
    """How many were asked."""
    lengths: Tokens
    """Of what is learned, in the student's tokens."""
    longest_tokens: int
    """Of the samples, the longest to be expected among as many as are trained on."""
    base_thinking: Estimate
    base_answer: Estimate
    """Of the untrained student, under the largest budget."""
    teacher_input: Estimate | None
    teacher_output: Estimate | None
    """Of one paid call, in the teacher's tokens; None: nobody is paid."""
    kept_share: Estimate | None
    """Of the traces, complete and, where the recipe wants that, right; the low bill first."""
    service_token_seconds: float | None = None
    """Of training one token, where a service trains."""
    service_start_seconds: float = 0.0
    """Of the service, before it trains at that speed."""
    decoding: DecodingSpeed | None = None
    """Like the speeds below it None where the recipe names another machine than the one that was tried."""
    loading_seconds: float | None = None
    """Of the student, to be asked."""
    train_token_seconds: float | None = None
    train_loading_seconds: float | None = None
    """Of the student, to be trained."""
    trial_seconds: float = 0.0
    """Of trying these speeds, which the run does again before its attempts."""


def stage_plans(recipe: Recipe, size: Size, machine: Machine, measured: Measured | None = None) -> list[StagePlan]:
    """The stages in their order. What is not known is None, and `what` says why."""
    lengths, pool = measured.lengths if measured else token_lengths(recipe), pool_size(recipe)
    machine = calibrated(machine, measured)
    base = (measured.base_thinking, measured.base_answer) if measured else None
    price = recipe.machine.price_usd_per_hour
    traced = _trace(recipe, pool, lengths, measured)
    trained = train_plan(recipe, size, machine, lengths, measured).model_copy(
        update={"memory_bytes": memory_bytes(recipe, size, machine, lengths, measured)}
    )
    by_stage = {
        "gather": StagePlan(stage="gather", what="not charged", questions=pool, usd=Estimate.exactly(0.0)),
        "clean": StagePlan(stage="clean", what="not charged", questions=pool, usd=Estimate.exactly(0.0)),
        "attempt": _with_trial(_attempt(recipe, size, machine, lengths.prompt, base), measured),
        "select": _select(recipe, pool),
        "trace": traced,
        "verify": StagePlan(stage="verify", what="not charged", usd=Estimate.exactly(0.0)),
        "train": trained,
        CONTROL: _control(recipe, pool, traced, trained),
        "evaluate": _evaluate(recipe, size, machine, lengths, base),
        "report": StagePlan(stage="report", what="not charged", usd=Estimate.exactly(0.0)),
    }
    stages = [_with_machine_usd(by_stage[stage], price) for stage in recipe.stages]
    if recipe.trace.candidates is not None:
        stages.insert(recipe.stages.index("trace"), _teachers(recipe.trace, lengths.prompt, measured))
    return stages


def calibrated(machine: Machine, measured: Measured | None) -> Machine:
    """The machine with the speeds that were measured on it."""
    if measured is None:
        return machine
    return machine._replace(
        measured_decoding=measured.decoding, measured_token_seconds=measured.train_token_seconds,
        measured_loading_seconds=measured.loading_seconds, measured_start_seconds=measured.train_loading_seconds,
    )  # fmt: skip


def total_usd(stages: Sequence[StagePlan]) -> Estimate:
    """The sum of what is known."""
    return Estimate.total([stage.usd for stage in stages if stage.usd is not None])


def total_seconds(stages: Sequence[StagePlan]) -> Estimate:
    """The sum of what is known."""
    return Estimate.total([stage.seconds for stage in stages if stage.seconds is not None])


def pool_size(recipe: Recipe) -> int | None:
    """Questions before cleaning, None where a source does not tell how many it has."""
    counts = [s.expect or s.sample or s.published or _rows_here(s) for s in recipe.gather.sources]
    # A source that is split over several entries may say the whole number once.
    if not any(counts) and recipe.gather.sources:
        return None
    return recipe.gather.questions + sum(count or 0 for count in counts)


def benchmark_size(recipe: Recipe) -> int | None:
    """Questions of the evaluation, None where a table does not tell how many it has."""
    counts = [recipe.evaluate.questions]
    for benchmark in recipe.evaluate.benchmarks:
        task = benchmarks.TASKS.get(benchmark.task or "")
        found = benchmark.expect or benchmark.sample or benchmark.published or _rows_here(benchmark)
        found = found or (task.questions if task else None)
        if found is None:
            return None
        counts.append(found)
    return sum(counts)


def _rows_here(table: Table) -> int | None:
    """The rows of a text file on this machine, all of which are asked; None for other tables."""
    file = table.file
    if file is None or rows.is_url(file) or Path(file).suffix not in COUNTED or table.where or table.without:
        return None
    return sum(1 for _ in rows.read(table)) if os.path.isfile(file) else None


def token_lengths(recipe: Recipe) -> Tokens:
    """Of the recipe's questions: measured on generated puzzles, else by the limits that the recipe sets."""
    limit = recipe.train.tokens_max
    if not recipe.gather.sources and recipe.trace.client == "reference-solution":
        read = list(puzzles.generate(PUZZLES_READ, families=recipe.gather.families, split="train", seed=recipe.seed))

        def mean(texts: Sequence[str | None]) -> Estimate:
            characters = fmean(len(text or "") for text in texts)
            return Estimate(*(characters / per_token for per_token in assumed.CHARACTERS_PER_TOKEN))

        columns = zip(*((q.question, q.solution, q.answer) for q in read), strict=True)
        return Tokens(*(mean(texts) for texts in columns))
    own = limit if recipe.trace.client == "reference-solution" else recipe.trace.output_tokens_max
    answer = Estimate.exactly(0.0)  # the share is of thinking and answer together
    return Tokens(assumed.TEACHER_PROMPT_TOKENS, assumed.TRACE_SHARE.times(own).at_most(limit), answer)


def paid_usd(section: PaidModel, calls: Estimate, prompt: Estimate, output: Estimate) -> Estimate:
    """What calls to a model behind an API cost, outside its peak hours. Raises TennerError for an unknown price."""
    provider = {"openai": section.preset or "", "gemini": "gemini"}.get(section.client, section.client)
    price = prices.price_of(provider, section.model or section.client, section.price)

    def usd(number: float, prompt_tokens: float, output_tokens: float) -> float:
        usage = Usage(input_tokens=round(prompt_tokens), output_tokens=round(output_tokens))
        return number * price.microusd(usage, batch=section.batch) / MICROUSD_PER_USD

    low, expected, high = (usd(*each) for each in zip(calls, prompt, output, strict=True))
    return Estimate(low, expected, high * (price.peak.multiplier if price.peak and not section.batch else 1.0))


def _with_machine_usd(stage: StagePlan, price_usd_per_hour: float) -> StagePlan:
    """The stage with the charge for its time on top of what it pays for calls."""
    if stage.seconds is None:
        return stage
    machine = stage.seconds.times(price_usd_per_hour / 3600)
    return stage.model_copy(update={"usd": Estimate.total([machine, stage.usd or Estimate.exactly(0.0)])})


BaseLengths = tuple[Estimate, Estimate] | None
"""Thinking and answer of the untrained student, where they were measured."""


def _base_lengths(prompt: Estimate, base: BaseLengths, thinking_max: int, answer_max: int) -> list[Lengths]:
    thinking, answer = base or assumed.base_tokens(thinking_max, answer_max)
    thinking, answer = thinking.at_most(thinking_max), answer.at_most(answer_max)
    return [Lengths(*each) for each in zip(prompt, thinking, answer, strict=True)]


def _sweep(
    recipe: Recipe, size: Size, machine: Machine, lengths: Sequence[Lengths], questions: int, policies: Sequence[Policy]
) -> tuple[Estimate, Estimate]:  # fmt: skip
    """The tokens that are generated, and the seconds that it takes."""
    tokens = Estimate(*(questions * sweep_tokens(each, policies)[0] for each in lengths))
    seconds = Estimate(
        *(
            sweep_seconds(
                speed, each, questions, policies,
                rows=machine.rows(size, recipe.evaluate, sweep_context(each, policies)),
            )
            for speed, each in zip(machine.decoding(size, recipe.evaluate), lengths, strict=True)
        )
    )  # fmt: skip
    return tokens, seconds


def _attempt(recipe: Recipe, size: Size, machine: Machine, prompt: Estimate, base: BaseLengths) -> StagePlan:
    attempt, pool = recipe.attempt, pool_size(recipe)
    questions = attempt.questions if pool is None else min(attempt.questions, pool)
    if not questions:
        return StagePlan(stage="attempt", what="left out", questions=0, usd=Estimate.exactly(0.0))
    rounds = len(attempt.prompts) * (2 if attempt.second_model else 1)
    of_base = _base_lengths(prompt, base, attempt.thinking_tokens_max, attempt.answer_tokens_max)
    tokens, seconds = _sweep(recipe, size, machine, of_base, questions, attempt_policies(attempt))
    what = f"{rounds} times {questions:,} questions, at most {attempt.thinking_tokens_max:,} thinking tokens"
    loads = machine.loading_seconds(size).times(2 if attempt.second_model else 1)
    return StagePlan(
        stage="attempt", what=what, questions=questions, tokens=tokens.times(rounds),
        seconds=Estimate.total([seconds.times(rounds), loads]),
    )  # fmt: skip


def _with_trial(attempt: StagePlan, measured: Measured | None) -> StagePlan:
    """With the time in which the run tries its speeds, as the probe has; not where there are no attempts."""
    if measured is None or attempt.seconds is None:
        return attempt
    trial = Estimate.exactly(measured.trial_seconds)
    return attempt.model_copy(update={"seconds": Estimate.total([attempt.seconds, trial])})


def _select(recipe: Recipe, pool: int | None) -> StagePlan:
    labeller = recipe.domains.labeller
    if labeller is None:
        return StagePlan(stage="select", what="not charged", questions=pool, usd=Estimate.exactly(0.0))
    if pool is None:
        return StagePlan(stage="select", what="how many questions are labelled is not known: no source says its number")
    calls, output = Estimate.exactly(pool), assumed.LABEL_OUTPUT_TOKENS.at_most(labeller.output_tokens_max)
    usd = paid_usd(labeller, calls, assumed.LABEL_PROMPT_TOKENS, output)
    what = f"{pool:,} questions sorted by {labeller.model}"
    return StagePlan(stage="select", what=what, questions=pool, tokens=output.times(pool), usd=usd)


def _trace(recipe: Recipe, pool: int | None, lengths: Tokens, measured: Measured | None) -> StagePlan:
    section = recipe.trace
    wanted = pool if recipe.order == "trace-first" else recipe.select.samples
    if section.client == "reference-solution":
        return StagePlan(stage="trace", what="free", questions=wanted, usd=Estimate.exactly(0.0))
    if section.client == "replay":
        return StagePlan(stage="trace", what="paid before", questions=wanted, usd=Estimate.exactly(0.0))
    if wanted is None:
        return StagePlan(stage="trace", what="how many questions are traced is not known: no source says its number")
    calls = Estimate.exactly(wanted * section.samples_per_question)
    if recipe.order == "select-first" and recipe.select.top_up and section.keep != "first":
        kept = (measured and measured.kept_share) or assumed.KEPT_SHARE
        calls = Estimate(*(calls.expected / share for share in kept))
    output, prompt = assumed.TRACE_SHARE.times(section.output_tokens_max), lengths.prompt
    told = "a quarter of its limit"
    if measured and measured.teacher_output and measured.teacher_input:
        output, prompt, told = measured.teacher_output, measured.teacher_input, f"of {measured.questions} asked"
    what = f"{section.model}, about {output.expected:,.0f} tokens a trace ({told})"
    questions = round(calls.expected)
    if section.candidates is None:
        usd = paid_usd(section, calls, prompt, output)
    else:
        calls = Estimate(*(max(0.0, number - (section.candidate_questions or 0)) for number in calls))
        usd = _of_any([paid_usd(each, calls, prompt, output) for each, output in _outputs(section, measured)])
        what = f"by one of {len(section.teachers)} teachers: from the cheapest to the dearest"
    return StagePlan(stage="trace", what=what, questions=questions, tokens=calls.times(output), usd=usd)


def _outputs(section: TraceSection, measured: Measured | None) -> list[tuple[TraceSection, Estimate]]:
    """Each teacher, and the tokens of one of its traces: as measured of the first, or a share of its own limit."""
    known = measured.teacher_output if measured else None
    return [(one, known or assumed.TRACE_SHARE.times(one.output_tokens_max)) for one in section.teachers]


def _of_any(parts: Sequence[Estimate]) -> Estimate:
    """One of these, nobody knows which."""
    return Estimate(min(p.low for p in parts), fmean(p.expected for p in parts), max(p.high for p in parts))


def train_plan(
    recipe: Recipe, size: Size, machine: Machine, lengths: Tokens, measured: Measured | None = None
) -> StagePlan:
    """The training alone, without the charge for this machine's time; `tokens` are those of all samples in all epochs.

    How long a service takes is not known before a probe.
    """
    train, samples = recipe.train, recipe.select.samples
    of_sample = lengths.sample.at_most(train.tokens_max)
    tokens = of_sample.times(samples * train.epochs)
    if train.tinker is not None:
        what = (
            f"{train.epochs} x {samples:,} samples of about {of_sample.expected:,.0f} tokens, by {train.tinker.model}"
        )
        tokens = Estimate(*(max(0.0, each - samples * train.epochs) for each in tokens))  # the last is only predicted
        usd = tokens.times(train.tinker.price_usd_per_mtok / 1e6)
        seconds = None
        if measured and measured.service_token_seconds is not None:
            start = Estimate.exactly(measured.service_start_seconds)
            seconds = Estimate.total([start, tokens.times(measured.service_token_seconds)])
        return StagePlan(
            stage="train", what=f"{what} at a service", questions=samples, tokens=tokens, seconds=seconds, usd=usd
        )
    seconds = machine.train_seconds(size, train, of_sample.times(held_out.passes(samples, train)), of_sample)
    what = f"{train.epochs} x {samples:,} samples of about {of_sample.expected:,.0f} tokens, {train.method}"
    seconds = Estimate.total([seconds, machine.start_seconds(size)])
    return StagePlan(stage="train", what=what, questions=samples, tokens=tokens, seconds=seconds)


def memory_bytes(
    recipe: Recipe, size: Size, machine: Machine, lengths: Tokens, measured: Measured | None = None
) -> int | None:
    """What training holds at most of a device's memory, or of the process of a run on a CPU; None where a service
    trains, or the student's architecture is not known. The longest sample is as long as `measured` says, or as
    train.tokens_max.
    """
    train, samples, on_gpu = recipe.train, recipe.select.samples, machine.card is not None
    if train.tinker is not None or (architecture := size.architecture) is None:
        return None
    longest = min(train.tokens_max, measured.longest_tokens) if measured else train.tokens_max
    of = memory.Machine(machine.cards, on_gpu=on_gpu, memory_gb=None)

    def said(row_lengths: int) -> int:
        made = memory.plan(architecture, train, of, longest_tokens=longest, row_lengths=row_lengths)
        return made.forecast.total_bytes

    if on_gpu:
        return said(1)
    count = memory_plan.row_lengths(train, samples=samples, mean_tokens=lengths.sample.expected, longest_tokens=longest)
    # Attempts have been decoded in the same process, with ever fewer rows: kernels for forward alone.
    whole = said(count + min(recipe.evaluate.rows, recipe.attempt.questions) // 3) + RUN_BYTES
    if recipe.trace.client != "reference-solution" or size.weights_bytes > PROBED_BYTES_MAX:
        return whole
    # The training is tried while the student that attempts is loaded: in float32, or in bfloat16 as the file is mapped
    # and as products want it.
    return max(whole, said(1) + RUN_BYTES + round(4 * size.parameters))


def _teachers(section: TraceSection, prompt: Estimate, measured: Measured | None) -> StagePlan:
    """What it takes to ask every teacher some questions, by single calls, before one is chosen."""
    questions, asked = section.candidate_questions or 0, _outputs(section, measured)
    calls = Estimate.exactly(questions)
    usd = [paid_usd(one.model_copy(update={"batch": False}), calls, prompt, output) for one, output in asked]
    names = ", ".join(one.model or one.client for one, _ in asked)
    return StagePlan(
        stage=TEACHERS,
        what=f"{len(asked)} teachers are asked {questions:,} questions each: {names}",
        questions=len(asked) * questions,
        tokens=Estimate.total([calls.times(output) for _, output in asked]),
        usd=Estimate.total(usd),
    )


def _control(recipe: Recipe, pool: int | None, traced: StagePlan, trained: StagePlan) -> StagePlan:
    """The control arm: traces of random questions, but for those that are selected as well, and the same training.

    The high estimate is that none of them is.
    """
    if recipe.order == "trace-first" or traced.usd is None:
        new, usd = 0.0, None
    else:
        new = max(0.0, 1 - recipe.select.samples / pool) if pool else 1.0
        usd = traced.usd.times(Estimate(new, new, 1.0))
    bought = f"traces of {new:.0%} of them, " if usd and usd.high else ""
    what = f"as many random questions: {bought}{trained.what}"
    return trained.model_copy(update={"stage": CONTROL, "what": what, "usd": usd})


def _evaluate(recipe: Recipe, size: Size, machine: Machine, lengths: Tokens, base: BaseLengths) -> StagePlan:
    section, questions = recipe.evaluate, benchmark_size(recipe)
    if questions is None:
        return StagePlan(stage="evaluate", what="not known: a benchmark does not say its number of questions (expect)")
    asked = questions * section.samples
    of_base = _base_lengths(lengths.prompt, base, section.thinking_tokens_max[-1], section.answer_tokens_max)
    answers = [section.answer_tokens_max * share for share in assumed.TRACE_SHARE]
    if lengths.answer.expected:
        answers = list(lengths.answer.at_most(section.answer_tokens_max))
    of_distilled = [Lengths(*each) for each in zip(lengths.prompt, lengths.thinking, answers, strict=True)]
    students = [of_base, of_distilled] + ([] if recipe.select.control is None else [of_distilled])
    parts = [_sweep(recipe, size, machine, each, asked, section.policies) for each in students]
    usd = [
        paid_usd(
            model, Estimate.exactly(asked), lengths.prompt, assumed.TRACE_SHARE.times(model.output_tokens_max)
        )
        for model in section.models
    ]  # fmt: skip
    if (service := recipe.train.tinker) and service.compare_questions:
        usd.append(_compared_usd(service, of_distilled, questions, section.thinking_tokens_max[-1]))
    who = "both" if len(students) == 2 else "all three"
    what = f"{asked:,} answers under {len(section.policies)} policies, by {who} students"
    what += f" and {len(section.models)} models behind APIs" if section.models else ""
    what += "; what a referee is paid is not counted" if section.referee is not None else ""
    return StagePlan(
        stage="evaluate", what=what, questions=questions, tokens=Estimate.total([tokens for tokens, _ in parts]),
        seconds=Estimate.total([*(seconds for _, seconds in parts), machine.loading_seconds(size).times(len(parts))]),
        usd=Estimate.total(usd) if usd else None,
    )  # fmt: skip


def _compared_usd(service: TrainingService, of_distilled: Sequence[Lengths], questions: int, limit: int) -> Estimate:
    """What the service takes for continuing its student's answers under the largest budget: in one call each, or, in
    the high case, in another one after a cut.
    """
    price = prices.price_of(prices.TINKER, service.model, service.sampling_price)
    asked = min(service.compare_questions, questions)
    found = []
    for case, lengths in enumerate(of_distilled):
        thinking = min(lengths.thinking, limit)
        read = lengths.prompt + (case == 2) * (lengths.prompt + thinking)
        said = thinking + lengths.answer
        usage = Usage(input_tokens=round(asked * read), output_tokens=round(asked * said))
        found.append(price.microusd(usage) / MICROUSD_PER_USD)
    return Estimate(*found)


def check_cap(stages: Sequence[StagePlan], cap_usd: float) -> str | None:
    """A warning where the cap is below what is expected.

    Raises TennerError where it is below even the low estimate: the run could only spend it and stop.
    """
    usd = total_usd(stages)
    dearest = max((s for s in stages if s.usd is not None), key=lambda s: s.usd.expected if s.usd else 0.0)
    low, expected, high = (estimate_in_dollars(each, digits=4) for each in usd)
    told, cap = f"{low} to {high}, {expected} expected, most of it for {dearest.stage}", in_dollars(cap_usd)
    if cap_usd < usd.low:
        raise TennerError(
            f"the cap of {cap} is below what the run takes at least: {told}",
            hint="raise it (--budget-usd), or see `tenner plan` for what would make it cheaper",
        )
    if cap_usd < usd.expected:
        return f"warning: the cap of {cap} is below what is expected ({told}): the run may stop there and wait"
    return None
