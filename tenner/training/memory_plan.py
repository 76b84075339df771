"""How much memory a training will take on each device, item by item, before anything is loaded.

What autograd keeps of a token in each layer is taken from a pass over the model on the meta device
(`training/layer_trace.py`): n numbers in the precision that products are computed in, of b bytes each, and a number of
bytes beside them. In a Llama with hidden size D, intermediate size I, H query heads, K key heads and head size S it is

    b (4 D + 2 H S + 2 K S + 3 I) + 8 bytes:

what goes into both norms (2 D, and a float32 number for each) and what comes out of them, which the products read
(2 D); queries, keys and values ((H + 2 K) S) and what attention gives (H S); both inputs of the gate (2 I) and its
output (I). Rotations and sums keep nothing. LoRA adds r numbers for each linear layer, between its matrices; short
documents on a CPU add their scores, b H for each token of the longest.

A vision tower is counted as loaded and not trained. Recurrent layers are counted as transformers' reference
implementation computes them; kernels of their own libraries keep less.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from tenner.core.errors import TennerError
from tenner.core.sections import Train
from tenner.training.architecture import Architecture
from tenner.training.cross_entropy import BLOCK_LOGITS, CHUNK_LOGITS
from tenner.training.documents import SHORT_LENGTH_MAX
from tenner.training.kernel_shapes import ROW_MULTIPLE
from tenner.training.layer_trace import Attention, Layer
from tenner.training.optimizer import BLOCK_NUMBERS, STEP_COPIES

PROCESS_BYTES = 450_000_000
"""Of Python, PyTorch and transformers on a CPU, as a model of next to no weights has them (measured on Linux, x86-64).
A GPU's own context is not counted."""
LIBRARY_BYTES = 70_000_000
"""Of peft, or of bitsandbytes, likewise."""
NF4_BYTES = 1 / 2 + 1 / 64 + 4 / (64 * 256)
"""Of a weight in 4 bits: itself, a scale of 8 bits for each 64, and one of 32 for each 256 of these."""
KERNEL_BYTES, KERNELS_MAX = 625_000, 1024
"""Of oneDNN on a CPU, which computes products in bfloat16: it keeps the last kernels that it has made. It makes one for
each shape; every length of a filled row is another one, and so is every number of tokens that is sent to an expert."""
HEAP_SLACK = 0.75
"""Of what a step allocates and frees on a CPU, this share comes on top: the heap gives nothing back while training
(`training/allocator.py`), and not every hole fits the next block. The one number that is fitted, on nine small
trainings (`tests/training/test_memory_plan.py`)."""


@dataclass(frozen=True)
class Forecast:
    """Bytes of one device at the moment when most are in use."""

    moment: str
    items: Mapping[str, int]

    @property
    def total_bytes(self) -> int:
        return sum(self.items.values())


