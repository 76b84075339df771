"""The sections of a recipe: every setting with its type, its default and its meaning."""

import json
import re
from enum import Enum, auto
from typing import Annotated, Any, ClassVar, Literal, get_args
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from tenner.budget import machines, prices
from tenner.core.errors import TennerError
from tenner.core.formats import AUTO, FORMATS
from tenner.core.records import AnswerKind, EarlyExit, Grace, NamedPrecision, Policy, StudentName
from tenner.core.secrets import KEY, KeyInSettings, key_in, refuse_key_in_parameters, refuse_key_in_url
from tenner.core.suggest import did_you_mean

Positive = Annotated[int, Field(gt=0, lt=2**63)]
NotNegative = Annotated[int, Field(ge=0, lt=2**63)]
NUMBER_MAX = 1e9
"""Above every number of a recipe that has no bound of its own: learning rates, norms, temperatures, TFLOP/s."""
NotNegativeNumber = Annotated[float, Field(ge=0, le=NUMBER_MAX)]
PositiveNumber = Annotated[float, Field(gt=0, le=NUMBER_MAX)]
DOLLARS_MAX = 1e9
Dollars = Annotated[float, Field(ge=0, le=DOLLARS_MAX)]
"""An amount that the ledger can count in integer micro-dollars."""
UnitPrice = Annotated[float, Field(ge=0, le=1e6)]
"""Dollars per million tokens, or per hour; more would overflow the ledger's integers."""
Seconds = Annotated[float, Field(gt=0, le=1e7)]
"""A time limit; more is beyond what clocks and calendars count with."""
TokenLimit = Annotated[int, Field(gt=0, le=10**9)]
EngineName = Literal["hf", "vllm", "api"]
"""`hf` is the embedded engine, `vllm` a vLLM engine in this process, `api` a completions server (see `Endpoint`)."""
LocalEngineName = Literal["hf", "vllm"]
Speaks = Literal["ids", "text"]
Precision = Literal["auto", "bf16", "fp32"]
"""`auto` is bfloat16 where the device has it natively, and float32 elsewhere (see `hardware.py`)."""
TrainPrecision = Literal["auto"] | NamedPrecision
Device = Literal["auto", "cpu", "cuda", "mps"]
"""`auto` is CUDA where available, else Apple's MPS, else the CPU."""
BelowOne = Annotated[float, Field(ge=0, lt=1)]
Similarity = Annotated[float, Field(gt=0, le=1)]


def _known_format(name: str) -> str:
    if name not in FORMATS and name != AUTO:
        raise ValueError(f"no think format is called {name!r}; there are {', '.join(FORMATS)} and {AUTO}")
    return name


def _http_url(url: str) -> str:
    try:
        parts = urlsplit(url)
        is_server = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # an impossible port or IPv6 address
        is_server = False
    if not is_server:
        raise ValueError("not a URL such as https://host:8000/v1")
    refuse_key_in_url(url)
    if parts.query or parts.fragment:
        raise ValueError("a base URL has no query and no fragment: the path of each request is put behind it")
    return url


def _variable(name: str) -> str:
    if KEY.search(name):
        raise key_in("api_key_env")
    if not re.fullmatch(r"[A-Za-z_]\w*", name):
        raise KeyInSettings("not the name of an environment variable")
    return name


def _parameters(given: dict[str, Any]) -> dict[str, Any]:
    refuse_key_in_parameters(given)
    try:
        json.dumps(given, allow_nan=False)
    except (ValueError, TypeError, RecursionError) as e:
        raise ValueError(f"not JSON, as which they are sent: {e}") from None
    return given


FormatName = Annotated[str, AfterValidator(_known_format)]
BaseURL = Annotated[str, AfterValidator(_http_url)]
KeyVariable = Annotated[str, AfterValidator(_variable)]
Parameters = Annotated[dict[str, Any], AfterValidator(_parameters)]


class Resume(Enum):
    """Whether a resumed run may change a setting. A setting without this mark must stay the same."""

    FREE = auto()
    """It may change: it affects how, how fast or at what cost something is computed, but not the result."""


