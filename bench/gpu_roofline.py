"""Tokens per second of training at s1K-1.1's lengths as a GPU's roofline allows, operator by operator; without a GPU.

    python bench/gpu_roofline.py                     # all trainings on an H100, some minutes
    python bench/gpu_roofline.py --only 7b-lora --card "RTX PRO 6000"

Steps of the real loop run on fake tensors (`fake_gpu.py`), one row each, of three lengths. An operator takes as long as
its arithmetic or its bytes do, whichever is longer, at the shares of the data sheet's figures in `SHARES`, and at least
`KERNEL_SECONDS`. Layers are alike: models of two depths tell what each layer takes, and so what the whole model does.
A step of two rows tells what is added to the gradients that are there.
From the three rows follows what a row of any lengths takes (a constant, tokens, pairs of tokens), and from that every
step of the recipe's plan: ranks go forward and back together, so that each turn takes as long as its slowest row.

A collective over n ranks moves (n - 1) / n of the whole tensor (an all-reduce twice that) at the speed of the slowest
link: the GPU's own within a node, all network adapters of a node together between nodes, since NCCL runs a ring over
each (nccl-tests, doc/PERFORMANCE.md: "bus bandwidth"). It is taken as hidden behind the rest where it is shorter. What
ranks that share rows exchange for attention is not: of what each of N ranks has, (N - 1) / N at the same speed, each
time at least `EXCHANGE_SECONDS`.

A prediction, not a measurement: it is right about which operators run, and on what. Waits of the GPU for Python are not
in it. s1K-1.1's traces are not here; their lengths are taken as lognormal around the mean that its recipe states, and
what is longer than its `tokens_max` is dropped.
"""

import argparse
import json
import math
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from statistics import NormalDist
from typing import Any, NamedTuple

import evidence
import fake_gpu
import torch
from gpu_memory import config_of
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from tenner.core.sections import Train
from tenner.training import float8, packing, rank_balance
from tenner.training.loop import StepReport
from tenner.training.loss_mask import Encoded

MEDIAN_TOKENS, SIGMA, SAMPLES, TOKENS_MAX, PROMPT_TOKENS = 7_800, 0.55, 1000, 20_480, 128
"""Of thinking: a mean of 9,070 tokens."""
STEP_TOKENS, WIDE_STEP_TOKENS = 100_000, 600_000
PROBED_TOKENS = (2_048, 8_192, 20_480)
"""Of a row, for each rank that shares it."""
KERNEL_SECONDS = 4e-6
"""The shortest kernel, from one start to the next."""
EXCHANGE_SECONDS = 20e-6
"""The shortest exchange between the GPUs of a node: an assumption, for what starting it and meeting take."""
SHARES = {"products": 0.75, "products in float8": 0.6, "attention": 0.5, "attention's backward": 0.4, "bytes": 0.85,
          "links": 0.8}  # fmt: skip
"""Of the data sheet's figures that good kernels reach on large tensors. Of products in float8, each row with a scale of
its own, less is assumed than in bfloat16, without a source. Of links: 360 of 450 GB/s in a node of eight H100, which
NCCL's maintainers call expected (github.com/NVIDIA/nccl-tests/issues/326)."""
DEPTHS = (2, 4)
"""Layers of the models that are run."""
CARDS_PER_NODE = 8


class Card(NamedTuple):
    """Of NVIDIA's data sheets, without sparsity; speeds of links are those of one direction."""

    fp8_tflops: float
    bf16_tflops: float
    fp32_tflops: float
    memory_tb: float
    """TB/s."""
    link_gb: float
    """GB/s to the other cards of a node."""
    node_gb: float
    """GB/s of all network adapters of a node of eight."""

    def moved_bytes_per_second(self, ranks: int) -> float:
        """By a collective of large tensors."""
        slowest_gb = self.link_gb if ranks <= CARDS_PER_NODE else min(self.link_gb, self.node_gb)
        return slowest_gb * 1e9 * SHARES["links"]


