"""The sections of a recipe: every setting there is, with its type, its default and what it means."""

from enum import Enum, auto
from typing import Annotated, Any, ClassVar, Literal, get_args
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from tenner.core.formats import AUTO, FORMATS
from tenner.core.records import AnswerKind, NamedPrecision, StudentName

Positive = Annotated[int, Field(gt=0)]
NotNegative = Annotated[int, Field(ge=0)]
NotNegativeNumber = Annotated[float, Field(ge=0)]
PositiveNumber = Annotated[float, Field(gt=0)]
DOLLARS_MAX = 1e9
Dollars = Annotated[float, Field(ge=0, le=DOLLARS_MAX)]
"""What the ledger can count in integer micro-dollars, with room to spare."""
EngineName = Literal["hf", "vllm", "api"]
"""`hf` is the embedded engine, `vllm` a vLLM engine in this process, `api` a completions server (see `Endpoint`)."""
LocalEngineName = Literal["hf", "vllm"]
Speaks = Literal["ids", "text"]
Precision = Literal["auto", "bf16", "fp32"]
"""`auto` is bfloat16 where the device has it natively, and float32 elsewhere (see `hardware.py`)."""
TrainPrecision = Literal["auto"] | NamedPrecision
Device = Literal["auto", "cpu", "cuda", "mps"]
"""`auto` is CUDA where it is there, else Apple's MPS, else the CPU."""
BelowOne = Annotated[float, Field(ge=0, lt=1)]
Similarity = Annotated[float, Field(gt=0, le=1)]


def _known_format(name: str) -> str:
    if name not in FORMATS and name != AUTO:
        raise ValueError(f"no think format is called {name!r}; there are {', '.join(FORMATS)} and {AUTO}")
    return name


def _http_url(url: str) -> str:
    try:
        parts = urlsplit(url)
        if parts.scheme in ("http", "https") and parts.hostname and parts.port != 0:
            return url
    except ValueError:  # an impossible port or IPv6 address
        pass
    raise ValueError("not a URL such as https://host:8000/v1")


FormatName = Annotated[str, AfterValidator(_known_format)]
BaseURL = Annotated[str, AfterValidator(_http_url)]


class Resume(Enum):
    """What a resumed run may do with a setting. One without this mark must stay as it was."""

    FREE = auto()
    """It may change: it decides how, how fast or at what cost something is computed, but not what."""


class Section(BaseModel):
    """Base of all sections: immutable, no unknown keys, no silent conversion of types, no infinity and no NaN."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )

    @classmethod
    def free_on_resume(cls) -> set[str]:
        """The names of its fields that are marked `Resume.FREE`."""
        return {name for name, field in cls.model_fields.items() if Resume.FREE in field.metadata}


class Model(Section):
    """Who answers, in an engine."""

    model: str
    """`wheel:…`, `hf:org/name@revision`, or the path of a model folder."""
    format: FormatName
    """How it thinks (see `formats.FORMATS`); `auto`: as its chat template says."""
    system_prompt: str | None = None
    """Left out: the chat template's own default."""
    chat_template: str | None = None
    """`chatml`, `plain` or a file, for a base model that has none; left out: the model's own."""
    chat_template_kwargs: dict[str, Any] = {}
    """Arguments of the chat template: enable_thinking, reasoning_effort, …"""

    @property
    def form(self) -> "PromptForm":
        """How it is asked, if nothing else is said: in its format, with nothing behind the question."""
        return PromptForm(name=self.format, format=self.format)


class Student(Model):
    """Who learns."""

    base_model: str
    """Its name on the Hugging Face hub, for the model card."""
    license: str
    """Its licence (`apache-2.0`), which the distilled student inherits."""
    format: FormatName = "s1"
    """The think format it is taught."""


