"""Whether `precision = "auto"` is a good choice: four commands in it, in bf16 and in fp32, in turns.

    pip install -c constraints.txt -e '.[test]'
    python bench/precision.py             # the demo's student; or another recipe's

`chat` is one answer, `serve` eight at once, both through the scheduler and the engine that these commands load;
`measure` is a sweep of 64 rows under two of the recipe's budgets; `train` are steps of the recipe's training, of which
the first is not counted. Figures are tokens a second: decoded ones with the time of reading the prompt, trained ones
with that of the optimizer. What counts is the median of the turns. Before them each precision does a small piece of the
same work; one that is more than 3.5 times slower at it than the fastest takes no turns, and its figure is that of the
piece. Everything runs in one process, in the embedded engine. Exits with 1 where a promise does not hold.

A processor with AVX-512 plays one with AVX2 only (the machine's line says which instructions PyTorch uses):

    ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2 MKL_ENABLE_INSTRUCTIONS=AVX2 python bench/precision.py
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import evidence
import train_cpu

from tenner.core import hardware, recipe
from tenner.core.chat_template import ChatTemplate
from tenner.core.formats import FORMATS
from tenner.core.records import Message, Policy
from tenner.core.sections import Precision
from tenner.data import puzzles
from tenner.inference import engine_registry
from tenner.inference.job import Prompt
from tenner.inference.scheduler import Scheduler
from tenner.stages import resolve_student
from tenner.training import loop, student, student_address
from tenner.training.allocator import ask_for_huge_pages

PRECISIONS: tuple[Precision, ...] = ("auto", "bf16", "fp32")
SHARE_MIN = 0.8
"""Of the better precision's tokens a second."""
TURNS = 3
TRIAL_SECONDS = 2.0
FAR_SLOWER = 3.5
SERVER_ROWS = 64
"""What `tenner serve` has; eight of them are asked for."""
MEASURED = 64


class Amount(NamedTuple):
    """How much a turn does."""

    thinking_tokens: int
    answer_tokens: int
    samples: int
    """To train on, the shortest ones; more than one step where there are many."""


TRIAL, WHOLE = Amount(2, 1, 1), Amount(32, 8, 2 * train_cpu.SAMPLES_PER_STEP)

Turn = Callable[[Amount], float]
"""Does so much, and gives its tokens a second."""


class Bench(NamedTuple):
    """What all commands work on."""

    settings: recipe.Recipe
    folder: Path
    questions: list[str]


@contextmanager
def speaking_turn(bench: Bench, precision: Precision, *, rows: int, answers: int) -> Iterator[Turn]:
    """`tenner chat` and `tenner serve`: so many answers at once."""
    options = resolve_student.StudentOptions(format=bench.settings.student.format, precision=precision)
    student = resolve_student.resolve_student(str(bench.folder), options).student
    engine = resolve_student.load(student, options, rows=rows, engine="hf")
    with Scheduler(engine) as scheduler:

        def turn(amount: Amount) -> float:
            policy = Policy(thinking_tokens_max=amount.thinking_tokens, thinking_tokens_min=amount.thinking_tokens)
            requests = [
                student.request(
                    engine.tokenizer, [Message(role="user", content=question)], policy,
                    request_id=str(i), answer_tokens_max=amount.answer_tokens,
                )
                for i, question in enumerate(bench.questions[:answers])
            ]  # fmt: skip
            began = time.perf_counter()
            tokens = 0
            for stream in [scheduler.submit(request) for request in requests]:
                list(stream)
                assert stream.generation is not None
                tokens += len(stream.generation.token_ids)
            return tokens / (time.perf_counter() - began)

        yield turn


