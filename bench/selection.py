"""How long a pool of s1's size and beyond takes to clean and select, beside s1's own decontamination functions.

    python bench/selection.py --s1-functions decontaminate_util.py \\
        --benchmarks aime24.jsonl math500.jsonl gsm8k_test.jsonl

The pool is generated: words by Zipf's law and contest wording, in the lengths of s1K's questions, with copies, near
copies and leaks planted, whose recall is shown. `decontaminate_util.py` is the file of that name in `data/` of
github.com/simplescaling/s1. Its functions are called as `data/collect_data.py` there calls them: source by source,
each against the benchmarks and all sources before it, which is how s1 finds duplicates too; and once, over the whole
pool against the benchmarks alone, which finds none, beside our comparison with the benchmarks alone. Each run is a
process of its own; making the pool is not timed. Exits with 1 where a promise does not hold.
"""

import argparse
import importlib.util
import io
import json
import random
import subprocess
import sys
import threading
import time
import types
from contextlib import redirect_stdout
from itertools import accumulate
from pathlib import Path
from statistics import median
from typing import Any

import evidence
import psutil

from tenner.commands.overlap import read_questions
from tenner.core.records import Difficulty, Question
from tenner.core.sections import Clean, Select
from tenner.data import overlap, quality_filters, selection

SIZES = (59_029, 250_000, 1_000_000)
FILTERS = ("api-errors", "images", "broken-numbering", "s1-patterns")
SECONDS_MAX, MB_MAX, RATIO_MIN = 20.0, 1_500.0, 5.0  # at s1's size
LARGE_SECONDS_MAX, LARGE_MB_MAX = 480.0, 6_000.0  # at a million
GROWTH_MAX, RECALL_MIN = 1.5, 0.99
# Words of s1K's questions, every twentieth of them.
LENGTHS = (8, 22, 27, 31, 35, 38, 42, 45, 48, 51, 55, 59, 65, 68, 73, 80, 88, 99, 114, 136, 451)
# s1's sources in the order of `collect_data.py`, with the counts of the paper's Table 7; AIME came last.
SOURCES = (11_999, 4_250, 747, 30_660, 4_238, 227, 896, 515, 2_385, 182, 348, 999, 519, 23, 151, 890)
PHRASES = (
    r"where $m$ and $n$ are relatively prime positive integers. Find $m+n$.",
    r"and $c$ is not divisible by the square of any prime. Find $a+b+c$.",
    r"Express your answer as a common fraction.",
)
PLANTED = {"duplicate": 0.005, "near duplicate": 0.005, "in the benchmark": 0.002, "overlaps the benchmark": 0.002}


def pool_of(size: int, benchmark: list[Question]) -> tuple[list[Question], dict[str, set[str]]]:
    """A pool, and the ids of what was planted in it, by the reason for which it should be dropped."""
    r = random.Random(size)
    vocabulary = ["".join(r.choices("abcdefghijklmnopqrstuvwxyz", k=r.randint(3, 9))) for _ in range(30_000)]
    vocabulary[:200] = [f"$x_{{{i}}}$" if i % 2 else str(i) for i in range(200)]
    weights = list(accumulate(1 / (rank + 10) for rank in range(len(vocabulary))))
    words: list[str] = []
    long = [b for b in benchmark if len(b.question.split()) > 30]
    pool: list[Question] = []
    planted: dict[str, set[str]] = {reason: set() for reason in PLANTED}
    texts: list[str] = []
    for i in range(size):
        reason = next((name for name, share in PLANTED.items() if r.random() < share), "") if i > 100 else ""
        if reason == "duplicate":
            text = texts[r.randrange(100)].upper()
        elif reason == "near duplicate":
            owner = texts[r.randrange(100)].split()
            place = r.choice(
                [k for k, word in enumerate(owner) if word.isalpha()]
            )  # another number is another question
            text = " ".join([*owner[:place], "changed", *owner[place + 1 :]])
        elif reason == "in the benchmark":
            text = r.choice(benchmark).question.replace("\n", " ")
        else:
            low = r.randrange(len(LENGTHS) - 1)
            length = r.randint(LENGTHS[low], LENGTHS[low + 1])
            if i < 100:  # copies are made of these: long enough that one word is a small change
                length = max(length, 60)
            if len(words) < length:
                words = r.choices(vocabulary, cum_weights=weights, k=1_000_000)
            text = " ".join(words[-length:])
            del words[-length:]
            if reason == "overlaps the benchmark":
                found = r.choice(long).question.split()
                at = r.randrange(len(found) - 25)
                text += " " + " ".join(found[at : at + 25])
            elif r.random() < 0.1:
                text += " " + r.choice(PHRASES)
        if i < 100:
            texts.append(text)
        question = Question(id=f"q{i}", question=text, domain=str(r.randrange(50)), source="generated")
        if reason:
            planted[reason].add(question.id)
        pool.append(question)
    return pool, planted