class Machine(Section):
    """Where it runs."""

    price_usd_per_hour: Annotated[NotNegativeNumber, Resume.FREE]
    """What an hour of this machine costs; every stage that computes is charged by it."""
    device: Annotated[Device, Resume.FREE] = "auto"
    """What the student is trained and decoded on."""
    peak_tflops: Annotated[PositiveNumber | None, Resume.FREE] = None
    """The best that one of its devices computes in bfloat16, for MFU; left out: known for common GPUs."""


class Columns(Section):
    """Which columns hold what; `a.b.0` reaches into what is nested."""

    question: str | None = None
    """Left out where `template` puts it together."""
    id: str | None = None
    """Left out: a hash of the question."""
    answer: str | None = None
    solution: str | None = None
    domain: str | None = None
    origin: str | None = None
    """Where the source has it from."""
    answer_after: str | None = None
    """The answer is what follows the last of these in its column, as "####" in GSM8K."""
    choices: list[str] = []
    """The choices of a question, the right one first: they are put behind it in a seeded order."""


class Condition(Section):
    """What a column must hold: exactly one of these."""

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
    """What a source and a benchmark share: a dataset of the Hugging Face hub or on disk, or a file, and its columns."""

    name: str
    dataset: str | None = None
    """Its id on the hub, or the folder that `save_to_disk` wrote."""
    configs: list[str] = []
    splits: Annotated[list[str], Field(min_length=1)] = ["train"]
    revision: str | None = None
    file: str | None = None
    """A .jsonl, .csv or .parquet file, on this machine or at a URL."""
    columns: Columns
    template: str | None = None
    """The question out of several columns, as `{passage}\\n\\n{question}`."""
    where: list[Condition] = []
    """Rows must meet all of these,"""
    without: list[Condition] = []
    """and none of these."""
    sample: Positive | None = None
    """So many of its questions, by seeded hash."""
    stratify: list[str] = []
    """Columns whose values the sample holds in proportion."""
    kind: AnswerKind | None = None
    """How its answers are graded; left out: as maths, or as choice where there are choices."""
    domain: str | None = None
    origin: str | None = None
    license: str | None = None
    expect: Positive | None = None
    """How many questions it must yield: another number stops the run."""
    published: Positive | None = None
    """How many its authors report; shown beside ours."""


class Source(Table):
    """A table of questions to learn from."""

    @model_validator(mode="after")
    def _is_one_table(self) -> "Source":
        if (self.dataset is None) == (self.file is None):
            raise ValueError(f"source {self.name} needs either dataset or file")
        if (self.columns.question is None) == (self.template is None):
            raise ValueError(f"source {self.name} needs either columns.question or template")
        return self


class Benchmark(Table):
    """A table of questions for the evaluation: a known task, or a table of one's own."""

    name: str = ""
    """Left out: the task's."""
    task: str | None = None
    """A known task (see `evaluation/benchmarks.py`), which says all that is left out here."""
    columns: Columns = Columns(question="question", answer="answer")
    suffix: str | None = None
    """Put behind every question; left out: the task's."""

    @model_validator(mode="after")
    def _is_one_table(self) -> "Benchmark":
        if self.dataset is not None and self.file is not None:
            raise ValueError(f"benchmark {self.name} needs either dataset or file")
        if self.task is None and (not self.name or (self.dataset is None and self.file is None)):
            raise ValueError("a benchmark needs a task, or a name and either dataset or file")
        return self


class Gather(Section):
    """Where questions come from: tables, generated puzzles, or both."""

    sources: list[Source] = []
    questions: NotNegative = 0
    """How many are generated."""
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
    """What is no longer a question after cleaning."""

    filters: list[str] = []
    """What a question must pass, in this order (see `data/quality_filters.py`)."""
    engine: Literal["local", "ray"] = "local"
    """Where texts are read: the cores of this machine, or a Ray cluster (RAY_ADDRESS)."""
    ngram_words: Positive = 8
    boilerplate_questions: Positive = 10
    """An n-gram that so many questions share is wording of a template, not a leak."""
    near_similarity: Similarity = 0.8
    """Questions with the same numbers that share so much of their wording are one; 1 looks for equal ones only."""
    benchmark_similarity: Similarity = 0.8
    """The same between a question and a benchmark's."""


