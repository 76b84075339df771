"""`tenner trace QUESTIONS.jsonl`: traces for whoever wants only those, with the same store, ledger and cap as a run."""

import argparse
import tomllib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, get_args

import tomli_w
from pydantic import ValidationError

from tenner.budget.ledger import Ledger, read_spend
from tenner.clients import registry
from tenner.clients.registry import CallContext
from tenner.core.errors import TennerError
from tenner.core.jsonl import read_objects
from tenner.core.progress import Screen
from tenner.core.recipe import explain
from tenner.core.records import AnswerKind, FailedCall, Question, Trace
from tenner.core.run import differences
from tenner.core.run_folder import RunFolder
from tenner.core.sections import FREE, NotNegativeNumber, Section, TraceSection
from tenner.distill import traces
from tenner.distill.traces import TracePurchase
from tenner.evaluation.grading.grader import grade_trace


class TraceJob(Section):
    """What `trace.toml` holds."""

    budget_usd: Annotated[NotNegativeNumber, FREE]
    trace: TraceSection


def settings(args: argparse.Namespace) -> TraceJob:
    """The job that the command line describes. Raises TennerError for one that cannot be done."""
    if args.out is None:
        raise TennerError("--out is missing", hint="name the folder that traces.jsonl shall go to")
    if args.budget_usd is None:
        raise TennerError("--budget-usd is missing", hint="say what it may cost: nothing is bought without a cap")
    if (args.price_in is None) != (args.price_out is None):
        raise TennerError("--price-in and --price-out belong together")
    if args.batch_multiplier is not None and args.price_in is None:
        raise TennerError("--batch-multiplier goes with --price-in and --price-out")
    given = {
        "client": args.client or ("replay" if args.replay_from else "openai"),
        "preset": args.preset,
        "model": args.model,
        "base_url": args.base_url,
        "api_key_env": args.api_key_env,
        "system_prompt": args.system_prompt,
        "suffix": args.suffix,
        "parameters": dict(map(_parameter, args.parameter)) or None,
        "output_tokens_max": args.max_output_tokens,
        "longer_output_tokens_max": args.longer_output_tokens,
        "samples_per_question": args.samples,
        "keep": args.keep,
        "concurrency": args.concurrency,
        "requests_per_minute": args.requests_per_minute,
        "tokens_per_minute": args.tokens_per_minute,
        "attempts_max": args.attempts,
        "deadline_seconds": args.deadline_seconds,
        "batch": args.batch,
        "replay_from": args.replay_from,
    }
    section: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    if args.price_in is not None:
        section["price"] = {"input_usd_per_mtok": args.price_in, "output_usd_per_mtok": args.price_out}
        if args.batch_multiplier is not None:
            section["price"]["batch_multiplier"] = args.batch_multiplier
    try:
        return TraceJob.model_validate({"budget_usd": args.budget_usd, "trace": section})
    except ValidationError as e:
        raise explain(e, text="", where="the command line") from e


def run(questions_path: Path, out: Path, job: TraceJob) -> str:
    """Buy what is not there yet, and say what it came to.

    Raises:
        TennerError: questions that cannot be read, a folder of another job, or a teacher that cannot be asked.
        BudgetReached, Incomplete: see `traces.buy_traces`.
    """
    check_questions(questions_path)
    screen = Screen()
    folder = RunFolder(out)
    registry.check(job.trace, screen)
    with folder.writing():
        stored = _stored(folder)
        if stored and (differing := differences(stored, job)):
            raise TennerError(f"{out} holds traces of another job: {differing}", hint="choose another --out")
        folder.write_text("trace.toml", tomli_w.dumps(job.model_dump(exclude_none=True)))
        ledger = Ledger(out / "run.db", budget_usd=job.budget_usd)
        try:
            if lost := ledger.lose_orphans():
                screen.say(f"{lost} calls were in flight when the last session ended: booked at their worst case")
            context = CallContext(ledger, screen, stage="trace")
            traces.buy_traces(
                TracePurchase(job.trace, lambda: read_questions(questions_path), folder, context, grade_trace)
            )
        finally:
            ledger.close()
    return summary(folder)


def check_questions(path: Path) -> None:
    """Read every line once. Raises TennerError for a file, a line or an id that cannot be used."""
    seen: set[str] = set()
    for q in read_questions(path):
        if q.id in seen:
            raise TennerError(f"{path}: the id {q.id} occurs more than once", hint="every question needs its own id")
        seen.add(q.id)
    if not seen:
        raise TennerError(f"{path} holds no questions")


def read_questions(path: Path) -> Iterator[Question]:
    """The questions of a JSONL file; other columns than id, question, answer, kind and domain are left alone."""
    for line in read_objects(path, hint="give a run folder or a JSONL file"):
        yield _question(line.fields, line.where, path.name)


def summary(folder: RunFolder) -> str:
    """Traces by outcome and verdict, and the bill."""
    outcomes: Counter[str] = Counter()
    verdicts: Counter[str] = Counter()
    for t in folder.stream("traces", Trace):
        outcomes[t.outcome] += 1
        verdicts[t.grade.verdict if t.grade else "no reference"] += 1
    spend = read_spend(folder.path / "run.db")
    cost_usd, unsettled_usd = sum(r.cost_usd for r in spend), sum(r.unsettled_usd for r in spend)
    lines = [
        f"{outcomes.total():,} traces: " + ", ".join(f"{name} {count}" for name, count in outcomes.most_common()),
        "answers: " + ", ".join(f"{name} {count}" for name, count in verdicts.most_common()),
        *_failures(folder),
        f"${cost_usd:.6f} spent" + (f", of it ${unsettled_usd:.6f} at worst case" if unsettled_usd else ""),
        str(folder.path / "traces.jsonl"),
    ]
    return "\n".join(lines)


def _failures(folder: RunFolder) -> list[str]:
    failed = Counter(f.kind for f in folder.stream("failed", FailedCall))
    calls = "call" if failed.total() == 1 else "calls"
    kinds = ", ".join(f"{kind} {count}" for kind, count in failed.most_common())
    return [f"{failed.total():,} {calls} failed for good: {kinds}"] if failed else []


def _question(row: dict[str, Any], where: str, source: str) -> Question:
    fields = {}
    for name in ("id", "question", "answer", "domain"):
        value = row.get(name)
        if value is None and name in ("id", "question"):
            raise TennerError(f"{where} has no {name}", hint="every line needs id and question")
        if value is not None and (isinstance(value, bool) or not isinstance(value, str | int | float)):
            raise TennerError(f"{where}: {name} is neither text nor a number")
        fields[name] = None if value is None else str(value)
    if not str(fields["question"]).strip():
        raise TennerError(f"{where}: the question is empty")
    if (kind := row.get("kind")) is not None and kind not in get_args(AnswerKind):
        raise TennerError(f"{where}: no kind is called {kind}", hint=f"there are {', '.join(get_args(AnswerKind))}")
    return Question(source=source, kind=kind, **fields)


def _parameter(text: str) -> tuple[str, object]:
    name, equals, value = text.partition("=")
    if not equals or not name.strip():
        raise TennerError(f"--parameter {text} has no '='", hint="write --parameter temperature=0.6")
    try:
        return name.strip(), tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return name.strip(), value


def _stored(folder: RunFolder) -> TraceJob | None:
    path = folder.path / "trace.toml"
    if not path.exists():
        return None
    return TraceJob.model_validate(tomllib.loads(path.read_text("utf-8")))
