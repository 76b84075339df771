"""Traces for a file of questions, without a run: the same store, ledger and cap."""

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, get_args

from pydantic import ValidationError

from tenner.clients import registry
from tenner.clients.registry import CallContext
from tenner.core import spending
from tenner.core.errors import TennerError
from tenner.core.jsonl import read_objects
from tenner.core.progress import Screen
from tenner.core.recipe import TraceJob, explain
from tenner.core.records import AnswerKind, FailedCall, Question, Trace
from tenner.core.references import is_reference, reference_text
from tenner.core.run import open_folder
from tenner.core.run_folder import RunFolder
from tenner.core.suggest import did_you_mean
from tenner.data import rows
from tenner.distill import traces
from tenner.distill.traces import TracePurchase
from tenner.evaluation.grading.grader import grade_trace

QUESTIONS_HINT = "give a run folder or a .jsonl, .csv or .parquet file"
NAMES_HINT = "every line needs id and question; a column with another name goes by --column id=NAME"


class TraceResult(NamedTuple):
    """What a trace job has come to."""

    path: Path
    """`traces.jsonl`."""
    outcomes: Counter[str]
    """Traces by outcome (see `records.TraceOutcome`)."""
    verdicts: Counter[str]
    """Their answers by verdict; "no reference" where there is nothing to compare with, "no answer" where a trace ends
    before one."""
    failures: Counter[str]
    """Calls that failed for good, by the name of the fault."""
    spent_usd: float
    unsettled_usd: float
    """Of that, what stands at its worst case."""

    def as_text(self) -> str:
        """For people."""
        lines = [f"{self.outcomes.total():,} traces: {_counts(self.outcomes)}", f"answers: {_counts(self.verdicts)}"]
        if failed := self.failures.total():
            calls = "call" if failed == 1 else "calls"
            lines.append(f"{failed:,} {calls} failed for good: {_counts(self.failures)}")
        unsettled = f", of it ${self.unsettled_usd:.6f} at worst case" if self.unsettled_usd else ""
        lines += [f"${self.spent_usd:.6f} spent{unsettled}", str(self.path)]
        return "\n".join(lines)


def _counts(counts: Counter[str]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.most_common())


def describe(section: Mapping[str, Any], *, budget_usd: float) -> TraceJob:
    """A job by the fields of a recipe's section `trace`. Raises TennerError for one that cannot be done."""
    try:
        return TraceJob.model_validate({"budget_usd": budget_usd, "trace": dict(section)})
    except ValidationError as e:
        raise explain(e, text="", where="the command line", root=TraceJob) from e


def run(
    questions_path: Path, out: Path, job: TraceJob, *, columns: Mapping[str, str] = MappingProxyType({})
) -> TraceResult:
    """Buy what is not there yet, and give what it came to. `columns` are those with other names than their fields.

    Raises:
        TennerError: questions that cannot be read, a folder of another job, or a teacher that cannot be asked.
        BudgetReached, Incomplete: see `traces.buy_traces`.
    """
    without_reference = check_questions(questions_path, columns)
    screen = Screen()
    if without_reference:
        words = ", ".join(f"{said} {count:,}" for said, count in without_reference.most_common())
        screen.say(f"{questions_path.name}: these answers are no reference answers: {words}")
    registry.check(job.trace, screen)
    with open_folder(out, TraceJob, job, screen, budget_usd=job.budget_usd) as opened:
        context = CallContext(opened.ledger, screen, stage="trace")
        with opened.folder.stage("trace") as clock:
            traces.buy_traces(
                TracePurchase(
                    opened.description.trace, lambda: read_questions(questions_path, columns), opened.folder, context,
                    grade_trace,
                )
            )  # fmt: skip
            done = result(opened.folder)
            clock.items_out = done.outcomes.total()
            clock.items_in = clock.items_out + done.failures.total()
    return done