class Section(BaseModel):
    """Base of all sections: immutable, no unknown keys, no implicit type conversion, no infinity and no NaN."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )

    @classmethod
    def free_on_resume(cls) -> set[str]:
        """Names of the fields that are marked `Resume.FREE`."""
        return {name for name, field in cls.model_fields.items() if Resume.FREE in field.metadata}


class Model(Section):
    """A model that an engine runs, and how it is prompted."""

    model: str
    """`wheel:…`, `hf:org/name@revision`, or the path of a model folder."""
    format: FormatName
    """Its think format (see `formats.FORMATS`); `auto`: taken from its chat template."""
    system_prompt: str | None = None
    """Default: that of the chat template."""
    chat_template: str | None = None
    """`chatml`, `plain` or a file, for a base model that has none. Default: the model's own."""
    chat_template_kwargs: dict[str, Any] = {}
    """Arguments of the chat template, such as enable_thinking or reasoning_effort."""

    @property
    def form(self) -> "PromptForm":
        """Its default prompt form: its own format, without a suffix."""
        return PromptForm(name=self.format, format=self.format)


class Student(Model):
    """The model that is trained."""

    base_model: str
    """Its name on the Hugging Face hub, for the model card."""
    license: str
    """Its licence, such as `apache-2.0`, which the trained student inherits."""
    format: FormatName = "s1"
    """The think format that it is taught."""


class Machine(Section):
    """The machine that the run uses."""

    card: Annotated[str | None, Resume.FREE] = None
    """The accelerator (see `tenner prices`), whose price, memory and speed are looked up. Leave out for a CPU, or a
    machine that only `price_usd_per_hour` describes."""
    count: Annotated[Positive, Resume.FREE] = 1
    """Number of cards, over all nodes."""
    terms: Annotated[Literal["on-demand", "spot"], Resume.FREE] = "on-demand"
    """Rental terms of the cards."""
    provider: Annotated[str | None, Resume.FREE] = None
    """Provider whose price is charged. Default: the user's own price file, else RunPod's secure cloud."""
    price_usd_per_hour: Annotated[UnitPrice, Resume.FREE]
    """Price of one hour of this machine in dollars, all cards together; every stage that computes is charged at it.
    Default: that of `card` in the price list."""
    device: Annotated[Device, Resume.FREE] = "auto"
    """The device for training and decoding."""
    peak_tflops: Annotated[PositiveNumber | None, Resume.FREE] = None
    """Peak bfloat16 TFLOP/s of one device, for MFU. Default: known for common GPUs."""

    @model_validator(mode="before")
    @classmethod
    def _look_the_price_up(cls, given: Any) -> Any:
        """Fill in the price where a card is named. Unknown names and wrong types are left to the fields' own checks."""
        if not isinstance(given, dict):
            return given
        name, count, price = given.get("card"), given.get("count", 1), given.get("price_usd_per_hour")
        if name is None or price is not None or not isinstance(name, str) or type(count) is not int or count < 1:
            return given
        terms = given.get("terms", "on-demand")
        try:
            machines.card(name)
            found = machines.price_usd_per_hour(name, count, terms=terms, provider=given.get("provider"))
        except TennerError as e:
            raise ValueError(f"{e}" + (f" ({e.hint})" if e.hint else "")) from e
        return given | {"price_usd_per_hour": found}

    @model_validator(mode="after")
    def _names_a_card(self) -> "Machine":
        if self.card is None and (alone := {"count", "terms", "provider"} & self.model_fields_set):
            usual = type(self).model_fields
            for name in sorted(alone):
                if getattr(self, name) != usual[name].default:
                    raise ValueError(f"machine.{name} has no effect without machine.card")
        if self.card is not None and self.card not in (known := machines.cards()):
            raise ValueError(f"no card is called {self.card} ({did_you_mean(self.card, known)})")
        return self


class Columns(Section):
    """Which column holds what; `a.b.0` reads a nested value."""

    question: str | None = None
    """Leave out where `template` builds the question."""
    id: str | None = None
    """Default: the column `id` of a local source file, if it has one, else a hash of the question. Empty: the hash."""
    answer: str | None = None
    solution: str | None = None
    domain: str | None = None
    origin: str | None = None
    """Where the source took the question from."""
    answer_after: str | None = None
    """The answer is the text after the last occurrence of this, such as "####" in GSM8K."""
    choices: list[str] = []
    """Columns with the choices of a question, the correct one first; they are appended to it in a seeded order."""


