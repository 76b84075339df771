"""Training tokens per second, MFU and memory on one GPU at the sizes of Qwen2.5, side by side with TRL, and s1's price.

    pip install -c constraints.txt -e '.[test]'
    python bench/train_gpu.py --price-usd-per-hour 2.5     # on an H100 or H200
    python bench/train_gpu.py --results DIR --minutes 8    # in pieces: the same command goes on, until it exits 0 or 1
    python bench/train_gpu.py --rehearse                   # all of it with a tiny model on a CPU; judges nothing

The models have Qwen2.5's shapes and random weights, made on the device: nothing is downloaded. Samples are random
tokens, as long as s1K's rows: 1K to 9.1K of thinking, and a prompt. `-16k` has 16K of thinking, a sample a step.

A configuration may name several ways, dearest in memory first: the first that does not run out of memory counts, on
either side. Each try is a process of its own, with the allocator's expandable segments. The first step is not timed.
TRL goes sample by sample in bfloat16 with SDPA, with Liger's kernels where they are installed.

MFU is tenner's (`training/flops.py`): what is computed twice to save memory counts once, frozen weights count 4 N. The
promise is of the causal convention, the smaller of the two. Prices are those of s1's run: 1,000 samples of s1K's
lengths, 5 epochs. LoRA's is measured: its tokens, over the tokens per second of the 32B on this one GPU. That of full
fine-tuning is a scaling, not measured: the 7B's tokens per second, less by the ratio of arithmetic per sample (causal),
the MFU taken as the same and nothing lost between sixteen GPUs. Exits with 1 where a promise does not hold.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import evidence
import train_cpu

from tenner.core import hardware, recipe
from tenner.core.errors import TennerError
from tenner.core.sections import Train
from tenner.training.loss_mask import Encoded

SEED = train_cpu.SEED
PROMPT_TOKENS = 128
EIGHTH = train_cpu.WORKLOADS["long"]  # an eighth of s1K
REHEARSED_PART, REHEARSED_TFLOPS = 64, 0.1
S1_SAMPLES, S1_EPOCHS, S1_GPUS = 1000, 5, 16
MFU_MIN = 0.5
NO_MEMORY = ("OutOfMemoryError", "out of memory", "ALLOC_FAILED")
"""How PyTorch, CUDA and its libraries say so."""
SHAPES: dict[str, dict[str, Any]] = {
    "tiny": {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
             "intermediate_size": 128, "vocab_size": 512, "tie_word_embeddings": False},
    "0.5b": {"hidden_size": 896, "num_hidden_layers": 24, "num_attention_heads": 14, "num_key_value_heads": 2,
             "intermediate_size": 4864, "vocab_size": 151936, "tie_word_embeddings": True},
    "7b": {"hidden_size": 3584, "num_hidden_layers": 28, "num_attention_heads": 28, "num_key_value_heads": 4,
           "intermediate_size": 18944, "vocab_size": 152064, "tie_word_embeddings": False},
    "32b": {"hidden_size": 5120, "num_hidden_layers": 64, "num_attention_heads": 40, "num_key_value_heads": 8,
            "intermediate_size": 27648, "vocab_size": 152064, "tie_word_embeddings": False},
}  # fmt: skip
"""Qwen2.5's, as its configurations have them, and one for rehearsals."""


class Configuration(NamedTuple):
    """A training: of which shape, how, and in which ways to save memory it is tried."""

    shape: str
    train: dict[str, Any]
    """`[train]` of a recipe."""
    ways: tuple[dict[str, Any], ...] = ({},)
    trl_ways: tuple[bool, ...] = (False, True)
    """With activations kept, or checkpointed; none: TRL is not asked."""
    samples_per_step: int = train_cpu.SAMPLES_PER_STEP
    thinking_tokens: int | None = None
    """Of every sample; None: s1K's."""