class PromptForm(Section):
    """A way of asking a student; the best one on the attempts represents the untrained one in the evaluation."""

    name: str
    format: FormatName
    suffix: str = ""
    """Put behind the question."""


class Attempt(Section):
    """How the untrained student's skill is measured."""

    questions: NotNegative
    """0: not at all, and the first of the prompts stands for the untrained student."""
    second_model: str | None = None
    """Another untrained model that attempts them too, named as `student.model` is; s1 had two."""
    thinking_tokens_max: Positive = 64
    answer_tokens_max: Positive = 16
    prompts: Annotated[list[PromptForm], Field(min_length=1)]


class Select(Section):
    """How many questions are worth training on, and how they are drawn (see `data/samplers.py`)."""

    samples: Positive
    sampler: Literal["hardest", "s1-paper", "s1-notebook"] = "hardest"
    aime: list[str] = []
    """For s1's samplers: the sources that play the part of AIME,"""
    gpqa: list[str] = []
    """of GPQA,"""
    math: list[str] = []
    """and of MATH."""
    top_up: bool = True
    """Select and buy more until so many samples are left after verification."""


class PriceSection(Section):
    """What the teacher's tokens cost, in dollars per million; it overrides the table that comes with tenner."""

    input_usd_per_mtok: NotNegativeNumber
    """Dollars per million input tokens."""
    output_usd_per_mtok: NotNegativeNumber
    """Dollars per million output tokens, thinking included."""
    cached_input_usd_per_mtok: NotNegativeNumber | None = None
    """Dollars per million input tokens that the provider has cached; left out: the input's price."""
    batch_multiplier: NotNegativeNumber | None = None
    """What batch mode takes of these prices (0.5 is half)."""


class PaidModel(Section):
    """A model behind an API: how much it may say, and how fast it may be asked."""

    PLACE: ClassVar[str]
    """Where in a recipe it stands."""
    WANTS_THINKING: ClassVar[bool] = False
    """Whether it is asked for the sake of its thinking: one that hides it is refused."""

    client: Literal["reference-solution", "openai", "gemini", "replay"]
    """`openai` is every server that speaks the chat completions protocol."""
    preset: str | None = None
    """A known provider (see `clients/presets.toml`), in place of `base_url` and `api_key_env`."""
    base_url: BaseURL | None = None
    """The server's address, as `http://localhost:8000/v1`."""
    further_base_urls: Annotated[list[BaseURL], Resume.FREE] = []
    """More servers of the same model at the same price: the calls are split between all of them."""
    api_key_env: str | None = None
    """The name of the environment variable that holds the key; left out for a server that wants none."""
    model: str | None = None
    """The model's name at the provider."""
    price: Annotated[PriceSection | None, Resume.FREE] = None
    """Left out: the table that comes with tenner."""
    system_prompt: str | None = None
    """Sent before every question."""
    suffix: str = ""
    """Put behind every question."""
    parameters: dict[str, Any] = {}
    """Sent as they are: temperature, reasoning_effort, …"""
    output_tokens_max: Positive = 32_000
    """Thinking and answer together. What is longer is cut by the provider and marked `truncated`."""
    limit_parameter: Literal["max_tokens", "max_completion_tokens"] | None = None
    """How the server calls this limit. Left out: as the preset has it, else max_tokens."""
    batch: bool = False
    """Hand the calls in as batches: half the price at most providers, an answer within a day."""
    concurrency: Annotated[Positive, Resume.FREE] = 8
    """Calls in flight at a time."""
    requests_per_minute: Annotated[Positive | None, Resume.FREE] = None
    """The most calls that are sent in a minute."""
    tokens_per_minute: Annotated[Positive | None, Resume.FREE] = None
    """The most tokens that are asked for in a minute, prompts included."""
    attempts_max: Annotated[Positive, Resume.FREE] = 6
    """How often a call is tried."""
    deadline_seconds: Annotated[PositiveNumber, Resume.FREE] = 1800.0
    """The longest that one attempt may take."""
    replay_from: str | None = None
    """The run folder whose stored responses `replay` answers from."""

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


