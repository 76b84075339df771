"""The facts that the report of a run states, and how they are read from the run folder."""

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence, Set
from types import MappingProxyType
from typing import Any, NamedTuple

from tenner.budget.ledger_rows import SpendRow
from tenner.core import default_policy, spending, teacher
from tenner.core.chat_template import NO_KWARGS, source_of
from tenner.core.default_policy import DefaultPolicy
from tenner.core.formats import FORMATS, ThinkFormat, Tokenizer
from tenner.core.licenses import is_open
from tenner.core.provenance import recorded
from tenner.core.recipe import Recipe
from tenner.core.records import (
    Completion,
    Counterfactual,
    Drop,
    Question,
    Sample,
    Score,
    ServiceComparison,
    Setting,
    SourceCount,
    StagePlan,
    TeacherProbe,
    Trace,
    TrainStep,
)
from tenner.core.run import RUN_TEMPLATE, chat_template_of
from tenner.core.run_folder import RunFolder
from tenner.core.stage_names import CONTROL
from tenner.evaluation import release_dates
from tenner.evaluation.benchmarks import resolve
from tenner.evaluation.report import published
from tenner.evaluation.report.answers import Answered, Decoder, Example, answered, examples
from tenner.evaluation.report.score_tables import evaluation_usd
from tenner.evaluation.statistics import control_arm, forcing_effects, policy_choice, test_time_compute
from tenner.evaluation.statistics.control_arm import Worth
from tenner.evaluation.statistics.paired import Comparison
from tenner.evaluation.statistics.scores import before_and_after, compare

ORIGINS_SHOWN = 8
TUNING, TUNING_QUESTIONS = "tuning", "tuning-questions"
"""The files of `tenner tune`: completions, and the held-out questions."""
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
FUNNEL = {"gather", "clean", "select", "trace", "verify"}


class FunnelRow(NamedTuple):
    """The items in and out of a stage, and how many were dropped for which reason."""

    stage: str
    items_in: int
    items_out: int
    reasons: Mapping[str, int]


class SourceRow(NamedTuple):
    """A source of questions, and what of it is trained on."""

    source: SourceCount
    trained_on: int
    origins: Mapping[str, int]
    """Of the questions that are trained on: where the source has them from."""


class BenchmarkFacts(NamedTuple):
    """What was measured on one benchmark."""

    name: str
    scores: Sequence[Score]
    """As a whole and by domain."""
    comparison: Comparison
    """Of the scores `before` and `after`."""
    sweeps: Sequence[test_time_compute.Sweep]
    answer_prices: Sequence[test_time_compute.AnswerPrice]
    votes: Sequence[test_time_compute.Vote]
    """Empty where each question was answered once."""
    effects: Sequence[forcing_effects.Effect] = ()
    """What each policy of the distilled student did to its accuracy."""
    dataset: str | None = None
    """The hub's id of its dataset; None where it comes from elsewhere."""
    control: Sequence[Worth] = ()
    """What selection was worth under each policy; empty without a control arm."""

    @property
    def before(self) -> Score:
        """The untrained student's score in the headline."""
        return before_and_after(self.scores)[0]

    @property
    def after(self) -> Score:
        """The distilled student's score in the headline."""
        return before_and_after(self.scores)[1]


class ControlArm(NamedTuple):
    """What the second student of a run learned from."""

    questions: int
    common: int
    """Of these questions, those that the first student learned from as well."""


