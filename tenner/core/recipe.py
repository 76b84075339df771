"""What a run folder is made by: a recipe, a measurement or a trace job, read from strict TOML with overrides on top."""

import math
import os
import re
from collections.abc import Iterator, Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar

import tomli_w
from pydantic import Field, ValidationError, model_validator

from tenner.core import teacher
from tenner.core.errors import TennerError
from tenner.core.run_folder import RunFolder
from tenner.core.secrets import KeyInSettings
from tenner.core.sections import (
    DOLLARS_MAX,
    Attempt,
    Clean,
    Dollars,
    Domains,
    Evaluate,
    Gather,
    Machine,
    Model,
    Resume,
    Section,
    Select,
    Student,
    TraceSection,
    Train,
)
from tenner.core.stage_names import MEASURED, ORDERS, with_control
from tenner.core.suggest import did_you_mean, right_key
from tenner.core.terminal import CONTROL
from tenner.core.toml_text import named_value, tables

KEYS_MAX = 20
"""Of the dotted name of a setting: far more than any has."""


class Description(Section):
    """What a run folder is made by, whatever its kind."""

    FILE: ClassVar[str]
    """Its file name in the folder."""
    KIND: ClassVar[str]
    """What a folder that holds it is called in messages."""
    HINT: ClassVar[str]
    """The commands for such a folder."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")]
    """Of the folder, and of its student in tables."""
    budget_usd: Annotated[Dollars, Resume.FREE]
    """The cap over the whole: calls and machine time together."""

    @property
    def stages(self) -> tuple[str, ...]:
        """The stages in their order."""
        raise NotImplementedError

    def to_toml(self) -> str:
        """It with every default and override written out."""
        return tomli_w.dumps(self.model_dump(exclude_none=True))


class TraceJob(Description):
    """Traces for a file of questions, without a run."""

    FILE: ClassVar[str] = "trace.toml"
    KIND: ClassVar[str] = "the traces of a file of questions"
    HINT: ClassVar[str] = "`tenner trace QUESTIONS.jsonl --out DIR` continues it"

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")] = "trace"
    trace: TraceSection

    @property
    def stages(self) -> tuple[str, ...]:
        """Tracing alone."""
        return ("trace",)


class Experiment(Description):
    """What a recipe and a measurement share: questions, the models that answer them, and the machine."""

    seed: int
    """Of all draws: selection, sampling, the choice of some questions."""
    student: Model | None = None
    """Left out: only `evaluate.models` are evaluated."""
    machine: Machine = Machine(price_usd_per_hour=0.0)
    """Left out: its time is not charged."""
    evaluate: Evaluate

    @model_validator(mode="after")
    def _has_models(self) -> "Experiment":
        if self.student is not None and not self.evaluate.thinking_tokens_max:
            raise ValueError("evaluate.thinking_tokens_max names no budget")
        if self.student is None and not self.evaluate.models:
            raise ValueError("no model is named: there is neither a student nor one of evaluate.models")
        return self


class Measurement(Experiment):
    """Benchmark questions for models that exist already; nothing is trained."""

    FILE: ClassVar[str] = "measurement.toml"
    KIND: ClassVar[str] = "a measurement"
    HINT: ClassVar[str] = "`tenner measure` continues it; show, compare, export and grade read it"

    @property
    def stages(self) -> tuple[str, ...]:
        """Questions, answers, report."""
        return MEASURED

    @model_validator(mode="after")
    def _has_one_benchmark(self) -> "Measurement":
        if self.evaluate.questions or len(self.evaluate.benchmarks) != 1:
            raise ValueError("a measurement is of exactly one of evaluate.benchmarks")
        if self.student is not None and any(model.name == self.name for model in self.evaluate.models):
            raise ValueError(f"the name {self.name} belongs to the student")
        return self


Order = Literal["select-first", "trace-first"]


class Recipe(Experiment):
    """A whole run."""

    FILE: ClassVar[str] = "recipe.toml"
    KIND: ClassVar[str] = "a run"
    HINT: ClassVar[str] = "`tenner run RECIPE --run-dir DIR` continues it"

    description: str
    order: Order = "select-first"
    """Whether traces are bought of the selected questions, or of all, and selected by."""
    student: Student
    machine: Machine
    gather: Gather
    clean: Clean = Clean()
    attempt: Attempt
    domains: Domains = Domains()
    select: Select
    trace: TraceSection
    train: Train

    @property
    def stages(self) -> tuple[str, ...]:
        """The stages in their order."""
        order = ORDERS[self.order]
        return order if self.select.control is None else with_control(order)

    @model_validator(mode="after")
    def _students_are_decoded_here(self) -> "Recipe":
        if self.evaluate.engine == "api":
            raise ValueError('evaluate.engine = "api" is for tenner measure: a run decodes its own students')
        return self

    @model_validator(mode="after")
    def _selection_is_possible(self) -> "Recipe":
        if self.select.sampler != "hardest" and self.order != "trace-first":
            raise ValueError(
                f'select.sampler = {self.select.sampler!r} needs order = "trace-first": it looks at traces'
            )
        if not self.gather.sources and self.select.samples > self.gather.questions:
            raise ValueError(
                f"select.samples = {self.select.samples} cannot be picked out of gather.questions = "
                f"{self.gather.questions}"
            )
        held_out, per_question = self.train.validation_samples, self.trace.samples_per_question
        if held_out is not None and held_out >= self.select.samples * per_question:
            selected = f"select.samples = {self.select.samples}"
            raise ValueError(f"train.validation_samples = {held_out} leaves none of {selected} to train on")
        return self

    @model_validator(mode="after")
    def _teachers_have_questions(self) -> "Recipe":
        asked = self.trace.candidate_questions
        if self.order == "select-first" and asked is not None and asked > self.select.samples:
            raise ValueError(
                f"trace.candidate_questions = {asked} is above select.samples = {self.select.samples}: teachers are "
                "asked questions that are traced"
            )
        return self

    @model_validator(mode="after")
    def _control_is_possible(self) -> "Recipe":
        if self.select.control is None:
            return self
        if self.train.backend is not None:
            raise ValueError(
                f'select.control has no effect with train.backend = "{self.train.backend}": its student is trained on '
                "this machine"
            )
        if not self.gather.sources and self.select.samples == self.gather.questions:
            raise ValueError(
                f"select.control has no effect where all of gather.questions = {self.gather.questions} are selected"
            )
        return self

    @model_validator(mode="after")
    def _can_generate_questions(self) -> "Recipe":
        if self.evaluate.questions and not self.gather.families:
            raise ValueError("evaluate.questions are generated: they need gather.families")
        return self


PATHS = (
    "student.model", "student.chat_template", "attempt.second_model", "trace.replay_from",
    "gather.sources.file", "gather.sources.dataset", "evaluate.benchmarks.file", "evaluate.benchmarks.dataset",
)  # fmt: skip
"""The settings that may be the path of a file or folder."""
D = TypeVar("D", bound=Description)
KINDS: tuple[type[Description], ...] = (Recipe, Measurement, TraceJob)


def built_in() -> dict[str, str]:
    """The recipes that come with tenner: name -> TOML text."""
    folder = resources.files("tenner") / "recipes"
    found = {f.name.removesuffix(".toml"): f.read_text("utf-8") for f in folder.iterdir() if f.name.endswith(".toml")}
    return dict(sorted(found.items()))


def load(name_or_path: str, *, overrides: list[str] | None = None) -> Recipe:
    """Read a built-in recipe by name or a TOML file, and put `section.key=value` overrides on top.

    Files and folders that lie beside a recipe's file are found there, whatever the working folder is.

    Raises:
        TennerError: no such recipe, unreadable TOML, an unknown key (with the nearest right name), a wrong type or
            an impossible value; the message carries the line.
    """
    text, where = _find(name_or_path)
    data = tables(text, where=where)
    if name_or_path not in built_in():
        beside_the_file(data, Path(name_or_path))
    return validate(Recipe, data, text=text, where=where, overrides=overrides)


def parse(text: str, *, where: str, overrides: list[str] | None = None) -> Recipe:
    """Like `load`, of a text; `where` names it in messages."""
    return parse_as(Recipe, text, where=where, overrides=overrides)


def parse_as(kind: type[D], text: str, *, where: str, overrides: list[str] | None = None) -> D:
    """Like `parse`, of a text that describes another kind."""
    return validate(kind, tables(text, where=where), text=text, where=where, overrides=overrides)


def validate(kind: type[D], data: dict[str, Any], *, text: str, where: str, overrides: list[str] | None = None) -> D:
    """Read `data`, which came from `text`, with overrides on top. Raises TennerError as `load` does."""
    set_paths = [_override(data, override) for override in overrides or []]
    try:
        return kind.model_validate(data)
    except ValidationError as e:
        raise explain(e, text=text, where=where, set_paths=set_paths, root=kind) from e


def stored_trace_section(folder: Path) -> TraceSection | None:
    """How the traces in the folder of a run or trace job were bought; None where there are none.

    Raises as `stored` does.
    """
    described = stored(RunFolder(folder))
    if not isinstance(described, Recipe | TraceJob):
        return None
    return teacher.chosen(RunFolder(folder), described.trace)


def stored(folder: RunFolder) -> Description | None:
    """The description that the folder holds, None where it holds none.

    Raises TennerError for a folder of another schema, and for a file that is not valid.
    """
    for kind in KINDS:
        if (path := folder.path / kind.FILE).is_file():
            folder.check_schema()
            return parse_as(kind, folder.read_start_file(kind.FILE), where=str(path))
    return None


def beside_the_file(data: dict[str, Any], path: Path) -> None:
    """Make the relative paths in `data`, read from the TOML file at `path`, absolute where they lie in its folder.

    Others stay as they are: they are relative to the working folder.
    """
    folder = path.resolve().parent
    if folder == Path.cwd():
        return
    for dotted in PATHS:
        *sections, key = dotted.split(".")
        for table in _tables_at(data, sections):
            value = table.get(key)
            if isinstance(value, str) and value and not Path(value).is_absolute() and os.path.exists(folder / value):
                table[key] = str(folder / value)


def _tables_at(data: Any, sections: Sequence[str]) -> Iterator[dict[str, Any]]:
    """The tables at a dotted place of what tomllib has read, whose shape nobody has checked."""
    if isinstance(data, list):
        for item in data:
            yield from _tables_at(item, sections)
    elif isinstance(data, dict):
        if sections:
            yield from _tables_at(data.get(sections[0]), sections[1:])
        else:
            yield data


def read_text(path: Path) -> str:
    """The text of a TOML file. Raises TennerError where it cannot be read."""
    try:
        return path.read_text("utf-8-sig")
    except (OSError, ValueError) as e:
        reason = e.strerror if isinstance(e, OSError) else "it is not UTF-8 text, or its name is no path"
        raise TennerError(f"recipe {path} cannot be read: {reason}", hint="see `tenner recipes`") from e


def split_cap(overrides: Sequence[str], flag: float | None = None) -> tuple[float | None, list[str]]:
    """The cap that a command line names, by `--set budget_usd=X` or `--budget-usd X`, and the other overrides.

    None leaves the cap to the recipe and to what is in force. Raises TennerError for a cap that is no amount, or two.
    """
    others, named = [], [] if flag is None else [("--budget-usd", str(flag))]
    for override in overrides:
        key, equals, value = override.partition("=")
        if equals and key.strip() == "budget_usd":
            named.append(("--set budget_usd", value.strip()))
        else:
            others.append(override)
    if len(named) > 1:
        raise TennerError("the cap is given twice", hint="give either --budget-usd X or --set budget_usd=X, once")
    return next((parse_cap(value, option) for option, value in named), None), others


def parse_cap(text: str, option: str = "--budget-usd") -> float:
    """A cap in dollars. Raises TennerError for what is not a finite amount from 0 to `DOLLARS_MAX`."""
    try:
        cap_usd = float(text)
    except ValueError:
        cap_usd = math.nan
    if not 0 <= cap_usd <= DOLLARS_MAX:
        problem = "negative" if cap_usd < 0 else "not an amount of dollars"
        raise TennerError(f"{option} {text} is {problem}", hint=f"give a number from 0 to {DOLLARS_MAX:,.0f}")
    return cap_usd


def _find(name_or_path: str) -> tuple[str, str]:
    recipes = built_in()
    if name_or_path in recipes:
        return recipes[name_or_path], f"recipe {name_or_path}"
    path = Path(name_or_path)
    if not path.suffix and not os.path.exists(name_or_path):  # which is False for what can be no path, too
        hint = did_you_mean(name_or_path, recipes, f"there are {', '.join(recipes)}; or give a .toml file")
        raise TennerError(f"no recipe is called {name_or_path}", hint=hint)
    return read_text(path), str(path)


def _override(data: dict[str, Any], override: str) -> str:
    """Apply one `section.key=value`, the value as TOML (bare words are strings); return its dotted path."""
    path, parsed = named_value("--set", override, example="section.key=value")
    if CONTROL.search(override):
        raise TennerError(f"--set {override} holds control characters or half characters", hint="leave them out")
    keys = [key.strip() for key in path.split(".")]
    if len(keys) > KEYS_MAX:
        raise TennerError(f"--set {path[:60]}… is nested too deeply", hint="no setting has so long a name")
    table = data
    for key in keys[:-1]:
        table = table.setdefault(key, {})
        if not isinstance(table, dict):
            raise TennerError(f"--set {override}: {key} is not a section")
    table[keys[-1]] = parsed
    return ".".join(keys)


def explain(
    error: ValidationError, *, text: str, where: str, set_paths: Sequence[str] = (), root: type[Section] = Recipe
) -> TennerError:
    """The first problem, as one line with its place and, for a misspelt key, the nearest right name."""
    first = min(error.errors(), key=lambda e: e["type"] == "missing")  # a misspelt key explains a missing one
    keys = [str(part) for part in first["loc"]]
    dotted = ".".join(keys)
    line = _line_of(text, keys)
    place = "--set" if dotted in set_paths else f"{where}, line {line}" if line else where
    hint = None
    if first["type"] == "extra_forbidden":
        message, hint = f"unknown key {dotted}", right_key(keys, root)
    elif first["type"] == "missing":
        message = f"{dotted} is missing"
    else:
        message = f"{dotted}: " if dotted else ""
        message += first["msg"].removeprefix("Value error, ")
        is_key = isinstance(first.get("ctx", {}).get("error"), KeyInSettings)
        if not isinstance(first["input"], dict | Section) and not is_key:
            message += f" (got {first['input']!r})"
    return TennerError(f"{place}: {message}", hint=hint)


def _line_of(text: str, keys: list[str]) -> int | None:
    """The line of a key, or else of its section; tomllib keeps no positions. None for what is not in the text."""
    section, section_line = "", None
    names = [key for key in keys if not key.isdigit()]
    wanted_section = ".".join(names[:-1])
    for number, line in enumerate(text.splitlines(), 1):
        if header := re.match(r"\s*\[+\s*([^\]]+?)\s*\]", line):
            section = header[1]
            if section in (wanted_section, ".".join(names)):
                section_line = number
        elif section == wanted_section and names and re.match(rf"\s*\"?{re.escape(names[-1])}\"?\s*=", line):
            return number
    return section_line
