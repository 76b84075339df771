"""Evaluation: the engine, the policies, the benchmarks."""

from typing import Annotated, Any

from pydantic import Field, model_validator

from tenner.core.records import EarlyExit, Grace, Policy
from tenner.core.sections.base import (
    BaseURL,
    EngineName,
    KeyVariable,
    NotNegative,
    NotNegativeNumber,
    Positive,
    Precision,
    Resume,
    Section,
    Speaks,
)
from tenner.core.sections.paid_models import ApiModel, Referee
from tenner.core.sections.tables import Benchmark


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
    referee: Referee | None = None
    """Decides maths answers on which the two verifiers disagree (see `stages/referee.py`). Default: the exact verifier
    does."""

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
