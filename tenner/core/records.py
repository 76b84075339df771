"""The nouns that travel between the rooms: frozen, typed, one JSON object a line in the run folder."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer

StudentName = Literal["base", "second", "distilled"]
"""Who answers in a run: `second` is another untrained model that attempts the questions beside the student. What is
measured without a training, or asked through an API beside it, has a name of its own."""
AnswerKind = Literal["integer", "choice", "maths", "text"]
"""How an answer is graded (see `evaluation/grading/grader.py`)."""
NamedPrecision = Literal["bf16", "fp32", "pure-bf16"]
"""What weights and products are computed in; `pure-bf16` is for training, and keeps no float32 weights."""


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
    """How they are graded; None: traces as maths, completions as text after the cue."""
    suffix: str = ""
    """What a benchmark puts behind the question when it is asked; no part of what is compared with other questions."""
    domain: str | None = None
    source: str
    solution: str | None = None
    """A reference solution; what the `reference-solution` client answers with."""
    origin: str | None = None
    """Where the source itself has it from: a contest, a website, another dataset."""
    license: str | None = None
    """Of the source; None where the source does not say."""


class SourceCount(Record):
    """What one source of the recipe came to."""

    source: str
    where: str
    """The dataset with its revision, or the file."""
    license: str | None
    rows: int
    questions: int
    """Rows that the recipe's conditions let through."""
    published: int | None
    """The count that its authors report, to be compared."""
    without_reference: int = 0
    """Rows whose answer column holds none, or a word such as "NaN" or "proof" in its place."""


class Drop(Record):
    """Why an item left the run: the funnel is a count of these."""

    id: str
    reason: str
    evidence: str


class Hit(Record):
    """Text that a question of the pool has in common with a benchmark question.

    `boilerplate` is wording that many questions share, and no leak; the other kinds are.
    """

    kind: Literal["exact", "near", "ngram", "boilerplate"]
    question_id: str
    benchmark_id: str
    shared: str


class Label(Record):
    """The domain of a question whose source does not tell it, and how it was found."""

    question_id: str
    domain: str | None
    """None: what was said could not be read."""
    evidence: str


class Pick(Record):
    """Why a question was selected: the draw that it came from."""

    question_id: str
    place: int
    """In the order of the draws, from 0."""
    step: str
    """The sampler's step (see `data/samplers.py`)."""
    domain: str
    rank: int | None
    """In its domain when it was drawn, 0 the first choice; None for what was taken without a draw."""
    domain_size: int
    """Questions of the domain that were left when it was drawn, itself too."""


class SelectStep(Record):
    """One step of a selection: how many questions it was given and how many it left."""

    name: str
    items_in: int
    items_out: int


class Counterfactual(Record):
    """What buying traces took in this order, and what it would have taken in the other."""

    order: Literal["select-first", "trace-first"]
    bought: int
    """Questions of which traces were bought."""
    spent_usd: float
    other_bought: int
    other_usd: float
    """At the mean price of a question in this run."""

    @property
    def sentence(self) -> str:
        """In words."""
        other, about = ("trace-first", "") if self.order == "select-first" else ("select-first", "about ")
        return (
            f"{self.order} bought {self.bought:,} traces for ${self.spent_usd:,.2f}; "
            f"{other} would have bought {about}{self.other_bought:,} for about ${self.other_usd:,.2f}"
        )


class Usage(Record):
    """Tokens of one call. None means that the provider did not report it."""

    input_tokens: int | None = None
    """All of the prompt, cached tokens too."""
    cached_input_tokens: int | None = None
    output_tokens: int | None = None
    """All that was generated, reasoning too."""
    reasoning_tokens: int | None = None


class Grade(Record):
    """The verdict on one answer. Unparsed is its own outcome, never "wrong"."""

    verdict: Literal["correct", "wrong", "unparsed"]
    extracted: str | None
    reason: str | None = None
    """Why, and what each verifier said where both were asked; None where text was compared."""


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


class FailedCall(Record):
    """A call that came to nothing. The same command makes it again."""

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


class EarlyExit(Record):
    """When thinking is ended before its budget: as soon as the answer has settled.

    A trial answer is decoded at every `every_tokens` thinking tokens, as if thinking were cut there. Thinking ends
    where `agree` trials in a row have begun with the same tokens, of which the first `trial_tokens` are decoded.
    """

    every_tokens: int = Field(gt=0)
    agree: int = Field(default=2, ge=2)
    trial_tokens: int = Field(default=16, gt=0)


