"""Training steps as GPUs would run them, on none: the real loop over fake tensors, an observer shown each operator.

Fake tensors have shapes and types and no numbers; a process group that sends nothing stands in for other ranks. PyTorch
without CUDA cannot go backward through fake tensors on a GPU, so they lie on a fake CPU, and what the product chooses
by device (the kernel of attention, the sizes of the loss' pieces) is chosen as on CUDA. Streams do not exist there: the
caching allocator's rounding, and blocks that wait for another stream, are not seen.
"""

import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils import _foreach_utils
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import AutoConfig, AutoModelForCausalLM

from tenner.core.sections import Train
from tenner.training import (
    attention,
    bf16_rounding,
    cross_entropy,
    float8,
    fused,
    kernel_shapes,
    kernels,
    loop,
    model_loading,
    packing,
    student,
)
from tenner.training.distributed import World, context_group
from tenner.training.documents import Documents
from tenner.training.loop import StepReport
from tenner.training.loss_mask import Encoded
from tenner.training.masked_attention import Visibility
from tenner.training.packed_loss import Batch

PROBE_TOKENS = 64
aten = torch.ops.aten


class Observer(TorchDispatchMode):
    """Sees every operator, its arguments and what comes out. What asks for a number waits for the GPU, and gets 1.0."""

    def __init__(self) -> None:
        super().__init__()
        self.documents: Documents | None = None
        """Of the row at work."""
        self.syncs = 0
        self.moving_weights = True
        """Not forward or back: the optimizer, and rounding for the model."""
        self._changed: set[int] | None = None
        """Within a chain that is one kernel: the storages that it has written to so far."""

    def begin(self) -> None:
        """Everything is loaded; the first step comes."""

    def seen(self, operator: Any, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> None:
        """An operator has run."""

    def chain_seen(self, name: str, inputs: list[Tensor], changed: list[Tensor], out: list[Tensor]) -> None:
        """A chain of operators has run as one kernel; `changed` are those of its inputs that it wrote to."""

    def one_kernel(self, chain: Callable[..., Any]) -> Callable[..., Any]:
        """The chain, shown as one."""

        def run(*args: Any, **kwargs: Any) -> Any:
            given = (leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor))
            inputs = list({(x.untyped_storage()._cdata, x.storage_offset()): x for x in given}.values())
            self._changed = set()
            try:
                out = chain(*args, **kwargs)
                changed = [tensor for tensor in inputs if tensor.untyped_storage()._cdata in self._changed]
            finally:
                self._changed = None
            self.chain_seen(chain.__name__, inputs, changed, [x for x in tree_leaves(out) if isinstance(x, Tensor)])
            return out

        return run

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is aten._local_scalar_dense.default and args[0].constant is None:
            self.syncs += 1
            return 1.0
        if func in (aten.allclose.default, aten.equal.default):
            return True
        out = func(*args, **kwargs)
        if self._changed is None:
            self.seen(func, args, kwargs, out)
        elif func._schema.is_mutable:
            self._changed.add(args[0].untyped_storage()._cdata)
        return out


class _FakeWorld(World):
    """One of many ranks; the others have nothing to say."""

    def sum(self, *values: float) -> list[float]:
        return list(values)


class _FakeWeights:
    """In place of those of a folder."""

    def __init__(self, *_: object) -> None:
        pass

    def rows(self, *_: object) -> Tensor:
        return torch.zeros(())


class _EnoughSteps(Exception):
    """Ends the loop without a checkpoint."""


def run_steps(
    config: dict[str, Any], settings: Train, encoded: Sequence[Encoded], observer: Observer, *, ranks: int = 1,
    steps: int = 1, on_step: Callable[[StepReport], None] = lambda _: None, device_tflops: float | None = None,
) -> None:  # fmt: skip
    """So many steps of a training of a model with random weights, as its first rank takes them, shown to `observer`."""

    def stop_after(report: StepReport) -> None:
        on_step(report)
        if report.step + 1 == steps:
            raise _EnoughSteps

    def found_nothing(_found: object) -> None:
        observer.begin()

    with (
        _ranks(ranks, settings.context_parallel) as world,
        _as_on_cuda(observer),
        tempfile.TemporaryDirectory() as name,
    ):
        folder, workdir = Path(name) / "model", Path(name) / "checkpoints"
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps(config))
        with FakeTensorMode(), observer:
            try:
                loop.train(
                    folder, encoded, settings, seed=0, workdir=workdir, on_step=stop_after, on_begin=found_nothing,
                    world=world, device_tflops=device_tflops,
                )  # fmt: skip
            except _EnoughSteps:
                return
    raise AssertionError(f"the training has fewer than {steps} steps")


