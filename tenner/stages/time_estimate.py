"""How long the slow stages of a run will take on this machine, told before the first of them, from a short probe."""

import math
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, NamedTuple

from tenner.budget import assumptions as assumed
from tenner.core import turn_end
from tenner.core.chat_template import encode_prompt
from tenner.core.formats import FORMATS
from tenner.core.records import EarlyExit, Policy, Question, Sample, StageForecast
from tenner.core.run import Run, chat_template_of, render
from tenner.core.sections import Attempt, PromptForm
from tenner.core.stage_names import CONTROL
from tenner.inference.engine import LocalEngine
from tenner.inference.speed_probe import DecodingSpeed, decoding_speed
from tenner.training import held_out

if TYPE_CHECKING:
    from tenner.training.loss_mask import Encoded
    from tenner.training.speed_probe import TrainingSpeed

EXAMPLES = 64
"""Questions by whose lengths the others are judged."""
DELIMITER_TOKENS = 6
"""What a cut and its cue put in, fed beside each answer."""
PROBED_BYTES_MAX = 4_000_000_000
"""A larger student is not loaded a second time only to find out how fast it is trained."""


class Lengths(NamedTuple):
    """Tokens of one student's turn, on average."""

    prompt: float
    thinking: float
    answer: float


def foresee(run: Run, engine: LocalEngine, base: Path) -> list[StageForecast]:
    """Of attempt, train and evaluate, as far as anything is known of them, by the untrained student in `engine`.

    How long a paid teacher's traces will be nobody knows beforehand: then the training is not among them.
    """
    recipe, pool = run.recipe, run.folder.read("clean", Question)
    examples = pool[:: max(1, len(pool) // EXAMPLES)][:EXAMPLES]
    if not examples:
        return []
    rows = recipe.evaluate.rows
    first = render(engine.tokenizer, examples[0], recipe.attempt.prompts[0], recipe)
    speed = decoding_speed(engine, first.text, rows=rows)

    def prompt_tokens(form: PromptForm) -> float:
        return fmean(len(encode_prompt(engine.tokenizer, render(engine.tokenizer, q, form, recipe))) for q in examples)

    def of_base(form: PromptForm, thinking_max: int, answer_max: int) -> Lengths:
        thinking, answer = assumed.base_tokens(thinking_max, answer_max)
        return Lengths(prompt_tokens(form), thinking.expected, answer.expected)

    attempt, evaluate = recipe.attempt, recipe.evaluate
    found = [
        StageForecast(
            stage="attempt",
            part=f"{name}, {form.name}",
            seconds=sweep_seconds(
                speed, of_base(form, attempt.thinking_tokens_max, attempt.answer_tokens_max), attempt.questions,
                attempt_policies(attempt), rows=rows,
            ),
        )
        for name in (("base", "second") if attempt.second_model else ("base",))
        for form in attempt.prompts
    ]  # fmt: skip
    distilled, has_control = _learned_lengths(engine, examples, run), recipe.select.control is not None
    if trained := _training_seconds(run, base, examples):
        stages = ("train", CONTROL) if has_control else ("train",)
        found += [StageForecast(stage=stage, part="", seconds=trained) for stage in stages]
    questions = len(run.folder.read("benchmark", Question)) * evaluate.samples
    largest = evaluate.thinking_tokens_max[-1]
    for name, lengths in (
        ("base", of_base(attempt.prompts[0], largest, evaluate.answer_tokens_max)),
        ("distilled", distilled),
        ("distilled-random", distilled if has_control else None),
    ):
        if lengths is not None:
            seconds = sweep_seconds(speed, lengths, questions, evaluate.policies, rows=rows)
            found.append(StageForecast(stage="evaluate", part=name, seconds=seconds))
    return found


def attempt_policies(attempt: Attempt) -> list[Policy]:
    """With and without thinking."""
    return [Policy(thinking_tokens_max=0), Policy(thinking_tokens_max=attempt.thinking_tokens_max)]


def sentence(found: Sequence[StageForecast]) -> str:
    """What is foreseen, for people."""
    by_stage: dict[str, float] = {}
    for part in found:
        by_stage[part.stage] = by_stage.get(part.stage, 0.0) + part.seconds
    total = in_words(sum(by_stage.values()))
    missing = "" if "train" in by_stage else "; how long the training takes is told when its samples are known"
    return f"this will take about {total}: {', '.join(f'{s} {in_words(t)}' for s, t in by_stage.items())}{missing}"


def in_words(seconds: float) -> str:
    """A length of time as people say it."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


class Trials(NamedTuple):
    """The trial answers of early exit, in one question's sweep: at most so many, as none ends the thinking here."""

    number: float
    tokens: float
    """Of each, on average."""


def sweep_tokens(lengths: Lengths, policies: Sequence[Policy]) -> tuple[float, float]:
    """The tokens that one question has generated and fed; a sweep thinks once, every policy has its own answer."""
    thinking, longer = _thinking(lengths, policies)
    trials = _trials(lengths, policies)
    generated = thinking + sum(longer) + len(policies) * lengths.answer + trials.number * trials.tokens
    return generated, lengths.prompt + (len(policies) + trials.number) * DELIMITER_TOKENS


def sweep_context(lengths: Lengths, policies: Sequence[Policy]) -> float:
    """The tokens before a generated one, on average over those of `sweep_tokens`."""
    thinking, longer = _thinking(lengths, policies)
    by_waits = dict(zip(_waits(policies), longer, strict=True)) | {0: 0.0}
    stretches = [(thinking, 0.0), *((more, thinking) for more in longer)]
    for policy in policies:
        stretches.append((lengths.answer, min(thinking, _limit(policy)) + by_waits.get(policy.waits, 0.0)))
    tokens = sum(length for length, _ in stretches)
    context = sum(n * (before + n / 2) for n, before in stretches)
    trials = _trials(lengths, policies)
    tokens += trials.number * trials.tokens
    context += trials.number * trials.tokens * (thinking + max(longer, default=0.0) + trials.tokens) / 2
    return lengths.prompt + context / tokens if tokens else lengths.prompt


def _limit(policy: Policy) -> float:
    return math.inf if policy.thinking_tokens_max is None else policy.thinking_tokens_max


def _waits(policies: Sequence[Policy]) -> list[int]:
    """The numbers of waits, each once."""
    return list(dict.fromkeys(policy.waits for policy in policies if policy.waits))


def _thinking(lengths: Lengths, policies: Sequence[Policy]) -> tuple[float, list[float]]:
    """The tokens of the first thinking, and how many more each number of waits adds."""
    largest = max(map(_limit, policies))
    thinking = min(lengths.thinking, largest)
    of_wait = min(assumed.WAIT_SHARE * thinking, assumed.WAIT_TOKENS)
    return thinking, [min(largest - thinking, of_wait * n) for n in _waits(policies)]


def _trials(lengths: Lengths, policies: Sequence[Policy]) -> Trials:
    """Policies with the same rule share their trial answers: those of the most waits are all there are."""
    waits: dict[EarlyExit, int] = {}
    for policy in policies:
        if policy.early_exit is not None:
            waits[policy.early_exit] = max(policy.waits, waits.get(policy.early_exit, 0))
    thinking, longer = _thinking(lengths, policies)
    number = tokens = 0.0
    for rule, most in waits.items():
        thought = thinking + dict(zip(_waits(policies), longer, strict=True)).get(most, 0.0)
        apart = {"tokens": rule.every_tokens or 1, "sentence": assumed.SENTENCE_TOKENS, "wait": assumed.WAIT_TOKENS}
        of_rule = thought / apart[rule.at] + (most if rule.at == "wait" else 0)
        number += of_rule
        tokens += of_rule * min(rule.trial_tokens, lengths.answer)
    return Trials(number, tokens / number if number else 0.0)


def sweep_seconds(
    speed: DecodingSpeed, lengths: Lengths, questions: int, policies: Sequence[Policy], *, rows: int
) -> float:
    """Of all questions under all policies."""
    steps, fed = sweep_tokens(lengths, policies)
    context = sweep_context(lengths, policies)
    full, rest = divmod(questions, rows)
    return sum(
        groups * speed.seconds(rows=n, steps=steps, prompt_tokens=n * fed, context_tokens=context)
        for groups, n in ((full, rows), (1, rest))
        if groups and n
    )


def examples_learned(run: Run, questions: Sequence[Question]) -> list[Sample]:
    """What a student would learn of these questions, where that is known before anything is traced."""
    if run.recipe.trace.client != "reference-solution":
        return []
    return [
        Sample(id=q.id, question_id=q.id, question=q.question, thinking=q.solution, answer=q.answer, domain=q.domain)
        for q in questions
        if q.solution is not None and q.answer is not None
    ]


def _learned_lengths(engine: LocalEngine, questions: Sequence[Question], run: Run) -> Lengths | None:
    samples = examples_learned(run, questions)
    if not samples:
        return None

    def mean_tokens(texts: Sequence[str]) -> float:
        return fmean(len(engine.tokenizer.encode(text, add_special_tokens=False)) for text in texts)

    form = run.recipe.student.form
    cue = FORMATS[form.format].cue
    return Lengths(
        mean_tokens([render(engine.tokenizer, q, form, run.recipe).text for q in questions]),
        mean_tokens([s.thinking for s in samples]) + 1,
        mean_tokens([f"{cue} {s.answer}" for s in samples]) + 1,
    )


def _training_seconds(run: Run, base: Path, questions: Sequence[Question]) -> float | None:
    encoded = as_trained(run, base, examples_learned(run, questions))
    speed = training_speed(run, base, encoded)
    if speed is None:
        return None
    tokens = fmean(len(e.ids) for e in encoded) * held_out.passes(run.recipe.select.samples, run.recipe.train)
    return speed.loading_seconds + tokens * speed.token_seconds


def as_trained(run: Run, base: Path, samples: Sequence[Sample]) -> "list[Encoded]":
    """The samples as the student reads them in training."""
    if not samples:
        return []
    from tenner.training import loss_mask, student

    recipe = run.recipe
    fmt, tokenizer = FORMATS[recipe.student.format], student.load_tokenizer(base, recipe.student.chat_template)
    template = chat_template_of(tokenizer, recipe)
    end_id = template.turn_end_id(turn_end.end_ids(base, tokenizer))
    return [loss_mask.encode(template, s, fmt, end_id=end_id) for s in samples]


def training_speed(run: Run, base: Path, encoded: "Sequence[Encoded]") -> "TrainingSpeed | None":
    """How fast the student is trained on these samples; None without any, or for a student too large to be loaded only
    for this.
    """
    weights_bytes = sum(path.stat().st_size for path in base.glob("*.safetensors"))
    if not encoded or weights_bytes > PROBED_BYTES_MAX or run.recipe.train.backend is not None:
        return None
    from tenner.training import distributed, speed_probe

    world = distributed.here(run.recipe.machine.device)
    return speed_probe.training_speed(base, encoded, run.recipe.train, world, seed=run.recipe.seed)
