"""Models behind APIs: what they cost, the teacher, evaluated ones, the referee and the labeller."""

import json
from typing import Annotated, ClassVar, Literal, get_args

from pydantic import Field, ValidationError, model_validator

from tenner.core.records import StudentName
from tenner.core.sections.base import (
    BaseURL,
    KeyVariable,
    Parameters,
    Positive,
    Resume,
    Seconds,
    Section,
    TokenLimit,
    UnitPrice,
)


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
    api_key_env: Annotated[KeyVariable | None, Resume.FREE] = None
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
    api_key_env: Annotated[KeyVariable | None, Resume.FREE] = None
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


class Referee(PaidModel):
    """A model behind an API that decides maths answers on which the two verifiers disagree."""

    PLACE: ClassVar[str] = "evaluate.referee"

    client: Literal["openai", "gemini"] = "openai"

    @model_validator(mode="after")
    def _has_its_own_prompt(self) -> "Referee":
        if self.system_prompt is not None:
            raise ValueError("system_prompt has no effect: the referee has its own")
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
