"""A commented recipe for questions of one's own, from a few facts about them and about who teaches."""

import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from tenner.budget import prices
from tenner.clients.openai import presets
from tenner.core import recipe as recipes
from tenner.core.dollars import in_dollars
from tenner.core.errors import TennerError
from tenner.core.records import Question
from tenner.core.sections import Columns
from tenner.core.suggest import did_you_mean
from tenner.data import rows, sources
from tenner.evaluation import benchmarks
from tenner.evaluation.benchmarks import TASKS

QUESTION_COLUMNS = ("question", "problem", "prompt", "query", "instruction", "input")
ANSWER_COLUMNS = (
    "answer", "final_answer", "target", "label", "solution", "output", "result", "expected_answer", "correct_answer",
)  # fmt: skip
SAMPLES_MAX = 1000
SHARE_SELECTED = 0.8
"""Of the questions; the others make up for traces that are wrong, and for duplicates."""
ATTEMPTED = 40
OUTPUT_TOKENS_MAX = 4000
PROMPT_TOKENS = 512
"""Of a training sample, besides the teacher's reply."""
LOOPBACK = ("localhost", "127.0.0.1", "::1")


class FirstRecipeOptions(NamedTuple):
    """What is known of the run; None: guessed from the file, or the usual."""

    file: Path
    teacher: str
    """A preset (see `clients/presets.toml`), or the URL of a server that speaks chat completions."""
    teacher_model: str
    benchmark: str
    """A known task, or a file of questions with answers."""
    budget_usd: float
    question: str | None = None
    """The columns of the file; the benchmark's file has the same, or others that are usually called so."""
    answer: str | None = None
    id: str | None = None
    student: str | None = None
    license: str | None = None
    name: str | None = None
    samples: int | None = None
    price_in: float | None = None
    price_out: float | None = None
    api_key_env: str | None = None


class FirstRecipe(NamedTuple):
    """A recipe that `tenner run` takes, and what to tell about it."""

    text: str
    shown: Sequence[Question]
    """The first questions of the file, as tenner understands them."""
    questions: int
    without_answer: int
    columns: Sequence[str]
    """Those of the file."""
    price: str
    """What the traces cost at most."""
    key: str | None
    """The environment variable that must hold the teacher's key."""


def run_name(options: FirstRecipeOptions) -> str:
    """The name of the run: the one that is given, or the file's."""
    return options.name or _slug(options.file.stem)


def compose(options: FirstRecipeOptions, out: Path) -> FirstRecipe:
    """The recipe that will be written to `out`. Everything that it names is read or looked up first.

    Raises:
        TennerError: a file, column, teacher, price or benchmark that the run would refuse.
    """
    columns = columns_of(options.file, question=options.question, answer=options.answer, id=options.id)
    mine = rows.table_of(options.file, name=_slug(options.file.stem), columns=columns)
    pool = sources.gather([mine], seed=0).questions
    if not pool:
        raise TennerError(f"{options.file} holds no questions")
    if options.samples is not None and options.samples > len(pool):
        raise TennerError(
            f"select.samples = {options.samples:,} cannot be picked out of {len(pool):,} questions",
            hint="lower --samples; some questions more than that make up for traces that are wrong",
        )
    samples = options.samples or max(1, min(SAMPLES_MAX, int(SHARE_SELECTED * len(pool))))
    trace, price, key = _teacher(options, samples)
    text = _TEXT.format(
        name=_toml(run_name(options)),
        description=_toml(f"{samples} traces by {options.teacher_model} for the questions of {options.file.name}"),
        budget_usd=options.budget_usd,
        student=_student(options),
        source=_table({"name": mine.name, "file": _beside(options.file, out)}),
        columns=_inline(columns.model_dump(exclude_none=True, exclude_defaults=True)),
        attempted=min(ATTEMPTED, len(pool)),
        samples=samples,
        trace=trace,
        output_tokens_max=OUTPUT_TOKENS_MAX,
        tokens_max=OUTPUT_TOKENS_MAX + PROMPT_TOKENS,
        benchmark=_benchmark(options, columns, out),
        training=SMALL if options.student is None else LARGE,
    )
    described = recipes.parse(text, where=str(out))
    own = [b for b in described.evaluate.benchmarks if b.file is not None]
    here = [b.model_copy(update={"file": str(out.parent / str(b.file))}) for b in own]
    benchmarks.load_questions(here, partial(sources.gather, seed=0))
    without = sum(q.answer is None for q in pool)
    return FirstRecipe(text, pool[:3], len(pool), without, [*_first_row(options.file)], price, key)


