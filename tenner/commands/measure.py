"""`tenner measure MODEL|RUN|FILE.toml`: a benchmark asked of who is there already; nothing is trained."""

import argparse
import re
from functools import partial
from pathlib import Path
from typing import Any

from tenner.core import recipe as recipes
from tenner.core.errors import TennerError
from tenner.core.progress import Screen
from tenner.core.recipe import Measurement
from tenner.core.run import AnyRun, open_run
from tenner.core.sections import Benchmark
from tenner.data import sources
from tenner.evaluation import benchmarks as tasks
from tenner.evaluation.evaluate import EvaluatedStudent
from tenner.evaluation.report import measurement
from tenner.inference.engine import LocalEngine
from tenner.stages import evaluation, resolve_student
from tenner.training.allocator import ask_for_huge_pages


def settings(args: argparse.Namespace) -> Measurement:
    """The measurement that the command line describes: who answers by an address or a file, the rest by options.

    Raises TennerError for one that cannot be, before a model is fetched or loaded.
    """
    is_file = args.who.endswith(".toml")
    text = recipes.read_text(Path(args.who)) if is_file else ""
    data = recipes.tables(text, where=args.who)
    asked: dict[str, Any] = data.setdefault("evaluate", {})
    _set_benchmark(asked, args)
    sampling = {"temperature": args.temperature, "top_p": args.top_p}
    wishes = {
        "thinking_tokens_max": _numbers("--thinking", args.thinking),
        "waits": _numbers("--waits", args.waits),
        "answer_tokens_max": args.answer,
        "samples": args.samples,
        "rows": args.rows,
        "engine": args.engine,
        "precision": args.precision,
        "sampling": asked.get("sampling", {}) | _given(sampling) or None,
    }
    asked |= _given(wishes)
    data |= _given({"seed": args.seed, "budget_usd": args.budget_usd})
    machine = _given({"price_usd_per_hour": args.price_usd_per_hour, "device": args.device})
    if machine:
        data["machine"] = {"price_usd_per_hour": 0.0} | data.get("machine", {}) | machine
    where = args.who if is_file else "the command line"
    if not is_file:
        unfetched = _unfetched(data, args)
        evaluation.check(recipes.validate(Measurement, unfetched, text=text, where=where, overrides=args.overrides))
        _introduce(data, args)
    elif args.format is not None:
        raise TennerError("--format goes with a model, not with a file", hint="say it in the file: student.format")
    described = recipes.validate(Measurement, data, text=text, where=where, overrides=args.overrides)
    evaluation.check(described)
    return described


def folder_of(described: Measurement) -> Path:
    """Where a measurement goes if nobody says where."""
    (benchmark,) = described.evaluate.benchmarks
    return Path("runs") / f"{described.name}-{_slug(tasks.resolve(benchmark).name)}"


def run(path: Path, described: Measurement, *, budget_usd: float | None) -> None:
    """Ask what has not been answered yet, and write the report.

    Raises:
        TennerError: the folder holds something else, the questions cannot be read, or somebody cannot be asked.
        BudgetReached, Incomplete: see `answering.answer`.
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

    def load_engine() -> LocalEngine:
        from tenner.training.student import resolve

        return evaluation.load_engine(run, "evaluate", resolve(student.model))

    return evaluation.answer(run, [EvaluatedStudent(run.recipe.name, student.model, student.form, load_engine)])


def write_report(run: AnyRun) -> tuple[int, int]:
    """Write the tables: a pure reader of the folder."""
    known = measurement.collect(run.folder, run.recipe)
    run.folder.write_text("report.md", measurement.render_markdown(known))
    return len(known.scores), 1


STAGES = {"gather": gather, "evaluate": evaluate, "report": write_report}


def _set_benchmark(asked: dict[str, Any], args: argparse.Namespace) -> None:
    """The questions that the options name, in the place of a file's; or so many of the file's."""
    if args.task is not None or args.data is not None:
        table: dict[str, Any] = _given({"task": args.task, "file": None if args.data is None else str(args.data)})
        if args.task is None:
            table["name"] = args.data.stem
        asked["benchmarks"] = [table]
    benchmarks = asked.get("benchmarks", [])
    if args.questions is not None and len(benchmarks) == 1:
        benchmarks[0]["sample"] = args.questions
    if not benchmarks:
        raise TennerError("no questions are named", hint="give --task NAME, or --data FILE, or both")
    if args.task is not None or args.data is not None:
        sources.check([tasks.resolve(Benchmark.model_validate(table))])


def _unfetched(data: dict[str, Any], args: argparse.Namespace) -> dict[str, Any]:
    """What is known before the model is there, so that all else is refused before it is fetched."""
    student = {"model": args.who, "format": args.format or "plain"}
    usual = {"name": "unfetched", "seed": 0, "budget_usd": 0.0, "student": student}
    return usual | data | {"evaluate": {"thinking_tokens_max": [0]} | data["evaluate"]}


def _introduce(data: dict[str, Any], args: argparse.Namespace) -> None:
    """Who answers, by address, and what is usual for it where the options say nothing."""
    _refuse_without_cap(data, args.price_usd_per_hour)  # before anything is fetched; a run knows its price
    wishes = resolve_student.StudentOptions(format=args.format, price_usd_per_hour=args.price_usd_per_hour)
    speaker, price_usd_per_hour = resolve_student.resolve_student(args.who, wishes)
    is_run = (Path(args.who) / "recipe.toml").is_file()
    student = {"model": str(speaker.model_dir) if is_run else args.who, "format": speaker.fmt.name}
    data["student"] = student | _given({"system_prompt": speaker.system_prompt})
    data["name"] = _slug(speaker.name)
    data["machine"] = data.get("machine", {}) | {"price_usd_per_hour": price_usd_per_hour or 0.0}
    data.setdefault("seed", 0)
    _refuse_without_cap(data, price_usd_per_hour)
    data.setdefault("budget_usd", 0.0)
    asked = data["evaluate"]
    asked.setdefault("thinking_tokens_max", [speaker.thinking_tokens_max])
    asked.setdefault("answer_tokens_max", speaker.answer_tokens_max)
    asked.setdefault("wait_text", speaker.wait_text)


def _refuse_without_cap(data: dict[str, Any], price_usd_per_hour: float | None) -> None:
    if price_usd_per_hour and "budget_usd" not in data:
        raise TennerError(
            "--budget-usd is missing",
            hint=f"this machine costs ${price_usd_per_hour:g} an hour: say what it may come to",
        )


def _numbers(option: str, text: str | None) -> list[int] | None:
    """ "0,256" as numbers. Raises TennerError for anything else."""
    if text is None:
        return None
    try:
        return [int(number) for number in text.split(",")]
    except ValueError:
        raise TennerError(f"{option} {text} is no list of numbers", hint=f"write {option} 0,256,512") from None


def _given(wishes: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in wishes.items() if value is not None}


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9._-]+", "-", name.casefold()).strip("-._") or "model"
