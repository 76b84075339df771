"""What a training takes of a GPU's memory, allocation by allocation, beside what `tenner plan` says; without a GPU.

    python bench/gpu_memory.py                # the grid, some minutes
    python bench/gpu_memory.py --only 7b --items   # what was held at the peak, by what allocated it

A step of the real loop runs on fake tensors (`fake_gpu.py`): shapes, types and lifetimes are the product's, numbers
there are none. Counted are the bytes of all storages that are alive on the first rank at once, from the moment when
everything is loaded. Not counted: CUDA's context, the libraries' workspaces, the allocator's rounding and fragments.
Samples are as long as the longest of s1K-1.1 in its recipe, or fill a row. Exits with 1 where the plan is off by more
than 10 %.
"""

import argparse
import gc
import json
import sys
import time
import weakref
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple
from unittest.mock import patch

import evidence
import fake_gpu
import torch
import train_gpu
from torch.utils._pytree import tree_leaves

from tenner.core.sections import Train
from tenner.training.architecture import Architecture
from tenner.training.loss_mask import Encoded
from tenner.training.memory_plan import Forecast, forecast

GB = 1e9
LONGEST_TOKENS, ROW_TOKENS, PROMPT_TOKENS = 20_480, 8_192, 128
STEPS = 1
"""All of a state is there from the first."""
ROWS = 2
"""Of a rank: the gradients are there when the second goes forward."""
OFF_MAX = 0.1
RANKS = (1, 8, 16)
METHODS: dict[str, dict[str, Any]] = {
    "full": {"precision": "bf16"},
    "full-pure": {"precision": "pure-bf16"},
    "lora": {"precision": "bf16", "method": "lora"},
}
ACTIVATIONS = ("all", "products", "inputs")


class Memory(fake_gpu.Observer):
    """The bytes of all storages alive, and the most of them since the first step began."""

    def __init__(self, snapshot_at: int | None = None) -> None:
        """`snapshot_at`: the operator after which `held` is filled."""
        super().__init__()
        self.now_bytes = self.peak_bytes = 0
        self.operators = self.peak_operator = 0
        self.held: Counter[str] = Counter()
        self._snapshot_at = snapshot_at
        self._alive: dict[int, tuple[int, str, Any]] = {}

    def begin(self) -> None:
        gc.collect()
        self.peak_bytes = self.now_bytes

    def seen(self, operator: Any, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> None:  # noqa: ARG002
        self.operators += 1
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor) and tensor.device.type != "meta":
                own = getattr(tensor, "_local_tensor", tensor)  # a sharded tensor's wrapper has the global size
                self._allocated(own.untyped_storage(), str(operator))
        if self.now_bytes > self.peak_bytes:
            self.peak_bytes, self.peak_operator = self.now_bytes, self.operators
        if self.operators == self._snapshot_at:
            for size, name, _ in self._alive.values():
                self.held[f"{name} of {size / 1e6:,.1f} MB"] += size

    def chain_seen(self, name: str, inputs: Any, changed: Any, out: list[torch.Tensor]) -> None:  # noqa: ARG002
        self.seen(name, (), {}, out)

    def _allocated(self, storage: torch.UntypedStorage, name: str) -> None:
        key = storage._cdata
        if key not in self._alive:
            self._alive[key] = storage.nbytes(), name, weakref.ref(storage, lambda _: self._freed(key))
            self.now_bytes += storage.nbytes()

    def _freed(self, key: int) -> None:
        self.now_bytes -= self._alive.pop(key)[0]

    def resized(self, storage: torch.UntypedStorage) -> None:
        """FSDP gives memory back, and takes it again, by resizing."""
        if known := self._alive.get(storage._cdata):
            self.now_bytes += storage.nbytes() - known[0]
            self._alive[storage._cdata] = storage.nbytes(), *known[1:]
            self.peak_bytes = max(self.peak_bytes, self.now_bytes)


class Point(NamedTuple):
    """One training of the grid."""

    shape: str
    method: str
    activations: str
    ranks: int
    tokens: int

    def settings(self) -> Train:
        return Train(
            epochs=2, lr=1e-5, tokens_per_step=ROWS * self.tokens * self.ranks, tokens_max=self.tokens,
            tokens_per_row=min(self.tokens, ROW_TOKENS), **METHODS[self.method] | {"activations": self.activations},
        )  # fmt: skip