CARDS = {
    # NVLink 4: 900 GB/s in both directions; DGX H100: eight ConnectX-7 of 400 Gb/s for the compute network.
    "H100 SXM": Card(1978.9, 989.5, 67.0, 3.35, 450.0, 400.0),
    # PCIe 5.0 x16, no NVLink; one adapter of 400 Gb/s.
    "RTX PRO 6000": Card(1007.6, 503.8, 126.0, 1.79, 63.0, 50.0),
}


class Training(NamedTuple):
    """Of which shape, how, on how many cards."""

    shape: str
    train: dict[str, Any]
    ranks: int = 1

    @property
    def sharing(self) -> int:
        """How many ranks share each row."""
        count: int = self.train.get("context_parallel", 1)
        return count

    @property
    def groups(self) -> int:
        """How many rows are at work at a time."""
        return self.ranks // self.sharing

    @property
    def tokens(self) -> tuple[int, ...]:
        """Of the rows that are run."""
        return tuple(self.sharing * count for count in PROBED_TOKENS)


TRAININGS = {
    "7b-full-all": Training("7b", {"precision": "pure-bf16", "tokens_per_row": 8192}),
    "7b-full-products": Training("7b", {"precision": "pure-bf16", "tokens_per_row": 8192, "activations": "products"}),
    "7b-lora": Training("7b", {"precision": "bf16", "method": "lora", "tokens_per_row": 8192}),
    "32b-lora": Training(
        "32b", {"precision": "bf16", "method": "lora", "activations": "inputs", "tokens_per_row": 8192}
    ),
    "7b-full-fp8": Training("7b", {"precision": "pure-bf16", "tokens_per_row": 8192, "fp8": True}),
    "7b-lora-fp8": Training("7b", {"precision": "bf16", "method": "lora", "tokens_per_row": 8192, "fp8": True}),
    "32b-lora-fp8": Training(
        "32b", {"precision": "bf16", "method": "lora", "activations": "inputs", "tokens_per_row": 8192, "fp8": True}
    ),
    "32b-full-16": Training("32b", {"precision": "bf16", "activations": "inputs"}, 16),
    "32b-full-16-fp8": Training("32b", {"precision": "bf16", "activations": "inputs", "fp8": True}, 16),
    # As many tokens a step as `tenner plan` proposes for these lengths.
    "32b-full-16-wide": Training(
        "32b", {"precision": "bf16", "activations": "inputs", "tokens_per_step": WIDE_STEP_TOKENS}, 16
    ),
    # The eight cards of a node share each row.
    "32b-full-16-cp8": Training(
        "32b", {"precision": "bf16", "activations": "inputs", "context_parallel": 8, "tokens_per_row": 8192}, 16
    ),
}
NO_KERNEL = {"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "detach", "alias", "lift_fresh",
             "resize_", "_local_scalar_dense", "set_", "record_stream"}  # fmt: skip
WRITES_ONLY = {"copy_", "_to_copy", "zero_", "fill_", "full", "full_like", "zeros", "zeros_like", "ones", "arange"}
PICKS = {"embedding", "index", "index_select", "gather", "scatter_add_"}
"""Read as much as they write, not all of their table."""
FLOPS = flop_registry | {torch.ops.aten.addmm_: flop_registry[torch.ops.aten.addmm]}
"""How to count an operator's, if it multiplies matrices. PyTorch's table has nothing that adds a product in place."""
PER_FUSED_KERNEL = 30
"""Tensors of a list that one kernel goes through."""
CHAIN_PASSES = {"_norm_backward": 2, "_to_gradients": 2}
"""Of chains with sums over what they read: how often they read their inputs."""
CHAIN_KERNELS = {"_scale": 2, "_to_gradients": 3}
"""Of a sum over all of a tensor: one kernel reads it, a second adds up what the parts of the first have found. The loss
is three in the code that PyTorch 2.13 makes of it: largest and sum of each row in one pass, the targets', the
gradients."""


OPTIMIZER, NETWORK, EXCHANGE = "optimizer and rounding", "network", "exchange for attention"


