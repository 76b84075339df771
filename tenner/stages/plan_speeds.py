"""How fast a machine trains and decodes a student, before anything is measured: by its data sheet and the model's size.

Training takes its floating-point operations over a share of the best; a decoding step takes the time of reading the
weights once, and for each row of reading its keys and values and of its products (`budget/assumptions.py`).
"""

import math
import re
from collections.abc import Mapping
from typing import NamedTuple

from tenner.budget import assumptions as assumed
from tenner.budget.estimate import Estimate
from tenner.budget.machines import Card
from tenner.core import hardware
from tenner.core.errors import TennerError
from tenner.core.sections import Evaluate, Train
from tenner.inference.speed_probe import DecodingSpeed
from tenner.training.architecture import Architecture

TYPICAL_KV_BYTES_SHARE = 4e-6
"""Keys and values of a token, as a share of the weights' bytes, where the architecture is not known: 262 KB of
Qwen2.5-32B's 65 GB."""

MEMORY_SHARE = 0.9
"""Of a card's memory, weights, keys and values may take so much (vLLM's default)."""


class UnknownSize(TennerError):
    """Neither a config.json nor a name tells how large the student is."""


class Size(NamedTuple):
    """What a student's speed depends on."""

    parameters: float
    forward_flops: float
    """Of one token, without the pairs of attention."""
    pair_flops: float
    """Of one query and one key, in all layers."""
    layers: int
    kv_bytes: float
    """Of one token, in bfloat16."""
    architecture: Architecture | None
    """None: only the number of parameters is known, by the model's name."""

    @property
    def weights_bytes(self) -> float:
        """In bfloat16."""
        return 2 * self.parameters

    @classmethod
    def of(cls, a: Architecture) -> "Size":
        """Of an architecture."""
        attentions = [layer.attention for layer in a.layers if layer.attention]
        kv = sum(2 * a.key_heads * (a.key_size + a.value_size) for a in attentions)
        return cls(
            a.parameters, sum(layer.token_flops for layer in a.layers) + 2 * a.vocabulary * a.hidden,
            sum(attention.pair_flops for attention in attentions), len(a.layers), kv, a,
        )  # fmt: skip

    @classmethod
    def by_name(cls, *names: str) -> "Size":
        """By a name such as Qwen2.5-32B or SmolLM2-135M. Raises UnknownSize for names without a number."""
        for name in names:
            if found := re.search(r"(?<![A-Za-z0-9.])(\d+(?:\.\d+)?)([BM])(?![A-Za-z0-9])", name, re.IGNORECASE):
                parameters = float(found[1]) * (1e9 if found[2].upper() == "B" else 1e6)
                layers = 64 if parameters > 2e10 else 32
                return cls(parameters, 2 * parameters, 0.0, layers, TYPICAL_KV_BYTES_SHARE * 2 * parameters, None)
        raise UnknownSize(
            f"the config.json of {names[0]} is not on this machine, and its name tells no size",
            hint="give it: --config FILE",
        )

    def train_flops(self, train: Train, mean_tokens: float) -> float:
        """Of one trained token in a document of `mean_tokens`: 6 N as in `training/flops.py`, frozen parts less."""
        backward = 2.0 if train.method == "full" else 1.0
        frozen = min(1.0, train.frozen_layers / self.layers)
        products = self.forward_flops * (1 + backward * (1 - frozen))
        pairs = self.pair_flops * mean_tokens / 2 * (1 + 2 * (1 - frozen))
        return products + pairs


