"""`tenner compare RUN_A RUN_B`: whether two runs differ on the questions that both have answered."""

import argparse
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from tenner.core import disk, policy_text
from tenner.core.errors import TennerError
from tenner.core.records import Completion, Policy, Question
from tenner.core.run_folder import RunFolder
from tenner.core.seeds import digest
from tenner.core.terminal import say
from tenner.evaluation.report import page
from tenner.evaluation.report.sentences import Figure
from tenner.evaluation.report.tables import NBSP, Table, called, limit, p_value, percent, points
from tenner.evaluation.statistics.paired import Comparison, compare
from tenner.evaluation.statistics.scores import policy_order, verdicts

IDS_SHOWN = 5


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of the verb."""
    parser.add_argument("run_a", metavar="RUN_A", type=Path, help="a run's folder")
    parser.add_argument("run_b", metavar="RUN_B", type=Path, help="another's")
    parser.add_argument(
        "--student", metavar="NAME", action="append", default=[],
        help="distilled, base, or a model by name; twice: in A and in B (default: distilled, or the only one)",
    )  # fmt: skip
    parser.add_argument(
        "--policy", metavar="LIMIT[+WAITS][,early-exit][,grace]|JSON",
        help="64, 64+1 for one wait at it, none for no limit, 64,early-exit, or all its fields as JSON (default: each "
        "run's largest limit)",
    )  # fmt: skip
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="one JSON object")
    form.add_argument("--html", metavar="FILE", type=Path, help="write a page that opens offline, and print its path")


def main(args: argparse.Namespace) -> None:
    """Compare, and print by how much they differ."""
    if args.html is None:
        say(run(args.run_a, args.run_b, students=args.student, policy=args.policy, as_json=args.json))
        return
    if os.path.isdir(args.html):
        raise TennerError(f"--html {args.html} is a folder", hint="name the file to be written")
    found = _compared(args.run_a, args.run_b, students=args.student, policy=args.policy)
    disk.replace_text(args.html, as_html(args.run_a, args.run_b, found))
    say(str(args.html))


class Side(NamedTuple):
    """One run's answers under one policy to the questions of one benchmark."""

    run: Path
    student: str
    policy: Policy
    answers: dict[str, list[bool]]
    """Which of the answers are right, by a hash of the question: two runs may mean different ones by one id."""
    ids: dict[str, str]
    questions: dict[str, str]


def run(path_a: Path, path_b: Path, *, students: Sequence[str], policy: str | None, as_json: bool) -> str:
    """The comparison of every benchmark that both runs have, as text or as one JSON object.

    `students` are who answered, in A and in B; one is meant for both, none is the distilled one or the only one there.
    `policy` is as in `policy_text.find`; by default each run's largest limit without waits and early ends.

    Raises:
        TennerError: a folder without completions of that student and policy, or no question in common.
    """
    found = _compared(path_a, path_b, students=students, policy=policy)
    if as_json:
        return json.dumps({"tasks": [_as_json(*each) for each in found]}, ensure_ascii=False)
    return "\n\n".join(_as_text(*each) for each in found)


class Compared(NamedTuple):
    """One benchmark of both runs."""

    task: str
    a: "Side"
    b: "Side"
    comparison: Comparison


def _compared(path_a: Path, path_b: Path, *, students: Sequence[str], policy: str | None) -> list[Compared]:
    if len(students) > 2:
        raise TennerError(f"--student is given {len(students)} times", hint="once for both runs, or once for each")
    of_a, of_b = (students[0], students[-1]) if students else (None, None)
    sides = [_sides(path_a, of_a, policy), _sides(path_b, of_b, policy)]
    tasks = [task for task in sides[0] if task in sides[1]]
    pairs = {task: (sides[0][task], sides[1][task]) for task in tasks}
    pairs = {task: (a, b) for task, (a, b) in pairs.items() if a.answers.keys() & b.answers.keys()}
    if not pairs:
        raise TennerError(
            f"{path_a} and {path_b} have no answered question in common",
            hint="two runs can be compared that were asked the same questions: of one benchmark, or with one seed",
        )
    return [Compared(task, a, b, compare(a.answers, b.answers)) for task, (a, b) in pairs.items()]


def _sides(path: Path, student: str | None, wanted: str | None) -> dict[str, Side]:
    folder = RunFolder.existing(path)
    asked = folder.questions_by_id("benchmark")
    by_student: dict[str, dict[str, list[Completion]]] = {}
    for c in folder.stream("completions", Completion):
        by_student.setdefault(c.student, {}).setdefault(c.task, []).append(c)
    if student is None:
        student = next(iter(by_student)) if len(by_student) == 1 else "distilled"
    if student not in by_student:
        there = f"it has those of {', '.join(by_student)}" if by_student else f"tenner evaluate {path}"
        raise TennerError(f"{path} has no answers of {called(student)}", hint=there)
    return {task: _side(path, student, wanted, completions, asked) for task, completions in by_student[student].items()}


