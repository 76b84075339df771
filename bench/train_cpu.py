"""Training tokens per second and memory on a CPU, side by side with TRL's SFTTrainer.

    pip install -c constraints.txt -e '.[test]'
    python bench/train_cpu.py           # both workloads, three rounds
    python bench/train_cpu.py --grid    # every configuration of TRL that was tried, once

Both sides fine-tune all of the demo's student, SmolLM2-135M, from the same weights, on the same samples in the same
steps, with the same rates. Workload `short` is what the demo trains on. `long` has as many thinking tokens as s1K's
rows, divided by eight; its texts are the demo's questions and solutions, one after the other.

Both sides compute in the precision that tenner chooses on this machine, which is printed. Where that is float32,
bfloat16 is many times slower, and all of TRL's configurations are in float32, too.

`trl-s1` is TRL as s1's script sets it, on one device: padded to the longest, float32 weights under bfloat16 autocast,
or without it. `trl-best` is the fastest of the grid whose loss is right. The sides take turns, each run is a process of
its own. Time is that of steps: loading, and the first step, are left out on both sides. Loss is that of held-out
samples after the last step, in float32: of the student as it is saved for tenner, whose weights are in the precision of
the products by then, and of the weights that were trained, before any rounding, for TRL. Exits with 1 where a promise
does not hold.

A processor with AVX-512 plays one with AVX2 only (the machine's line says which instructions PyTorch uses):

    ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2 MKL_ENABLE_INSTRUCTIONS=AVX2 python bench/train_cpu.py
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import evidence

from tenner.core import hardware, recipe
from tenner.core.chat_template import ChatTemplate
from tenner.core.formats import FORMATS, Tokenizer
from tenner.core.records import NamedPrecision, Sample
from tenner.core.sections import Train
from tenner.data import puzzles
from tenner.training import loss_mask, packing, student, student_address
from tenner.training.allocator import ask_for_huge_pages
from tenner.training.loss_mask import Encoded

SAMPLES_PER_STEP = 16  # s1's
SEED = 0
LR = 1e-4
SPEED_S1_MIN, SPEED_BEST_MIN, MEMORY_MAX, LOSS_MAX = 3.0, 1.5, 0.6, 1.0


class Workload(NamedTuple):
    """Steps to do, samples to hold out, and a sample's thinking tokens as even quantiles from the least to the most."""

    steps: int
    held_out: int
    thinking_tokens: tuple[int, ...] = ()
    """Empty: one question's solution is the thinking."""

    def thinking_tokens_of(self, sample: int) -> float:
        """How long the thinking of this sample shall be."""
        knots = self.thinking_tokens
        place = (sample * 0.618034 % 1) * (len(knots) - 1)  # the golden ratio's multiples lie evenly
        low = int(place)
        return knots[low] + (place - low) * (knots[low + 1] - knots[low])


WORKLOADS = {
    "short": Workload(16, 96),
    # An eighth of s1K: from 1K to 9.1K thinking tokens, 4.7K of them on average.
    "long": Workload(4, 16, (125, 300, 400, 480, 540, 590, 640, 700, 770, 870, 1139)),
}


class Trl(NamedTuple):
    """A configuration of TRL: how many samples go through the model at once, in which dtype, and SFTConfig's fields."""

    rows: int
    weights: str = "float32"
    attention: str = "sdpa"
    by_length: bool = False
    """Sort a step's samples before they are cut into rows: less padding, the same step."""
    config: tuple[tuple[str, Any], ...] = ()
    environment: tuple[tuple[str, str], ...] = ()


def _trl(rows: int, *, kept: bool = False, **fields: Any) -> Trl:
    own = {name: fields.pop(name) for name in ("weights", "attention", "by_length") if name in fields}
    return Trl(rows, config=tuple(fields.items()), environment=KEPT_MEMORY if kept else (), **own)


KEPT_MEMORY = (
    ("THP_MEM_ALLOC_ENABLE", "1"), ("MALLOC_MMAP_THRESHOLD_", "1073741824"), ("MALLOC_TRIM_THRESHOLD_", "2147483647"),
)  # fmt: skip
"""No setting of TRL's, but what tenner does by itself: huge pages, and freed memory kept."""