class Condition(Section):
    """A condition on a column: exactly one of these tests."""

    column: str
    equals: str | int | bool | None = None
    one_of: list[str | int] | None = None
    contains: str | None = None
    at_most: int | float | None = None
    is_null: bool | None = None

    @model_validator(mode="after")
    def _says_one_thing(self) -> "Condition":
        if len(said := self.model_dump(exclude_none=True)) != 2:
            raise ValueError(f"a condition on {self.column} needs exactly one test, and has {len(said) - 1}")
        return self


class Table(Section):
    """What sources and benchmarks share: a dataset on the Hugging Face hub or on disk, or a file, and its columns."""

    name: str
    dataset: str | None = None
    """Its id on the hub, or a folder written by `save_to_disk`."""
    configs: list[str] = []
    splits: Annotated[list[str], Field(min_length=1)] = ["train"]
    revision: str | None = None
    file: str | None = None
    """A .jsonl, .csv or .parquet file, on this machine or at a URL."""
    columns: Columns
    template: str | None = None
    """Builds the question from several columns, such as `{passage}\\n\\n{question}`."""
    where: list[Condition] = []
    """Rows must meet all of these conditions."""
    without: list[Condition] = []
    """Rows must meet none of these conditions."""
    sample: Positive | None = None
    """Take this many of its questions, chosen by a seeded hash."""
    stratify: list[str] = []
    """Columns whose proportions the sample keeps."""
    kind: AnswerKind | None = None
    """How answers are graded. Default: `maths`, or `choice` where there are choices."""
    domain: str | None = None
    origin: str | None = None
    license: str | None = None
    expect: Positive | None = None
    """The exact number of questions that it must yield; any other number stops the run."""
    published: Positive | None = None
    """The number that its authors report, shown beside the actual one."""


class Source(Table):
    """A table of training questions."""

    @model_validator(mode="after")
    def _is_one_table(self) -> "Source":
        if (self.dataset is None) == (self.file is None):
            raise ValueError(f"source {self.name} needs either dataset or file")
        if (self.columns.question is None) == (self.template is None):
            raise ValueError(f"source {self.name} needs either columns.question or template")
        return self


class Benchmark(Table):
    """A table of evaluation questions: a known task, or your own table."""

    name: str = ""
    """Default: the task's."""
    task: str | None = None
    """A known task (see `evaluation/benchmarks.py`), which provides everything that is left out here."""
    columns: Columns = Columns(question="question", answer="answer")
    suffix: str | None = None
    """Appended to every question. Default: the task's."""

    @model_validator(mode="after")
    def _is_one_table(self) -> "Benchmark":
        if self.dataset is not None and self.file is not None:
            raise ValueError(f"benchmark {self.name} needs either dataset or file")
        if self.task is None and (not self.name or (self.dataset is None and self.file is None)):
            raise ValueError("a benchmark needs a task, or a name and either dataset or file")
        return self


class Gather(Section):
    """Sources of questions: tables, generated puzzles, or both."""

    sources: list[Source] = []
    questions: NotNegative = 0
    """Number of generated questions."""
    families: list[str] = []
    """Families of generated questions (see `data/puzzles.py`)."""

    @model_validator(mode="after")
    def _is_not_empty(self) -> "Gather":
        if bool(self.questions) != bool(self.families):
            raise ValueError("gather.questions and gather.families belong together")
        if not self.questions and not self.sources:
            raise ValueError("gather names neither sources nor generated questions")
        if len({s.name for s in self.sources}) < len(self.sources):
            raise ValueError("two sources have one name")
        if any(s.name.partition(":")[0] == "puzzles" for s in self.sources):
            raise ValueError("a source cannot be called puzzles: generated questions are")
        return self


class Clean(Section):
    """Which questions cleaning removes."""

    filters: list[str] = []
    """Filters that a question must pass, in this order (see `data/quality_filters.py`)."""
    engine: Literal["local", "ray"] = "local"
    """Where texts are processed: on the cores of this machine, or on a Ray cluster (RAY_ADDRESS)."""
    ngram_words: Positive = 8
    boilerplate_questions: Positive = 10
    """An n-gram shared by this many questions is boilerplate, not contamination."""
    near_similarity: Similarity = 0.8
    """Questions with the same numbers and at least this similarity are duplicates; 1 finds exact duplicates only."""
    benchmark_similarity: Similarity = 0.8
    """The same threshold between a question and a benchmark question."""


class PromptForm(Section):
    """A prompt form; the one that scores best in the attempts represents the untrained student in the evaluation."""

    name: str
    format: FormatName
    suffix: str = ""
    """Appended to the question."""