class TraceSection(PaidModel):
    """Who teaches, and which of its traces are learned from."""

    PLACE: ClassVar[str] = "trace"
    WANTS_THINKING: ClassVar[bool] = True

    longer_output_tokens_max: Positive | None = None
    """Buy a truncated trace once more with this limit. Left out: never."""
    samples_per_question: Positive = 1
    """Responses to each question."""
    keep: Literal["first-correct", "shortest-correct", "all-correct", "first"] = "first-correct"
    """Which of the samples of a question are learned from; `first` asks for no right answer, as s1 did."""
    truncated: Literal["drop", "keep"] = "drop"
    """Whether a truncated trace may be learned from."""
    filters: list[str] = []
    """What a trace must pass, in this order (see `data/quality_filters.py`)."""

    @model_validator(mode="after")
    def _buys_longer_ones_only(self) -> "TraceSection":
        longer = self.longer_output_tokens_max
        if longer is not None and longer <= self.output_tokens_max:
            raise ValueError("longer_output_tokens_max must be above output_tokens_max")
        return self


class ApiModel(PaidModel):
    """A model behind an API that is asked the same questions as the students."""

    PLACE: ClassVar[str] = "evaluate.models"

    name: Annotated[str, Field(min_length=1)]
    """What it is called in completions and tables."""
    client: Literal["openai", "gemini"] = "openai"

    @model_validator(mode="after")
    def _has_a_name_of_its_own(self) -> "ApiModel":
        if self.name in get_args(StudentName):
            raise ValueError(f"the name {self.name} belongs to a student of the run")
        return self


class Labeller(PaidModel):
    """A model behind an API that sorts questions into subjects."""

    PLACE: ClassVar[str] = "domains.labeller"

    client: Literal["openai", "gemini"]
    """The other clients answer with traces."""


class Domains(Section):
    """How questions get a domain whose source names none."""

    by: Literal["labels", "model", "clusters"] = "labels"
    """`labels`: those of the sources alone; `model`: a model sorts them into the subjects of `distill/msc.toml`."""
    clusters: Positive = 50
    labeller: Labeller | None = None
    """The model that sorts."""

    @model_validator(mode="after")
    def _names_who_sorts(self) -> "Domains":
        if (self.by == "model") != (self.labeller is not None):
            raise ValueError('domains.labeller and domains.by = "model" belong together')
        return self