TRL = {
    "16 rows": _trl(16),
    "4 rows": _trl(4),
    "1 row": _trl(1),
    "1 row, checkpointing": _trl(1, activation_checkpointing=True),
    "16 rows eager": _trl(16, attention="eager"),
    "8 rows by length": _trl(8, by_length=True),
    "4 rows by length": _trl(4, by_length=True),
    "4 by length, fp32": _trl(4, by_length=True, bf16=False),
    "4 by length, foreach": _trl(4, by_length=True, optim="adamw_torch"),
    "4 by length, compiled": _trl(4, by_length=True, torch_compile=True),
    "4 by length, kept memory": _trl(4, by_length=True, kept=True),
    "16 padding-free": _trl(16, padding_free=True),
    "4 padding-free": _trl(4, by_length=True, padding_free=True),
    "1 row, bf16": _trl(1, weights="bfloat16", bf16=False),
    "4 by length, bf16": _trl(4, by_length=True, weights="bfloat16", bf16=False),
    "8 by length, bf16": _trl(8, by_length=True, weights="bfloat16", bf16=False),
    "4 by length, bf16, kept memory": _trl(4, by_length=True, weights="bfloat16", bf16=False, kept=True),
    "16 padding-free, bf16": _trl(16, padding_free=True, weights="bfloat16", bf16=False),
    "4 padding-free, bf16": _trl(4, by_length=True, padding_free=True, weights="bfloat16", bf16=False),
}
"""What s1's `sft.sh` sets, and others that might be faster. s1 had a GPU for each of its sixteen samples."""


def configurations(precision: NamedPrecision) -> dict[str, Trl]:
    """Those of a machine that computes in this precision; in float32 nothing is in bfloat16, and autocast is off."""
    if precision != "fp32":
        return TRL
    autocast = {name: side for name, side in TRL.items() if "bf16" not in dict(side.config)}
    return {name: side._replace(config=(*side.config, ("bf16", False))) for name, side in autocast.items()}


LONG_ROWS_MAX = 8  # sixteen long samples at once take more than 24 GB
S1 = {"short": "16 rows", "long": "4 rows"}
"""Its batch at once, padded; of long samples, as many as fit into memory."""
BEST = {"short": "4 by length, kept memory", "long": "1 row"}
"""By the grid in bfloat16, of those whose loss is right (weights in bfloat16 are faster on short samples, and learn
worse); in float32 the grid has not been run, and the same are taken."""


def samples(workload: Workload, tokenizer: Tokenizer, settings: recipe.Recipe) -> tuple[list[Encoded], list[Encoded]]:
    """What is trained on, step after step, and what is held out."""
    count = workload.steps * SAMPLES_PER_STEP + workload.held_out
    r = random.Random(SEED)
    families = settings.gather.families
    questions = puzzles.generate(100 * count, families=families, split="train", seed=SEED, distinct=False)
    found = []
    for i in range(count):
        asked = next(questions)
        thinking = asked.solution or ""
        if workload.thinking_tokens:
            wanted = workload.thinking_tokens_of(i)
            while len(tokenizer.encode(thinking, add_special_tokens=False)) < wanted - 35:
                more = next(questions)
                thinking += f"\n{more.question} {more.solution} It is {more.answer}."
        assert asked.answer is not None
        found.append(
            Sample(
                id=f"s{i}", question_id=asked.id, question=asked.question, thinking=thinking, answer=asked.answer,
                domain=asked.domain,
            )
        )  # fmt: skip
    r.shuffle(found)
    template, fmt = ChatTemplate(tokenizer, system_prompt=settings.student.system_prompt), FORMATS["s1"]
    end_id = template.turn_end_id(frozenset({tokenizer.eos_token_id}))
    encoded = [loss_mask.encode(template, sample, fmt, end_id=end_id) for sample in found]
    return even_steps(encoded[workload.held_out :]), encoded[: workload.held_out]


