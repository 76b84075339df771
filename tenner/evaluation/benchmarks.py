"""The known benchmarks: where their questions are, the suffix of each question, and how answers are graded.

No questions ship with tenner. Each benchmark reads a dataset of the Hugging Face hub, or a `file` that the recipe
names.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, Protocol

from tenner.core.errors import TennerError
from tenner.core.records import AnswerKind, Drop, Question
from tenner.core.sections import Benchmark, Columns
from tenner.core.suggest import did_you_mean
from tenner.evaluation.grading.grader import check_reference

HELD_OUT = "heldout"
"""The benchmark of the generated questions that are held out of training."""
GENERATED = "puzzles:"
"""How the `source` of a generated question begins."""
IN_A_BOX = "\n\nPut your final answer in \\boxed{}."
LETTER_IN_A_BOX = "\n\nPut the letter of your choice in \\boxed{}."


class Task(NamedTuple):
    """A known benchmark. `questions` is the number it has; a table of another length is refused.

    `revision` None: no revision of its dataset is pinned here; the recipe may name one. `license` None: its dataset's
    page states none. `leaderboard` is the task's id in its dataset's eval.yaml, for results on the hub; None: the
    dataset has no leaderboard there.
    """

    kind: AnswerKind
    suffix: str
    questions: int
    dataset: str
    columns: Columns
    released: str
    """The month in which its questions came out, such as 2024-02."""
    configs: tuple[str, ...] = ()
    split: str = "test"
    revision: str | None = None
    license: str | None = None
    leaderboard: str | None = None


# Licences and eval.yaml as the datasets' pages and https://huggingface.co/docs/hub/eval-results had them in 2026.
TASKS = {
    "AIME24": Task(
        "integer", IN_A_BOX, 30, "HuggingFaceH4/aime_2024", Columns(question="problem", answer="answer"),
        released="2024-02", split="train", revision="2fe88a2f1091d5048c0f36abc874fb997b3dd99a",
    ),
    "AIME25": Task(
        "integer", IN_A_BOX, 30, "math-ai/aime25", Columns(question="problem", answer="answer"),
        released="2025-02", revision="563bb8404243c5f09de6ec262f2db674fe5bce9b",
    ),
    "AIME26": Task(
        "integer", IN_A_BOX, 30, "MathArena/aime_2026", Columns(question="problem", answer="answer"),
        released="2026-02", split="train", revision="d2de22f3c656b4f56cf8981212186377d1e23bc3",
        license="cc-by-nc-sa-4.0", leaderboard="MathArena/aime_2026",
    ),
    "HMMT Feb 2026": Task(
        "maths", IN_A_BOX, 33, "MathArena/hmmt_feb_2026", Columns(question="problem", answer="answer"),
        released="2026-02", split="train", license="cc-by-nc-sa-4.0", leaderboard="MathArena/hmmt_feb_2026",
    ),
    "AMC23": Task(
        "integer", IN_A_BOX, 40, "math-ai/amc23", Columns(question="question", answer="answer"),
        released="2023-11", revision="80815d37005feb82cd7f8fbc6901d5d3eff43057",
    ),
    "MATH500": Task(
        "maths", IN_A_BOX, 500, "HuggingFaceH4/MATH-500",
        Columns(id="unique_id", question="problem", answer="answer", domain="subject"),
        released="2021-03", revision="6e4ed1a2a79af7d8630a6b768ec859cb5af4d3be",
        # Its source, github.com/openai/prm800k, is under MIT; but their owners had a copy of MATH removed.
    ),
    "GSM8K": Task(
        "integer", IN_A_BOX, 1_319, "openai/gsm8k",
        Columns(question="question", answer="answer", answer_after="####"), released="2021-10", configs=("main",),
        revision="740312add88f781978c0658806c59bc2815b9866", license="mit", leaderboard="gsm8k",
    ),
    "GPQA Diamond": Task(
        "choice", LETTER_IN_A_BOX, 198, "Idavidrein/gpqa",
        Columns(
            question="Question", origin="High-level domain",
            choices=["Correct Answer", "Incorrect Answer 1", "Incorrect Answer 2", "Incorrect Answer 3"],
        ),
        released="2023-11", configs=("gpqa_diamond",), split="train",
        revision="633f5ee89ab8ad4522a9f850766b73f62147ffdd", license="cc-by-4.0", leaderboard="gpqa_diamond",
    ),
}  # fmt: skip


class Gathered(Protocol):
    """The result of reading tables."""

    @property
    def questions(self) -> list[Question]: ...
    @property
    def dropped(self) -> list[Drop]: ...
    @property
    def notes(self) -> list[str]: ...


def resolve(benchmark: Benchmark) -> Benchmark:
    """The benchmark with the fields that its task sets and the recipe leaves out. Raises TennerError for unknown tasks.

    A file or another dataset has the columns that the recipe names, or `question` and `answer`; a sample or conditions
    leave the number of questions open.
    """
    if benchmark.task is None:
        return benchmark.model_copy(update={"kind": benchmark.kind or _kind_of(benchmark)})
    if (task := TASKS.get(benchmark.task)) is None:
        own = f"there are {', '.join(TASKS)}; a benchmark of your own has a name and a file, and no task (--data FILE)"
        hint = did_you_mean(benchmark.task, TASKS, own)
        raise TennerError(f"evaluate.benchmarks: no task is called {benchmark.task}", hint=hint)
    known: dict[str, object] = {
        "name": benchmark.name or benchmark.task,
        "kind": benchmark.kind or task.kind,
        "suffix": task.suffix if benchmark.suffix is None else benchmark.suffix,
    }
    if benchmark.file is None and benchmark.dataset is None:
        known |= {"dataset": task.dataset, "configs": list(task.configs), "splits": [task.split]}
        known |= {"columns": task.columns, "revision": benchmark.revision or task.revision}
        known["license"] = benchmark.license or task.license
    if not (benchmark.expect or benchmark.sample or benchmark.where or benchmark.without):
        known["expect"] = task.questions
    return benchmark.model_copy(update=known)


def leaderboard_task(benchmark: Benchmark) -> str | None:
    """The id under which the hub's leaderboards have a benchmark; None where it has none, or is asked in part or from
    another table than the leaderboard's.
    """
    own_table = benchmark.file is not None or benchmark.dataset is not None
    if benchmark.task is None or own_table or benchmark.sample or benchmark.where or benchmark.without:
        return None
    return TASKS[benchmark.task].leaderboard


def load_questions(
    benchmarks: Sequence[Benchmark], gather: Callable[[Sequence[Benchmark]], Gathered]
) -> list[Question]:
    """The questions of all benchmarks, each with its suffix.

    Raises:
        TennerError: an unknown task, a table that cannot be read, or a reference answer that cannot be graded against.
    """
    resolved = [resolve(benchmark) for benchmark in benchmarks]
    check_names([benchmark.name for benchmark in resolved], has_generated=False)
    suffixes = {benchmark.name: benchmark.suffix or "" for benchmark in resolved}
    gathered = gather(resolved)
    if gathered.dropped:
        first = gathered.dropped[0]
        raise TennerError(
            f"evaluate.benchmarks: {first.reason}: {first.evidence}", hint="nothing of a benchmark is left out"
        )
    for q in gathered.questions:
        if q.answer is None:
            why = (note for note in gathered.notes if note.startswith(f"source {q.source}: "))
            raise TennerError(f"benchmark {q.source}: question {q.id} has no answer", hint=next(why, "name its column"))
        try:
            check_reference(q.answer, q.kind or "maths")
        except TennerError as e:
            raise TennerError(f"benchmark {q.source}, question {q.id}: {e}", hint=e.hint) from e
    return [q.model_copy(update={"suffix": suffixes[q.source]}) for q in gathered.questions]


def check_names(names: Iterable[str], *, has_generated: bool) -> None:
    """Raise TennerError for two benchmarks whose scores could not be told apart.

    Names that differ only in case or punctuation are the same name: files are named after benchmarks.
    """
    seen: dict[str, str] = {_folded(HELD_OUT): HELD_OUT} if has_generated else {}
    for name in names:
        if name.startswith(GENERATED):
            raise TennerError(f"evaluate.benchmarks: a name cannot begin with {GENERATED}", hint="choose another name")
        if (other := seen.get(_folded(name))) is not None:
            which = "the generated questions are called" if other == HELD_OUT and has_generated else "another is called"
            raise TennerError(
                f"evaluate.benchmarks: {name} is not a name of its own: {which} {other}", hint="set its name"
            )
        seen[_folded(name)] = name


def benchmark_of(question: Question) -> str:
    """The name of the benchmark that a question of `benchmark.jsonl` belongs to."""
    return HELD_OUT if question.source.startswith(GENERATED) else question.source


def by_benchmark(questions: Iterable[Question]) -> dict[str, list[Question]]:
    """The questions of each benchmark by its name, benchmarks and questions in the order in which they come."""
    found: dict[str, list[Question]] = {}
    for q in questions:
        found.setdefault(benchmark_of(q), []).append(q)
    return found


def _folded(name: str) -> str:
    return re.sub(r"[\W_]+", "-", name).casefold()


def _kind_of(benchmark: Benchmark) -> AnswerKind:
    return "choice" if benchmark.columns.choices else "maths"