class RunFacts(NamedTuple):
    """Everything that the report and the model card say."""

    title: str
    """The name of the recipe."""
    base_model: str
    """The untrained student's public name: a hub id."""
    license: str
    """The base model's, as an SPDX-like identifier of the hub (`apache-2.0`): the student inherits it."""
    think_format: ThinkFormat
    system_prompt: str | None
    recipe_toml: str
    provenance: Mapping[str, str]
    funnel: Sequence[FunnelRow]
    counterfactual: str
    """What the other order of selecting and buying would have cost, in a sentence."""
    sources: Sequence[SourceRow]
    spend: Sequence[SpendRow]
    budget_usd: float | None
    seconds: float
    """Wall-clock time of all stages."""
    samples_count: int
    benchmarks: Sequence[BenchmarkFacts]
    """In the order in which they were asked; never empty."""
    published: Sequence[published.Beside]
    """Benchmarks with published results, or that a model behind an API answered too."""
    settings: Sequence[Setting]
    """How the answers were generated, by benchmark and student."""
    training: Sequence[TrainStep]
    examples: Sequence[Example]
    answered: Sequence[Answered] = ()
    """Every question with the first answer of both students under each policy, for the sample browser."""
    chat_template_kwargs: Mapping[str, Any] = NO_KWARGS
    opening: str | None = None
    """What opens the thinking behind the chat template's prompt; None: all of the think format's `open`."""
    service: Sequence[ServiceComparison] = ()
    """What the service that trained the student says beside it; empty where it was not asked."""
    plan: Sequence[StagePlan] = ()
    """What the stages were expected to take before the run began; empty where that was not known."""
    stage_seconds: Mapping[str, float] = MappingProxyType({})
    """Wall-clock time of each stage."""
    has_system_role: bool = True
    """Without one, the system prompt begins the first user turn."""
    folder: str = "RUN"
    """The run folder as commands name it."""
    is_self_contained: bool = False
    """The saved student's chat template brings system prompt and template arguments by itself."""
    datasets: Sequence[str] = ()
    """The hub's ids of the datasets whose questions are trained on."""
    teachers: Sequence[str] = ()
    """Who wrote the traces, as provider/model."""
    older_benchmarks: str = ""
    """A sentence on the benchmarks that are older than the untrained student; empty where none is known to be."""
    own_policy: DefaultPolicy | None = None
    """The thinking policy that `tenner tune` chose for the student."""
    tuning: Sequence[policy_choice.Candidate] = ()
    """The policies that it was chosen from."""
    question: str | None = None
    """A question of a benchmark that may be shown in public; None where no licence says so."""
    questions_count: int = 0
    """Different questions that the student is trained on."""
    control: ControlArm | None = None
    """None without a control arm."""
    teacher_probes: Sequence[TeacherProbe] = ()
    """What the teachers made of the questions by which one was chosen; empty where the recipe names one teacher."""

    @property
    def scores(self) -> list[Score]:
        """The scores of all benchmarks."""
        return [score for benchmark in self.benchmarks for score in benchmark.scores]


def benchmark_facts(
    name: str, scores: Sequence[Score], completions: Sequence[Completion], machine_usd: float
) -> BenchmarkFacts:
    """The facts of one benchmark. `scores` are its own; `completions` are those of all benchmarks, which share what
    the evaluation cost in machine time.
    """
    own = [c for c in completions if c.task == name]
    votes = test_time_compute.votes_at_equal_compute(own)
    return BenchmarkFacts(
        name,
        scores,
        comparison=compare(own, *before_and_after(scores)),
        sweeps=test_time_compute.sweeps(scores),
        answer_prices=test_time_compute.answer_prices(completions, scores, machine_usd),
        votes=votes,
        effects=forcing_effects.effects(own, votes),
        control=control_arm.at_each_policy(scores, own),
    )