def even_steps(encoded: Sequence[Encoded]) -> list[Encoded]:
    """The samples in steps of sixteen that have as many tokens each: dealt out by length, to and fro."""
    steps: list[list[Encoded]] = [[] for _ in range(len(encoded) // SAMPLES_PER_STEP)]
    ordered = sorted(encoded, key=lambda e: len(e.ids))
    for turn in range(SAMPLES_PER_STEP):
        dealt = ordered[turn * len(steps) : (turn + 1) * len(steps)]
        for step, sample in zip(steps, dealt if turn % 2 else reversed(dealt), strict=True):
            step.append(sample)
    for step in steps:
        random.Random(SEED).shuffle(step)
    return [sample for step in steps for sample in step]


class Clock:
    """When each step ended."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def tick(self) -> None:
        """A step is done."""
        self.ends.append(time.monotonic())


def train_tenner(
    base: Any, encoded: Sequence[Encoded], steps: int, workdir: Path, on_step: Callable[[Any], None], *,
    device_tflops: float | None = None, **changed: Any,
) -> Any:  # fmt: skip
    """tenner with its defaults, or some of them `changed`, from a folder or a loaded model; returns the model."""
    ask_for_huge_pages()
    from tenner.training import loop

    lengths = [len(e.ids) for e in encoded]
    settings = Train(
        epochs=1, lr=LR, warmup_fraction=0, tokens_per_step=sum(lengths) // steps, tokens_max=max(lengths), **changed
    )
    # tenner shuffles: the samples are laid so that its order is theirs.
    laid = [encoded[0]] * len(encoded)
    for sample, place in zip(encoded, packing.epoch_order(len(encoded), seed=SEED, epoch=0), strict=True):
        laid[place] = sample
    planned = packing.plan([len(e.ids) for e in laid], settings.tokens_per_step, epochs=1, seed=SEED)
    assert [laid[i] for step in planned for i in step] == list(encoded)
    assert {len(step) for step in planned} == {len(encoded) // steps}
    done = loop.train(
        base, laid, settings, seed=SEED, workdir=workdir, on_step=on_step, device_tflops=device_tflops
    )  # fmt: skip
    return done.model


def load_for_trl(side: Trl, folder: Path) -> Any:
    """The student as a configuration of TRL wants it."""
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(
        folder, dtype=getattr(torch, side.weights), attn_implementation=side.attention
    )


def train_trl(
    side: Trl, model: Any, tokenizer: Any, encoded: Sequence[Encoded], steps: int, workdir: Path, clock: Clock
) -> Any:
    """TRL's SFTTrainer in a configuration; returns the model."""
    from datasets import Dataset
    from transformers import TrainerCallback
    from trl import SFTConfig, SFTTrainer

    class Ticks(TrainerCallback):
        def on_step_end(self, *_: object, **__: object) -> None:
            clock.tick()

    rows = list(encoded)
    if side.by_length:
        starts = range(0, len(rows), SAMPLES_PER_STEP)
        rows = [
            e for at in starts for e in sorted(rows[at : at + SAMPLES_PER_STEP], key=lambda e: len(e.ids), reverse=True)
        ]
    labels = [[token if trained else -100 for token, trained in zip(e.ids, e.loss_mask, strict=True)] for e in rows]
    fields: dict[str, Any] = {
        "output_dir": str(workdir), "max_steps": steps, "per_device_train_batch_size": side.rows,
        "gradient_accumulation_steps": SAMPLES_PER_STEP // side.rows, "train_sampling_strategy": "sequential",
        "learning_rate": LR, "lr_scheduler_type": "cosine", "warmup_steps": 0, "weight_decay": 1e-4,
        "adam_beta1": 0.9, "adam_beta2": 0.95, "max_grad_norm": 1.0, "bf16": side.weights == "float32",
        "activation_checkpointing": False, "max_length": None, "dataset_kwargs": {"skip_prepare_dataset": True},
        "use_cpu": True, "report_to": "none", "save_strategy": "no", "logging_steps": 1, "disable_tqdm": True,
    }  # fmt: skip
    trainer = SFTTrainer(
        model=model,
        args=SFTConfig(**fields | dict(side.config)),
        train_dataset=Dataset.from_dict({"input_ids": [list(e.ids) for e in rows], "labels": labels}),
        processing_class=tokenizer,
        callbacks=[Ticks()],
    )
    trainer.train()
    return trainer.model


def held_out_loss(model: Any, encoded: Sequence[Encoded]) -> float:
    """Mean cross entropy of the trained tokens, one sample at a time, by transformers' own code in float32."""
    import torch
    from torch.nn import functional

    torch.nn.Module.to(model, torch.float32).eval()
    model.set_attn_implementation("sdpa")
    total, count = 0.0, 0
    with torch.no_grad():
        for sample in encoded:
            row = packing.pack([sample])
            logits_TV = model(input_ids=torch.tensor([sample.ids]), use_cache=False).logits[0]
            targets_P = torch.tensor(row.targets)
            total += functional.cross_entropy(logits_TV[list(row.predictors)], targets_P, reduction="sum").item()
            count += len(row.targets)
    return total / count


def run_here(side: str, workload: Workload, folder: Path, precision: NamedPrecision) -> dict[str, float]:
    """One run in this process; the side `loaded` does no more than load the model, as both do."""
    if side == "loaded":
        import torch

        student.load(folder, torch.float32, "sdpa")
        return {"peak_mb": hardware.peak_memory_bytes() / 1e6}

    tokenizer = student.load_tokenizer(folder)
    training, held_out = samples(workload, tokenizer, recipe.load("demo"))
    clock = Clock()
    with tempfile.TemporaryDirectory() as workdir:
        if side == "tenner":
            model = train_tenner(
                folder, training, workload.steps, Path(workdir), lambda _: clock.tick(), precision=precision
            )
        else:
            trl = configurations(precision)[side]
            loaded = load_for_trl(trl, folder)
            model = train_trl(trl, loaded, tokenizer, training, workload.steps, Path(workdir), clock)
        peak = hardware.peak_memory_bytes() / 1e6
        tokens = sum(len(e.ids) for e in training[SAMPLES_PER_STEP:])
        assert len(clock.ends) == workload.steps
        return {
            "tokens_per_second": tokens / (clock.ends[-1] - clock.ends[0]),
            "seconds": clock.ends[-1] - clock.ends[0],
            "peak_mb": peak,
            "loss": held_out_loss(model, held_out),
            "tokens": tokens,
        }


def run(side: str, name: str, precision: NamedPrecision) -> dict[str, float]:
    """One run in a process of its own."""
    environment = dict(TRL[side].environment) if side in TRL else {}
    command = [sys.executable, *sys.argv[:1], "--side", side, "--workloads", name]
    command += ["--steps", str(WORKLOADS[name].steps), "--precision", precision]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | environment)
    if done.returncode:
        raise SystemExit(f"{side} on {name} failed:\n{done.stderr[-3000:]}")
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return figures


def grid(names: Sequence[str], precision: NamedPrecision) -> None:
    """Every configuration of TRL, once."""
    print("workload  configuration                     tokens/s   peak MB     loss")
    for name in names:
        sides = (n for n, side in configurations(precision).items() if name == "short" or side.rows <= LONG_ROWS_MAX)
        for side in ("tenner", *sides):
            try:
                told = _told(run(side, name, precision))
            except SystemExit as failure:  # a setting that this machine cannot do is a finding, too
                told = f"  does not run: {str(failure).splitlines()[-1]}"
            print(f"{name:9} {side:32} {told}", flush=True)


def compare(name: str, rounds: int, precision: NamedPrecision) -> tuple[dict[str, Any], dict[str, bool]]:
    """The three sides in turn; returns the figures and which of the promises hold."""
    sides = {"tenner": "tenner", "trl-s1": S1[name], "trl-best": BEST[name]}
    loaded_mb = run("loaded", name, precision)["peak_mb"]
    print(f"\n{name}: {WORKLOADS[name].steps} steps of {SAMPLES_PER_STEP} samples")
    print(f"trl-s1 is {S1[name]}, trl-best is {BEST[name]}")
    print(f"the loaded model alone: {loaded_mb:,.0f} MB\n\nround  side      tokens/s   peak MB     loss")
    done: dict[str, list[dict[str, float]]] = {side: [] for side in sides}
    for number in range(1, rounds + 1):
        for side, configuration in sides.items():
            done[side].append(run(configuration, name, precision))
            print(f"{number:5}  {side:8} {_told(done[side][-1])}", flush=True)
    middle = {side: {key: median(r[key] for r in runs) for key in runs[0]} for side, runs in done.items()}
    figures: dict[str, Any] = {"loaded_mb": round(loaded_mb), "best": BEST[name], "rounds": done}
    promises = {}
    for side, speed_min in (("trl-s1", SPEED_S1_MIN), ("trl-best", SPEED_BEST_MIN)):
        speeds = [
            a["tokens_per_second"] / b["tokens_per_second"] for a, b in zip(done["tenner"], done[side], strict=True)
        ]
        memory = middle["tenner"]["peak_mb"] / middle[side]["peak_mb"]
        above = (middle["tenner"]["peak_mb"] - loaded_mb) / (middle[side]["peak_mb"] - loaded_mb)
        loss = middle["tenner"]["loss"] / middle[side]["loss"]
        figures[side] = {"speed": round(median(speeds), 3), "memory": round(memory, 3), "loss": round(loss, 4)}
        print(
            f"{side}: {median(speeds):.2f} times its tokens per second ({', '.join(f'{s:.2f}' for s in speeds)}), "
            f"{memory:.2f} of its memory ({above:.2f} above the loaded model), {loss:.3f} of its loss"
        )
        promises[f"{name}: at least {speed_min:g} times {side}'s tokens per second"] = median(speeds) >= speed_min
        promises[f"{name}: at most {MEMORY_MAX:g} of {side}'s peak memory"] = memory <= MEMORY_MAX
        promises[f"{name}: a loss at most {LOSS_MAX:g} times {side}'s"] = loss <= LOSS_MAX
    return figures, promises


def _told(figures: dict[str, float]) -> str:
    return f"{figures['tokens_per_second']:9,.0f} {figures['peak_mb']:9,.0f} {figures['loss']:8.4f}"


def main() -> None:
    """Measure, print, and judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, help="instead of each workload's own number, for a quick look")
    parser.add_argument("--workloads", nargs="+", choices=tuple(WORKLOADS), default=tuple(WORKLOADS))
    parser.add_argument("--grid", action="store_true", help="every configuration of TRL, once")
    parser.add_argument("--side", help=argparse.SUPPRESS)
    parser.add_argument("--precision", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.steps:
        WORKLOADS.update({name: w._replace(steps=args.steps) for name, w in WORKLOADS.items()})
    if args.side:
        folder = student_address.resolve(recipe.load("demo").student.model)
        print(json.dumps(run_here(args.side, WORKLOADS[args.workloads[0]], folder, args.precision)))
        return
    precision = hardware.choose("cpu").precision
    versions = evidence.versions("tenner", "torch", "transformers", "trl")
    about: dict[str, dict[str, Any]] = {"machine": evidence.machine(), "versions": versions}
    for name, fields in about.items():
        print(f"{name}: " + ", ".join(f"{key} {value}" for key, value in fields.items()), flush=True)
    print(f"precision: {precision}", flush=True)
    if args.grid:
        grid(args.workloads, precision)
        return
    figures: dict[str, Any] = {}
    promises: dict[str, bool] = {}
    for name in args.workloads:
        figures[name], held = compare(name, args.rounds, precision)
        promises |= held
    print()
    for promise, holds in promises.items():
        print(f"{'holds' if holds else 'MISSED'}: {promise}")
    print(json.dumps(about | {"precision": precision} | figures | {"promises": promises}))
    sys.exit(0 if all(promises.values()) else 1)


if __name__ == "__main__":
    main()