class Attempt(Section):
    """How question difficulty is measured with the untrained student."""

    questions: NotNegative
    """Number of questions. 0 skips the attempts; the first prompt form then represents the untrained student."""
    second_model: str | None = None
    """Address of another untrained model that attempts them too, in the form of `student.model`; s1 used two."""
    thinking_tokens_max: Positive = 64
    answer_tokens_max: Positive = 16
    prompts: Annotated[list[PromptForm], Field(min_length=1)]


class Select(Section):
    """How many questions are selected, and by which sampler (see `data/samplers.py`)."""

    samples: Positive
    sampler: Literal["hardest", "s1-paper", "s1-notebook"] = "hardest"
    aime: list[str] = []
    """For s1's samplers: the sources that stand in for AIME."""
    gpqa: list[str] = []
    """For s1's samplers: the sources that stand in for GPQA."""
    math: list[str] = []
    """For s1's samplers: the sources that stand in for MATH."""
    top_up: bool = True
    """Select and buy more until `samples` are left after verification."""
    control: Literal["random"] | None = None
    """`random`: a second student is trained on as many questions, drawn at random from all that could be selected, and
    evaluated beside the first, so that the report can say what selection was worth. Their traces, its training and its
    evaluation are paid as well. Default: none."""


class PriceSection(Section):
    """Token prices in dollars per million; they override tenner's table."""

    input_usd_per_mtok: UnitPrice
    """Dollars per million input tokens."""
    output_usd_per_mtok: UnitPrice
    """Dollars per million output tokens, thinking included."""
    cached_input_usd_per_mtok: UnitPrice | None = None
    """Dollars per million cached input tokens. Default: the input price."""
    batch_multiplier: Annotated[float, Field(ge=0, le=100)] | None = None
    """Factor on these prices in batch mode (0.5 is half)."""


class PaidModel(Section):
    """A model behind an API: its address, limits and rate."""

    PLACE: ClassVar[str]
    """Its place in a recipe."""
    WANTS_THINKING: ClassVar[bool] = False
    """Whether its thinking is needed; a model that hides it is then refused."""

    client: Literal["reference-solution", "openai", "gemini", "replay"]
    """`openai` is any server that speaks the chat completions protocol."""
    preset: str | None = None
    """A known provider (see `clients/presets.toml`), in place of `base_url` and `api_key_env`."""
    base_url: BaseURL | None = None
    """The server's address, such as `http://localhost:8000/v1`."""
    further_base_urls: Annotated[list[BaseURL], Resume.FREE] = []
    """More servers of the same model at the same price: the calls are split between all of them."""
    api_key_env: KeyVariable | None = None
    """Name of the environment variable that holds the key. Leave out for a server without keys."""
    model: str | None = None
    """The model's name at the provider."""
    price: Annotated[PriceSection | None, Resume.FREE] = None
    """Default: tenner's table."""
    system_prompt: str | None = None
    """Sent before every question."""
    suffix: str = ""
    """Appended to every question."""
    parameters: Parameters = {}
    """Request parameters, sent unchanged: temperature, reasoning_effort, …"""
    output_tokens_max: TokenLimit = 32_000
    """Token limit of thinking and answer together. Longer replies are cut by the provider and marked `truncated`."""
    limit_parameter: Literal["max_tokens", "max_completion_tokens"] | None = None
    """The server's name for this limit. Default: the preset's, else max_tokens."""
    batch: bool = False
    """Submit calls as batch jobs: half the price at most providers, results within a day."""
    concurrency: Annotated[Positive, Resume.FREE] = 8
    """Number of concurrent calls."""
    requests_per_minute: Annotated[Positive | None, Resume.FREE] = None
    """Rate limit: calls per minute."""
    tokens_per_minute: Annotated[Positive | None, Resume.FREE] = None
    """Rate limit: tokens per minute, prompts included."""
    attempts_max: Annotated[Positive, Resume.FREE] = 6
    """Maximum number of attempts of a call."""
    deadline_seconds: Annotated[Seconds, Resume.FREE] = 1800.0
    """Time limit of one attempt."""
    replay_from: str | None = None
    """The run folder whose stored responses `replay` uses."""

    @model_validator(mode="after")
    def _names_what_it_needs(self) -> "PaidModel":
        if self.client in ("openai", "gemini") and self.model is None:
            raise ValueError(f"the {self.client} client needs model")
        if self.client == "openai" and self.preset is None and self.base_url is None:
            raise ValueError("the openai client needs preset or base_url")
        if self.client == "replay" and self.replay_from is None:
            raise ValueError("the replay client needs replay_from")
        if self.further_base_urls and (self.client != "openai" or self.base_url is None or self.batch):
            raise ValueError("further_base_urls go with the openai client and a base_url, and not with batches")
        if self.client != "openai" and self.limit_parameter is not None:
            raise ValueError(f"limit_parameter has no effect with the {self.client} client: leave it out")
        return self


