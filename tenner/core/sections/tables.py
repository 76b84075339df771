"""Where questions come from: tables of rows, sources and benchmarks."""

import string
from typing import Annotated

from pydantic import Field, model_validator

from tenner.core.records import AnswerKind
from tenner.core.sections.base import Positive, Section


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
    answer_after: Annotated[str, Field(min_length=1)] | None = None
    """The answer is the text after the last occurrence of this, such as "####" in GSM8K."""
    choices: list[str] = []
    """Columns with the choices of a question, the correct one first, which is the answer; they are appended to it in a
    seeded order, but for those that are empty in a row."""

    @model_validator(mode="after")
    def _says_one_answer(self) -> "Columns":
        different = len(set(self.choices))
        if self.choices and (different < len(self.choices) or not 2 <= different <= len(string.ascii_uppercase)):
            raise ValueError(f"choices needs 2 to {len(string.ascii_uppercase)} different columns, and has {different}")
        if self.choices and self.answer is not None:
            raise ValueError("answer has no effect beside choices, the first of which is the answer")
        if self.answer_after is not None and self.answer is None:
            raise ValueError("answer_after has no effect without answer")
        return self


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

    def _check(self, called: str, *, needs_table: bool) -> None:
        """Raise ValueError for what is neither a dataset nor a file, and for options without effect."""
        has_table = self.dataset is not None or self.file is not None
        if (self.dataset is not None and self.file is not None) or (needs_table and not has_table):
            raise ValueError(f"{called} needs either dataset or file")
        if has_table and (self.columns.question is None) == (self.template is None):
            raise ValueError(f"{called} needs either columns.question or template")
        if self.file is not None:
            self._refuse(called, ("configs", "splits", "revision"), "on a file")
        elif not has_table:
            self._refuse(called, ("configs", "splits", "columns", "template"), "without file or dataset")
        if self.sample is None:
            self._refuse(called, ("stratify",), "without sample")

    def _refuse(self, called: str, options: tuple[str, ...], why: str) -> None:
        """Raise ValueError for the first of the options that is not as it is by default."""
        for option in options:
            if getattr(self, option) != type(self).model_fields[option].get_default(call_default_factory=True):
                raise ValueError(f"{called}: {option} has no effect {why}")


class Source(Table):
    """A table of training questions."""

    @model_validator(mode="after")
    def _is_one_table(self) -> "Source":
        self._check(f"source {self.name}", needs_table=True)
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
        if self.task is None and (not self.name or (self.dataset is None and self.file is None)):
            raise ValueError("a benchmark needs a task, or a name and either dataset or file")
        self._check(f"benchmark {self.name or self.task}", needs_table=False)
        return self