@contextmanager
def measuring_turn(bench: Bench, precision: Precision) -> Iterator[Turn]:
    """`tenner measure`: a sweep."""
    wanted, fmt = bench.settings.evaluate, FORMATS[bench.settings.student.format]
    engine = engine_registry.load("hf", bench.folder, rows=MEASURED, wait_text=wanted.wait_text, precision=precision)
    prompts = [
        Prompt(str(i), ChatTemplate(engine.tokenizer, system_prompt="").question(question).text)
        for i, question in enumerate(bench.questions[:MEASURED])
    ]

    def turn(amount: Amount) -> float:
        budgets = (amount.thinking_tokens // 2, amount.thinking_tokens)
        policies = [Policy(thinking_tokens_max=budget) for budget in budgets]
        began = time.perf_counter()
        swept = engine.sweep(prompts, policies, fmt, answer_tokens_max=amount.answer_tokens)
        return sum(len(g.token_ids) for g in swept) / (time.perf_counter() - began)

    yield turn


@contextmanager
def training_turn(bench: Bench, precision: Precision) -> Iterator[Turn]:
    """`tenner train`: some steps."""
    tokenizer = student.load_tokenizer(bench.folder)
    samples, _ = train_cpu.samples(train_cpu.Workload(2, 0), tokenizer, bench.settings)
    samples.sort(key=lambda e: len(e.ids))
    settings = bench.settings.train.model_copy(update={"precision": precision, "epochs": 1})

    def turn(amount: Amount) -> float:
        reports: list[loop.StepReport] = []
        with tempfile.TemporaryDirectory() as workdir:
            encoded = samples[: amount.samples]
            loop.train(bench.folder, encoded, settings, seed=0, workdir=Path(workdir), on_step=reports.append)
        counted = reports[1:] or reports
        return sum(r.tokens for r in counted) / sum(r.tokens / r.tokens_per_second for r in counted)

    yield turn


COMMANDS: dict[str, Callable[[Bench, Precision], AbstractContextManager[Turn]]] = {
    "chat": partial(speaking_turn, rows=1, answers=1),
    "serve": partial(speaking_turn, rows=SERVER_ROWS, answers=8),
    "measure": measuring_turn,
    "train": training_turn,
}


def trial(turn: Turn) -> float:
    """The best of small pieces of work, for two seconds: the first one makes the kernels."""
    began, best = time.monotonic(), turn(TRIAL)
    while time.monotonic() - began < TRIAL_SECONDS:
        best = max(best, turn(TRIAL))
    return best


def compare(command: str, bench: Bench, turns: int) -> dict[str, Any]:
    """All precisions of a command, and what share of the better one's tokens a second auto has."""
    with ExitStack() as loaded:
        sides = {name: loaded.enter_context(COMMANDS[command](bench, name)) for name in PRECISIONS}
        trials = {name: trial(turn) for name, turn in sides.items()}
        going = [name for name in PRECISIONS if trials[name] * FAR_SLOWER >= max(trials.values())]
        done: dict[str, list[float]] = {name: [] for name in going}
        for _ in range(turns):
            for name in going:
                done[name].append(sides[name](WHOLE))
    middle = {name: median(done[name]) if name in done else trials[name] for name in PRECISIONS}
    share = middle["auto"] / max(middle["bf16"], middle["fp32"])
    cells = (f"{middle[name]:.1f}{' ' if name in done else '*'}" for name in PRECISIONS)
    print(f"{command:8}" + "".join(f"{cell:>11}" for cell in cells) + f"{share:>11.2f}", flush=True)
    return {
        "tokens_per_second": {name: round(speed, 2) for name, speed in middle.items()},
        "turns": {name: [round(speed, 2) for speed in speeds] for name, speeds in done.items()},
        "trials": {name: round(speed, 2) for name, speed in trials.items()},
        "auto_share": round(share, 3),
    }


def main() -> int:
    """Measure, print, and judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", nargs="?", default="demo", help="by name or file; default: demo")
    parser.add_argument("--turns", type=int, default=TURNS)
    args = parser.parse_args()
    ask_for_huge_pages()
    began = time.monotonic()
    settings = recipe.load(args.recipe)
    chosen = hardware.choose()
    machine, versions = evidence.machine(), evidence.versions("tenner", "torch", "transformers")
    print(f"machine: {machine}\nversions: {versions}\nauto is {chosen}\n", flush=True)
    asked = puzzles.generate(MEASURED, families=settings.gather.families, split="train", seed=0, distinct=True)
    bench = Bench(settings, student_address.resolve(settings.student.model), [q.question for q in asked])
    print("tokens a second, and auto's share of the better precision's; * by a small piece only, which was far slower")
    print(f"{'':8}" + "".join(f"{name:>10} " for name in PRECISIONS) + f"{'share':>11}", flush=True)
    figures = {command: compare(command, bench, args.turns) for command in COMMANDS}
    promises = {
        f"{command}: auto has at least {SHARE_MIN:g} of the better precision's tokens a second: {f['auto_share']:.2f}":
            f["auto_share"] >= SHARE_MIN
        for command, f in figures.items()
    }  # fmt: skip
    print()
    for promise, holds in promises.items():
        print(f"{'holds' if holds else 'DOES NOT HOLD'}: {promise}")
    print(json.dumps({
        "machine": machine, "versions": versions, "precision": chosen.precision,
        "seconds": round(time.monotonic() - began), "commands": figures, "promises": promises,
    }))  # fmt: skip
    return 0 if all(promises.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