class TeacherCandidate(Section):
    """A further teacher that may write the traces. All that is not said here is as in `trace`."""

    client: Literal["openai", "gemini"] = "openai"
    preset: str | None = None
    base_url: BaseURL | None = None
    further_base_urls: Annotated[list[BaseURL], Resume.FREE] = []
    api_key_env: KeyVariable | None = None
    model: str
    price: Annotated[PriceSection | None, Resume.FREE] = None
    parameters: Parameters = {}
    limit_parameter: Literal["max_tokens", "max_completion_tokens"] | None = None
    requests_per_minute: Annotated[Positive | None, Resume.FREE] = None
    tokens_per_minute: Annotated[Positive | None, Resume.FREE] = None
    output_tokens_max: TokenLimit | None = None
    """Default: that of `trace`."""
    concurrency: Annotated[Positive | None, Resume.FREE] = None
    """Default: that of `trace`."""


class TraceSection(PaidModel):
    """The teacher, and which of its traces are used for training."""

    PLACE: ClassVar[str] = "trace"
    WANTS_THINKING: ClassVar[bool] = True

    longer_output_tokens_max: TokenLimit | None = None
    """Request a truncated trace once more with this limit. Default: never."""
    samples_per_question: Positive = 1
    """Number of responses to each question."""
    keep: Literal["first-correct", "shortest-correct", "all-correct", "first"] = "first-correct"
    """Which responses to a question are used; `first` does not require a correct answer, as in s1."""
    truncated: Literal["drop", "keep"] = "drop"
    """Whether truncated traces are used."""
    filters: list[str] = []
    """Filters that a trace must pass, in this order (see `data/quality_filters.py`)."""
    candidates: Annotated[list[TeacherCandidate], Field(min_length=1)] | None = None
    """Further teachers: before traces are bought, each of them and that of `trace` is asked `candidate_questions`. Of
    those whose verified traces are not fewer than the best one's by a paired test, the one with the cheapest verified
    trace is chosen."""
    candidate_questions: Positive | None = None
    """Number of questions that each teacher is asked before one is chosen, the first ones with a reference answer."""

    @property
    def teachers(self) -> list["TraceSection"]:
        """The sections of all teachers, that of `trace` first; each names a single one."""
        own = {name: value for name, value in self if name not in ("candidates", "candidate_questions")}
        inherited = ("output_tokens_max", "concurrency")
        said = [
            {name: value for name, value in candidate if name not in inherited or value is not None}
            for candidate in self.candidates or []
        ]
        return [TraceSection(**own | changes) for changes in ({}, *said)]

    @model_validator(mode="after")
    def _can_choose(self) -> "TraceSection":
        if (self.candidates is None) != (self.candidate_questions is None):
            raise ValueError("candidates and candidate_questions belong together")
        if self.candidates is None:
            return self
        if self.client not in ("openai", "gemini"):
            raise ValueError(f"candidates are compared with the teacher of trace itself, and {self.client} is free")
        try:
            teachers = self.teachers
        except ValidationError as e:
            raise ValueError(f"candidates: {e.errors()[0]['msg'].removeprefix('Value error, ')}") from None
        known = [(t.client, t.preset, t.base_url, t.model, json.dumps(t.parameters)) for t in teachers]
        if len(set(known)) < len(known):
            raise ValueError("candidates: two of the teachers are the same, that of trace included")
        return self

    @model_validator(mode="after")
    def _buys_longer_ones_only(self) -> "TraceSection":
        longer = self.longer_output_tokens_max
        if longer is not None and longer <= self.output_tokens_max:
            raise ValueError("longer_output_tokens_max must be above output_tokens_max")
        return self


