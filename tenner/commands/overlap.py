"""`tenner overlap QUESTIONS.jsonl --against BENCHMARK.jsonl`: whether a file of questions holds a benchmark's."""

import argparse
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.table import Table
from rich.text import Text

from tenner.commands import options
from tenner.core.console import SafeConsole
from tenner.core.errors import TennerError
from tenner.core.jsonl import Line, read_objects
from tenner.core.records import Hit, Question
from tenner.core.sections import Clean
from tenner.core.terminal import say, visible, write_rendered
from tenner.data import overlap

TEXT_FIELDS = ("question", "problem", "prompt")
ID_FIELDS = ("id", "unique_id", "question_id")
SHOWN_WORDS = 30
MEANINGS = {
    "exact": "the same words",
    "near": "nearly the same words, and the same numbers",
    "ngram": "words in a row that say what is asked",
    "boilerplate": "words in a row that say nothing: no leak",
}


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of the verb."""
    parser.add_argument("questions", metavar="QUESTIONS.jsonl", type=Path, help="lines with a question, or a problem")
    parser.add_argument(
        "--against", metavar="BENCHMARK.jsonl", type=Path, action="append", required=True,
        help="lines of the same kind; may be given more than once",
    )  # fmt: skip
    parser.add_argument(
        "--ngram-words", metavar="N", type=options.up_to(options.COUNT_MAX),
        help=f"shared words in a row that count (default: {Clean.model_fields['ngram_words'].default})",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="one JSON object")


def main(args: argparse.Namespace) -> None:
    """Print what the file shares with the benchmarks."""
    found = run(args.questions, args.against, ngram_words=args.ngram_words, as_json=args.json)
    (say if args.json else write_rendered)(found)


def run(questions: Path, against: Sequence[Path], *, ngram_words: int | None, as_json: bool) -> str:
    """The hits, as text or as `{"hits": [{"kind", "question_id", "benchmark_id", "shared"}]}`.

    Raises:
        TennerError: a file that cannot be read, a line that is no question, or an n-gram of no words.
    """
    if ngram_words is not None and ngram_words < 1:
        raise TennerError(f"--ngram-words {ngram_words} is not positive")
    rules = Clean() if ngram_words is None else Clean(ngram_words=ngram_words)
    pool = read_questions(questions)
    benchmark = [q for path in against for q in read_questions(path)]
    hits = overlap.compare(pool, benchmark, rules)
    if as_json:
        return json.dumps({"hits": [hit.model_dump() for hit in hits]}, ensure_ascii=False)
    return _as_text(hits, len(pool), len(benchmark))


def _as_text(hits: Sequence[Hit], pool_size: int, benchmark_size: int) -> str:
    counts: Counter[str] = Counter(hit.kind for hit in hits)
    leaks = [hit for hit in hits if hit.kind != "boilerplate"]
    leaked = len({hit.question_id for hit in leaks})
    console = SafeConsole(width=min(SafeConsole().width, 120), highlight=False)
    with console.capture() as captured:
        if leaks:
            table = Table(box=None, pad_edge=False, header_style="dim")
            for column in ("kind", "question", "benchmark", "shared"):
                table.add_column(column, overflow="fold", ratio=3 if column == "shared" else None)
            for hit in leaks:
                texts = (hit.question_id, hit.benchmark_id, _shortened(hit.shared))
                table.add_row(hit.kind, *(Text(visible(text)) for text in texts))
            console.print(table)
            console.print()
        console.print(f"{pool_size:,} questions against {benchmark_size:,}: {leaked:,} leak")
        for kind, meaning in MEANINGS.items():
            console.print(f"{counts[kind]:>7,} pairs  {kind}: {meaning}")
    return captured.get().rstrip()


def _shortened(shared: str) -> str:
    words = shared.split()
    return " ".join(words[:SHOWN_WORDS]) + (f" … ({len(words)} words)" if len(words) > SHOWN_WORDS else "")


def read_questions(path: Path) -> list[Question]:
    """The questions of a file. Raises TennerError for a line that is none, and for an id that occurs twice."""
    found: dict[str, Question] = {}
    for number, question in _questions(path):
        if question.id in found:
            raise TennerError(f"{path}, line {number}: the id {question.id} occurs twice")
        found[question.id] = question
    if not found:
        raise TennerError(f"{path} holds no questions")
    return list(found.values())


def _questions(path: Path) -> Iterator[tuple[int, Question]]:
    """The questions with the numbers of their lines, which are the ids of those that have none."""
    for line in read_objects(path):
        yield line.number, _question(line, path.name)


def _question(line: Line, source: str) -> Question:
    row = line.fields
    text = next((row[name] for name in TEXT_FIELDS if isinstance(row.get(name), str)), None)
    if text is None:
        raise TennerError(f"{line.where} has no question", hint=f"it is looked for in {', '.join(TEXT_FIELDS)}")
    id_ = next((row[name] for name in ID_FIELDS if isinstance(row.get(name), str | int)), line.number)
    return Question(id=str(id_), question=text, source=source)