def measure_tenner(size: int, benchmarks: list[Path]) -> dict[str, Any]:
    """Clean and select, with the largest memory of this process and its children."""
    benchmark = [q for path in benchmarks for q in read_questions(path)]
    pool, planted = pool_of(size, benchmark)
    r = random.Random(0)
    difficulties = [
        Difficulty(question_id=q.id, tries=2, correct=r.randrange(3), thinking_tokens_mean=r.random()) for q in pool
    ]
    before_mb = _memory_mb()
    with _Peak() as peak:
        started = time.monotonic()
        good, flawed = quality_filters.apply(pool, FILTERS, quality_filters.QUESTION_FILTERS)
        filtered = time.monotonic()
        cleaned = overlap.clean(good, benchmark, Clean())
        cleaned_at = time.monotonic()
        chosen = selection.select(cleaned.kept, difficulties, rules=Select(samples=1000), seed=0)
        ended = time.monotonic()
        overlap.compare(pool, benchmark, Clean())
        compared = time.monotonic()
    assert len(chosen.picked) == 1000
    dropped = {d.id for d in (*flawed, *cleaned.dropped)}
    found = {reason: len(ids & dropped) / len(ids) for reason, ids in planted.items()}
    innocent = len(dropped - set[str].union(*planted.values()))
    return {
        "size": size,
        "seconds": round(ended - started, 2),
        "filter_seconds": round(filtered - started, 2),
        "clean_seconds": round(cleaned_at - filtered, 2),
        "select_seconds": round(ended - cleaned_at, 2),
        "compare_seconds": round(compared - ended, 2),
        "peak_mb": round(peak.mb),
        "pool_mb": round(before_mb),
        "recall": {reason: round(share, 4) for reason, share in found.items()},
        "innocent": innocent,
    }


def measure_s1(size: int, benchmarks: list[Path], functions: Path) -> dict[str, Any]:
    """s1's functions on the same text, as its script calls them and once over the whole."""
    benchmark = [q for path in benchmarks for q in read_questions(path)]
    pool, _ = pool_of(size, benchmark)
    texts, tests = [q.question for q in pool], [q.question for q in benchmark]
    sys.modules["datasets"] = types.ModuleType("datasets")  # imported there for an upload
    silent = types.ModuleType("tqdm")
    silent.tqdm = lambda items, **_: items  # type: ignore[attr-defined]
    sys.modules["tqdm"] = silent
    spec = importlib.util.spec_from_file_location("s1_functions", functions)
    assert spec is not None
    assert spec.loader is not None
    s1 = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(s1)

    def decontaminate(train: list[str], test: list[str]) -> set[int]:
        train_lookup = s1.build_ngram_lookup(train, 8)
        return s1.find_contaminated_questions(train_lookup, s1.build_ngram_lookup(test, 8))

    with redirect_stdout(io.StringIO()), _Peak() as peak:
        started = time.monotonic()
        decontaminate(texts, tests)
        once = time.monotonic()
        seen, at = list(tests), 0
        for count in SOURCES:
            part = texts[at : at + count]
            found = decontaminate(part, seen)
            seen += [text for i, text in enumerate(part) if i not in found]
            at += count
        ended = time.monotonic()
    return {"seconds": round(ended - once, 2), "once_seconds": round(once - started, 2), "peak_mb": round(peak.mb)}