class ApiModel(PaidModel):
    """A model behind an API that answers the same questions as the students."""

    PLACE: ClassVar[str] = "evaluate.models"

    name: Annotated[str, Field(min_length=1)]
    """Its name in completions and tables."""
    client: Literal["openai", "gemini"] = "openai"

    @model_validator(mode="after")
    def _has_a_name_of_its_own(self) -> "ApiModel":
        if self.name in get_args(StudentName):
            raise ValueError(f"the name {self.name} belongs to a student of the run")
        return self


class Labeller(PaidModel):
    """A model behind an API that classifies questions by subject."""

    PLACE: ClassVar[str] = "domains.labeller"

    client: Literal["openai", "gemini"]
    """Other clients cannot classify."""


class Domains(Section):
    """How questions without a domain get one."""

    by: Literal["labels", "model", "clusters"] = "labels"
    """`labels`: from the sources only; `model`: a model classifies them into the subjects of `distill/msc.toml`."""
    clusters: Positive = 50
    labeller: Labeller | None = None
    """The model that classifies."""

    @model_validator(mode="after")
    def _names_who_sorts(self) -> "Domains":
        if (self.by == "model") != (self.labeller is not None):
            raise ValueError('domains.labeller and domains.by = "model" belong together')
        return self


DECIDED_BY_SERVICE = (
    "lora_alpha", "quantization", "precision", "optimizer", "tokens_per_row", "activations", "offload_activations",
    "shard_over", "checkpoint_seconds",
)  # fmt: skip
"""Settings of `train` that say how this machine trains."""


class TrainingService(Section):
    """A service that trains by the token, in the protocol of Tinker: Thinking Machines' own, or a SkyRL server."""

    base_url: Annotated[BaseURL, Resume.FREE]
    """Up to the protocol's own path, /api/v1: https://host, or https://host/path."""
    model: str
    """The name of the student there. Its weights are those of `student.model`."""
    price_usd_per_mtok: Annotated[UnitPrice, Resume.FREE]
    """Dollars per million tokens that are trained on, prompts included; 0 for a server of your own. Default: that of
    `model` at Thinking Machines, in tenner's table."""
    api_key_env: Annotated[str | None, Resume.FREE] = None
    """The environment variable that holds the key; left out: the service needs none."""
    delete: Annotated[bool, Resume.FREE] = False
    """Delete what the service stores of this training (storage is billed), once the adapters are downloaded."""
    compare_questions: Annotated[NotNegative, Resume.FREE] = 0
    """So many of the evaluation's questions are also answered by the service, to see that the merged student says the
    same; the report has the count. They are paid by `sampling_price`."""
    sampling_price: Annotated[PriceSection | None, Resume.FREE] = None
    """Of the service's sampling. Default: that of `model` at Thinking Machines, in tenner's table."""

    @model_validator(mode="before")
    @classmethod
    def _look_the_price_up(cls, given: Any) -> Any:
        """Fill in the price of training. Wrong types are left to the fields' own checks."""
        if not isinstance(given, dict) or not isinstance(given.get("model"), str) or "price_usd_per_mtok" in given:
            return given
        try:
            found = prices.train_usd_per_mtok(given["model"])
        except TennerError as e:
            raise ValueError(f"{e} (give price_usd_per_mtok)") from e
        return given | {"price_usd_per_mtok": found}


