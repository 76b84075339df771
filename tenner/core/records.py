"""The records that stages exchange: frozen, typed, one JSON object a line in the run folder."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from tenner.budget.estimate import Estimate
from tenner.core.dollars import usd

StudentName = Literal["base", "second", "distilled", "distilled-random"]
"""The models of a run: the untrained student, an optional second untrained model that attempts the questions too, the
trained student, and the one that an optional control arm trains on random questions. Models that are only measured, or
asked through an API, have names of their own."""
AnswerKind = Literal["integer", "choice", "maths", "text"]
"""How an answer is graded (see `evaluation/grading/grader.py`)."""
NamedPrecision = Literal["bf16", "fp32", "pure-bf16"]
"""Precision of weights and matrix products; `pure-bf16` is for training, and keeps no float32 master weights."""


class Record(BaseModel):
    """Base of all records: immutable, and strict about the names of its fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Question(Record):
    """A question of the pool or of a benchmark."""

    id: str
    question: str
    answer: str | None = None
    """The reference answer, by which traces and completions are graded."""
    kind: AnswerKind | None = None
    """How answers are graded; None: traces as maths, completions as text after the cue."""
    suffix: str = ""
    """What a benchmark appends to the question when it is asked. Ignored when questions are compared."""
    domain: str | None = None
    source: str
    solution: str | None = None
    """A worked solution, which the `reference-solution` client answers with."""
    origin: str | None = None
    """Where the source took it from: a contest, a website, another dataset."""
    license: str | None = None
    """The source's licence; None where the source does not state one."""


class SourceCount(Record):
    """How many questions one source of the recipe gave."""

    source: str
    where: str
    """The dataset with its revision, or the file."""
    license: str | None
    rows: int
    questions: int
    """Rows that meet the recipe's conditions."""
    published: int | None
    """The count that its authors report, for comparison."""
    without_reference: int = 0
    """Rows whose answer column is empty, or holds a placeholder such as "NaN" or "proof"."""


class Drop(Record):
    """An item that was dropped, and why; the report's funnel counts these."""

    id: str
    reason: str
    evidence: str


class Hit(Record):
    """Text that a question of the pool has in common with a benchmark question.

    `boilerplate` is wording that many questions share and does not count as contamination; the other kinds do.
    """

    kind: Literal["exact", "near", "ngram", "boilerplate"]
    question_id: str
    benchmark_id: str
    shared: str


class Label(Record):
    """The domain of a question whose source does not state it, and how it was found."""

    question_id: str
    domain: str | None
    """None: the labeller's reply could not be parsed."""
    evidence: str


class Pick(Record):
    """A selected question, and the draw that selected it."""

    question_id: str
    place: int
    """In the order of the draws, from 0."""
    step: str
    """The sampler's step (see `data/samplers.py`)."""
    domain: str
    rank: int | None
    """Rank in its domain when it was drawn, from 0; None for questions taken without a draw."""
    domain_size: int
    """Questions of the domain that were left when it was drawn, including itself."""


class SelectStep(Record):
    """One step of a selection: how many questions went in and how many came out."""

    name: str
    items_in: int
    items_out: int


class Counterfactual(Record):
    """What buying traces cost in this order, and what it would have cost in the other."""

    order: Literal["select-first", "trace-first"]
    bought: int
    """Questions for which traces were bought."""
    spent_usd: float
    other_bought: int
    other_usd: float
    """At the mean price of a question in this run."""

    @property
    def sentence(self) -> str:
        """As a sentence for the report."""
        other, about = ("trace-first", "") if self.order == "select-first" else ("select-first", "about ")
        return (
            f"{self.order} bought {self.bought:,} traces for {usd(self.spent_usd)}; "
            f"{other} would have bought {about}{self.other_bought:,} for about {usd(self.other_usd)}"
        )


class Usage(Record):
    """Tokens of one call. None means that the provider did not report it."""

    input_tokens: int | None = None
    """The whole prompt, including cached tokens."""
    cached_input_tokens: int | None = None
    output_tokens: int | None = None
    """Everything generated, including reasoning."""
    reasoning_tokens: int | None = None


DISPUTED = "the verifiers disagree"
"""How the reason of a grade begins on which they do."""