class Train(Section):
    """s1's schedule (AdamW, linear warm-up, cosine to 0) at the scale of the student."""

    method: Literal["full", "lora"] = "full"
    """`lora`: the student's weights are frozen, and adapters beside its linear layers are trained."""
    frozen_layers: NotNegative = 0
    """Full fine-tuning of the upper layers only: the first so many, and the embedding, stay as they are. Nothing goes
    backward through them, so half the layers frozen are a third of the work saved."""
    lora_rank: Positive = 32
    lora_alpha: Positive = 64
    quantization: Literal["nf4"] | None = None
    """`nf4`: LoRA's frozen weights in 4 bits (QLoRA, arXiv 2305.14314), which one process trains beside; the adapters
    are merged into the weights as they were. Left out: in the precision that is computed in."""
    epochs: Positive
    lr: PositiveNumber
    warmup_fraction: BelowOne = 0.05
    weight_decay: NotNegativeNumber = 1e-4
    beta1: BelowOne = 0.9
    beta2: BelowOne = 0.95
    grad_clip_norm: PositiveNumber = 1.0
    tokens_per_step: Positive
    tokens_max: Positive
    """The longest sample that is accepted; none is cut."""
    longer: Literal["stop", "drop"] = "stop"
    """What happens to a longer one: it stops the run before anything is trained, or is dropped and reported."""
    tokens_per_row: Annotated[Positive, Resume.FREE] = 1024
    """Tokens that go through the model at once on one device (a longer sample goes alone); more costs memory."""
    precision: TrainPrecision = "auto"
    """`bf16` computes in bfloat16 and keeps float32 weights; `pure-bf16` keeps none, and corrects what rounding loses
    (see `training/optimizer.py`)."""
    optimizer: Literal["adamw", "adamw-8bit"] = "adamw"
    activations: Annotated[Literal["all", "products", "inputs"], Resume.FREE] = "all"
    """What is kept for the backward pass: everything, matrix products only, or each layer's input only."""
    offload_activations: Annotated[bool, Resume.FREE] = False
    """Keep it in the host's memory (GPUs)."""
    shard_over: Annotated[Positive | None, Resume.FREE] = None
    """How many processes share one copy of the weights; left out: all that torchrun launched."""
    checkpoint_seconds: Annotated[Positive, Resume.FREE] = 600
    tracker: Annotated[Literal["none", "trackio", "wandb"], Resume.FREE] = "none"
    """Where the loss curve is shown too, beside `training.jsonl`."""

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
    """How an engine draws the next token; temperature 0 takes the most likely one."""

    temperature: NotNegativeNumber = 0.0
    """0 takes the most likely token."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Draw from the most likely tokens that have so much of the probability together."""


class Endpoint(Section):
    """A server of `/v1/completions` that serves the student. Only machine time is charged for it, not tokens."""

    base_url: Annotated[BaseURL, Resume.FREE]
    further_base_urls: Annotated[list[BaseURL], Resume.FREE] = []
    """More servers of the same student: the questions are split between all of them."""
    model: str
    """The name of the student on the server."""
    api_key_env: Annotated[str | None, Resume.FREE] = None
    """The environment variable that holds the key; left out: the server needs none."""
    speaks: Speaks = "ids"
    """`ids`: prompts and completions are token ids, as vLLM supports; `text`: text, which is encoded again."""
    context_tokens: Positive
    """The context length of the server."""


class Evaluate(Section):
    """What proves it."""

    benchmarks: list[Benchmark] = []
    """Tables of questions that are asked of both students, and kept out of the training."""
    questions: NotNegative = 0
    """Held-out questions, generated from the same families."""
    thinking_tokens_max: list[NotNegative] = []
    """The budgets of the sweep; they share one thinking pass. Only where no student is asked there may be none."""
    thinking_tokens_min: NotNegative = 0
    """The fewest tokens a student must think: an earlier end is replaced by `wait_text`, if the budget allows."""
    waits: list[Positive] = []
    """How often the end of thinking is replaced by `wait_text`, at the largest budget."""
    wait_text: str = "Wait"
    answer_tokens_max: Positive = 512
    """The most tokens of an answer."""
    samples: Positive = 1
    """Answers to each question."""
    sampling: Draws = Draws()
    """Of the students; an API's is among its `parameters`."""
    rows: Positive = 64
    """How many completions are decoded side by side; of engine `api`, how many requests are made at a time."""
    engine: EngineName = "hf"
    """`hf` is the embedded engine, `vllm` runs in this process, `api` is a server (see `evaluate.api`)."""
    precision: Precision = "auto"
    """Of weights and products, in the attempts too. Two engines round differently, and in bfloat16 part soon; in
    float32 hardly ever."""
    vllm: dict[str, Any] = {}
    """Further arguments of vllm.LLM, as they are."""
    api: Endpoint | None = None
    """The server of engine `api`; `student.model` names the tokenizer."""
    models: list[ApiModel] = []
    """Models that are asked the same questions through their APIs."""

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
        return self

    @model_validator(mode="after")
    def _names_are_names(self) -> "Evaluate":
        if len({model.name for model in self.models}) < len(self.models):
            raise ValueError("two of evaluate.models have one name")
        return self
