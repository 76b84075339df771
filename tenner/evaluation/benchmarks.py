"""The benchmarks that tenner knows: where their questions are, what is put behind these, and how answers are graded.

No question comes with tenner. Each task reads a dataset of the Hugging Face hub, or with `file` in the recipe a file.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from tenner.core.errors import TennerError
from tenner.core.records import AnswerKind, Drop, Question
from tenner.core.sections import Benchmark, Columns
from tenner.core.suggest import did_you_mean
from tenner.evaluation.grading.grader import check_reference

IN_A_BOX = "\n\nPut your final answer in \\boxed{}."
LETTER_IN_A_BOX = "\n\nPut the letter of your choice in \\boxed{}."


class Task(NamedTuple):
    """A benchmark. `questions` is how many it has; a table with another number of them is another benchmark.

    `revision` None: its dataset has none that was known when this was written; the recipe may name one.
    """

    kind: AnswerKind
    suffix: str
    questions: int
    dataset: str
    columns: Columns
    configs: tuple[str, ...] = ()
    split: str = "test"
    revision: str | None = None


TASKS = {
    "AIME24": Task(
        "integer", IN_A_BOX, 30, "HuggingFaceH4/aime_2024", Columns(question="problem", answer="answer"),
        split="train", revision="2fe88a2f1091d5048c0f36abc874fb997b3dd99a",
    ),
    "AIME25": Task(
        "integer", IN_A_BOX, 30, "math-ai/aime25", Columns(question="problem", answer="answer"),
        revision="563bb8404243c5f09de6ec262f2db674fe5bce9b",
    ),
    "AMC23": Task("integer", IN_A_BOX, 40, "math-ai/amc23", Columns(question="question", answer="answer")),
    "MATH500": Task(
        "maths", IN_A_BOX, 500, "HuggingFaceH4/MATH-500",
        Columns(id="unique_id", question="problem", answer="answer", domain="subject"),
        revision="6e4ed1a2a79af7d8630a6b768ec859cb5af4d3be",
    ),
    "GSM8K": Task(
        "integer", IN_A_BOX, 1_319, "openai/gsm8k",
        Columns(question="question", answer="answer", answer_after="####"), configs=("main",),
        revision="740312add88f781978c0658806c59bc2815b9866",
    ),
    "GPQA Diamond": Task(
        "choice", LETTER_IN_A_BOX, 198, "Idavidrein/gpqa",
        Columns(
            question="Question", origin="High-level domain",
            choices=["Correct Answer", "Incorrect Answer 1", "Incorrect Answer 2", "Incorrect Answer 3"],
        ),
        configs=("gpqa_diamond",), split="train",
    ),
}  # fmt: skip


class Gathered(Protocol):
    """What comes of reading tables."""

    @property
    def questions(self) -> list[Question]: ...
    @property
    def dropped(self) -> list[Drop]: ...


def resolve(benchmark: Benchmark) -> Benchmark:
    """The benchmark with all that its task says and the recipe leaves out. Raises TennerError for an unknown task.

    A file or another dataset has the columns that the recipe names, or `question` and `answer`; a sample or conditions
    leave the number of questions open.
    """
    if benchmark.task is None:
        return benchmark.model_copy(update={"kind": benchmark.kind or _kind_of(benchmark)})
    if (task := TASKS.get(benchmark.task)) is None:
        hint = did_you_mean(benchmark.task, TASKS, cutoff=0.4)
        raise TennerError(f"evaluate.benchmarks: no task is called {benchmark.task}", hint=hint)
    known: dict[str, object] = {
        "name": benchmark.name or benchmark.task,
        "kind": benchmark.kind or task.kind,
        "suffix": task.suffix if benchmark.suffix is None else benchmark.suffix,
    }
    if benchmark.file is None and benchmark.dataset is None:
        known |= {"dataset": task.dataset, "configs": list(task.configs), "splits": [task.split]}
        known |= {"columns": task.columns, "revision": benchmark.revision or task.revision}
    if not (benchmark.expect or benchmark.sample or benchmark.where or benchmark.without):
        known["expect"] = task.questions
    return benchmark.model_copy(update=known)


def asked(benchmarks: Sequence[Benchmark], gather: Callable[[Sequence[Benchmark]], Gathered]) -> list[Question]:
    """The questions of all benchmarks, as they will be asked.

    Raises:
        TennerError: an unknown task, a table that cannot be read, or a reference answer by which nothing can be graded.
    """
    resolved = [resolve(benchmark) for benchmark in benchmarks]
    suffixes = {benchmark.name: benchmark.suffix or "" for benchmark in resolved}
    if len(suffixes) < len(resolved):
        raise TennerError("evaluate.benchmarks: two of them have one name")
    gathered = gather(resolved)
    if gathered.dropped:
        first = gathered.dropped[0]
        raise TennerError(
            f"evaluate.benchmarks: {first.reason}: {first.evidence}", hint="nothing of a benchmark is left out"
        )
    for q in gathered.questions:
        if q.answer is None:
            raise TennerError(f"benchmark {q.source}: question {q.id} has no answer", hint="name its column")
        try:
            check_reference(q.answer, q.kind or "maths")
        except TennerError as e:
            raise TennerError(f"benchmark {q.source}, question {q.id}: {e}", hint=e.hint) from e
    return [q.model_copy(update={"suffix": suffixes[q.source]}) for q in gathered.questions]


def _kind_of(benchmark: Benchmark) -> AnswerKind:
    return "choice" if benchmark.columns.choices else "maths"
