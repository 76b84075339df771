"""A measurement: a benchmark asked of a model as it is, of a run's student, or of models behind APIs."""

import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from pydantic import ValidationError

from tenner.core import recipe as recipes
from tenner.core import toml_text
from tenner.core.dollars import in_dollars
from tenner.core.errors import TennerError
from tenner.core.progress import Screen
from tenner.core.recipe import Measurement
from tenner.core.run import AnyRun, open_run, stored_recipe
from tenner.core.run_folder import RunFolder
from tenner.core.sections import Benchmark, Device, EngineName, Precision, Speaks
from tenner.data import sources
from tenner.evaluation import benchmarks as tasks
from tenner.evaluation.evaluate import EvaluatedStudent
from tenner.evaluation.report import measurement
from tenner.inference.engine import JobEngine
from tenner.stages import evaluation, resolve_student
from tenner.training.allocator import ask_for_huge_pages

ANY_BUDGET = 2**62
"""In the place of the student's own budget until the student is known: no minimum and no grace exceeds it."""


class MeasureOptions(NamedTuple):
    """What is asked for beside who answers; None leaves it to the file, the run, or what is usual for a model."""

    task: str | None = None
    """A known benchmark (see `evaluation/benchmarks.py`)."""
    data: Path | None = None
    """Its questions in a file, or those of a benchmark of one's own."""
    columns: Mapping[str, str] = MappingProxyType({})
    """Those of `data` that have other names than their fields."""
    questions: int | None = None
    """So many of them, by seeded hash."""
    format: str | None = None
    thinking_tokens_max: Sequence[int] | None = None
    """The budgets of a sweep."""
    thinking_tokens_min: int | None = None
    waits: Sequence[int] | None = None
    answer_tokens_max: int | None = None
    samples: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None
    engine: EngineName | None = None
    rows: int | None = None
    base_urls: Sequence[str] | None = None
    """This and the next four describe the server of engine `api`, or several (see `sections.Endpoint`)."""
    served_model: str | None = None
    api_key_env: str | None = None
    context_tokens: int | None = None
    speaks: Speaks | None = None
    device: Device | None = None
    precision: Precision | None = None
    price_usd_per_hour: float | None = None
    budget_usd: float | None = None
    chat_template: str | None = None
    """This and the next: see `sections.Model`."""
    chat_template_kwargs: Mapping[str, Any] | None = None
    early_exit: Mapping[str, Any] | None = None
    """The fields of `records.EarlyExit`."""
    grace: Mapping[str, Any] | None = None
    """Those of `records.Grace`."""


def describe(who: str, options: MeasureOptions, *, overrides: Sequence[str] = ()) -> Measurement:
    """The measurement of `who`, a model's address, a run's folder, or a file that describes one, with options on top.

    Raises TennerError for one that cannot be, before a model is fetched or loaded.
    """
    is_file = who.endswith(".toml")
    text = recipes.read_text(Path(who)) if is_file else ""
    data = toml_text.tables(text, where=who)
    if is_file:
        recipes.beside_the_file(data, Path(who))
        _check_tables(data, who)
    evaluate: dict[str, Any] = data.setdefault("evaluate", {})
    _set_benchmark(evaluate, options)
    sampling = {"temperature": options.temperature, "top_p": options.top_p}
    evaluate |= _given(
        {
            "thinking_tokens_max": None if options.thinking_tokens_max is None else list(options.thinking_tokens_max),
            "thinking_tokens_min": options.thinking_tokens_min,
            "waits": None if options.waits is None else list(options.waits),
            "early_exit": options.early_exit,
            "grace": options.grace,
            "answer_tokens_max": options.answer_tokens_max,
            "samples": options.samples,
            "rows": options.rows,
            "engine": options.engine,
            "precision": options.precision,
            "sampling": evaluate.get("sampling", {}) | _given(sampling) or None,
        }
    )
    endpoint = {
        "base_url": None if options.base_urls is None else options.base_urls[0],
        "further_base_urls": None if options.base_urls is None else list(options.base_urls[1:]),
        "model": options.served_model,
        "api_key_env": options.api_key_env,
        "context_tokens": options.context_tokens,
        "speaks": options.speaks,
    }
    if given := _given(endpoint):
        evaluate["api"] = evaluate.get("api", {}) | given
    data |= _given({"seed": options.seed, "budget_usd": options.budget_usd})
    machine = _given({"price_usd_per_hour": options.price_usd_per_hour, "device": options.device})
    if machine:
        known = data.get("machine", {})
        data["machine"] = ({} if "card" in known else {"price_usd_per_hour": 0.0}) | known | machine
    where, changes = who if is_file else "the command line", list(overrides)
    if not is_file:
        unfetched = _unfetched(data, who, options.format)
        evaluation.check(recipes.validate(Measurement, unfetched, text=text, where=where, overrides=changes))
        _set_student(data, who, options)
    for field in ("format", "chat_template", "chat_template_kwargs") if is_file else ():
        if getattr(options, field) is not None:
            option = f"--{field.replace('_', '-')}"
            raise TennerError(
                f"{option} goes with a model, not with a file", hint=f"say it in the file: student.{field}"
            )
    described = recipes.validate(Measurement, data, text=text, where=where, overrides=changes)
    evaluation.check(described)
    described = resolve_student.with_format(described)
    _refuse_without_effect(described, options, who)
    return described


