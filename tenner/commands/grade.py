"""`tenner grade FILE.jsonl|RUN`: verdicts on responses, from a file or on those that a run has kept."""

import argparse
import json
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, get_args

from rich.table import Table
from rich.text import Text

from tenner.core.console import SafeConsole
from tenner.core.errors import TennerError
from tenner.core.jsonl import read_objects
from tenner.core.records import AnswerKind, Completion, Grade
from tenner.core.references import is_reference, reference_text
from tenner.core.run_folder import RunFolder
from tenner.core.terminal import say, visible, write_rendered
from tenner.evaluation.grading.grader import Grader, GradingRequest, check_reference
from tenner.evaluation.grading.maths import symbolic
from tenner.evaluation.report.tables import limit

KINDS: tuple[AnswerKind, ...] = get_args(AnswerKind)
SHOWN_CHARS = 60
ROWS_AT_ONCE = 2_000
NO_REFERENCE = Grade(verdict="unparsed", extracted=None, reason="there is no reference answer")


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of the verb."""
    parser.add_argument(
        "file", metavar="FILE.jsonl|RUN", type=Path,
        help="rows with id, response, answer and maybe kind; or a run's folder: its answers again",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="one JSON object a row")


def main(args: argparse.Namespace) -> None:
    """Grade, and print the verdicts."""
    graded = run(args.file)
    if args.json:
        for id_, grade in graded:
            say(as_json(id_, grade))
    else:
        write_rendered(as_text(list(graded)))


class Row(NamedTuple):
    """A line of the file. Several may have one id: the samples of a question."""

    id: str
    asked: GradingRequest
    has_reference: bool = True


def run(path: Path) -> Iterator[tuple[str, Grade]]:
    """The id and the grade of every row, in their order.

    Raises:
        TennerError: a file that cannot be read, or a line that is no row; found before anything is graded.
    """
    rows = kept_rows(path) if os.path.isdir(path) else read_rows(path)
    with Grader() as grader:
        for start in range(0, len(rows), ROWS_AT_ONCE):
            some = rows[start : start + ROWS_AT_ONCE]
            graded = iter(grader.grade_all(row.asked for row in some if row.has_reference))
            yield from ((row.id, next(graded) if row.has_reference else NO_REFERENCE) for row in some)


def as_json(id_: str, grade: Grade) -> str:
    """One JSON object a row: id, verdict, extracted, reason."""
    return json.dumps({"id": id_, **grade.model_dump()}, ensure_ascii=False)


def as_text(graded: Sequence[tuple[str, Grade]]) -> str:
    """What is not correct or was disputed, as a table, and the counts."""
    console = SafeConsole(width=min(SafeConsole().width, 120), highlight=False)
    shown = [(id_, grade) for id_, grade in graded if grade.verdict != "correct" or grade.is_disputed]
    with console.capture() as captured:
        if shown:
            table = Table(box=None, pad_edge=False, header_style="dim")
            for column in ("id", "verdict", "extracted", "reason"):
                table.add_column(column, overflow="fold")
            for id_, grade in shown:
                extracted = grade.extracted or ""
                cut = extracted[:SHOWN_CHARS] + ("…" if len(extracted) > SHOWN_CHARS else "")
                table.add_row(Text(visible(id_)), grade.verdict, Text(visible(cut)), Text(visible(grade.reason or "")))
            console.print(table)
            console.print()
        counts = Counter(grade.verdict for _, grade in graded)
        disputed = sum(grade.is_disputed for _, grade in graded)
        console.print(
            f"{len(graded):,} rows: {counts['correct']:,} correct, {counts['wrong']:,} wrong, "
            f"{counts['unparsed']:,} unparsed; the verifiers disagree on {disputed:,}"
        )
        if not symbolic.is_available():
            console.print("by the exact verifier alone: math-verify is not installed (pip install 'tenner\\[maths]')")
    return captured.get().rstrip()


def kept_rows(path: Path) -> list[Row]:
    """The answers of a run or a measurement. Raises TennerError where there are none that could be graded here."""
    folder = RunFolder.existing(path)
    asked = folder.questions_by_id("benchmark")
    rows = []
    for c in folder.stream("completions", Completion):
        q = asked[c.question_id]
        if q.kind is None:
            raise TennerError(
                f"{path}: its generated questions are graded by the words after the cue, when they are answered",
                hint="`tenner show` tells the verdicts",
            )
        name = f"{c.task}/{c.student}/{limit(c.policy)}+{c.policy.waits}/{c.question_id}/{c.sample_index}"
        rows.append(Row(name, GradingRequest(c.answer, q.answer or "", q.kind)))
    if not rows:
        raise TennerError(f"{path} has no answers to grade", hint=f"tenner evaluate {path}")
    return rows


def read_rows(path: Path) -> list[Row]:
    """The rows of a file. Raises TennerError, with the line, for what is no row.

    A response of null is an empty one. What stands in place of a reference answer, such as NaN, is none.
    """
    rows = [_row(line.fields, line.where) for line in read_objects(path)]
    if not rows:
        raise TennerError(f"{path} holds no rows")
    return rows


def _row(row: dict[str, Any], where: str) -> Row:
    for name in ("id", "response", "answer"):
        if name not in row or (name == "id" and row[name] is None):
            raise TennerError(f"{where} has no {name}", hint="a row has id, response, answer and, if you like, kind")
    if not isinstance(row["response"], str | None):
        raise TennerError(f"{where}: response is no text")
    if isinstance(row["id"], bool) or not isinstance(row["id"], str | int | float):
        raise TennerError(f"{where}: id is no text")
    kind = "maths" if row.get("kind") is None else row["kind"]
    if kind not in KINDS:
        raise TennerError(f"{where}: no kind is called {kind}", hint=f"there are {', '.join(KINDS)}")
    try:
        answer = reference_text(row["answer"])
        if has_reference := answer is not None and is_reference(answer, kind):
            check_reference(answer or "", kind)
    except TennerError as e:
        raise TennerError(f"{where}: {e}", hint=e.hint) from e
    except ValueError as e:
        raise TennerError(f"{where}: answer is {e}") from e
    return Row(str(row["id"]), GradingRequest(row["response"] or "", answer or "", kind), has_reference)
