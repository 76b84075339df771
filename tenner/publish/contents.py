"""What of a run is uploaded: the files of a model's repository and of a dataset's, and what is held back."""

import json
from collections import Counter
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import NamedTuple

from tenner.core.errors import TennerError
from tenner.core.formats import FORMATS
from tenner.core.recipe import Recipe
from tenner.core.records import Question, Sample, Score, SourceCount, Trace
from tenner.core.run import stored_recipe
from tenner.core.run_folder import MODEL_CARD, RunFolder
from tenner.core.suggest import did_you_mean
from tenner.distill import sft_chats
from tenner.evaluation.benchmarks import benchmark_of
from tenner.publish import dataset_card, eval_results
from tenner.publish.licenses import Withheld, reason_to_withhold

REPORT = ("report.html", "report.md", "accuracy.svg")
DATA_FILE = "data/train.jsonl"


class Contents(NamedTuple):
    """The files of one repository: on this machine, or as bytes, by their paths there."""

    files: Mapping[str, Path | bytes]
    withheld: list[Withheld]

    @property
    def size_bytes(self) -> int:
        """Of all files together."""
        return sum(len(f) if isinstance(f, bytes) else f.stat().st_size for f in self.files.values())


def finished_run(path: Path) -> tuple[RunFolder, Recipe]:
    """The run in a folder. Raises TennerError where it is no run, or has not come to its report."""
    folder = RunFolder.existing(path)
    recipe = stored_recipe(folder)
    assert recipe is not None, "RunFolder.existing has seen it"
    if folder.done("report") is None:
        raise TennerError(f"{path} has no report yet", hint=f"tenner run {path} goes on with it")
    return folder, recipe


def model_contents(folder: RunFolder, recipe: Recipe, repository: str, include: Collection[str]) -> Contents:
    """The student, its adapters where it has any, its card and results, recipe and provenance, and the report.

    The report shows questions of the benchmarks: it is held back where one of them may not be published.
    Raises TennerError for files that are not as the run wrote them.
    """
    files: dict[str, Path | bytes] = {}
    for part, prefix in (("student", ""), ("adapter", "adapter/")):
        folder.verify_folder(part)
        base = folder.path / part
        files |= {prefix + str(p.relative_to(base)): p for p in sorted(base.rglob("*")) if p.is_file()}
    card = folder.path / "student" / MODEL_CARD
    if card.is_file():
        files[MODEL_CARD] = card.read_text("utf-8").replace('("student")', f'("{repository}")').encode()
    if (results := eval_results.eval_results(recipe, folder.read("scores", Score))) is not None:
        files[eval_results.FILE] = results
    files |= {name: folder.path / name for name in ("recipe.toml", "provenance.json")}
    withheld = _withheld_benchmarks(folder, include)
    if not withheld:
        folder.verify_stages("report")
        files |= {name: folder.path / name for name in REPORT if (folder.path / name).is_file()}
    return Contents(files, withheld)


def dataset_contents(folder: RunFolder, recipe: Recipe, include: Collection[str]) -> Contents:
    """The samples that the student was trained on, with their thinking as columns and as chats, and a card.

    Samples of questions that may not be published are left out. Raises TennerError where none are left.
    """
    questions = folder.questions_by_id("questions")
    licenses = {row.source: row.license for row in folder.read("sources", SourceCount)}
    teachers = {trace.id: trace.teacher for trace in folder.stream("traces", Trace)}
    write = sft_chats.in_format(FORMATS[recipe.student.format])
    rows, counts = [], Counter[str]()
    for sample in folder.stream("samples", Sample):
        source = source_of(questions[sample.question_id])
        counts[source] += 1
        if reason_to_withhold(source, licenses.get(source), include) is None:
            rows.append(
                sft_chats.row(sample, write, system_prompt=recipe.student.system_prompt)
                | sample.model_dump(include={"question", "thinking", "answer", "domain"})
                | {"source": source, "license": licenses.get(source), "teacher": teachers.get(sample.id)}
            )
    withheld = [
        Withheld(source, count, reason)
        for source, count in counts.items()
        if (reason := reason_to_withhold(source, licenses.get(source), include)) is not None
    ]
    if not rows:
        names = " ".join(f"--include {w.name}" for w in withheld)
        raise TennerError(
            f"no trace of {folder.path} may be published: {'; '.join(map(str, withheld)) or 'it has no samples'}",
            hint=f"leave --dataset out; or, if you have the right to publish them: {names}",
        )
    shown = {
        source: (licenses.get(source), counts[source]) for source in counts if source not in {w.name for w in withheld}
    }
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    card = dataset_card.dataset_card(recipe, shown, {row["teacher"] for row in rows}, withheld)
    return Contents({"README.md": card.encode(), DATA_FILE: lines.encode()}, withheld)


def check_include(folder: RunFolder, include: Collection[str]) -> None:
    """Raise TennerError for a name that is no source and no benchmark of the run."""
    known = {row.source for row in folder.read("sources", SourceCount)}
    known |= {benchmark_of(q) for q in folder.stream("benchmark", Question)}
    for name in include:
        if name not in known:
            raise TennerError(f"--include {name}: the run has no source of that name", hint=did_you_mean(name, known))


def source_of(question: Question) -> str:
    """The recipe's name of the source that a question comes from."""
    return "puzzles" if question.source.startswith("puzzles:") else question.source


def _withheld_benchmarks(folder: RunFolder, include: Collection[str]) -> list[Withheld]:
    """The benchmarks whose questions may not be shown; generated questions are tenner's own."""
    counts, licenses = Counter[str](), dict[str, str | None]()
    for q in folder.stream("benchmark", Question):
        name = benchmark_of(q)
        counts[name] += 1
        licenses[name] = "apache-2.0" if source_of(q) == "puzzles" else q.license
    return [
        Withheld(name, count, reason)
        for name, count in counts.items()
        if (reason := reason_to_withhold(name, licenses[name], include)) is not None
    ]