def collect(folder: RunFolder, recipe: Recipe, tokenizer: Tokenizer, *, stages: tuple[str, ...]) -> RunFacts:
    """The facts of a run whose evaluation is done; `tokenizer` is the student's, to decode its tokens."""
    scores, completions = folder.read("scores", Score), folder.read("completions", Completion)
    template = chat_template_of(tokenizer, recipe)
    run_template = folder.path / RUN_TEMPLATE
    folder.verify(RUN_TEMPLATE)
    is_self_contained = run_template.is_file() and run_template.read_text("utf-8") != source_of(tokenizer)
    fmt = FORMATS[recipe.student.format]
    spend = spending.read(folder)
    machine_usd = evaluation_usd(spend)
    datasets = {b.name: b.dataset for b in map(resolve, recipe.evaluate.benchmarks)}
    benchmarks = [
        benchmark_facts(task, [s for s in scores if s.task == task], completions, machine_usd)._replace(
            dataset=datasets.get(task)
        )
        for task in dict.fromkeys(s.task for s in scores)
    ]
    decoder, trained = Decoder(tokenizer, fmt), _trained_on(folder)
    own_policy = default_policy.read(folder.path / "student")
    return RunFacts(
        title=recipe.name,
        folder=folder.path.name if folder.path.is_absolute() else str(folder.path),
        base_model=recipe.student.base_model,
        license=recipe.student.license,
        think_format=fmt,
        system_prompt=recipe.student.system_prompt,
        chat_template_kwargs=recipe.student.chat_template_kwargs,
        opening=fmt.after(template.question("?").text).open,
        has_system_role=not template.notes,
        is_self_contained=is_self_contained,
        recipe_toml=recipe.to_toml(),
        provenance=recorded(folder),
        funnel=[_funnel_row(folder, stage) for stage in recipe.stages if stage in FUNNEL],
        counterfactual=folder.read("counterfactual", Counterfactual)[0].sentence,
        sources=_sources(folder),
        spend=spend,
        budget_usd=recipe.budget_usd,
        seconds=sum(done.seconds for stage in stages if (done := folder.done(stage))),
        samples_count=len(folder.read("samples", Sample)) - len(folder.read("dropped-train", Drop)),
        benchmarks=benchmarks,
        published=published.beside(
            folder.read("benchmark", Question), completions, samples=recipe.evaluate.samples, machine_usd=machine_usd
        ),
        settings=folder.read("settings", Setting),
        training=folder.read("training", TrainStep),
        service=folder.read("service-comparison", ServiceComparison),
        plan=folder.read("plan", StagePlan),
        stage_seconds={stage: done.seconds for stage in stages if (done := folder.done(stage))},
        examples=list(examples(folder.questions_by_id("benchmark"), completions, decoder)),
        answered=answered(
            folder.read("benchmark", Question), completions, [before_and_after(b.scores) for b in benchmarks], decoder
        ),
        datasets=[s.dataset for s in recipe.gather.sources if s.dataset and HUB_ID.fullmatch(s.dataset)],
        teachers=sorted({trace.teacher for trace in folder.stream("traces", Trace)}),
        older_benchmarks=release_dates.note(
            [b.task for b in recipe.evaluate.benchmarks if b.task], recipe.student.base_model, recipe.student.released
        ),
        own_policy=own_policy,
        tuning=_tuning(folder, own_policy),
        question=_open_question(folder),
        questions_count=len(trained),
        control=_control_arm(folder, trained) if recipe.select.control is not None else None,
        teacher_probes=folder.read(teacher.FILE, TeacherProbe),
    )


def _tuning(folder: RunFolder, chosen: DefaultPolicy | None) -> list[policy_choice.Candidate]:
    """The policies that the student's own was chosen from; empty where the folder does not hold their answers."""
    if chosen is None:
        return []
    asked = {q.id for q in folder.stream(TUNING_QUESTIONS, Question)}
    answers = [c for c in folder.stream(TUNING, Completion) if c.question_id in asked]
    whole = {policy for policy, n in Counter(c.policy for c in answers).items() if n >= len(asked)}
    if chosen.full not in whole:
        return []
    return policy_choice.candidates([c for c in answers if c.policy in whole], chosen.full, chosen.margin)


def _control_arm(folder: RunFolder, trained: Set[str]) -> ControlArm:
    random = _trained_on(folder, f"{CONTROL}/")
    return ControlArm(len(random), len(random & trained))


def _trained_on(folder: RunFolder, part: str = "") -> set[str]:
    """The ids of the questions that a student is trained on; `part` is the folder of the control arm's."""
    dropped = {d.id for d in folder.stream(f"{part}dropped-train", Drop)}
    return {s.question_id for s in folder.stream(f"{part}samples", Sample) if s.id not in dropped}


def _open_question(folder: RunFolder) -> str | None:
    """The first question of a benchmark that was generated, or is under a licence that lets anybody show it."""
    for q in folder.stream("benchmark", Question):
        if q.source.startswith("puzzles:") or (q.license is not None and is_open(q.license)):
            return q.question
    return None


def _funnel_row(folder: RunFolder, stage: str) -> FunnelRow:
    done = folder.done(stage)
    assert done is not None, f"the report comes after {stage}"
    reasons = Counter(drop.reason for drop in folder.read(f"dropped-{stage}", Drop))
    return FunnelRow(stage, done.items_in, done.items_out, reasons)


def _sources(folder: RunFolder) -> list[SourceRow]:
    """The sources, the number of their questions that are trained on, and the most frequent origins of these."""
    trained = {s.question_id for s in folder.stream("samples", Sample)}
    origins: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for q in folder.stream("questions", Question):
        if q.id in trained:
            is_generated = q.source.startswith("puzzles:")
            name = "puzzles" if is_generated else q.source
            origins[name][q.source.removeprefix("puzzles:") if is_generated else q.origin or "unknown"] += 1
    return [
        SourceRow(count, origins[count.source].total(), dict(origins[count.source].most_common(ORIGINS_SHOWN)))
        for count in folder.read("sources", SourceCount)
    ]