KEPT = ({"activations": "all"}, {"activations": "products"}, {"activations": "inputs"})
LEAST = ({"activations": "inputs"}, {"activations": "inputs", "offload_activations": True})
LORA = {"method": "lora", "tokens_per_row": 8192}
CONFIGURATIONS = {
    "0.5b-full": Configuration("0.5b", {"tokens_per_row": 8192}, KEPT),
    "7b-full": Configuration("7b", {"precision": "pure-bf16", "tokens_per_row": 8192}, KEPT),
    "7b-full-8bit": Configuration("7b", {"optimizer": "adamw-8bit", "tokens_per_row": 8192}, KEPT, ()),
    "7b-full-fp8": Configuration("7b", {"precision": "pure-bf16", "fp8": True, "tokens_per_row": 8192}, KEPT, ()),
    "7b-lora": Configuration("7b", LORA, KEPT),
    "7b-lora-fp8": Configuration("7b", LORA | {"fp8": True}, KEPT, ()),
    "32b-lora": Configuration("32b", LORA, LEAST, (True,)),
    "32b-lora-16k": Configuration("32b", LORA, LEAST, (True,), samples_per_step=1, thinking_tokens=16384),
}
USUAL = ("7b-lora", "32b-lora", "7b-full", "32b-lora-16k", "7b-full-8bit")
"""The cheapest proof first."""


def lengths(configuration: Configuration, count: int, *, rehearsed: bool) -> list[int]:
    """Thinking tokens of so many samples."""
    part = REHEARSED_PART if rehearsed else 1
    if configuration.thinking_tokens:
        return [configuration.thinking_tokens // part] * count
    return [round(8 * EIGHTH.thinking_tokens_of(i) / part) for i in range(count)]


def samples(configuration: Configuration, steps: int, vocabulary: int, *, rehearsed: bool) -> list[Encoded]:
    """Random tokens, in steps of like size."""
    r = random.Random(SEED)
    asked = PROMPT_TOKENS // (REHEARSED_PART if rehearsed else 1)
    count = steps * configuration.samples_per_step
    encoded = [
        Encoded(f"s{i}", tuple(r.choices(range(vocabulary), k=asked + thinking)), (False,) * asked + (True,) * thinking)
        for i, thinking in enumerate(lengths(configuration, count, rehearsed=rehearsed))
    ]
    return encoded if configuration.thinking_tokens else train_cpu.even_steps(encoded)


def build(shape: str, dtype: Any, device: str, attention: str = "eager") -> Any:
    """A model with random weights, made where it will be used."""
    import torch
    from transformers import AutoModelForCausalLM, Qwen2Config

    torch.manual_seed(SEED)
    config = Qwen2Config(max_position_embeddings=32768, **SHAPES[shape])
    with torch.device(device):
        return AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation=attention)


def operations_per_sample(shape: str) -> float:
    """Full fine-tuning's, causal, of a mean sample of s1K's lengths."""
    import torch

    from tenner.training.flops import Arithmetic

    model = build(shape, torch.bfloat16, "meta")
    thinking = lengths(CONFIGURATIONS["7b-full"], S1_SAMPLES, rehearsed=False)
    arithmetic = Arithmetic.of(model, model.base_model.layers)
    return arithmetic.work([PROMPT_TOKENS + t for t in thinking], sum(thinking)).causal / S1_SAMPLES


class DeviceClock(train_cpu.Clock):
    """When the device had done each step, not only been told to do it."""

    def tick(self) -> None:
        """A step is done."""
        import torch

        if torch.cuda.is_available():
            torch.cuda.synchronize()
        super().tick()


def run_here(side: str, name: str, way: int, steps: int, *, rehearsed: bool) -> dict[str, Any]:
    """One try in this process: its figures, or why there are none."""
    import torch

    configuration = CONFIGURATIONS[name]
    if side == "trl" and find_spec("trl") is None:
        return {"failed": "TRL is not installed"}
    shape = "tiny" if rehearsed else configuration.shape
    device = "cuda" if torch.cuda.is_available() and not rehearsed else "cpu"
    encoded = samples(configuration, steps, SHAPES[shape]["vocab_size"], rehearsed=rehearsed)
    clock = DeviceClock()
    try:
        with tempfile.TemporaryDirectory() as workdir:
            if side == "tenner":
                shares = _train_tenner(configuration, way, shape, device, encoded, steps, Path(workdir), clock)
            else:
                _train_trl(configuration, way, shape, device, encoded, steps, Path(workdir), clock)
                shares = {}
    except TennerError as error:
        return {"failed": str(error)}
    seconds = clock.ends[-1] - clock.ends[0]
    tokens = sum(len(e.ids) for e in encoded[configuration.samples_per_step :])
    peak_gb = torch.cuda.max_memory_allocated() / 1e9 if device == "cuda" else hardware.peak_memory_bytes() / 1e9
    figures = {"tokens_per_second": tokens / seconds, "seconds": seconds, "tokens": tokens, "peak_gb": peak_gb}
    return figures | {key: share / seconds for key, share in shares.items()}