def column_names(file: Path) -> list[str]:
    """Those of the first row. Raises TennerError for a file that cannot be read, or holds none."""
    return list(map(str, _first_row(file)))


def columns_of(file: Path, *, question: str | None, answer: str | None, id: str | None) -> Columns:
    """The columns that are named, or that are usually called so; None: not named. A file may lack ids and answers.

    Raises:
        TennerError: a file that cannot be read, one without questions, or a named column that it has not.
    """
    there = column_names(file)
    for named in (question, answer, id):
        if named is not None and named not in there:
            raise TennerError(f"{file} has no column {named}", hint=did_you_mean(named, there))
    question = question or next((name for name in QUESTION_COLUMNS if name in there), None)
    if question is None:
        raise TennerError(
            f"{file} has no column that is called {', '.join(QUESTION_COLUMNS[:-1])} or {QUESTION_COLUMNS[-1]}",
            hint=f"name one with --question: there are {', '.join(there)}",
        )
    answer = answer or next((name for name in ANSWER_COLUMNS if name in there), None)
    return Columns(question=question, answer=answer, id=id)


def _first_row(file: Path) -> Mapping[str, Any]:
    """Raises TennerError for a file that cannot be read, or holds none."""
    table = rows.table_of(file, name=_slug(file.stem))
    rows.check(table)
    first = next(iter(rows.read(table)), None)
    if first is None:
        raise TennerError(f"{file} holds no rows")
    return first


def _teacher(options: FirstRecipeOptions, samples: int) -> tuple[str, str, str | None]:
    """The lines of the teacher, what its traces cost at most, and the variable of its key."""
    fields: dict[str, Any] = {"client": "openai"}
    known = presets()
    if options.teacher.startswith(("http://", "https://")):
        fields["base_url"] = options.teacher
        provider, key = urlsplit(options.teacher).netloc, options.api_key_env
    elif options.teacher in known:
        fields["preset"] = options.teacher
        provider, key = options.teacher, options.api_key_env or known[options.teacher].api_key_env
    else:
        hint = did_you_mean(options.teacher, known, f"there are {', '.join(known)}; or give a URL")
        raise TennerError(f"no provider is called {options.teacher}", hint=hint)
    fields["model"] = options.teacher_model
    if options.api_key_env is not None:
        fields["api_key_env"] = options.api_key_env
    if (options.price_in is None) != (options.price_out is None):
        raise TennerError("--price-in and --price-out belong together")
    is_own = options.teacher == "local" or urlsplit(options.teacher).hostname in LOOPBACK
    price_in, price_out = options.price_in, options.price_out
    if price_in is None and is_own:
        price_in = price_out = 0.0
    if price_out is None:
        row = prices.find(provider, options.teacher_model)
        dollars = row.output_usd_per_mtok * (row.peak.multiplier if row.peak else 1)
    else:
        dollars = price_out
        fields["price"] = {"input_usd_per_mtok": price_in, "output_usd_per_mtok": price_out}
    worst_cents = math.ceil(samples * OUTPUT_TOKENS_MAX * dollars / 1e4)
    price = (
        f"{samples:,} traces of at most {OUTPUT_TOKENS_MAX:,} tokens, at {in_dollars(dollars)} a million: at most "
        f"{in_dollars(worst_cents / 100)}, and more where wrong ones are made up for; "
        f"the cap is {in_dollars(options.budget_usd)}"
    )
    return _table(fields), price if dollars else "the teacher's tokens cost nothing", key