def forecast(
    architecture: Architecture, train: Train, *, longest_tokens: int, ranks: int = 1, on_gpu: bool = True,
    row_lengths: int = 1,
) -> Forecast:  # fmt: skip
    """What a device, or the process on a CPU, holds at most; gradients are there from a step's first row on.

    `longest_tokens` is the longest sample, which goes through the model in one row; `ranks` processes train together,
    each with a device, and `train.context_parallel` of them share each row. Rows are of so many different lengths,
    which matters on a CPU. Tokens of a row are counted as trained, and rows as full. Raises TennerError where all
    layers are frozen.
    """
    if train.frozen_layers >= len(architecture.layers):
        raise TennerError(
            f"train.frozen_layers = {train.frozen_layers} leaves none of the {len(architecture.layers)} layers to be "
            "trained",
            hint="lower it",
        )
    assert train.precision != "auto", "`plan.plan` has chosen one"
    a, b = architecture, 4 if train.precision == "fp32" else 2
    shards = (train.shard_over or ranks) if ranks > 1 else 1
    lora, pure = train.method == "lora", train.precision == "pure-bf16"
    trained_layer = a.lora_parameters(train.lora_rank) // len(a.layers) if lora else a.largest_layer
    head_is_trained = not lora and not (train.frozen_layers and a.tied)
    # A step has no more samples than fill it; a sample belongs to the step in which its middle falls. Of a row that
    # several share each holds a slice.
    sharing = train.context_parallel
    of_step = math.ceil(train.tokens_per_step * sharing / ranks) + longest_tokens
    row_tokens = math.ceil(max(min(train.tokens_per_row * sharing, of_step), longest_tokens) / sharing)
    # Of the layers one is at work and the next under way in a buffer. The gradients of one are summed over the
    # processes in float32, while those of the next are made.
    whole_layer = b * (a.largest_layer + trained_layer * lora) if shards > 1 else 0
    to_sum = (b + 4) * trained_layer if shards > 1 else 0

    standing = _weights(a, train, b, ranks, shards) | _beside_weights(a, train, b, on_gpu=on_gpu)
    if not on_gpu and shards > 1:
        standing |= {"gathered layers": 3 * whole_layer, "gradients to sum": to_sum}

    kept, still_kept, at_work = _activations(a, train, b, row_tokens, longest_tokens, on_gpu=on_gpu)
    device = "cuda" if on_gpu else "cpu"
    chunk_tokens = max(1, CHUNK_LOGITS[device] // a.vocabulary)
    block_logits = 0 if on_gpu and not train.deterministic else min(BLOCK_LOGITS[device], a.vocabulary * row_tokens)
    logits = b * a.vocabulary * min(row_tokens, chunk_tokens) + 4 * block_logits
    numbers = a.vocabulary * a.hidden if head_is_trained else 0
    if row_tokens <= chunk_tokens:
        head = b * numbers
    elif on_gpu and b == 2:  # added up in float32 within the products, and rounded once the last logits have gone
        head = max(4 * numbers, (4 + b) * numbers - logits)
    else:  # added up in float32, beside the newest
        head = 8 * numbers
    in_blocks = pure and not (on_gpu and not train.deterministic)
    step = 4 * STEP_COPIES * min(BLOCK_NUMBERS, a.vocabulary * a.hidden) if in_blocks else 0
    loss = {"activations": kept, "logits": logits, "the head's gradient": head}
    back = {"activations": still_kept if on_gpu else kept, "a layer's backward": at_work}
    if on_gpu:  # a process alone has added the head's gradient to the others by then
        loss["gathered layers"] = whole_layer
        own_head = b * a.vocabulary * a.hidden if head_is_trained and shards > 1 else 0
        back |= {"the head's gradient": own_head, "gathered layers": 2 * whole_layer, "gradients to sum": to_sum}
        back["copies in float8"] = _float8_copies_bytes(a, row_tokens) if train.fp8 else 0
    else:  # the second finds few holes that the first has left
        loss = back = back | {"the head's gradient": min(head, b * a.tables)} | loss
    moments_of_a_step = {
        "at the loss": loss,
        "in backward": back,
        "at its end": {"gradients of the tables": (b + 4) * a.tables if head_is_trained and shards > 1 else 0},
        "in the optimizer": {"optimizer at work": step},
    }
    if train.quantization and not on_gpu:
        moments_of_a_step["when adapters are merged"] = {"the base as it was": b * a.parameters}
    moment, moving = max(moments_of_a_step.items(), key=lambda item: sum(item[1].values()))
    if not on_gpu:
        moving = moving | {"kernels": _kernels_bytes(a, row_lengths) if b == 2 else 0}
        moving = moving | {"heap not given back": round(HEAP_SLACK * sum(moving.values()))}
    return Forecast(moment, {name: n for name, n in (standing | moving).items() if n})


def row_lengths(train: Train, *, samples: int, mean_tokens: float, longest_tokens: int) -> int:
    """How many different lengths the rows have at most, once they are filled: a step is full to within a sample."""
    row_tokens = min(train.tokens_per_row, train.tokens_per_step)
    rows = math.ceil(train.epochs * samples * mean_tokens / max(row_tokens, mean_tokens))
    return min(rows, math.ceil(longest_tokens / ROW_MULTIPLE))


def _kernels_bytes(a: Architecture, lengths: int) -> int:
    """Of the products of rows of so many lengths, one forward and two backward; `HEAP_SLACK` was fitted with those of
    one length.
    """
    if any(layer.experts for layer in a.layers):
        return KERNELS_MAX * KERNEL_BYTES
    shapes = {shape for layer in a.layers for shape in layer.linears}
    return min(KERNELS_MAX, 3 * (len(shapes) + 1) * (lengths - 1)) * KERNEL_BYTES


def _weights(a: Architecture, train: Train, b: int, ranks: int, shards: int) -> dict[str, int]:
    """The weights and what moves them, which are there all the time; the tables stay gathered."""
    lora, pure = train.method == "lora", train.precision == "pure-bf16"
    trained = trained_parameters(a, train)
    frozen = a.parameters if lora else a.parameters - trained
    stored = 2 if pure else 4
    mastered = ranks == 1 and stored != b
    moments = 6 if pure else 2 if train.optimizer == "adamw-8bit" else 8
    return {
        "weights": (_frozen_bytes(a, frozen, train, b, ranks) + (b if mastered else stored) * trained) // shards,
        "float32 masters": 4 * trained if mastered else 0,
        "gradients": stored * trained // shards,
        "moments": moments * trained // shards,
        "gathered tables": b * a.tables if shards > 1 else 0,
    }


def _beside_weights(a: Architecture, train: Train, b: int, *, on_gpu: bool) -> dict[str, int]:
    """What else is there all the time."""
    found = {}
    if train.quantization:
        found["weights at work"] = b * max(i * o for layer in a.layers for i, o in layer.linears)
    if not on_gpu:
        bitsandbytes = train.optimizer == "adamw-8bit" or train.quantization is not None
        found["process"] = PROCESS_BYTES + LIBRARY_BYTES * ((train.method == "lora") + bitsandbytes)
        if train.quantization:  # weights that are kept as they were keep the whole file mapped
            found["the file's other weights"] = b * _quantized_parameters(a)
    return found


def _frozen_bytes(a: Architecture, frozen: int, train: Train, b: int, ranks: int) -> int:
    """Of so many weights that are not trained, in b bytes each; in the decoder's linear layers `NF4_BYTES`, if told, or
    one, where a process alone keeps them in float8.
    """
    in_float8 = train.fp8 and train.method == "lora" and ranks == 1
    quantized = _quantized_parameters(a) if train.quantization or in_float8 else 0
    return round((NF4_BYTES if train.quantization else 1) * quantized) + b * (frozen - quantized)


def _float8_copies_bytes(a: Architecture, row_tokens: int) -> int:
    """Of one linear layer: both sides of its product."""
    linears = {shape for layer in a.layers for shape in layer.linears}
    return max((row_tokens * outputs + inputs * outputs for inputs, outputs in linears), default=0)


def _quantized_parameters(a: Architecture) -> int:
    return sum(layer.linear_parameters for layer in a.layers)


def trained_parameters(architecture: Architecture, train: Train) -> int:
    """How many numbers the optimizer moves: of decoder and head, or of the adapters."""
    if train.method == "lora":
        return architecture.lora_parameters(train.lora_rank)
    return architecture.parameters - architecture.tower - architecture.frozen_parameters(train.frozen_layers)


def _activations(
    a: Architecture, train: Train, b: int, row_tokens: int, longest_tokens: int, *, on_gpu: bool
) -> tuple[int, int, int]:
    """What is kept of a row at the end of forward, what of it is still there when the last layer goes backward, and
    what that adds.
    """
    short = not on_gpu and longest_tokens <= SHORT_LENGTH_MAX

    def between(layer: Layer) -> int:
        """What adapters have between their matrices."""
        return len(layer.linears) * train.lora_rank if train.method == "lora" else 0

    def everything(layer: Layer) -> float:
        attention = layer.attention
        scores = attention.heads * longest_tokens if attention and short else 0
        return b * (layer.kept_numbers + between(layer) + scores + repeated(attention)) + layer.kept_bytes

    def repeated(attention: Attention | None) -> int:
        """Of key heads that more processes share than there are."""
        if attention is None:
            return 0
        more = math.lcm(attention.key_heads, train.context_parallel) - attention.key_heads
        return more * (attention.key_size + attention.value_size)

    def kept(layer: Layer) -> float:
        if train.activations == "all":
            return everything(layer)
        if train.activations == "inputs":
            return b * a.hidden
        products = a.hidden + layer.product_numbers + between(layer)
        if layer.attention and not on_gpu:  # blocks of scores are products too
            products += layer.attention.heads * longest_tokens // (1 if short else 2)
        return b * products

    trained = a.layers[train.frozen_layers :]
    of_layers = [kept(layer) for layer in trained]
    ends = 4 * b * a.hidden  # into and out of the last norm, the trained positions, their gradient
    again = 0 if train.activations == "all" else max(map(everything, trained))
    # Of the gate: what comes back, both gradients and a product on the way, which a compiled kernel does not have; what
    # came out of it has gone then. Of the stream.
    widest = (2 if not train.deterministic else 3) if on_gpu else 4
    in_flight = b * (widest * max(layer.widest_numbers for layer in trained) + 2 * a.hidden)
    in_memory = max(of_layers) if train.offload_activations else sum(of_layers)
    own = 0 if train.activations == "all" else max(of_layers)  # of the layer, within what it computes again
    of_row = in_memory + ends, in_memory - own, again + in_flight
    kept_bytes, still_kept_bytes, at_work_bytes = (round(row_tokens * each) for each in of_row)
    return kept_bytes, still_kept_bytes, at_work_bytes
