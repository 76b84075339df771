"""What a run has come to, printed: for people, or as one JSON object."""

import argparse
import json
from pathlib import Path
from typing import Any

from rich.text import Text

from tenner import tracing
from tenner.core import spending
from tenner.core.console import SafeConsole, by_column, fitting_table
from tenner.core.errors import TennerError
from tenner.core.formats import FORMATS
from tenner.core.recipe import Recipe, TraceJob, stored
from tenner.core.records import Difficulty, Drop, Pick, Question, Sample, Score, Trace
from tenner.core.run import chat_template_of, stored_recipe
from tenner.core.run_folder import LARGE_BYTES, RunFolder
from tenner.core.stage_names import CONTROL
from tenner.core.terminal import say, visible, write_rendered
from tenner.distill.traces import trace_id
from tenner.evaluation.report.tables import limit, mean_tokens

NAMES = ("student", "thinking", "thinking\n+ waits")
"""Columns that say which score a row is."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of the verb."""
    parser.add_argument("run", metavar="RUN", type=Path, help="a run's folder")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    parser.add_argument("--why", metavar="ID", help="why a question is trained on, or at which step it fell")
    parser.add_argument("--sample", metavar="ID", help="one training sample, marked by what is trained on")


def main(args: argparse.Namespace) -> None:
    """Print what is asked for."""
    if args.sample is not None and args.why is not None:
        raise TennerError("--sample and --why are two questions", hint="ask one of them at a time")
    if args.sample is not None:
        print_sample(args.run, args.sample, as_json=args.json)
    elif args.why is not None:
        say(why(args.run, args.why, as_json=args.json))
    elif args.json:
        say(as_json(args.run))
    else:
        write_rendered(summary(args.run))


def as_json(path: Path) -> str:
    """Stages, spend and scores as one JSON object; of a trace job what it has come to."""
    folder = RunFolder.existing(path)
    folder.verify_stages(contents_max_bytes=LARGE_BYTES)
    if isinstance(stored(folder), TraceJob):
        return json.dumps(tracing.result(folder)._asdict(), ensure_ascii=False, default=str)
    spend: dict[str, float] = {}
    for row in spending.read(folder):
        spend[row.stage] = round(spend.get(row.stage, 0.0) + row.cost_usd, 6)
    described = stored(folder)
    assert described is not None, "RunFolder.existing has seen it"
    facts = {
        "run": str(path),
        "recipe": described.name,
        "stages": [_stage(folder, name) for name in described.stages],
        "spend_usd": {"total": round(sum(spend.values()), 6), "by_stage": spend},
        "scores": [s.model_dump() for s in folder.read("scores", Score)],
    }
    return json.dumps(facts, ensure_ascii=False)


def summary(path: Path) -> str:
    """Stages, spend and scores as text; of a trace job what it has come to."""
    folder = RunFolder.existing(path)
    if isinstance(stored(folder), TraceJob):
        folder.verify_stages(contents_max_bytes=LARGE_BYTES)
        return visible(tracing.result(folder).as_text())
    facts = json.loads(as_json(path))
    console = SafeConsole(width=min(SafeConsole().width, 100), highlight=False)
    with console.capture() as captured:
        console.print(fitting_table(_stage_columns(facts), width=console.width, left=("stage", "state")))
        if scores := [s for s in folder.read("scores", Score) if s.domain is None]:
            for task in dict.fromkeys(s.task for s in scores):
                console.print()
                of_task = _score_columns([s for s in scores if s.task == task])
                console.print(fitting_table(of_task, width=console.width, left=NAMES, title=visible(task)))
        if reports := [path / name for name in ("report.html", "report.md") if (path / name).exists()]:
            console.print(f"\n{reports[0]}", soft_wrap=True)
    return captured.get().rstrip()


def why(path: Path, question_id: str, *, as_json: bool = False) -> str:
    """The way of a question through a run: what was found out about it, and where it was dropped, if it was.

    A line each, or `{"id", "told": [...], "trained_on": [...]}`. Raises TennerError for an unknown question.
    """
    told, kept = _told_of(path, question_id)
    if as_json:
        return json.dumps({"id": question_id, "told": told, "trained_on": kept}, ensure_ascii=False)
    return "\n".join([*told, f"trained on: {', '.join(kept)}" if kept else "not trained on"])


def _told_of(path: Path, question_id: str) -> tuple[list[str], list[str]]:
    """What each stage knows of a question, a line each, and the samples that are made of it."""
    folder = RunFolder.existing(path)
    recipe = _recipe(folder)
    asked = next((q for q in folder.stream("questions", Question) if q.id == question_id), None)
    if asked is None and (drop := _no_question(folder, question_id)):
        fell = f"gather: dropped, {drop.reason}: {drop.evidence}"
        return [f"{question_id}: a row that is no question", fell], []
    if asked is None:
        raise TennerError(f"{path} has no question {question_id}", hint=f"the ids are in {path / 'questions.jsonl'}")
    trace_ids = {trace_id(question_id, i) for i in range(recipe.trace.samples_per_question)}
    told = [f"{question_id}: {asked.question}", f"gather: from {asked.source}, domain {asked.domain or 'unknown'}"]
    for stage in recipe.stages[1:]:
        for d in folder.stream("difficulties", Difficulty) if stage == "attempt" else ():
            if d.question_id == question_id:
                tokens = f"{d.thinking_tokens_mean:.0f} thinking tokens on average"
                told.append(f"attempt: the untrained student solved it in {d.correct} of {d.tries} tries, {tokens}")
        for p in folder.stream("picks", Pick) if stage == "select" else ():
            if p.question_id == question_id:
                rank = "without a draw" if p.rank is None else f"at rank {p.rank} of {p.domain_size:,}"
                domain = f"domain {p.domain}" if p.domain else "without a domain"
                told.append(f"select: picked as number {p.place + 1:,}, {p.step}, {domain}, {rank}")
        if stage == CONTROL and any(s.question_id == question_id for s in folder.stream(f"{CONTROL}/samples", Sample)):
            told.append("control: drawn at random, and trained on by the second student")
        for drop in folder.stream(f"dropped-{stage}", Drop):
            if drop.id == question_id or drop.id in trace_ids:
                told.append(f"{stage}: dropped, {drop.reason}: {drop.evidence}")
        for t in folder.stream("traces", Trace) if stage == "trace" else ():
            if t.question_id == question_id:
                verdict = f", {t.grade.verdict}" if t.grade else ""
                told.append(f"trace: {t.id} by {t.teacher}, {t.outcome}{verdict}, ${t.cost_usd:.6f}")
    return told, [s.id for s in folder.stream("samples", Sample) if s.question_id == question_id]