def _student(options: FirstRecipeOptions) -> str:
    if options.student is None:
        own = recipes.load("demo").student
        return _table(own.model_dump(include={"model", "base_model", "license", "format", "system_prompt"}))
    name = options.student.removeprefix("hf:").partition("@")[0]
    fields = {"model": options.student, "base_model": name, "license": options.license or "unknown", "format": "think"}
    return _table(fields)


def _benchmark(options: FirstRecipeOptions, columns: Columns, out: Path) -> str:
    if options.benchmark in TASKS:
        return _table({"task": options.benchmark})
    path = Path(options.benchmark)
    if not os.path.isfile(path):
        hint = did_you_mean(options.benchmark, TASKS, f"there are {', '.join(TASKS)}; or give a file")
        raise TennerError(f"{options.benchmark} is neither a known benchmark nor a file", hint=hint)
    there = column_names(path)
    question, answer, id = (name if name in there else None for name in (columns.question, columns.answer, columns.id))
    if question is None and set(QUESTION_COLUMNS).isdisjoint(there):
        raise TennerError(
            f"{path} has no column that is called {columns.question} or question",
            hint=f"there are {', '.join(there)}: rename them as in {options.file.name}, or to question and answer",
        )
    found = columns_of(path, question=question, answer=answer, id=id)
    if found.answer is None:
        raise TennerError(
            f"{path} has no column that is called {', '.join(ANSWER_COLUMNS[:-1])} or {ANSWER_COLUMNS[-1]}",
            hint=f"a benchmark needs answers: name their column with --answer: there are {', '.join(there)}",
        )
    fields = {"name": _slug(path.stem), "file": _beside(path, out)}
    return f"{_table(fields)}\ncolumns = {_inline(found.model_dump(exclude_none=True, exclude_defaults=True))}"


def _beside(file: Path, out: Path) -> str:
    """A path as the recipe finds it: relative to its own folder, where the file lies in there."""
    folder, path = out.resolve().parent, file.resolve()
    return os.path.relpath(path, folder) if path.is_relative_to(folder) else str(path)


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9._-]+", "-", name.casefold()).strip("-._") or "mine"


def _toml(value: object) -> str:
    return _inline(value) if isinstance(value, dict) else json.dumps(value, ensure_ascii=False)


def _inline(table: dict[str, Any]) -> str:
    return "{ " + ", ".join(f"{key} = {_toml(value)}" for key, value in table.items() if value is not None) + " }"


def _table(fields: dict[str, Any]) -> str:
    return "\n".join(f"{key} = {_toml(value)}" for key, value in fields.items())


SMALL = """\
epochs = 3
lr = 5e-4
frozen_layers = 15  # of 30: a third less work
tokens_per_step = 1000  # several short traces; a training of 40 steps or fewer says what makes more"""
LARGE = """\
method = "lora"  # pip install 'tenner[lora]'; "full" trains all weights, with ten times smaller steps
epochs = 3
lr = 1e-4
tokens_per_step = 32000"""
_TEXT = """\
# Made by `tenner init`. `tenner recipes --keys` explains every key, and which others there are.
name = {name}
description = {description}
seed = 0
budget_usd = {budget_usd}  # the cap over the whole run: calls and machine time together

[student]
{student}

[machine]
price_usd_per_hour = 0.0  # what an hour of this machine costs; its time counts under the cap

[[gather.sources]]
{source}
columns = {columns}

[attempt]  # how the untrained student does on some of the questions, in each prompt form
questions = {attempted}
thinking_tokens_max = 64
answer_tokens_max = 64

[[attempt.prompts]]
name = "plain"
format = "plain"

[[attempt.prompts]]
name = "step by step"
format = "plain"
suffix = "\\nThink step by step, then give the answer."

[select]
samples = {samples}  # to train on; further questions make up for traces that are wrong

[trace]
{trace}
output_tokens_max = {output_tokens_max}  # thinking and answer; a longer reply is cut, kept and not trained on
concurrency = 8

[train]
{training}
tokens_max = {tokens_max}
longer = "drop"  # a longer sample is left out and told

[evaluate]
thinking_tokens_max = [0, 256, 1024]
answer_tokens_max = 64
rows = 32

[[evaluate.benchmarks]]
{benchmark}
"""