class _Peak:
    """The peak memory of this process and its children, sampled ten times a second."""

    def __enter__(self) -> "_Peak":
        self.mb, self._over = _memory_mb(), threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(0.1):
            self.mb = max(self.mb, _memory_mb())


def _memory_mb() -> float:
    me = psutil.Process()
    total = 0
    for process in (me, *me.children(recursive=True)):
        try:
            total += process.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return total / 1e6


def main() -> None:
    """Measure, print, and check the promises."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--benchmarks", type=Path, nargs="+", required=True)
    parser.add_argument("--s1-functions", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--side", choices=("tenner", "s1"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side:
        size = args.sizes[0]
        figures = (
            measure_tenner(size, args.benchmarks)
            if args.side == "tenner"
            else measure_s1(size, args.benchmarks, args.s1_functions)
        )
        print(json.dumps(figures))
        return

    def run(side: str, size: int) -> dict[str, Any]:
        command = [sys.executable, *sys.argv[:1], "--side", side, "--s1-functions", str(args.s1_functions)]
        command += ["--benchmarks", *map(str, args.benchmarks), "--sizes", str(size)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        print(f"{side:<7}{size:>10,}  " + ", ".join(f"{k} {v}" for k, v in figures.items() if k != "size"), flush=True)
        return figures

    machine, versions = evidence.machine(), evidence.versions("tenner", "numpy", "pydantic")
    print(f"machine: {machine}\nversions: {versions}\n")
    rounds = [(run("tenner", args.sizes[0]), run("s1", args.sizes[0])) for _ in range(args.rounds)]
    larger = [run("tenner", size) for size in args.sizes[1:]]
    ratios = [s1["seconds"] / ours["seconds"] for ours, s1 in rounds]
    ratios_once = [s1["once_seconds"] / ours["compare_seconds"] for ours, s1 in rounds]
    first, last = rounds[0][0], (larger or [rounds[0][0]])[-1]
    growth = (last["seconds"] / last["size"]) / (first["seconds"] / first["size"])
    print(
        f"\ns1's time over ours: {median(ratios):.1f} for filtering, cleaning and selecting as its script calls them, "
        f"{median(ratios_once):.1f} for looking for the benchmarks alone, once over the whole pool"
    )
    print(f"time a question at {last['size']:,} over that at {first['size']:,}: {growth:.2f}")
    seconds, peak_mb = median(ours["seconds"] for ours, _ in rounds), max(ours["peak_mb"] for ours, _ in rounds)
    recall = first["recall"]
    promises = {
        f"s1's pool in at most {SECONDS_MAX:g} s and {MB_MAX:g} MB": seconds <= SECONDS_MAX and peak_mb <= MB_MAX,
        f"at least {RATIO_MIN:g} times as fast as s1's functions": median(ratios) >= RATIO_MIN,
        f"the largest in at most {LARGE_SECONDS_MAX:g} s and {LARGE_MB_MAX:g} MB": last["seconds"] <= LARGE_SECONDS_MAX
        and last["peak_mb"] <= LARGE_MB_MAX,
        f"growing linearly, up to a factor of {GROWTH_MAX:g}": growth <= GROWTH_MAX,
        f"at least {RECALL_MIN:.1%} of what was planted is found": min(recall.values()) >= RECALL_MIN,
    }
    for promise, holds in promises.items():
        print(f"{'holds' if holds else 'BROKEN'}: {promise}")
    result = {
        "machine": machine, "versions": versions, "ratio": round(median(ratios), 2),
        "ratios": [round(r, 2) for r in ratios], "ratio_once": round(median(ratios_once), 2),
        "rounds": [{"tenner": ours, "s1": s1} for ours, s1 in rounds], "larger": larger, "promises": promises,
    }  # fmt: skip
    print(json.dumps(result))
    sys.exit(0 if all(promises.values()) else 1)


if __name__ == "__main__":
    main()