class Cost(NamedTuple):
    """Of some operators."""

    seconds: float = 0.0
    kernels: float = 0.0

    def __add__(self, other: object) -> "Cost":
        assert isinstance(other, Cost)
        return Cost(self.seconds + other.seconds, self.kernels + other.kernels)


class Roofline(fake_gpu.Observer):
    """What the operators since the last look take on a card, by kind."""

    def __init__(self, card: Card, ranks: int = 1, sharing: int = 1) -> None:
        super().__init__()
        self._card, self._ranks, self._sharing = card, ranks, sharing
        self.costs: defaultdict[str, Cost] = defaultdict(Cost)
        self.operators: defaultdict[str, Cost] = defaultdict(Cost)

    def begin(self) -> None:
        self.take()
        self.operators.clear()

    def take(self) -> dict[str, Cost]:
        """The costs so far, which then begin anew."""
        taken, self.costs = dict(self.costs), defaultdict(Cost)
        return taken

    def seen(self, operator: Any, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> None:
        name = operator.__name__.partition(".")[0]
        if name in NO_KERNEL or not hasattr(operator, "_schema"):
            return
        inputs = _tensors((args, kwargs))
        outputs = _tensors(out) or (inputs[:1] if operator._schema.is_mutable else [])
        if operator.namespace in ("c10d", "_c10d_functional"):
            whole = max(map(_bytes, inputs), default=0)
            if "alltoall" in name:
                moved = whole * (self._sharing - 1) / self._sharing
                seconds = max(moved / self._card.moved_bytes_per_second(self._sharing), EXCHANGE_SECONDS)
                self.costs[EXCHANGE] += Cost(seconds, 1)
                return
            moved = whole * (self._ranks - 1) / self._ranks * (2 if "allreduce" in name else 1)
            self.costs[NETWORK] += Cost(moved / self._card.moved_bytes_per_second(self._ranks), 1)
            return
        read = {t.untyped_storage()._cdata for t in inputs}
        if not operator._schema.is_mutable and all(t.untyped_storage()._cdata in read for t in outputs):
            return  # a view
        kind = self._kind(name, operator)
        lists = max((len(a) for a in args if isinstance(a, list | tuple)), default=0)
        kernels = lists / PER_FUSED_KERNEL if name.startswith(("_foreach", "_fused")) else 1.0
        seconds = max(
            self._arithmetic_seconds(name, operator, args, kwargs, out, inputs),
            self._bytes_seconds(name, inputs, outputs),
            kernels * KERNEL_SECONDS,
        )
        self.operators[f"{kind}: {name}"] += Cost(seconds, kernels)
        self.costs[kind] += Cost(seconds, kernels)

    def chain_seen(
        self, name: str, inputs: list[torch.Tensor], changed: list[torch.Tensor], out: list[torch.Tensor]
    ) -> None:
        passes = CHAIN_PASSES.get(name, 1)
        moved = passes * sum(map(_bytes, inputs)) + sum(map(_bytes, changed)) + sum(map(_bytes, out))
        kernels = CHAIN_KERNELS.get(name, passes)
        seconds = max(moved / (self._card.memory_tb * 1e12 * SHARES["bytes"]), kernels * KERNEL_SECONDS)
        kind = OPTIMIZER if self.moving_weights else "elementwise"
        self.operators[f"{kind}: {name}"] += Cost(seconds, kernels)
        self.costs[kind] += Cost(seconds, kernels)

    def _kind(self, name: str, operator: Any) -> str:
        if self.moving_weights:
            return OPTIMIZER
        if "varlen_attn" in name:
            return "attention"
        if operator._overloadpacket in FLOPS:
            return "products"
        return "elementwise"

    def _arithmetic_seconds(
        self, name: str, operator: Any, args: Sequence[Any], kwargs: dict[str, Any], out: Any, inputs: Any
    ) -> float:
        if "varlen_attn" in name:
            query = inputs[1] if "backward" in name else inputs[0]
            heads, size = query.shape[-2:]
            assert self.documents is not None
            pairs = sum(length * (length + 1) / 2 for length in self.documents.lengths)
            flops = 4 * pairs * heads * size * (2.5 if "backward" in name else 1)
            share = SHARES["attention's backward" if "backward" in name else "attention"]
            return float(flops / (self._card.bf16_tflops * 1e12 * share))
        if (count := FLOPS.get(operator._overloadpacket)) is None:
            return 0.0
        sized = (a for a in args if not isinstance(a, torch.dtype))  # counted alike in any precision
        flops = count(*sized, **kwargs, out_val=out)
        if inputs[0].dtype == float8.FLOAT8:
            return float(flops / (self._card.fp8_tflops * 1e12 * SHARES["products in float8"]))
        factor = _tensors(args)[-1]  # the first may be a sum in float32 that the product is added to
        tflops = self._card.fp32_tflops if factor.dtype == torch.float32 else self._card.bf16_tflops
        return float(flops / (tflops * 1e12 * SHARES["products"]))

    def _bytes_seconds(self, name: str, inputs: Sequence[torch.Tensor], outputs: Sequence[torch.Tensor]) -> float:
        written = sum(map(_bytes, outputs))
        if name in PICKS:
            written = min(written, _bytes(inputs[-1])) if name == "scatter_add_" else written
            read = written
        elif name in WRITES_ONLY:
            read = sum(map(_bytes, inputs[1:] if name == "copy_" else inputs))
        else:
            read = sum({(t.untyped_storage()._cdata, t.storage_offset()): _bytes(t) for t in inputs}.values())
        return (read + written) / (self._card.memory_tb * 1e12 * SHARES["bytes"])


def _tensors(nested: Any) -> list[torch.Tensor]:
    return [leaf for leaf in tree_leaves(nested) if isinstance(leaf, torch.Tensor)]


def _bytes(tensor: torch.Tensor) -> int:
    """An expanded tensor is read from where it lies."""
    return min(tensor.numel() * tensor.element_size(), tensor.untyped_storage().nbytes())


class Row(NamedTuple):
    """What a step of one row takes on each rank: of each kind, and of useful arithmetic."""

    costs: dict[str, Cost]
    flops: float

    def deeper(self, more: "Row", layers: float) -> "Row":
        """Extrapolated by `layers` times what `more` has more than this."""

        def of(kind: str) -> Cost:
            here, there = (row.costs.get(kind, Cost()) for row in (self, more))
            return Cost(*(a + layers * (b - a) for a, b in zip(here, there, strict=True)))

        costs = {kind: of(kind) for kind in self.costs | more.costs}
        return Row(costs, self.flops + layers * (more.flops - self.flops))


class Probe(NamedTuple):
    """Of a model on so many cards."""

    rows: list[Row]
    """A step of one row on each rank, for each of some lengths."""
    later: dict[str, Cost]
    """What the second row of a step takes more than the first: its gradients are added to those that are there."""
    roofline: Roofline
    """With the operators of the longest row in the deeper of two models."""


def probe(
    config: dict[str, Any], train: dict[str, Any], card: Card, *, ranks: int, tokens: Sequence[int] = PROBED_TOKENS
) -> Probe:
    def of(depth: int) -> tuple[list[Row], Roofline, Row]:
        shallow = config | {"num_hidden_layers": depth}
        (two,), _ = _probed(shallow, train, card, ranks, tokens[:1], turns=2)
        return *_probed(shallow, train, card, ranks, tokens), two

    (few, _, few_twice), (more, roofline, more_twice) = map(of, DEPTHS)
    layers = (config["num_hidden_layers"] - DEPTHS[0]) / (DEPTHS[1] - DEPTHS[0])
    rows = [shallow.deeper(deep, layers) for shallow, deep in zip(few, more, strict=True)]
    twice = few_twice.deeper(more_twice, layers)
    kinds = (twice.costs.keys() | rows[0].costs.keys()) - {OPTIMIZER}
    once = {kind: rows[0].costs.get(kind, Cost()) for kind in kinds}
    later = {kind: Cost(*(b - 2 * a for a, b in zip(once[kind], twice.costs[kind], strict=True))) for kind in kinds}
    return Probe(rows, later, roofline)


def _probed(
    config: dict[str, Any], train: dict[str, Any], card: Card, ranks: int, tokens: Sequence[int], *, turns: int = 1
) -> tuple[list[Row], Roofline]:
    """A step of so many rows on each rank, for each of some lengths."""
    sharing = train.get("context_parallel", 1)
    rows, roofline = [], Roofline(card, ranks, sharing)
    for count in tokens:
        mask = (False,) * PROMPT_TOKENS + (True,) * (count - PROMPT_TOKENS)
        encoded = [Encoded(f"s{i}", (1,) * count, mask) for i in range(turns * ranks // sharing)]
        one_each = {"tokens_per_row": count // sharing, "tokens_per_step": count * len(encoded)}
        settings = Train(epochs=2, lr=1e-5, tokens_max=count, **train | one_each)
        reports: list[StepReport] = []
        fake_gpu.run_steps(
            config, settings, encoded, roofline, ranks=ranks, on_step=reports.append, device_tflops=1.0
        )  # fmt: skip
        (report,) = reports
        assert report.mfu_causal is not None
        rows.append(Row(roofline.take(), report.mfu_causal * 1e12 * report.tokens / report.tokens_per_second))
    return rows, roofline


class Fit(NamedTuple):
    """a + b tokens + c pairs, where pairs are the squares of a row's lengths."""

    a: float
    b: float
    c: float

    @classmethod
    def of(cls, tokens: Sequence[int], values: Sequence[float]) -> "Fit":
        """Through three points, each of a row of one document."""
        square = torch.tensor([[1.0, n, n * n] for n in tokens], dtype=torch.float64)
        return cls(*torch.linalg.solve(square, torch.tensor(values, dtype=torch.float64)).tolist())

    def __call__(self, lengths: Sequence[int]) -> float:
        return self.a + self.b * sum(lengths) + self.c * sum(n * n for n in lengths)


def sample_tokens() -> list[int]:
    """A stand-in for s1K-1.1's."""
    normal = NormalDist(math.log(MEDIAN_TOKENS), SIGMA)
    tokens = [PROMPT_TOKENS + round(math.exp(normal.inv_cdf((i + 0.5) / SAMPLES))) for i in range(SAMPLES)]
    return [n for n in tokens if n <= TOKENS_MAX]


def dealt(
    step: Sequence[int], lengths: Sequence[int], row_tokens: int, training: Training,
    seconds: Callable[[Sequence[int]], float],
) -> list[list[tuple[int, ...]]]:  # fmt: skip
    """The rows of each rank, or of those that share rows, as the loop deals them on GPUs."""
    if training.ranks > 1:
        work = [seconds([tokens]) for tokens in lengths]
        return rank_balance.even_turns(step, lengths, row_tokens * training.sharing, training.groups, work=work)
    return packing.deal(packing.split_rows(step, lengths, row_tokens), lengths, 1)


def predict(training: Training, card: Card, probed: Probe) -> dict[str, Any]:
    """An epoch, from what three rows take."""
    rows, tokens = probed.rows, training.tokens
    kinds = {kind for row in rows for kind in row.costs} - {OPTIMIZER}
    fits = {kind: Fit.of(tokens, [row.costs.get(kind, Cost()).seconds for row in rows]) for kind in kinds}
    work = Fit.of(tokens, [row.flops for row in rows])
    network = fits.pop(NETWORK, Fit(0, 0, 0))

    def row_seconds(lengths: Sequence[int]) -> float:
        return max(sum(fit(lengths) for fit in fits.values()), network(lengths))

    lengths = sample_tokens()
    settings = Train(epochs=1, lr=1e-5, **{"tokens_per_step": STEP_TOKENS, "tokens_max": TOKENS_MAX} | training.train)
    plan = packing.plan(lengths, settings.tokens_per_step, epochs=1, seed=0)
    busy = waited = flops = computed = sent = 0.0
    turns, by_kind = 0, defaultdict[str, float](float)
    for step in plan:
        for turn in zip(*dealt(step, lengths, settings.tokens_per_row, training, row_seconds), strict=True):
            documents = [[lengths[i] for i in row] for row in turn]
            took = [row_seconds(row) if row else 0.0 for row in documents]
            busy, waited, turns = busy + sum(took), waited + max(took), turns + 1
            flops += sum(work(row) for row in documents if row)
            computed += sum(fit(row) for row in documents if row for fit in fits.values())
            sent += sum(network(row) for row in documents if row)
            for kind, fit in fits.items():
                by_kind[kind] += sum(fit(row) for row in documents if row)
    fixed, later = rows[0].costs.get(OPTIMIZER, Cost()), turns - len(plan)
    added = {kind: cost.seconds for kind, cost in probed.later.items() if kind != NETWORK}
    seconds = waited + len(plan) * fixed.seconds + later * sum(added.values())
    groups = training.groups  # ranks that share a row take as long as one another
    by_kind[OPTIMIZER] = groups * len(plan) * fixed.seconds
    for kind, each in added.items():
        by_kind[kind] += groups * later * each
    by_kind["waiting for other ranks"] = groups * waited - busy
    later_kernels = sum(cost.kernels for cost in probed.later.values())
    row_kernels = sum(cost.kernels for kind, cost in rows[0].costs.items() if kind in kinds)
    return {
        "tokens_per_second_per_gpu": sum(lengths) / seconds / training.ranks,
        "mfu_causal": flops / (card.bf16_tflops * 1e12 * seconds * groups),
        "idle_share": 1 - busy / (groups * waited),
        "gpu_hours_of_5_epochs": 5 * training.ranks * seconds / 3600,
        "kernels_of_a_row": row_kernels,
        "kernels_of_the_optimizer": fixed.kernels,
        "kernels_of_a_step": round((row_kernels * turns + later_kernels * later) / len(plan) + fixed.kernels),
        "network_share": sent / computed,
        "shares": {
            kind: by_kind[kind] / (groups * seconds) for kind in sorted(by_kind, key=by_kind.__getitem__, reverse=True)
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=tuple(TRAININGS), default=tuple(TRAININGS))
    parser.add_argument("--card", choices=tuple(CARDS), default="H100 SXM")
    parser.add_argument("--operators", action="store_true", help="what each operator takes in three steps")
    args = parser.parse_args()
    about: dict[str, dict[str, Any]] = {
        "machine": evidence.machine(),
        "versions": evidence.versions("tenner", "torch", "transformers", "peft"),
    }
    for name, fields in about.items():
        print(f"{name}: " + ", ".join(f"{key} {value}" for key, value in fields.items()), flush=True)
    print(f"\n{args.card}, predicted\ntraining          tokens/s/GPU  MFU   idle  kernels: row  optimizer  step")
    found = {}
    began = time.perf_counter()
    for name in args.only:
        training, card = TRAININGS[name], CARDS[args.card]
        config = config_of(training.shape)
        probed = probe(config, training.train, card, ranks=training.ranks, tokens=training.tokens)
        told = found[name] = predict(training, card, probed)
        print(
            f"{name:17} {told['tokens_per_second_per_gpu']:12,.0f} {told['mfu_causal']:5.1%} {told['idle_share']:5.1%} "
            f"{told['kernels_of_a_row']:12,.0f} {told['kernels_of_the_optimizer']:10,.0f} "
            f"{told['kernels_of_a_step']:6,}"
        )
        shares = ", ".join(f"{kind} {share:.1%}" for kind, share in told["shares"].items())
        print(f"{'':18}{shares}; network {told['network_share']:.0%} of the rows", flush=True)
        if args.operators:
            for operator, cost in sorted(probed.roofline.operators.items(), key=lambda item: -item[1].seconds)[:30]:
                print(f"    {cost.seconds * 1e3:9.2f} ms {cost.kernels:8,} {operator}")
    print(f"\nin {time.perf_counter() - began:.0f} s")
    print(json.dumps(about | {"card": args.card, "trainings": found}))


if __name__ == "__main__":
    main()
