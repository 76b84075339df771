"""`tenner export`: a run's answers as another tool's log, its samples as chats, its student as a GGUF file."""

import argparse
import datetime
import json
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from tenner.core import turn_end
from tenner.core.errors import TennerError
from tenner.core.formats import FORMATS, ThinkFormat
from tenner.core.recipe import Experiment, Recipe, TraceJob, stored
from tenner.core.records import Completion, Policy, Question, Sample, Trace
from tenner.core.run import render, stored_as, template_to_ask_with
from tenner.core.run_folder import RunFolder
from tenner.core.terminal import say
from tenner.data import quality_filters
from tenner.distill import sft_chats, verification
from tenner.evaluation.benchmarks import by_benchmark
from tenner.evaluation.report import lm_eval_log
from tenner.evaluation.statistics.scores import by_question


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of the verb."""
    parser.add_argument(
        "run", metavar="RUN|TRACES", type=Path, help="a run's folder; for sft, or that of `tenner trace`"
    )
    parser.add_argument(
        "--format", choices=("lm-eval", "sft", "gguf"), required=True,
        help="lm-eval: the answers, as its log of samples; sft: what is trained on, as chats for other trainers, with "
        "the thinking inside `content`; gguf: the student in float16 for llama.cpp, with a Modelfile for Ollama",
    )  # fmt: skip
    parser.add_argument("--out", metavar="DIR", type=Path, required=True, help="where the files go")
    parser.add_argument(
        "--think-tags", metavar="TAGS",
        help="for sft: what stands around the thinking, as '<think>' or an opening and a closing tag with a space "
        "between (default: the run's think format; <think> for traces)",
    )  # fmt: skip


def main(args: argparse.Namespace) -> None:
    """Write the files, and print their paths."""
    if args.format == "sft":
        say(write_chats(args.run, args.out, think_tags=args.think_tags))
        return
    if args.think_tags is not None:
        raise TennerError(
            f"--think-tags has no effect with --format {args.format}", hint="leave it out, or give --format sft"
        )
    say(write_gguf(args.run, args.out) if args.format == "gguf" else run(args.run, args.out))


def write_gguf(path: Path, out: Path) -> str:
    """Write the trained student as `NAME.gguf`, and a `Modelfile` that asks it as the run did; return their paths.

    Raises TennerError where there is no trained student, or one that GGUF or Ollama cannot hold.
    """
    from tenner.training import gguf_file, modelfile, student

    folder = RunFolder.existing(path)
    described = stored_as(Recipe, folder)
    if described is None or not (path / "student").is_dir():
        raise TennerError(f"{path} has no trained student", hint=f"tenner train {path}")
    folder.verify_folder("student")
    tokenizer = student.load_tokenizer(path / "student", template_to_ask_with(folder, described.student))
    asked = Question(id="", question=modelfile.QUESTION, source="")
    prompt = render(tokenizer, asked, described.student.form, described).text
    prompt += FORMATS[described.student.format].after(prompt).open
    name = f"{described.name}.gguf"
    ends = sorted(turn_end.end_ids(path / "student", tokenizer))
    written = modelfile.modelfile(name, prompt, [str(tokenizer.decode([end])) for end in ends])
    _write(out, "Modelfile", written)
    gguf_file.write(path / "student", out / name, name=described.name)
    return f"{out / name}\n{out / 'Modelfile'}"


def write_chats(path: Path, out: Path, *, think_tags: str | None = None) -> str:
    """Write `sft.jsonl`, a chat for each sample that is trained on or each trace that could be; return its path.

    Of traces, how many are left out and why goes to standard error.
    Raises TennerError for a folder without any, or one that cannot be written.
    """
    folder = RunFolder.existing(path)
    described = stored(folder)
    write = None if think_tags is None else sft_chats.in_tags(think_tags)
    system_prompt = None
    if isinstance(described, Recipe):
        samples = folder.read("samples", Sample)
        write = write or sft_chats.in_format(FORMATS[described.student.format])
        system_prompt = described.student.system_prompt
        hint = f"tenner verify {path}"
    elif isinstance(described, TraceJob):
        samples = _verified(folder, described)
        hint = "a trace is exported that is complete and, where the question has an answer, right"
    else:
        raise TennerError(f"{path} is a measurement, which has no samples", hint="give a run or a folder of traces")
    if not samples:
        raise TennerError(f"{path} has no samples to export", hint=hint)
    rows = [sft_chats.row(s, write or sft_chats.USUAL, system_prompt=system_prompt) for s in samples]
    _write(out, "sft.jsonl", "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return str(out / "sft.jsonl")


def _verified(folder: RunFolder, job: TraceJob) -> list[Sample]:
    """What can be learned from in a folder of traces, by the rules of its job."""
    traces, section = folder.read("traces", Trace), job.trace
    good, flawed = quality_filters.apply(traces, section.filters, quality_filters.TRACE_FILTERS)
    verified = verification.verify(good, [], keep=section.keep, truncated=section.truncated)
    reasons = Counter(drop.reason for drop in (*flawed, *verified.dropped))
    told = ", ".join(f"{reason} {count:,}" for reason, count in reasons.most_common()) or "none"
    say(f"{len(verified.kept):,} of {len(traces):,} traces are exported; left out: {told}", file=sys.stderr)
    return verified.kept


def run(path: Path, out: Path) -> str:
    """Write a file for every benchmark, student, prompt and policy; return their paths, one a line.

    Raises:
        TennerError: no run, one without completions, or a folder that cannot be written.
    """
    folder = RunFolder.existing(path)
    described = stored_as(Experiment, folder)
    assert described is not None, "RunFolder.existing has seen it"
    groups: dict[tuple[str, str, str, Policy], list[Completion]] = {}
    for c in folder.stream("completions", Completion):
        groups.setdefault((c.task, c.student, c.prompt, c.policy), []).append(c)
    if not groups:
        raise TennerError(f"{path} has no answers to export", hint=f"tenner evaluate {path}")
    benchmarks = by_benchmark(folder.stream("benchmark", Question))
    answered = datetime.datetime.fromtimestamp((path / "completions.jsonl").stat().st_mtime, datetime.UTC)
    moment = answered.replace(tzinfo=None).isoformat()
    written = []
    for (task, who, prompt, policy), completions in groups.items():
        asking = _asking(path, described, who, prompt, has_thinking=any(c.thinking for c in completions))
        asked, lines = benchmarks[task], []
        places = {q.id: place for place, q in enumerate(asked)}
        for question_id, answers in sorted(by_question(completions).items(), key=lambda item: places[item[0]]):
            place = places[question_id]
            row = lm_eval_log.row(
                place, asked[place], asking.prompt(asked[place]), answers, asking.fmt,
                answer_tokens_max=asking.answer_tokens_max,
            )  # fmt: skip
            lines.append(json.dumps(row, ensure_ascii=False) + "\n")
        name = f"{lm_eval_log.folder_name(asking.model)}/{lm_eval_log.file_name(task, prompt, policy, moment)}"
        _write(out, name, "".join(lines))
        written.append(str(out / name))
    return "\n".join(written)


def _write(out: Path, name: str, text: str) -> None:
    try:
        RunFolder(out).write_text(name, text)
    except (NotADirectoryError, FileExistsError, PermissionError) as e:
        raise TennerError(f"{out} cannot be written: {e.strerror}", hint="choose another --out") from e


class _Asking(NamedTuple):
    """Who was asked, and how."""

    model: str
    prompt: Callable[[Question], str]
    fmt: ThinkFormat
    answer_tokens_max: int


def _asking(path: Path, described: Experiment, who: str, prompt: str, *, has_thinking: bool) -> _Asking:
    """A model behind an API was asked in a turn of a chat, and its thinking came apart; all others were rendered."""
    if (model := next((m for m in described.evaluate.models if m.name == who), None)) is not None:
        fmt = FORMATS["think" if has_thinking else "plain"]
        return _Asking(who, lambda q: q.question + q.suffix + model.suffix, fmt, model.output_tokens_max)
    from tenner.training import student, student_address

    assert described.student is not None, "nobody else was asked"
    form, name, folder = described.student.form, f"tenner/{described.name}", path / "student"
    RunFolder(path).verify_folder(folder.name)
    if not isinstance(described, Recipe):
        folder = student_address.resolve(described.student.model)
    elif who == "distilled-random":
        name += "-random"
    elif who != "distilled":  # the untrained one, as in one of its attempts
        form = next(form for form in described.attempt.prompts if form.name == prompt)
        name = described.student.base_model
    tokenizer = student.load_tokenizer(folder, template_to_ask_with(RunFolder(path), described.student))
    return _Asking(
        name, lambda q: render(tokenizer, q, form, described).text, FORMATS[form.format],
        described.evaluate.answer_tokens_max,
    )  # fmt: skip