def folder_of(described: Measurement) -> Path:
    """Where a measurement goes if nobody says where."""
    (benchmark,) = described.evaluate.benchmarks
    return Path("runs") / f"{described.name}-{_slug(tasks.resolve(benchmark).name)}"


def run(path: Path, described: Measurement, *, budget_usd: float | None = None) -> None:
    """Ask what has not been answered yet, and write the report.

    Raises:
        TennerError: the folder holds something else, the questions cannot be read, or somebody cannot be asked.
        BudgetReached, Incomplete: see `stages/evaluation.py`.
    """
    ask_for_huge_pages()
    screen = Screen()
    with open_run(path, described, screen, budget_usd=budget_usd) as measuring:
        if not measuring.folder.done("evaluate"):
            evaluation.check_connections(described, screen)
        measuring.go_through(described.stages, STAGES)


def gather(run: AnyRun) -> tuple[int, int]:
    """Read the questions."""
    asked = tasks.load_questions(run.recipe.evaluate.benchmarks, partial(sources.gather, seed=run.recipe.seed))
    run.folder.write("benchmark", asked)
    return len(asked), len(asked)


def evaluate(run: AnyRun) -> tuple[int, int]:
    """Have them answered, by the student if there is one and by the models behind APIs."""
    student = run.recipe.student
    if student is None:
        return evaluation.answer(run, [])

    endpoint = run.recipe.evaluate.api

    def load_engine() -> JobEngine:
        from tenner.training.student_address import resolve

        folder = resolve(student.model)
        evaluation.check_template(run, folder, [student.format])
        if endpoint is not None:
            return evaluation.api_engine(run, endpoint, folder)
        return evaluation.load_engine(run, "evaluate", folder)

    model = student.model
    if endpoint is not None:
        urls = ", ".join([endpoint.base_url, *endpoint.further_base_urls])
        model += f" as {endpoint.model} at {urls}"
    return evaluation.answer(run, [EvaluatedStudent(run.recipe.name, model, student.form, load_engine)])


def write_report(run: AnyRun) -> tuple[int, int]:
    """Write the tables: a pure reader of the folder."""
    known = measurement.collect(run.folder, run.recipe)
    run.folder.write_text("report.md", measurement.render_markdown(known))
    run.folder.write_text("report.html", measurement.render_html(known))
    return len(known.scores), 2


STAGES = {"gather": gather, "evaluate": evaluate, "report": write_report}


ENGINE_OPTIONS = {
    "engine": "--engine", "rows": "--rows", "precision": "--precision", "device": "--device",
    "answer_tokens_max": "--answer", "temperature": "--temperature", "top_p": "--top-p",
    "early_exit": "--early-exit", "grace": "--grace",
}  # fmt: skip
"""Options of the engine that a student is decoded in; a model behind an API has none."""


def _refuse_without_effect(described: Measurement, options: MeasureOptions, who: str) -> None:
    """Raise TennerError for an option that would change nothing."""
    for field, option in ENGINE_OPTIONS.items():
        if described.student is None and getattr(options, field) is not None:
            raise TennerError(
                f"{option} has no effect: {who} names no student", hint="set it in evaluate.models of the file"
            )
    if options.top_p is not None and described.evaluate.sampling.temperature == 0:
        raise TennerError("--top-p has no effect at temperature 0", hint="give a --temperature above 0, too")


def _check_tables(data: Mapping[str, Any], where: str) -> None:
    """Raise TennerError where a file has something else in the place of a table that options are put into."""
    evaluate = data.get("evaluate", {})
    inner = evaluate if isinstance(evaluate, dict) else {}
    places = {"evaluate": evaluate, "machine": data.get("machine", {})}
    places |= {f"evaluate.{name}": inner.get(name, {}) for name in ("sampling", "api")}
    for name, value in places.items():
        if not isinstance(value, dict):
            raise TennerError(f"{where}: {name} is not a table")
    benchmarks = inner.get("benchmarks", [])
    if not isinstance(benchmarks, list) or not all(isinstance(table, dict) for table in benchmarks):
        raise TennerError(f"{where}: evaluate.benchmarks is not a list of tables")