def _side(
    path: Path, student: str, wanted: str | None, completions: Sequence[Completion], asked: Mapping[str, Question]
) -> Side:
    policies = sorted({c.policy for c in completions}, key=policy_order)
    plain = [p for p in policies if not p.waits and not p.stops_early]
    policy = (plain or policies)[-1] if wanted is None else policy_text.find(wanted, policies)
    if policy is None:
        there = ", ".join(map(policy_text.name, policies))
        raise TennerError(f"{path} has no answers under the policy {wanted}", hint=f"it has {there}")
    chosen = [c for c in completions if c.policy == policy]
    right = verdicts(chosen)
    hashes = {q.id: digest(q.id, q.question, q.answer) for q in (asked[id_] for id_ in right)}
    by_hash = {hashes[id_]: given for id_, given in right.items()}
    ids = {hashes[id_]: id_ for id_ in right}
    return Side(path, student, policy, by_hash, ids, {key: asked[id_].question for key, id_ in ids.items()})


def _as_json(task: str, a: Side, b: Side, c: Comparison) -> dict[str, object]:
    return {
        "task": task,
        "a": _side_json(a, c.accuracy_before),
        "b": _side_json(b, c.accuracy_after),
        "n": c.n,
        "difference": c.difference,
        "ci_low": c.ci.low,
        "ci_high": c.ci.high,
        "test": c.test,
        "p_value": c.p_value,
        "smallest_difference_seen": c.least_seen,
        "more_a": c.more_before,
        "more_b": c.more_after,
        "both": c.both,
        "neither": c.neither,
        "missing_a": _missing(b, c.missing_before),
        "missing_b": _missing(a, c.missing_after),
    }


def _side_json(side: Side, accuracy: float) -> dict[str, object]:
    return {
        "run": str(side.run),
        "student": side.student,
        "policy": side.policy.model_dump(),
        "accuracy": accuracy,
    }


def _as_text(task: str, a: Side, b: Side, c: Comparison) -> str:
    lines = [f"{task}: {c.n:,} questions that both have answered"]
    for name, side, accuracy in (("A", a, c.accuracy_before), ("B", b, c.accuracy_after)):
        lines.append(f"  {name}  {percent(accuracy)}  {_described(side)}")
    return "\n".join([*lines, *_findings(a, b, c)])


def _described(side: Side) -> str:
    waits = f", {side.policy.waits} waits" if side.policy.waits else ""
    return f"{side.run}, {side.student}, {limit(side.policy)} thinking tokens{waits}"


def _findings(a: Side, b: Side, c: Comparison) -> list[str]:
    """The difference, the test, what could have been found, and what was not compared: a line each."""
    right, test = ("right only", "exact McNemar test")
    if c.test == "bootstrap":
        right, test = ("right more often", "bootstrap over questions")
    lines = [
        f"B minus A: {points(c.difference)} points, 95{NBSP}% interval {points(c.ci.low)} to {points(c.ci.high)}; "
        f"{p_value(c.p_value)} ({test})",
        f"{right} in A: {c.more_before:,}, in B: {c.more_after:,}",
        f"a difference of {100 * c.least_seen:.1f} points would have been found four times out of five",
    ]
    for name, ids in (("A", _missing(b, c.missing_before)), ("B", _missing(a, c.missing_after))):
        if ids:
            more = f" and {len(ids) - IDS_SHOWN:,} more" if len(ids) > IDS_SHOWN else ""
            shown = ", ".join(ids[:IDS_SHOWN])
            lines.append(f"missing in {name}, and not compared: {len(ids):,} ({shown}{more})")
    return lines


def as_html(path_a: Path, path_b: Path, found: Sequence[Compared]) -> str:
    """The comparison as a page, with the questions on which the runs differ."""
    tasks = [
        {
            "name": f"{task}: {c.n:,} questions that both have answered",
            "figures": [
                Figure(name, percent(accuracy), _described(side))
                for name, side, accuracy in (("A", a, c.accuracy_before), ("B", b, c.accuracy_after))
            ],
            "lines": [f"{line[0].upper()}{line[1:]}." for line in _findings(a, b, c)],
            "table": _differing(a, b),
        }
        for task, a, b, c in found
    ]
    return page.render("comparison.html.jinja", title=f"A: {path_a}, B: {path_b}", tasks=tasks)


def _differing(a: Side, b: Side) -> Table:
    """The questions that one run answers right more often than the other."""
    rows = []
    for key in a.answers.keys() & b.answers.keys():
        shares = [sum(side.answers[key]) / len(side.answers[key]) for side in (a, b)]
        if shares[0] != shares[1]:
            rows.append((a.ids[key], *map(percent, shares), a.questions[key]))
    header = ("id in A", "right in A", "right in B", "question")
    return Table("Questions on which the runs differ", "lrrl", header, sorted(rows))


def _missing(other: Side, hashes: Sequence[str]) -> list[str]:
    """The ids of questions that only the other run has answered."""
    return sorted(other.ids[q] for q in hashes)