@contextmanager
def _ranks(ranks: int, context_parallel: int) -> Iterator[World]:
    """The first of so many ranks, which share one copy of the weights, and some of them each row."""
    device = torch.device("cpu")
    if ranks == 1:
        yield _FakeWorld(0, 1, device)
        return
    from torch import distributed
    from torch.distributed.device_mesh import init_device_mesh
    from torch.testing._internal.distributed.fake_pg import FakeStore

    distributed.init_process_group("fake", rank=0, world_size=ranks, store=FakeStore())
    try:
        mesh = init_device_mesh("cpu", (ranks,), mesh_dim_names=("shard",))
        yield _FakeWorld(0, ranks, device, mesh, context_group(0, context_parallel))
    finally:
        distributed.destroy_process_group()


@contextmanager
def _as_on_cuda(observer: Observer) -> Iterator[None]:
    """What the product chooses by device is chosen as on CUDA; what compares numbers is left out."""
    kernel = attention._varlen_kernel()
    assert kernel is not None, "this PyTorch has no attention for packed rows"

    def noted_kernel(query: Tensor, key: Tensor, value: Tensor, docs: Documents, scaling: float) -> Tensor:
        observer.documents = docs
        return kernel(query, key, value, docs, scaling)

    def packed(loss: Any, encoded: Sequence[Encoded], *, device: torch.device, dtype: torch.dtype, **_: Any) -> None:
        """A forward pass that nothing is compared with: FSDP lays its memory out in the first one."""
        few = encoded[0]._replace(
            ids=encoded[0].ids[:PROBE_TOKENS], loss_mask=(False,) + (True,) * (len(encoded[0].ids[:PROBE_TOKENS]) - 1)
        )
        with torch.no_grad():
            loss(Batch.of(packing.pack([few]), device=device, dtype=dtype, weight=1.0))

    def ones(tensor: FakeTensor) -> list[float]:
        observer.syncs += 1
        return [1.0] * tensor.numel()

    swap = torch.utils.swap_tensors

    def set_data(here: Tensor, there: Tensor) -> None:
        """What `nn.Module.to` does with a fake parameter, which may have weak references to it."""
        if not isinstance(here, FakeTensor):
            swap(here, there)
        elif here.dtype != there.dtype:
            here.data = there.data

    fuse = kernels.fuse

    def fused_as_on_gpu(model: Any, *, on_gpu: bool, activations: str) -> None:
        assert not on_gpu, "the product sees a CPU"
        fuse(model, on_gpu=True, activations=activations)

    def random_model(folder: Path, dtype: torch.dtype, attention_name: str) -> Any:
        """In place of the weights of a folder."""
        config = AutoConfig.from_pretrained(folder)
        return AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation=attention_name).eval()

    forward_backward = loop._forward_backward

    def noted_forward_backward(*args: Any) -> float:
        observer.moving_weights = False
        try:
            return forward_backward(*args)
        finally:
            observer.moving_weights = True

    with ExitStack() as stack:
        enter = stack.enter_context
        enter(patch.object(attention, "VARLEN", noted_kernel))
        enter(patch.object(attention, "_takes_varlen", lambda _device, dtype: dtype != torch.float32))
        for sizes in (cross_entropy.CHUNK_LOGITS, cross_entropy.BLOCK_LOGITS, bf16_rounding.ROUNDS):
            enter(patch.dict(sizes, cpu=sizes["cuda"]))
        enter(patch.object(cross_entropy, "adds_in_float32", lambda _device, dtype: dtype != torch.float32))
        enter(patch.object(kernels, "_is_same", lambda *_: True))  # as Qwen's and Llama's norms and gates are
        enter(patch.object(kernels, "fuse", fused_as_on_gpu))
        enter(patch.object(float8, "failure", lambda _device: None))
        enter(patch.object(float8, "SCALES_BY_ROW", ("cpu",)))
        enter(patch.object(fused, "runs_on", lambda _device: True))
        enter(patch.object(kernel_shapes, "made_for_each", lambda _device, _dtype: False))
        enter(patch.object(fused, "compiled", observer.one_kernel))
        enter(patch.object(loop, "choose_packing", packed))
        enter(patch.object(loop, "_forward_backward", noted_forward_backward))
        enter(patch.object(student, "load", random_model))
        enter(patch.object(model_loading, "StoredWeights", _FakeWeights))
        enter(patch.object(Visibility, "is_causal", lambda *_: True))
        enter(patch.object(torch.utils, "swap_tensors", set_data))
        enter(patch.object(FakeTensor, "tolist", ones))
        # Lists of tensors of a subclass are gone through one by one, where one kernel goes through plain ones.
        enter(patch.object(_foreach_utils, "_foreach_supported_types", [Tensor, FakeTensor]))
        # A cached table is a fake tensor of one mode only.
        for module, name in ((bf16_rounding, "_thresholds"), (float8, "_ones")):
            enter(patch.object(module, name, lru_cache(getattr(module, name).__wrapped__)))
        yield