class Grade(Record):
    """The verdict on one answer. Unparsed is its own outcome, never "wrong"."""

    verdict: Literal["correct", "wrong", "unparsed"]
    extracted: str | None
    reason: str | None = None
    """The reason, and each verifier's verdict where both were asked; None where plain text was compared."""

    @property
    def is_disputed(self) -> bool:
        """Whether the two verifiers of maths disagree; the exact one's verdict stands, unless a referee decided."""
        return (self.reason or "").startswith(DISPUTED)


TraceOutcome = Literal[
    "complete",
    "truncated",  # the token limit cut it
    "interrupted",  # the provider broke it off, or the connection of a stream did
    "unknown_finish",  # its finish reason is missing, or not in the table of `finish_reasons.py`
    "damaged",  # control tokens or think tags in its text that cannot be removed with certainty
    "no_reasoning",
    "content_filter",
    "empty",  # no choices, or no answer in them
    "unreadable",  # a success whose body is no response of this teacher
    "wrong_content_type",  # a success whose body is a web page, say
]


class Message(Record):
    """One turn of a chat, as training frameworks read it."""

    role: Literal["system", "user", "assistant"]
    content: str
    reasoning_content: str | None = None


class Trace(Record):
    """A teacher's reasoning for one question; `outcome` says whether it can be learned from.

    Flat columns, and the same as `messages` for whoever trains on chats.
    """

    id: str
    question_id: str
    sample_index: int
    teacher: str
    """provider/model."""
    question: str
    domain: str | None
    thinking: str
    answer: str
    messages: tuple[Message, ...]
    outcome: TraceOutcome
    evidence: str | None = None
    """What in the reply led to the outcome, as its finish reason; None where it is complete."""
    reasoning_is_summary: bool
    """The provider shows a summary of its thinking, not the thinking."""
    grade: Grade | None
    """Of the answer against the question's reference; None where there is no reference."""
    usage: Usage
    cost_usd: float
    metered: bool
    """False: the provider did not say how many tokens it was, and `cost_usd` is the worst case."""


class TeacherProbe(Record):
    """What one of several teachers made of the questions that all of them were asked before one was chosen."""

    place: int
    """In `TraceSection.teachers`."""
    teacher: str
    """provider/model."""
    questions: int
    verified: int
    """Traces that are complete, right and pass the recipe's filters."""
    failed: int
    """Calls that failed for good."""
    output_tokens_mean: float | None
    """Of a trace; None where the provider does not tell."""
    cost_usd: float
    p_value: float
    """Of the exact McNemar test against the teacher with the most verified traces."""
    is_chosen: bool

    @property
    def usd_per_verified(self) -> float | None:
        """None where no trace is verified."""
        return self.cost_usd / self.verified if self.verified else None


class FailedCall(Record):
    """A call that failed for good. Running the same command again retries it."""

    question_id: str
    sample_index: int
    kind: str
    """The fault's name (see `clients/faults.py`)."""
    attempts: int
    evidence: str


class Sample(Record):
    """What the student is trained on."""

    id: str
    question_id: str
    question: str
    thinking: str
    answer: str
    domain: str | None


SwitchPoint = Literal["tokens", "sentence", "wait"]
"""Where early exit decodes trial answers: every n tokens, after each sentence, or before each wait text."""


class EarlyExit(Record):
    """When thinking is ended before its budget: as soon as the answer has settled.

    At each switch point a trial answer is decoded, as if thinking were cut there, of at most `trial_tokens` tokens.
    Thinking ends where the last `agree` trials are the same, and the last has a mean probability of at least
    `probability`. The mean is the geometric one over the trial's tokens, its end of text included, as in DEER
    (arXiv 2504.15895). `agree` = 1 leaves the decision to the probability.

    At `wait`, the switch points are the ends of thinking that would be replaced by the wait text, and where the student
    begins that text by itself: so a policy with waits thinks on only where the answer has not settled. At the others,
    thinking that has waits left is not ended.
    """

    at: SwitchPoint = "tokens"
    every_tokens: int | None = Field(default=None, gt=0)
    """The distance of the switch points `tokens`."""
    agree: int = Field(default=2, ge=1)
    probability: float | None = Field(default=None, gt=0, le=1)
    trial_tokens: int = Field(default=16, gt=0)

    @model_validator(mode="after")
    def _is_consistent(self) -> "EarlyExit":
        if (self.at == "tokens") != (self.every_tokens is not None):
            raise ValueError('every_tokens and at = "tokens" belong together')
        if self.agree == 1 and self.probability is None:
            raise ValueError("agree = 1 needs a probability: a single trial agrees with itself")
        return self


