"""How much memory a training will take on each device, item by item, before anything is loaded.

Letters in formulas: D hidden size, I intermediate size, H query heads, K key heads, S head size, V vocabulary, T tokens
of a row, b bytes of a number in the precision that products are computed in.

For backward autograd keeps, of each token in each layer,

    b (4 D + 2 H S + 2 K S + 3 I) + 8 bytes:

what goes into both norms (2 D, and a float32 number for each) and what comes out of them, which the products read
(2 D); queries, keys and values ((H + 2 K) S) and what attention gives (H S); both inputs of the gate (2 I) and its
output (I). Rotations and sums keep nothing. LoRA adds the 7 r numbers between its matrices; short documents on a CPU
add their scores, b H for each token of the longest.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from tenner.core.sections import Train
from tenner.training.architecture import Architecture

CHUNK_LOGITS = {"cpu": 1 << 25, "cuda": 1 << 28, "mps": 1 << 26}
"""Logits held at a time, in the compute dtype: 67 MB in bfloat16; on a GPU 537 MB, since every chunk adds to the whole
of the head's gradient, and a GPU does the product in less time than a short chunk takes to add. For Apple's GPUs it is
a guess between the two: they share the memory of the machine."""
BLOCK_LOGITS = {"cpu": 1 << 22, "cuda": 1 << 26, "mps": 1 << 24}
"""Of these in float32 at a time: few enough to stay in a CPU's cache."""
SHORT_LENGTH_MAX = 256
"""Up to here, on a CPU, the L x L scores are kept for backward; beyond it they cost too much memory."""
BLOCK_NUMBERS = 1 << 24
"""Of one tensor in float32 at a time, in a step in pure bfloat16: an embedding of half a billion numbers would want
13 GB of intermediate ones."""
STEP_COPIES = 7
"""Float32 tensors of so many numbers that such a step holds."""
PROCESS_BYTES = 450_000_000
"""Of Python, PyTorch and transformers on a CPU, as a model of next to no weights has them (measured on Linux, x86-64).
A GPU's own context is not counted."""
LIBRARY_BYTES = 50_000_000
"""Of peft, or of bitsandbytes, likewise."""
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
    architecture: Architecture, train: Train, *, longest_tokens: int, ranks: int = 1, on_gpu: bool = True
) -> Forecast:
    """What a device, or the process on a CPU, holds at most; gradients are there from a step's first row on.

    `longest_tokens` is the longest sample, which goes through the model in one row; `ranks` processes train together,
    each with a device. Tokens of a row are counted as trained, and rows as full.
    """
    assert train.precision != "auto", "`plan.plan` has chosen one"
    a, b = architecture, 4 if train.precision == "fp32" else 2
    shards = (train.shard_over or ranks) if ranks > 1 else 1
    lora, pure = train.method == "lora", train.precision == "pure-bf16"
    trained_layer = lora_parameters(a, train.lora_rank) if lora else a.layer_parameters
    trained = a.layers * trained_layer if lora else a.parameters - frozen_parameters(a, train.frozen_layers)
    frozen = a.parameters if lora else a.parameters - trained
    head_is_trained = not lora and not (train.frozen_layers and a.tied)
    stored = 2 if pure else 4
    mastered = ranks == 1 and stored != b
    moments = 6 if pure else 2 if train.optimizer == "adamw-8bit" else 8
    tables = (1 if a.tied else 2) * a.vocabulary * a.hidden
    row_tokens = max(train.tokens_per_row, longest_tokens)

    standing = {
        "weights": (b * frozen + (b if mastered else stored) * trained) // shards,
        "float32 masters": 4 * trained if mastered else 0,
        "gradients": stored * trained // shards,
        "moments": moments * trained // shards,
    }
    if shards > 1:
        # The tables stay; of the layers one is at work and the next under way, in a buffer first. The gradients of one
        # are summed over the processes in float32.
        standing["gathered weights"] = b * (tables + 3 * (a.layer_parameters + trained_layer * lora))
        standing["gradients to sum"] = (b + 4) * trained_layer
    if not on_gpu:
        standing["process"] = PROCESS_BYTES + LIBRARY_BYTES * (lora + (train.optimizer == "adamw-8bit"))

    kept, at_work = _activations(a, train, b, row_tokens, longest_tokens, on_gpu=on_gpu)
    device = "cuda" if on_gpu else "cpu"
    chunk_tokens = max(1, CHUNK_LOGITS[device] // a.vocabulary)
    logits = b * a.vocabulary * min(row_tokens, chunk_tokens) + 4 * min(BLOCK_LOGITS[device], a.vocabulary * row_tokens)
    # More than one chunk is added up in float32, beside the newest.
    head = a.vocabulary * a.hidden * (b if row_tokens <= chunk_tokens else 8) if head_is_trained else 0
    step = 4 * STEP_COPIES * min(BLOCK_NUMBERS, a.vocabulary * a.hidden) if pure else 0
    loss = {"activations": kept, "logits": logits, "the head's gradient": head}
    back = {"activations": kept, "a layer's backward": at_work, "the head's gradient": min(head, b * tables)}
    if not on_gpu:  # the second finds few holes that the first has left
        loss = back = back | loss
    moments_of_a_step = {
        "at the loss": loss,
        "in backward": back,
        "at its end": {"gradients of the tables": (b + 4) * tables if head_is_trained and shards > 1 else 0},
        "in the optimizer": {"optimizer at work": step},
    }
    moment, moving = max(moments_of_a_step.items(), key=lambda item: sum(item[1].values()))
    if not on_gpu:
        moving = moving | {"heap not given back": round(HEAP_SLACK * sum(moving.values()))}
    return Forecast(moment, {name: n for name, n in (standing | moving).items() if n})


def lora_parameters(architecture: Architecture, rank: int) -> int:
    """Of the adapters beside the seven linear maps of one layer."""
    a = architecture
    queries, keys = a.heads * a.head_size, a.key_heads * a.head_size
    attention = 2 * (a.hidden + queries) + 2 * (a.hidden + keys)
    return rank * (attention + 3 * (a.hidden + a.intermediate))


def frozen_parameters(architecture: Architecture, frozen_layers: int) -> int:
    """Of the first so many layers and the embedding, which a tied head shares."""
    a = architecture
    return frozen_layers * a.layer_parameters + a.vocabulary * a.hidden if frozen_layers else 0


def _activations(
    a: Architecture, train: Train, b: int, row_tokens: int, longest_tokens: int, *, on_gpu: bool
) -> tuple[int, int]:
    """What is kept of a row at the end of forward, and what backward through one layer adds."""
    queries, keys = a.heads * a.head_size, a.key_heads * a.head_size
    layer = b * (4 * a.hidden + 2 * queries + 2 * keys + 3 * a.intermediate) + 8
    if train.method == "lora":
        layer += 7 * b * train.lora_rank
    short = not on_gpu and longest_tokens <= SHORT_LENGTH_MAX
    layer += b * a.heads * longest_tokens * short
    kept = {
        "all": layer,
        "products": b * (3 * a.hidden + 2 * queries + 2 * keys + 2 * a.intermediate),
        "inputs": b * a.hidden,
    }[train.activations]
    if train.activations == "products" and not on_gpu:  # blocks of scores are products too
        kept += b * a.heads * longest_tokens // (1 if short else 2)
    ends = 4 * b * a.hidden  # into and out of the last norm, the trained positions, their gradient
    again = 0 if train.activations == "all" else layer
    in_flight = b * (4 * a.intermediate + 2 * a.hidden)  # of the gate: both gradients, two products; of the stream
    layers = 1 if train.offload_activations else a.layers - train.frozen_layers
    return row_tokens * (layers * kept + ends), row_tokens * (again + in_flight)
