"""From a pool of questions to those that are traced: gather, clean, attempt, select."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from tenner.core.sections.base import FormatName, NotNegative, Positive, Section, Similarity
from tenner.core.sections.tables import Source


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