def _no_question(folder: RunFolder, row_id: str) -> Drop | None:
    """Why a row never came into the pool."""
    return next((drop for drop in folder.stream("dropped-gather", Drop) if drop.id == row_id), None)


def print_sample(path: Path, sample_id: str, *, as_json: bool = False) -> None:
    """Print a training sample: what is trained on in colour, or between ⟦ ⟧ where there is none; the rest dim.

    As JSON: `{"id", "pieces": [{"text", "trained_on"}], "tokens", "trained_tokens"}`.
    """
    from tenner.core import turn_end
    from tenner.training import loss_mask, student, student_address

    folder = RunFolder.existing(path)
    recipe = _recipe(folder)
    found = [s for s in folder.read("samples", Sample) if sample_id in (s.id, s.question_id)]
    if not found:
        raise TennerError(f"{path} has no sample {sample_id}", hint=f"the ids are in {path / 'samples.jsonl'}")
    base = student_address.resolve(recipe.student.model)
    tokenizer = student.load_tokenizer(base, recipe.student.chat_template)
    template = chat_template_of(tokenizer, recipe)
    end_id = template.turn_end_id(turn_end.end_ids(base, tokenizer))
    encoded = loss_mask.encode(template, found[0], FORMATS[recipe.student.format], end_id=end_id)
    pieces, trained = loss_mask.runs(tokenizer, encoded), sum(encoded.loss_mask)
    if as_json:
        shown_pieces = [{"text": words, "trained_on": is_trained} for words, is_trained in pieces]
        facts = {"id": found[0].id, "pieces": shown_pieces, "tokens": len(encoded.ids), "trained_tokens": trained}
        say(json.dumps(facts, ensure_ascii=False))
        return
    console = SafeConsole(highlight=False)
    text = Text()
    for words, is_trained in pieces:
        shown = f"⟦{words}⟧" if is_trained and not console.color_system else words
        text.append(shown, style="bold green" if is_trained else "dim")
    console.print(text, soft_wrap=True)
    SafeConsole(stderr=True).print(f"{len(encoded.ids)} tokens, {trained} trained on", style="dim")


def _recipe(folder: RunFolder) -> Recipe:
    recipe = stored_recipe(folder)
    assert recipe is not None, "RunFolder.existing has seen it"
    return recipe


def _stage(folder: RunFolder, name: str) -> dict[str, object]:
    if done := folder.done(name):
        counts = {"items_in": done.items_in, "items_out": done.items_out}
        return {"name": name, "state": "done", "seconds": done.seconds, **counts}
    begun = folder.begun_seconds(name)
    state = "pending" if begun is None else "begun"
    return {"name": name, "state": state, "seconds": begun, "items_in": None, "items_out": None}


def _stage_columns(facts: dict[str, Any]) -> dict[str, list[str]]:
    """What each stage took in, gave out and cost, and the sum of the costs."""
    by_stage = facts["spend_usd"]["by_stage"]
    rows = []
    for s in facts["stages"]:
        counts = ["" if s[key] is None else f"{s[key]:,}" for key in ("items_in", "items_out")]
        seconds = "" if s["seconds"] is None else f"{s['seconds']:.1f}"
        cost = f"{by_stage[s['name']]:.4f}" if s["name"] in by_stage else ""
        rows.append([s["name"], s["state"], *counts, seconds, cost])
    rows.append(["total", "", "", "", "", f"{facts['spend_usd']['total']:.4f}"])
    return by_column(("stage", "state", "in", "out", "seconds", "$"), rows)


def _score_columns(scores: list[Score]) -> dict[str, list[str]]:
    """A benchmark's scores, within 80 columns; a count that is nought in all rows has no column."""
    has_waits = any(s.policy.waits for s in scores)
    columns = {
        "student": [visible(s.student) for s in scores],
        "thinking\n+ waits" if has_waits else "thinking": [
            limit(s.policy) + f" + {s.policy.waits}" * bool(s.policy.waits) for s in scores
        ],
        "accuracy": [f"{s.accuracy:.1%}" for s in scores],
        "95 %\ninterval": [f"{100 * s.ci_low:.1f} to {100 * s.ci_high:.1f}" for s in scores],
        "n": [str(s.n) for s in scores],
        "tokens": [mean_tokens(s.thinking_tokens_mean) for s in scores],
    }
    if any(s.trial_tokens_mean for s in scores):
        columns["in\ntrials"] = [mean_tokens(s.trial_tokens_mean) for s in scores]
    if any(s.thinking_cut or s.truncated for s in scores):
        columns["thinking/\nanswers cut"] = [f"{s.thinking_cut}/{s.truncated}" for s in scores]
    if any(s.unparsed for s in scores):
        columns["unparsed"] = [str(s.unparsed) for s in scores]
    return columns