class Grace(Record):
    """A soft end of the budget: in its last `tokens` tokens, thinking is ended as soon as an end is likely.

    Likely is an end (an end of text, or the first token of the closing delimiter) among the `candidates` most likely
    next tokens.
    """

    tokens: int = Field(gt=0)
    candidates: int = Field(default=5, gt=0)


class Policy(Record):
    """How much a student may think: the thing that budget forcing enforces.

    `thinking_tokens_max` counts every token between the delimiters, including injected ones; None sets no limit.
    `waits` is how often the end of thinking is replaced by `wait_text`.
    """

    thinking_tokens_max: int | None = Field(default=None, ge=0)
    thinking_tokens_min: int = Field(default=0, ge=0)
    waits: int = Field(default=0, ge=0)
    early_exit: EarlyExit | None = None
    grace: Grace | None = None

    @property
    def stops_early(self) -> bool:
        """Whether thinking may be ended before its budget is used up and without an end of the student's own."""
        return self.early_exit is not None or self.grace is not None

    @model_serializer(mode="wrap")
    def _without_absent_parts(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """A policy without early exit or grace is stored as it was before there were any."""
        stored: dict[str, Any] = serialize(self)
        for name in ("early_exit", "grace"):
            if getattr(self, name) is None:
                stored.pop(name, None)
        return stored


class Sampling(Record):
    """How the next token is drawn: by default the most likely one.

    A draw is a function of the seed, the prompt and the position, so the same request gives the same tokens whatever
    else is decoded beside it, and several samples of one prompt need several seeds.
    """

    temperature: float = Field(default=0.0, ge=0)
    top_p: float = Field(default=1.0, gt=0, le=1)
    """Nucleus sampling: draw from the smallest set of most likely tokens whose probabilities sum to at least this."""
    seed: int = 0


class Intervention(Record):
    """Something that the forcing machine did: `kind` at `position`, the index of its first token in the completion.

    `tokens` is how many token ids were injected: 0 for a cut, an early exit or an end in the grace period, which are
    followed by `close` and `cue`.
    """

    kind: Literal["open", "wait", "cut", "exit", "grace", "close", "cue"]
    position: int
    tokens: int


class Completion(Record):
    """One answered question. `token_ids` is everything after the prompt, including injected tokens."""

    question_id: str
    task: str
    student: str
    """A StudentName, or the name of another evaluated model (see `sections.ApiModel`)."""
    prompt: str
    """Name of the prompt form the student was asked in (see `sections.PromptForm`)."""
    policy: Policy
    sample_index: int = 0
    """Index among several answers to the same question."""
    thinking: str
    answer: str
    token_ids: tuple[int, ...]
    """Empty where an API gives text only."""
    thinking_tokens: int | None
    """None: the API does not count them apart from the answer's."""
    answer_tokens: int
    """Everything generated, where `thinking_tokens` is None."""
    truncated: bool
    """The answer reached its token limit."""
    cost_usd: float | None = None
    """What the API charged; None: it was computed locally, which is charged as machine time."""
    interventions: tuple[Intervention, ...]
    trial_tokens: int = 0
    """Sampled in trial answers of early exit, beside `token_ids`; stored where there are any."""
    grade: Grade

    @model_serializer(mode="wrap")
    def _without_no_trials(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        stored: dict[str, Any] = serialize(self)
        if self.trial_tokens == 0:
            stored.pop("trial_tokens", None)
        return stored


class StageHardware(Record):
    """What a stage was computed on; one row for each session (see `hardware.py`)."""

    stage: str
    device: str
    name: str
    """Name of the GPU or processor."""
    threads: int
    precision: NamedPrecision


class StageForecast(Record):
    """How long a part of a stage was expected to take, estimated before the first slow stage."""

    stage: str
    part: str
    """The model that answers and its prompt form; empty for training."""
    seconds: float


class StagePlan(Record):
    """What a stage was expected to take, before the run began."""

    stage: str
    what: str
    """What it does, in numbers, and what the estimate rests on."""
    questions: int | None = None
    tokens: Estimate | None = None
    """Those that are generated, bought or trained on; None: not known, or none."""
    seconds: Estimate | None = None
    """Of the machine that is charged; None: not known. An API's time is not charged."""
    usd: Estimate | None = None
    """None: not known."""
    memory_bytes: int | None = None
    """What a device, or the process on a CPU, holds at most; None: not known, or nothing is trained here."""


class Setting(Record):
    """The settings under which one student answered one task. A session with other settings adds a row."""

    task: str
    student: str
    prompt: str
    model: str
    """Its address, or provider/model."""
    engine: str
    """`hf`, `vllm`, or the protocol of the API."""
    precision: str | None
    """Precision of the engine; None, as for `device`: unknown behind an API."""
    device: str | None
    versions: dict[str, str]
    """As in `provenance.json`, with the engine's own added."""
    parameters: dict[str, Any]
    """Sampling parameters; for an API, exactly what was sent."""
    seeds: tuple[int, ...]
    """One for each answer to a question; empty for greedy decoding and APIs."""
    template_sha256: str | None
    """Hash of the chat template; None: the API applies its own."""
    system_prompt: str | None
    chat_template_kwargs: dict[str, Any] = {}
    """Arguments of the chat template."""
    suffix: str
    """Appended to every question, after the benchmark's own suffix."""
    policies: tuple[Policy, ...]
    wait_text: str | None
    answer_tokens_max: int
    """For an API: thinking and answer together."""
    rows: int | None
    """Questions decoded in one batch."""
    questions: int
    samples: int
    """Answers to each question."""


class Share(Record):
    """A mean over questions of something between 0 and 1, with its 95 % interval and the number of questions."""

    n: int
    mean: float
    ci_low: float
    ci_high: float


class Score(Record):
    """Accuracy of one student under one policy on one task, with its interval and n."""

    task: str
    student: str
    prompt: str
    policy: Policy
    domain: str | None = None
    """None: the whole task; otherwise one domain of it."""
    n: int
    """Questions with at least one answer."""
    samples: int = 1
    """How many answers to each question were asked for."""
    missing: int = 0
    """Answers that were requested and do not exist: neither right nor wrong."""
    accuracy: float
    """Mean over questions of the share of correct answers."""
    ci_low: float
    ci_high: float
    majority: Share | None = None
    """maj@k: how often the most frequent of `samples` answers is correct, over the questions that have all of them;
    None for single answers."""
    solved: Share | None = None
    """pass@k: how often at least one of `samples` answers is correct. None as above."""
    thinking_tokens_mean: float | None
    """None: the API does not count them apart from the answer's."""
    trial_tokens_mean: float = 0.0
    """Of early exit's trial answers, in each answer; stored where there are any."""
    truncated: int
    """Answers (not questions) that reached their token limit; the next two count answers, too."""
    thinking_cut: int = 0
    """Answers whose thinking was cut at the policy's limit."""
    unparsed: int
    completed: Share | None = None
    """The accuracy over the answers that did not reach their token limit, by question; stored where some did, beside
    the raw one, which alone ranks."""

    @model_serializer(mode="wrap")
    def _without_what_is_usual(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        stored: dict[str, Any] = serialize(self)
        if self.trial_tokens_mean == 0:
            stored.pop("trial_tokens_mean", None)
        if self.completed is None:
            stored.pop("completed", None)
        return stored


class Difficulty(Record):
    """How often the untrained student solved a question, over all prompt forms and budgets it was asked with."""

    question_id: str
    tries: int
    correct: int
    thinking_tokens_mean: float

    @property
    def pass_rate(self) -> float:
        """Share of correct tries."""
        return self.correct / self.tries


class ServiceComparison(Record):
    """What a service that trained the student says, beside the merged student, greedily, to one question."""

    question_id: str
    tokens: int
    """The student's own tokens, without those that forcing put in."""
    same_tokens: int
    """Of these, those before the first difference of their stretch."""


class TrainStep(Record):
    """One optimizer step, as recorded for the loss curve."""

    step: int
    steps: int
    loss: float
    grad_norm: float | None
    """None where the service that trains does not tell."""
    lr: float
    tokens: int
    trained_tokens: int
    tokens_left: int | None = None
    """In all remaining steps."""
    tokens_per_second: float | None
    """None for a step that a service made while no process waited for it."""
    mfu_causal: float | None = None
    """Model FLOPs utilisation with attention counted as causal; None where the machine's peak is unknown."""
    mfu_non_causal: float | None = None
    """The same with attention counted over all pairs of tokens, as many papers do."""
    memory_bytes: int | None = None
    """Peak so far, of the GPU or of the process."""
    cost_usd: float
    """Cost of the whole run so far."""
    validation_loss: float | None = None
    """Of the samples that are held out of training, before the step, as `loss`; None where it was not measured."""