def _train_tenner(
    configuration: Configuration, way: int, shape: str, device: str, encoded: Sequence[Encoded], steps: int,
    workdir: Path, clock: DeviceClock,
) -> dict[str, float]:  # fmt: skip
    """tenner; returns the seconds that the timed steps would take at the device's best, in both conventions."""
    from tenner.training import model_loading, optional_libraries

    changed: dict[str, Any] = {"precision": "bf16", "checkpoint_seconds": 10**9}
    changed |= {**configuration.train, **configuration.ways[way]}
    settings = Train(epochs=1, lr=1, tokens_per_step=1, tokens_max=1, **changed)
    optional_libraries.check(settings)
    reports: list[Any] = []

    def on_step(report: Any) -> None:
        clock.tick()
        reports.append(report)

    tflops = REHEARSED_TFLOPS if device == "cpu" else None
    model = build(shape, model_loading.stored_dtype(settings), device)
    train_cpu.train_tenner(model, encoded, steps, workdir, on_step, device_tflops=tflops, **changed)
    # A report's time ends before the device has done the optimizer's work; the clock's does not.
    return {
        key: sum(getattr(r, key) * r.tokens / r.tokens_per_second for r in reports[1:])
        for key in ("mfu_causal", "mfu_non_causal")
        if reports[0].mfu_causal is not None  # the best of this GPU is not known
    }


def _train_trl(
    configuration: Configuration, way: int, shape: str, device: str, encoded: Sequence[Encoded], steps: int,
    workdir: Path, clock: DeviceClock,
) -> None:  # fmt: skip
    import torch
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast
    from trl import SFTConfig

    model = build(shape, torch.bfloat16, device, "sdpa")
    lora = configuration.train.get("method") == "lora"
    if lora:
        from peft import LoraConfig, get_peft_model

        usual = Train(epochs=1, lr=1, tokens_per_step=1, tokens_max=1)
        model = get_peft_model(
            model,
            LoraConfig(
                task_type="CAUSAL_LM", r=usual.lora_rank, lora_alpha=usual.lora_alpha, target_modules="all-linear"
            ),
        )
    older = "activation_checkpointing" not in SFTConfig.__dataclass_fields__
    config = {
        "use_cpu": device == "cpu", "bf16": lora,  # adapters are in float32, under autocast
        "gradient_accumulation_steps": configuration.samples_per_step,
        "gradient_checkpointing" if older else "activation_checkpointing": configuration.trl_ways[way],
        "use_liger_kernel": device == "cuda" and find_spec("liger_kernel") is not None,
    }  # fmt: skip
    words = Tokenizer(models.WordLevel({"<pad>": 0, "<eos>": 1}, unk_token="<pad>"))  # never asked: ids are given
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="<eos>")
    trl = train_cpu.Trl(1, weights="bfloat16", config=tuple(config.items()))
    train_cpu.train_trl(trl, model, tokenizer, encoded, steps, workdir, clock)