def _set_benchmark(evaluate: dict[str, Any], options: MeasureOptions) -> None:
    """The questions that the options name, in the place of a file's; or so many of the file's."""
    is_named = options.task is not None or options.data is not None
    if options.columns and options.data is None:
        raise TennerError("--column has no effect without --data", hint="name the file whose columns they are")
    if is_named:
        table = _given({"task": options.task, "file": None if options.data is None else str(options.data)})
        if options.task is None and options.data is not None:
            table["name"] = options.data.stem
        if options.columns:
            table["columns"] = {"question": "question", "answer": "answer"} | dict(options.columns)
        evaluate["benchmarks"] = [table]
    benchmarks = evaluate.get("benchmarks", [])
    if options.questions is not None and len(benchmarks) == 1:
        benchmarks[0]["sample"] = options.questions
    if not benchmarks:
        raise TennerError("no questions are named", hint="give --task NAME, or --data FILE, or both")
    if is_named:
        try:
            named = Benchmark.model_validate(benchmarks[0])
        except ValidationError as e:
            raise recipes.explain(e, text="", where="the command line", root=Benchmark) from e
        sources.check([tasks.resolve(named)])


def _unfetched(data: dict[str, Any], who: str, format_name: str | None) -> dict[str, Any]:
    """What is known before the model is there, so that all else is refused before it is fetched."""
    student = {"model": who, "format": format_name or "plain"}
    usual = {"name": "unfetched", "seed": 0, "budget_usd": 0.0, "student": student}
    return usual | data | {"evaluate": {"thinking_tokens_max": [ANY_BUDGET]} | data["evaluate"]}


def _set_student(data: dict[str, Any], who: str, options: MeasureOptions) -> None:
    """Who answers, by address, and what is usual for it where the options say nothing."""
    _refuse_without_cap(data, options.price_usd_per_hour)  # before anything is fetched; a run knows its price
    student_options = resolve_student.StudentOptions(
        format=options.format, chat_template=options.chat_template,
        chat_template_kwargs=options.chat_template_kwargs, price_usd_per_hour=options.price_usd_per_hour,
        takes_own_policy=_names_no_policy(data["evaluate"]),
    )  # fmt: skip
    served, price_usd_per_hour = resolve_student.resolve_student(who, student_options)
    is_run = resolve_student.is_run(who)
    student = {"model": str(served.model_dir) if is_run else who, "format": served.fmt.name}
    data["student"] = student | _given(
        {
            "system_prompt": served.system_prompt,
            "chat_template": served.chat_template,
            "chat_template_kwargs": dict(served.chat_template_kwargs) or None,
        }
    )
    data["name"] = _slug(served.name)
    if is_run:  # what the run may cost, a measurement of its student may
        recipe = stored_recipe(RunFolder.existing(Path(who)))
        data.setdefault("budget_usd", recipe.budget_usd if recipe else 0.0)
    data["machine"] = data.get("machine", {}) | {"price_usd_per_hour": price_usd_per_hour or 0.0}
    data.setdefault("seed", 0)
    _refuse_without_cap(data, price_usd_per_hour)
    data.setdefault("budget_usd", 0.0)
    evaluate = data["evaluate"]
    evaluate.setdefault("thinking_tokens_max", [served.thinking_tokens_max])
    evaluate.setdefault("answer_tokens_max", served.answer_tokens_max)
    evaluate.setdefault("wait_text", served.wait_text)
    for name, rule in (("early_exit", served.early_exit), ("grace", served.grace)):
        if rule is not None:
            evaluate[name] = rule.model_dump(exclude_none=True)


def _names_no_policy(evaluate: Mapping[str, Any]) -> bool:
    """Whether the student's own policy is measured, if its folder names one. A server may not be able to keep to it."""
    named = {"thinking_tokens_max", "thinking_tokens_min", "waits", "early_exit", "grace"}
    return not named & evaluate.keys() and evaluate.get("engine") != "api"


def _refuse_without_cap(data: dict[str, Any], price_usd_per_hour: float | None) -> None:
    if price_usd_per_hour and "budget_usd" not in data:
        raise TennerError(
            "--budget-usd is missing",
            hint=f"this machine costs {in_dollars(price_usd_per_hour)} an hour: say what it may come to",
        )


def _given(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9._-]+", "-", name.casefold()).strip("-._") or "model"