def check_questions(path: Path, columns: Mapping[str, str] = MappingProxyType({})) -> Counter[str]:
    """Read every line once, and count the words that stand in place of a reference answer.

    Raises TennerError for a file, a line or an id that cannot be used, and for a pipe, which is empty the next time.
    """
    if os.path.exists(path) and not os.path.isfile(path) and not os.path.isdir(path):
        raise TennerError(f"{path} can be read only once, and is needed again", hint="write it to a file first")
    seen: set[str] = set()
    words: Counter[str] = Counter()
    for fields, where in _rows(path, columns):
        q = _question(fields, where, path.name)
        if q.id in seen:
            raise TennerError(f"{path}: the id {q.id} occurs more than once", hint="every question needs its own id")
        seen.add(q.id)
        if q.answer is None and (said := fields.get("answer")) is not None:
            words[repr(said)] += 1
    if not seen:
        raise TennerError(f"{path} holds no questions")
    return words


def read_questions(path: Path, columns: Mapping[str, str] = MappingProxyType({})) -> Iterator[Question]:
    """The questions of a file; other columns than id, question, answer, kind and domain are left alone."""
    for fields, where in _rows(path, columns):
        yield _question(fields, where, path.name)


def _rows(path: Path, columns: Mapping[str, str]) -> Iterator[tuple[dict[str, Any], str]]:
    """The rows of a JSONL, CSV or Parquet file with the fields' own names, and where each stands."""
    found: Iterator[tuple[dict[str, Any], str]]
    if path.suffix.lower() in (".csv", ".parquet"):  # Windows writes .CSV, too
        table = rows.table_of(path, name=path.name)
        rows.check(table)
        found = ((_without_blanks(row), f"{path}, row {number:,}") for number, row in enumerate(rows.read(table), 1))
    else:
        found = ((line.fields, line.where) for line in read_objects(path, hint=QUESTIONS_HINT))
    for fields, where in found:
        if lacking := next((column for column in columns.values() if column not in fields), None):
            raise TennerError(f"{where} has no column {lacking}", hint=did_you_mean(lacking, map(str, fields)))
        yield fields | {field: fields[column] for field, column in columns.items()}, where


def _without_blanks(row: dict[str, Any]) -> dict[str, Any]:
    """A row of a table, in which an empty cell stands for nothing."""
    return {name: None if value == "" else value for name, value in row.items()}


def result(folder: RunFolder) -> TraceResult:
    """What is in the folder of a job."""
    outcomes: Counter[str] = Counter()
    verdicts: Counter[str] = Counter()
    for t in folder.stream("traces", Trace):
        outcomes[t.outcome] += 1
        verdicts[t.grade.verdict if t.grade else "no reference" if t.answer else "no answer"] += 1
    spend = spending.read(folder)
    return TraceResult(
        path=folder.path / "traces.jsonl",
        outcomes=outcomes,
        verdicts=verdicts,
        failures=Counter(f.kind for f in folder.stream("failed", FailedCall)),
        spent_usd=sum(r.cost_usd for r in spend),
        unsettled_usd=sum(r.unsettled_usd for r in spend),
    )


def _question(row: dict[str, Any], where: str, source: str) -> Question:
    fields = {}
    for name in ("id", "question", "domain"):
        value = row.get(name)
        if value is None and name != "domain":
            raise TennerError(
                f"{where} has no {name}",
                hint=NAMES_HINT,
            )
        if value is not None and (isinstance(value, bool) or not isinstance(value, str | int | float)):
            raise TennerError(f"{where}: {name} is neither text nor a number")
        fields[name] = None if value is None else str(value)
    if not str(fields["question"]).strip():
        raise TennerError(f"{where}: the question is empty")
    if (kind := row.get("kind")) is not None and kind not in get_args(AnswerKind):
        raise TennerError(f"{where}: no kind is called {kind}", hint=f"there are {', '.join(get_args(AnswerKind))}")
    try:
        answer = reference_text(row.get("answer"))
    except ValueError as e:
        raise TennerError(f"{where}: answer is {e}") from e
    return Question(source=source, kind=kind, answer=answer if is_reference(answer, kind) else None, **fields)