class Tries:
    """The tries of a run or of a piece of one; what a folder has of earlier pieces is not tried again."""

    def __init__(self, steps: int, *, rehearsed: bool, results: Path | None, minutes: float | None) -> None:
        self._steps, self._rehearsed, self._results = steps, rehearsed, results
        self._end = None if minutes is None else time.monotonic() + 60 * minutes
        self._tried_here = 0

    def attempt(self, side: str, name: str) -> dict[str, Any]:
        """A configuration by the first of its ways that fits. Raises OutOfTime where a try does not end in time."""
        configuration = CONFIGURATIONS[name]
        ways: tuple[Any, ...] = configuration.ways if side == "tenner" else configuration.trl_ways
        tried = []
        for number, way in enumerate(ways):
            told = (
                (", ".join(f"{k} {v}" for k, v in way.items()) or "-") if side == "tenner" else f"checkpointing {way}"
            )
            figures = self._kept_or_tried(side, name, number)
            tried.append({"way": told} | figures)
            print(f"{name:13} {side:7} {told:45} {_told(figures)}", flush=True)
            if figures.get("failed") != "out of memory":
                break
        return tried[-1] | {"tried": tried[:-1]}

    def _kept_or_tried(self, side: str, name: str, way: int) -> dict[str, Any]:
        rehearsed = "rehearsed-" if self._rehearsed else ""
        kept = self._results and self._results / f"{rehearsed}{name}-{side}-{way}-{self._steps}.json"
        if kept and kept.exists():
            found: dict[str, Any] = json.loads(kept.read_text())
            return found
        figures = self._try(side, name, way)
        if kept:
            kept.parent.mkdir(parents=True, exist_ok=True)
            partial = kept.with_suffix(".partial")
            partial.write_text(json.dumps(figures))
            partial.rename(kept)
        return figures

    def _try(self, side: str, name: str, way: int) -> dict[str, Any]:
        """In a process of its own; one that takes more than a whole piece has failed."""
        seconds = None if self._end is None else self._end - time.monotonic()
        if seconds is not None and seconds <= 0:
            raise OutOfTime
        command = [sys.executable, __file__, "--try", side, name, str(way), "--steps", str(self._steps)]
        self._tried_here += 1
        try:
            done = subprocess.run(
                [*command, *(["--rehearse"] if self._rehearsed else [])], capture_output=True, text=True,
                env=os.environ | {"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True"}, timeout=seconds,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            if self._tried_here > 1:
                raise OutOfTime from None
            return {"failed": "takes longer than --minutes"}
        if done.returncode and any(words in done.stderr for words in NO_MEMORY):
            return {"failed": "out of memory"}
        if done.returncode:
            return {"failed": f"exit code {done.returncode}: {(done.stderr.strip().splitlines() or ['no word'])[-1]}"}
        figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return figures


class OutOfTime(Exception):
    """This piece is over."""


def _told(figures: dict[str, Any]) -> str:
    if "failed" in figures:
        return figures["failed"]
    mfu = [f"{figures[key]:6.1%}" if key in figures else "     -" for key in ("mfu_causal", "mfu_non_causal")]
    return f"{figures['tokens_per_second']:9,.0f} {mfu[0]} {mfu[1]} {figures['peak_gb']:8.1f}"


def measured(tries: Tries, names: Sequence[str], *, with_trl: bool) -> dict[str, dict[str, dict[str, Any]]]:
    """The figures of each side, by configuration. Raises OutOfTime."""
    done: dict[str, dict[str, dict[str, Any]]] = {"tenner": {}, "trl": {}}
    for name in names:
        ours = done["tenner"][name] = tries.attempt("tenner", name)
        if not with_trl or not CONFIGURATIONS[name].trl_ways:
            continue
        theirs = done["trl"][name] = tries.attempt("trl", name)
        if "failed" not in ours and "failed" not in theirs:
            speed = ours["tokens_per_second"] / theirs["tokens_per_second"]
            memory = ours["peak_gb"] / theirs["peak_gb"]
            print(f"{name:13} {speed:.2f} times TRL's tokens per second, {memory:.2f} of its memory", flush=True)
    return done


def prices(done: dict[str, dict[str, Any]], usd_per_gpu_hour: float) -> dict[str, float]:
    """GPU-hours and dollars of s1's run on a 32B, as far as what they are made of was measured."""
    thinking = lengths(CONFIGURATIONS["32b-lora"], S1_SAMPLES, rehearsed=False)
    tokens = S1_EPOCHS * (sum(thinking) + S1_SAMPLES * PROMPT_TOKENS)
    print(f"\ns1's run is {tokens / 1e6:.1f} M tokens; a GPU-hour is ${usd_per_gpu_hour:.2f}")
    found = {}
    if speed := done.get("32b-lora", {}).get("tokens_per_second"):
        found["lora_gpu_hours"] = tokens / speed / 3600
        print(f"LoRA of the 32B, at the measured tokens per second: {found['lora_gpu_hours']:.1f} GPU-hours", end="")
        print(f", ${found['lora_gpu_hours'] * usd_per_gpu_hour:,.2f}")
    if speed := done.get("7b-full", {}).get("tokens_per_second"):
        ratio = operations_per_sample("32b") / operations_per_sample("7b")
        found["full_gpu_hours_scaled"] = tokens / (speed / ratio) / 3600
        print(
            f"full fine-tuning of the 32B on {S1_GPUS} GPUs, scaled and not measured (the 7B's tokens per second over "
            f"{ratio:.2f}, nothing lost between GPUs): {found['full_gpu_hours_scaled']:.1f} GPU-hours, "
            f"${found['full_gpu_hours_scaled'] * usd_per_gpu_hour:,.2f}"
        )
    return found | {"tokens": tokens, "usd_per_gpu_hour": usd_per_gpu_hour}


def main() -> None:
    """Measure, print, and judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=3, help="of each try; the first is not timed")
    parser.add_argument("--only", nargs="+", choices=tuple(CONFIGURATIONS), default=USUAL)
    parser.add_argument("--without-trl", action="store_true")
    parser.add_argument("--price-usd-per-hour", type=float, help="of one GPU; left out: a sixteenth of s1k.toml's")
    parser.add_argument("--rehearse", action="store_true", help="a tiny model on the CPU; promises are not judged")
    parser.add_argument("--results", type=Path, metavar="DIR", help="keep each try's figures there, and use those")
    parser.add_argument(
        "--minutes", type=float, help="of this piece: then exit with 3, to be gone on with; needs --results"
    )
    parser.add_argument("--try", nargs=3, dest="one", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.steps < 2:
        parser.error("--steps must be at least 2: the first is not timed")
    if args.minutes is not None and (args.results is None or not args.minutes > 0):
        parser.error("--minutes must be above zero, and --results say where to go on from")
    if args.one:
        side, name, way = args.one
        print(json.dumps(run_here(side, name, int(way), args.steps, rehearsed=args.rehearse)))
        return
    about: dict[str, Any] = {"machine": evidence.machine()}
    if not args.rehearse and "gpus" not in about["machine"]:
        parser.error("no GPU is here: --rehearse goes through it on a CPU")
    used = ("torch", "transformers", "peft", "trl", "bitsandbytes", "liger_kernel")
    about["versions"] = evidence.versions("tenner", *(name for name in used if find_spec(name)))
    for name, fields in about.items():
        print(f"{name}: " + ", ".join(f"{key} {value}" for key, value in fields.items()), flush=True)
    usd_per_gpu_hour = args.price_usd_per_hour or recipe.load("s1k").machine.price_usd_per_hour / S1_GPUS

    if args.rehearse:
        print("\nA rehearsal, a tiny model on a CPU: no figure below is one of a configuration, a best or a price.")
    print("\nconfiguration side    way                                            tokens/s causal   full  peak GB")
    tries = Tries(args.steps, rehearsed=args.rehearse, results=args.results, minutes=args.minutes)
    try:
        done = measured(tries, args.only, with_trl=not args.without_trl)
    except OutOfTime:
        print(f"{args.minutes:g} minutes are over: the same command goes on from {args.results}")
        sys.exit(3)
    figures: dict[str, Any] = done | {"price": prices(done["tenner"], usd_per_gpu_hour)}

    promises: dict[str, bool] = {}
    if sizes := [name for name in ("7b-full", "7b-lora") if name in args.only]:
        best = max(done["tenner"][name].get("mfu_causal", 0.0) for name in sizes)
        promises[f"a 7B, full or LoRA, at {MFU_MIN:.0%} of the GPU's best or more (causal)"] = best >= MFU_MIN
    if "32b-lora-16k" in args.only:
        promises["LoRA of a 32B with samples of 16K tokens fits on this GPU"] = (
            "failed" not in done["tenner"]["32b-lora-16k"]
        )
    print()
    for promise, holds in promises.items():
        print(f"{'rehearsed' if args.rehearse else 'holds' if holds else 'MISSED'}: {promise}")
    judged = {} if args.rehearse else {"promises": promises}
    print(json.dumps(about | {"rehearsed": args.rehearse} | figures | judged))
    sys.exit(0 if all(judged.get("promises", {}).values()) else 1)


if __name__ == "__main__":
    main()