def grid() -> list[Point]:
    """7B and 32B; in full with the precision that the number of ranks asks for."""
    points = [
        Point(shape, method, activations, ranks, LONGEST_TOKENS)
        for shape in ("7b", "32b")
        for ranks in RANKS
        for method in METHODS
        if method != "full-pure" or ranks < 16
        for activations in ACTIVATIONS
    ]
    return points + [
        Point("7b", method, activations, 1, ROW_TOKENS) for method in METHODS for activations in ACTIVATIONS
    ]


def config_of(shape: str) -> dict[str, Any]:
    """The contents of a config.json."""
    return {"model_type": "qwen2", "max_position_embeddings": 32768} | train_gpu.SHAPES[shape]


def taken(config: dict[str, Any], settings: Train, *, ranks: int, tokens: int, items: bool = False) -> Memory:
    """A step of `ROWS` rows for each rank, of one sample each."""
    mask = (False,) * min(PROMPT_TOKENS, tokens // 2)
    encoded = [Encoded(f"s{i}", (1,) * tokens, mask + (True,) * (tokens - len(mask))) for i in range(ROWS * ranks)]
    memory = _observed(config, settings, encoded, ranks, Memory())
    return _observed(config, settings, encoded, ranks, Memory(memory.peak_operator)) if items else memory


def _observed(
    config: dict[str, Any], settings: Train, encoded: Sequence[Encoded], ranks: int, memory: Memory
) -> Memory:
    resize = torch.UntypedStorage.resize_

    def resized(storage: torch.UntypedStorage, size: int) -> None:
        resize(storage, size)
        memory.resized(storage)

    with patch.object(torch.UntypedStorage, "resize_", resized):
        fake_gpu.run_steps(config, settings, encoded, memory, ranks=ranks, steps=STEPS)
    return memory


def said(config: dict[str, Any], settings: Train, *, ranks: int, tokens: int) -> Forecast:
    """By `tenner plan`."""
    return forecast(Architecture.of(config), settings, longest_tokens=tokens, ranks=ranks)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", metavar="WORD", help="points that have all of these: 32b lora products 16")
    parser.add_argument("--items", action="store_true", help="what was held at the peak, of each point")
    args = parser.parse_args()
    about: dict[str, dict[str, Any]] = {
        "machine": evidence.machine(),
        "versions": evidence.versions("tenner", "torch", "transformers", "peft"),
    }
    for name, fields in about.items():
        print(f"{name}: " + ", ".join(f"{key} {value}" for key, value in fields.items()), flush=True)
    points = [p for p in grid() if {*(args.only or ())} <= {*map(str, p)}]
    if not points:
        parser.error(f"no point has all of {' '.join(args.only)}")
    print("\nshape method    activations ranks tokens  taken GB  said GB  said/taken  most of all")
    found = []
    began = time.perf_counter()
    for point in points:
        config, settings = config_of(point.shape), point.settings()
        memory = taken(config, settings, ranks=point.ranks, tokens=point.tokens, items=args.items)
        plan = said(config, settings, ranks=point.ranks, tokens=point.tokens)
        share = plan.total_bytes / memory.peak_bytes
        print(
            f"{point.shape:5} {point.method:9} {point.activations:11} {point.ranks:5} {point.tokens:6} "
            f"{memory.peak_bytes / GB:9.2f} {plan.total_bytes / GB:8.2f} {share:11.3f}  {plan.moment}", flush=True,
        )  # fmt: skip
        if args.items:
            _print_items(plan, memory)
        found.append(point._asdict() | {"taken_bytes": memory.peak_bytes, "said_bytes": plan.total_bytes})
    off = [f["said_bytes"] / f["taken_bytes"] - 1 for f in found]
    holds = max(map(abs, off)) <= OFF_MAX
    promise = f"the plan is within {OFF_MAX:.0%} on all of {len(found)} points"
    print(f"\nfrom {min(off):+.1%} to {max(off):+.1%} off, in {time.perf_counter() - began:.0f} s")
    print(f"{'holds' if holds else 'MISSED'}: {promise}")
    print(json.dumps(about | {"points": found, "promises": {promise: holds}}))
    sys.exit(0 if holds else 1)


def _print_items(plan: Forecast, memory: Memory) -> None:
    for name, size in plan.items.items():
        print(f"    said {size / GB:8.2f} GB  {name}")
    for name, size in memory.held.most_common(16):
        print(f"    held {size / GB:8.2f} GB  {name}")


if __name__ == "__main__":
    main()