class Policy(Record):
    """How much a student may think: the thing that budget forcing enforces.

    `thinking_tokens_max` counts every token between the delimiters, injected ones too; None is no limit of its own.
    `waits` is how often the end of thinking is replaced by `wait_text`.
    """

    thinking_tokens_max: int | None = Field(default=None, ge=0)
    thinking_tokens_min: int = Field(default=0, ge=0)
    waits: int = Field(default=0, ge=0)
    early_exit: EarlyExit | None = None

    @model_serializer(mode="wrap")
    def _without_early_exit(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """A policy without it is stored as it was before there was one."""
        stored: dict[str, Any] = serialize(self)
        if self.early_exit is None:
            stored.pop("early_exit", None)
        return stored


class Sampling(Record):
    """How the next token is drawn: by default the most likely one.

    A draw is a function of the seed, the prompt and the position, so the same request gives the same tokens whatever
    else is decoded beside it, and several samples of one prompt need several seeds.
    """

    temperature: float = Field(default=0.0, ge=0)
    top_p: float = Field(default=1.0, gt=0, le=1)
    """Only the most likely tokens that reach this probability together are drawn from."""
    seed: int = 0


class Intervention(Record):
    """Something that the forcing machine did: `kind` at `position`, the index of its first token in the completion.

    `tokens` is how many token ids were put in (0 for a cut or an early exit, whose `close` and `cue` follow).
    """

    kind: Literal["open", "wait", "cut", "exit", "close", "cue"]
    position: int
    tokens: int


class Completion(Record):
    """One answered question. `token_ids` is all that came after the prompt, injected tokens too."""

    question_id: str
    task: str
    student: str
    """A StudentName, or the name of a model that was asked beside them (see `sections.ApiModel`)."""
    prompt: str
    """Name of the prompt form the student was asked in (see `sections.PromptForm`)."""
    policy: Policy
    sample_index: int = 0
    """Which of several answers to the question it is."""
    thinking: str
    answer: str
    token_ids: tuple[int, ...]
    """Empty where an API gives text only."""
    thinking_tokens: int | None
    """None: an API that does not tell them from the answer's."""
    answer_tokens: int
    """All that was generated, where `thinking_tokens` is None."""
    truncated: bool
    """The answer ran into its own limit."""
    cost_usd: float | None = None
    """What it was bought for; None: it was made in the machine's time."""
    interventions: tuple[Intervention, ...]
    grade: Grade


class StageHardware(Record):
    """What a stage was computed on, one row a session (see `hardware.py`)."""

    stage: str
    device: str
    name: str
    """Of the GPU or the processor."""
    threads: int
    precision: NamedPrecision


class StageForecast(Record):
    """How long a part of a stage was expected to take, before the first slow stage began."""

    stage: str
    part: str
    """Who answers, and how it is asked; empty for training."""
    seconds: float


class Setting(Record):
    """How the answers of one student to one task came about. A second one of the same two: a session on other terms."""

    task: str
    student: str
    prompt: str
    model: str
    """Its address, or provider/model."""
    engine: str
    """`hf`, `vllm`, or the protocol of the API."""
    precision: str | None
    """Of the engine's arithmetic; None: nobody knows, behind an API. The next as well."""
    device: str | None
    versions: dict[str, str]
    """As in `provenance.json`, and the engine's own."""
    parameters: dict[str, Any]
    """Of sampling; of an API, what was sent as it is."""
    seeds: tuple[int, ...]
    """One for each answer to a question; empty where nothing is drawn here."""
    template_sha256: str | None
    """Of the chat template; None: the API has its own."""
    system_prompt: str | None
    chat_template_kwargs: dict[str, Any] = {}
    """Arguments of the chat template."""
    suffix: str
    """Put behind every question, after the benchmark's own."""
    policies: tuple[Policy, ...]
    wait_text: str | None
    answer_tokens_max: int
    """Of an API, thinking and answer together."""
    rows: int | None
    """Questions decoded side by side."""
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
    """Accuracy of one student under one policy on one task; it never travels without its interval and its n."""

    task: str
    student: str
    prompt: str
    policy: Policy
    domain: str | None = None
    """None is the whole task; otherwise the score of one domain in it."""
    n: int
    """Questions with an answer at least."""
    samples: int = 1
    """How many answers to each question were asked for."""
    missing: int = 0
    """Answers that were asked for and are not there: neither right nor wrong."""
    accuracy: float
    """The mean over questions of the share of their answers that are right."""
    ci_low: float
    ci_high: float
    majority: Share | None = None
    """maj@k: how often the most frequent of `samples` answers is right. Of the questions that have them all; None for
    single answers.
    """
    solved: Share | None = None
    """pass@k: how often one of `samples` answers is right. None as above."""
    thinking_tokens_mean: float | None
    """None: an API that does not tell them from the answer's."""
    truncated: int
    """Answers, not questions; as the next."""
    unparsed: int


class Difficulty(Record):
    """How the untrained student did on a question, over all the prompt forms and budgets it was asked in."""

    question_id: str
    tries: int
    correct: int
    thinking_tokens_mean: float

    @property
    def pass_rate(self) -> float:
        """Share of the tries that were right."""
        return self.correct / self.tries


class TrainStep(Record):
    """One optimizer step, as it is kept for the loss curve."""

    step: int
    steps: int
    loss: float
    grad_norm: float
    lr: float
    tokens: int
    trained_tokens: int
    tokens_left: int | None = None
    """Of all the steps to come."""
    tokens_per_second: float
    mfu_causal: float | None = None
    """The share of the machine's best arithmetic, attention counted as causal; None where its best is not known."""
    mfu_non_causal: float | None = None
    """The same with attention counted over all pairs of tokens."""
    memory_bytes: int | None = None
    """The most that was in use so far, of a GPU or of the process."""
    cost_usd: float
    """Machine time of the whole run up to here."""