class Train(Section):
    """s1's schedule (AdamW, linear warm-up, cosine to 0) at the scale of the student."""

    backend: Literal["tinker"] | None = None
    """`tinker`: a service trains (see `train.tinker`). Left out: this machine."""
    tinker: TrainingService | None = None
    """The service of backend `tinker`."""
    method: Literal["full", "lora"] = "full"
    """`lora` freezes the student's weights and trains adapters on its linear layers."""
    frozen_layers: NotNegative = 0
    """Freeze the embedding and this many of the first layers (full fine-tuning only). No gradient flows through them,
    so freezing half of the layers saves a third of the work."""
    lora_rank: Positive = 32
    lora_alpha: Positive = 64
    quantization: Literal["nf4"] | None = None
    """`nf4` keeps LoRA's frozen weights in 4 bits (QLoRA, arXiv 2305.14314), in a single process; the adapters are
    merged into the original weights. Default: the compute precision."""
    epochs: Annotated[int, Field(gt=0, le=10_000)]
    lr: PositiveNumber
    warmup_fraction: BelowOne = 0.05
    weight_decay: NotNegativeNumber = 1e-4
    beta1: BelowOne = 0.9
    beta2: BelowOne = 0.95
    grad_clip_norm: PositiveNumber = 1.0
    tokens_per_step: Positive
    tokens_max: Positive
    """Longest sample that is accepted, in tokens; samples are never truncated."""
    longer: Literal["stop", "drop"] = "stop"
    """What happens to a longer sample: it stops the run before training, or is dropped and reported."""
    validation_samples: Positive | None = None
    """So many samples are not trained on: their loss is measured eleven times, evenly over the training, which takes
    the time of training on each of them four times. Default: all samples are trained on."""
    tokens_per_row: Annotated[Positive, Resume.FREE] = 1024
    """Tokens per forward pass on one device (a longer sample gets a row of its own); more takes more memory."""
    precision: TrainPrecision = "auto"
    """`bf16` computes in bfloat16 with float32 master weights; `pure-bf16` has no master weights and compensates
    rounding errors (see `training/optimizer.py`)."""
    optimizer: Literal["adamw", "adamw-8bit"] = "adamw"
    activations: Annotated[Literal["all", "products", "inputs"], Resume.FREE] = "all"
    """Activations kept for the backward pass: all, those of matrix products, or each layer's input only."""
    offload_activations: Annotated[bool, Resume.FREE] = False
    """Keep activations in host memory (GPUs)."""
    shard_over: Annotated[Positive | None, Resume.FREE] = None
    """How many processes share one copy of the weights. Default: all of them."""
    checkpoint_seconds: Annotated[Positive, Resume.FREE] = 600
    tracker: Annotated[Literal["none", "trackio", "wandb"], Resume.FREE] = "none"
    """Experiment tracker that also gets the loss curve of `training.jsonl`."""

    @model_validator(mode="after")
    def _service_trains_adapters(self) -> "Train":
        if (self.backend == "tinker") != (self.tinker is not None):
            raise ValueError('train.tinker and train.backend = "tinker" belong together')
        if self.tinker is None:
            return self
        if self.validation_samples is not None:
            raise ValueError('train.validation_samples is for training on a machine: backend "tinker" measures no loss')
        if self.method != "lora":
            raise ValueError('backend "tinker" trains adapters: set train.method = "lora"')
        for name in DECIDED_BY_SERVICE:
            if getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f'train.{name} has no effect with backend "tinker": the service decides it')
        return self

    @model_validator(mode="after")
    def _is_possible(self) -> "Train":
        if self.precision == "pure-bf16" and self.method == "lora":
            raise ValueError("pure-bf16 is for full fine-tuning: LoRA's frozen weights are in bfloat16 already")
        if self.precision == "pure-bf16" and self.optimizer != "adamw":
            raise ValueError("pure-bf16 has an optimizer of its own: leave train.optimizer out")
        if self.quantization and self.method != "lora":
            raise ValueError('quantization is for method = "lora": weights in 4 bits cannot be trained themselves')
        if self.frozen_layers and self.method == "lora":
            raise ValueError("frozen_layers is for full fine-tuning: LoRA freezes all layers already")
        return self


class Draws(Section):
    """How an engine samples the next token."""

    temperature: NotNegativeNumber = 0.0
    """0 is greedy decoding."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Nucleus sampling: draw from the most likely tokens that reach this probability together."""


class Endpoint(Section):
    """A server of `/v1/completions` that serves the student. Only machine time is charged for it, not tokens."""

    base_url: Annotated[BaseURL, Resume.FREE]
    further_base_urls: Annotated[list[BaseURL], Resume.FREE] = []
    """More servers of the same student: the questions are split between all of them."""
    model: str
    """The student's model name on the server."""
    api_key_env: Annotated[KeyVariable | None, Resume.FREE] = None
    """Name of the environment variable that holds the key. Leave out for a server without keys."""
    speaks: Speaks = "ids"
    """`ids`: prompts and completions are token ids, which vLLM supports; `text`: text, which is tokenized again."""
    context_tokens: Positive
    """The server's context length in tokens."""