class Machine(NamedTuple):
    """What a stage runs on: cards, or the CPU of this machine where `card` is None."""

    card: Card | None
    cards: int
    measured_decoding: DecodingSpeed | None = None
    measured_token_seconds: float | None = None
    """Of training one token."""
    measured_loading_seconds: float | None = None
    """Of the weights, to decode."""
    measured_start_seconds: float | None = None
    """Of a training, before its first step."""

    def train_seconds(self, size: Size, train: Train, tokens: Estimate, mean_tokens: Estimate) -> Estimate:
        """Of so many tokens, padding and checkpoints not counted."""
        if self.measured_token_seconds is not None:
            return tokens.times(self.measured_token_seconds)
        flops = tokens.times(size.train_flops(train, mean_tokens.expected) * assumed.RECOMPUTED[train.activations])
        if train.quantization:
            flops = flops.times(assumed.QUANTIZED)
        if self.card is None:
            speed = _cpu_flops_per_second(assumed.CPU_SHARE)
        else:
            speed = assumed.GPU_MFU.times(self.cards * self.card.peak_tflops * 1e12)
        return _over(flops, speed)

    def decoding(self, size: Size, evaluate: Evaluate) -> tuple[DecodingSpeed, ...]:
        """The fast, the expected and the slow speed."""
        if self.measured_decoding is not None:
            return (self.measured_decoding,) * 3
        engine = "vllm" if evaluate.engine == "vllm" else "hf"
        if self.card is None:
            speed = _cpu_flops_per_second(assumed.CPU_DECODING_SHARE)
            bandwidth, launch = assumed.CPU_BANDWIDTH_GB_PER_SECOND.times(1e9), Estimate.exactly(0.0)
        else:
            cards = self._decoding_cards(evaluate)
            speed = assumed.DECODING_MFU.times(cards * self.card.peak_tflops * 1e12)
            bandwidth = assumed.BANDWIDTH_SHARE[engine].times(cards * self.card.bandwidth_gb_per_second * 1e9)
            launch = assumed.LAUNCH_SECONDS[engine].times(size.layers)
        return tuple(
            DecodingSpeed(
                step_seconds=size.weights_bytes / per_second + started,
                row_seconds=size.forward_flops / flops_per_second,
                prompt_token_seconds=size.forward_flops / flops_per_second,
                context_token_seconds=size.kv_bytes / per_second,
            )
            for per_second, started, flops_per_second in zip(bandwidth, launch, speed, strict=True)
        )

    def rows(self, size: Size, evaluate: Evaluate, context_tokens: float) -> int:
        """How many rows of so many tokens are decoded at a time: those of the recipe, if the cards hold so many."""
        if self.card is None:
            return evaluate.rows
        memory_bytes = MEMORY_SHARE * self._decoding_cards(evaluate) * self.card.memory_gb * 1e9
        fitting = (memory_bytes - size.weights_bytes) / max(1.0, size.kv_bytes * context_tokens)
        return max(1, min(evaluate.rows, int(fitting)))

    def _decoding_cards(self, evaluate: Evaluate) -> int:
        tensor_parallel = evaluate.vllm.get("tensor_parallel_size", 1) if evaluate.engine == "vllm" else 1
        return min(self.cards, int(tensor_parallel))

    def loading_seconds(self, size: Size) -> Estimate:
        """Of bringing the weights onto the device once, to decode."""
        if self.measured_loading_seconds is not None:
            return Estimate.exactly(self.measured_loading_seconds)
        return _over(Estimate.exactly(size.weights_bytes), assumed.LOADING_BYTES_PER_SECOND)

    def start_seconds(self, size: Size) -> Estimate:
        """Of a training, before its first step."""
        if self.measured_start_seconds is not None:
            return Estimate.exactly(self.measured_start_seconds)
        return self._replace(measured_loading_seconds=None).loading_seconds(size)


def _over(work: Estimate, speed: Estimate) -> Estimate:
    """Seconds; of a speed the fast case comes first."""
    return Estimate(work.low / speed.low, work.expected / speed.expected, work.high / speed.high)


def _cpu_flops_per_second(shares: Mapping[str, Estimate]) -> Estimate:
    precision = hardware.best_precision("cpu")
    found = 1e9 * getattr(hardware.speeds("cpu"), precision)
    # Other programs may keep the machine busy right now: the expected case is midway, as orders of magnitude go.
    at_best = max(found, 1e9 * hardware.cores() * assumed.CORE_GFLOPS[precision])
    return shares[precision].times(Estimate(at_best, math.sqrt(found * at_best), found))