class Evaluate(Section):
    """How the students are evaluated."""

    benchmarks: list[Benchmark] = []
    """Benchmarks that both students answer; their questions are removed from the training questions."""
    questions: NotNegative = 0
    """Number of generated held-out questions, from the same families."""
    thinking_tokens_max: list[NotNegative] = []
    """Thinking budgets of the sweep, in tokens; they share one thinking pass. Empty only if no student is evaluated."""
    thinking_tokens_min: NotNegative = 0
    """Minimum of thinking tokens: an earlier end is replaced by `wait_text`, if the budget allows."""
    waits: list[Positive] = []
    """How many times the end of thinking is replaced by `wait_text`, at the largest budget."""
    early_exit: EarlyExit | None = None
    """The largest budget and each of `waits` are measured once more with thinking ended as soon as a trial answer has
    settled, such as {"at": "wait", "agree": 1, "probability": 0.95} (see `records.EarlyExit`)."""
    grace: Grace | None = None
    """Each budget above `grace.tokens` is measured once more with an end of thinking taken as soon as it is likely in
    its last tokens, such as {"tokens": 16} (see `records.Grace`)."""
    wait_text: str = "Wait"
    answer_tokens_max: Positive = 512
    """Token limit of an answer."""
    samples: Positive = 1
    """Number of answers to each question."""
    sampling: Draws = Draws()
    """Sampling of the students; that of an API is set in its `parameters`."""
    rows: Positive = 64
    """Number of completions decoded in one batch; for engine `api`, of concurrent requests."""
    engine: EngineName = "hf"
    """`hf` is the embedded engine, `vllm` runs vLLM in this process, `api` uses a server (see `evaluate.api`)."""
    precision: Precision = "auto"
    """Precision of weights and matrix products, also in the attempts. Engines round differently: their completions soon
    diverge in bfloat16, and hardly ever in float32."""
    vllm: dict[str, Any] = {}
    """Further arguments of vllm.LLM, passed unchanged."""
    api: Endpoint | None = None
    """The server of engine `api`; the tokenizer is that of `student.model`."""
    models: list[ApiModel] = []
    """Models behind APIs that answer the same questions."""

    @model_validator(mode="after")
    def _has_questions(self) -> "Evaluate":
        if not self.questions and not self.benchmarks:
            raise ValueError("evaluate names neither benchmarks nor generated questions")
        return self

    @model_validator(mode="after")
    def _engine_has_its_endpoint(self) -> "Evaluate":
        if (self.engine == "api") != (self.api is not None):
            raise ValueError('evaluate.api and evaluate.engine = "api" belong together')
        if self.api is not None and self.precision != "auto":
            raise ValueError("evaluate.precision has no effect with engine api: the server chooses it")
        return self

    @model_validator(mode="after")
    def _budgets_ascend(self) -> "Evaluate":
        if sorted(set(self.thinking_tokens_max)) != self.thinking_tokens_max:
            raise ValueError("thinking_tokens_max must ascend without repeats")
        return self

    @model_validator(mode="after")
    def _largest_budget_allows(self) -> "Evaluate":
        largest = max(self.thinking_tokens_max, default=None)
        if self.waits and largest is None:
            raise ValueError("waits apply at the largest of thinking_tokens_max, which names no budget")
        if self.thinking_tokens_min and (largest is None or self.thinking_tokens_min >= largest):
            raise ValueError("thinking_tokens_min must be below the largest of thinking_tokens_max")
        if self.early_exit and not largest:
            raise ValueError("early_exit applies at the largest of thinking_tokens_max, which allows no thinking")
        if self.grace and (largest is None or self.grace.tokens >= largest):
            raise ValueError("grace.tokens must be below the largest of thinking_tokens_max")
        return self

    @property
    def policies(self) -> list[Policy]:
        """The thinking policies of the sweep. A budget below the least number of thinking tokens is its own least."""
        limits = [(n, min(self.thinking_tokens_min, n)) for n in self.thinking_tokens_max]
        found = [Policy(thinking_tokens_max=most, thinking_tokens_min=least) for most, least in limits]
        at_the_largest = found[-1:]
        at_the_largest += [p.model_copy(update={"waits": n}) for p in found[-1:] for n in self.waits]
        graced = [p for p in found if self.grace is not None and (p.thinking_tokens_max or 0) > self.grace.tokens]
        found += at_the_largest[1:]
        if self.early_exit is not None:
            found += [policy.model_copy(update={"early_exit": self.early_exit}) for policy in at_the_largest]
        return found + [policy.model_copy(update={"grace": self.grace}) for policy in graced]

    @model_validator(mode="after")
    def _names_are_names(self) -> "Evaluate":
        if len({model.name for model in self.models}) < len(self.models):
            raise ValueError("two of evaluate.models have one name")
        return self
