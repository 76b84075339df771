"""The processes that train together, and all that they tell one another: the only importer of torch.distributed.

Each process knows the whole plan, so nothing of the data travels: what does is weights, gradients and a few numbers.
"""

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from tenner.core import hardware
from tenner.core.errors import TennerError
from tenner.core.sections import Device

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup
    from torch.distributed.device_mesh import DeviceMesh

LAST_TENSORS_SECONDS = 0.5
"""What the threads of gloo are given, after the last sum, to let go of its tensors. One that is so late that Python is
shutting down by then ends the process with SIGABRT, and torchrun then ends the others, which may be saving."""


def launched_rank() -> int:
    """This process' rank as torchrun (or whoever speaks its language) tells it; 0 for a process on its own."""
    return int(os.environ.get("RANK", "0"))


def launched_size() -> int:
    """How many processes were launched to train together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def local_size(processes: int) -> int:
    """How many processes torchrun started on this machine; `processes` without it."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", processes))


@dataclass(frozen=True)
class ContextGroup:
    """Neighbouring processes that share each row, every one with a slice of its tokens (`context_parallel.py`)."""

    rank: int
    size: int
    processes: "ProcessGroup"

    def exchange(self, chunks: Tensor) -> Tensor:
        """Send each process its chunk of the first axis; returns what they sent here, in the order of their ranks."""
        from torch import distributed

        sent = chunks.contiguous()
        received = torch.empty_like(sent)
        distributed.all_to_all_single(received, sent, group=self.processes)
        return received

    def gather(self, part: Tensor) -> Tensor:
        """The parts of all processes, of one shape, one after the other along the first axis."""
        return self.exchange(part.expand(self.size, *part.shape)).flatten(0, 1)


@dataclass(frozen=True)
class World:
    """The processes of one training. One alone is a world too: all of these then do nothing."""

    rank: int
    size: int
    device: torch.device
    mesh: "DeviceMesh | None" = None
    """One dimension, or two: `replicate` copies of the weights, each in `shard` parts."""
    context: ContextGroup | None = None
    """Those that share each row with this process; None: it has rows of its own."""

    @property
    def context_parallel(self) -> int:
        """How many processes share a row."""
        return 1 if self.context is None else self.context.size

    @property
    def data_parallel(self) -> int:
        """How many rows are at work at a time."""
        return self.size // self.context_parallel

    @property
    def data_rank(self) -> int:
        """Which of these rows this process works on: neighbours share one."""
        return self.rank // self.context_parallel

    @property
    def replicas(self) -> int:
        """How many copies of the weights there are, each spread over the other processes."""
        return 1 if self.mesh is None else self.size // self.mesh.size(-1)

    @property
    def keeper(self) -> bool:
        """Whether this process' part of the weights goes into checkpoints: one copy does."""
        return self.mesh is None or self.mesh.ndim == 1 or self.mesh.get_coordinate()[0] == 0  # type: ignore[index]

    @property
    def shard_index(self) -> int:
        """Which part of the weights this process holds."""
        return 0 if self.mesh is None else self.mesh.get_local_rank(self.mesh.ndim - 1)

    @property
    def shards(self) -> int:
        """In how many parts the weights are."""
        return 1 if self.mesh is None else self.mesh.size(-1)

    def sum(self, *values: float) -> list[float]:
        """Each value summed over all processes, in float64, the same everywhere."""
        if self.size == 1:
            return list(values)
        from torch import distributed

        total = torch.tensor(values, dtype=torch.float64)
        distributed.all_reduce(total)
        return total.tolist()

    def wait_for_all(self) -> None:
        """Return when every process is here."""
        self.sum(0.0)

    def shard(self, root: nn.Module, layers: Sequence[nn.Module], *, compute: torch.dtype) -> None:
        """Spread the parameters of `root` over the processes, each of `layers` gathered on its own, when it is needed.

        Gradients are summed (not averaged: the loss is divided by the tokens of all processes) in float32.
        """
        from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard

        assert self.mesh is not None
        precision = MixedPrecisionPolicy(param_dtype=compute, reduce_dtype=torch.float32)
        for module in (*layers, root):
            fully_shard(module, mesh=self.mesh, mp_policy=precision)
        for module in root.modules():
            if isinstance(module, FSDPModule):
                module.set_gradient_divide_factor(1.0)
                module.set_force_sum_reduction_for_comms(True)

    def forget_gathered(self, root: nn.Module) -> None:
        """Have the parameters of `root` gathered anew: after a forward without a backward FSDP keeps some whole."""
        if self.mesh is None:
            return
        from torch.distributed.fsdp import FSDPModule

        for module in root.modules():
            if isinstance(module, FSDPModule):
                module.reshard()


def here(device: Device = "auto") -> World:
    """This process alone. Raises TennerError where the device is not there."""
    return World(0, 1, torch.device(hardware.device_kind(device)))


def device_bytes(device: torch.device, *, processes: int = 1) -> int:
    """The memory of a GPU, or a process' share of the machine's: of those that torchrun started, or of `processes`."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    if device.type == "mps":
        return int(torch.mps.recommended_max_memory())
    machine_bytes = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return machine_bytes // local_size(processes)


def idle_gpus(world: World) -> int:
    """GPUs of this machine that a training by one process leaves alone."""
    return torch.cuda.device_count() - 1 if world.size == 1 and world.device.type == "cuda" else 0


@contextmanager
def join(*, device: Device = "auto", shard_over: int | None = None, context_parallel: int = 1) -> Iterator[World]:
    """Meet the processes that torchrun launched beside this one; without torchrun, be alone.

    `shard_over` processes share one copy of the weights (None: all of them), and `context_parallel` of them each row;
    both must divide their number. Raises TennerError otherwise, and where the device is not there. Several processes
    train on CUDA or on CPUs.
    """
    size, rank = launched_size(), launched_rank()
    check_rows_shared(size, context_parallel)
    if size == 1:
        yield here(device)
        return
    from torch import distributed
    from torch.distributed.device_mesh import init_device_mesh

    kind = hardware.device_kind(device)
    if device == "mps":
        raise TennerError("several processes cannot train on one Apple GPU", hint="train with one process")
    on_gpu = kind == "cuda"
    over = check_sharing(size, shard_over)
    own = torch.device("cpu")
    if on_gpu:
        own = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(own)
    distributed.init_process_group("cpu:gloo,cuda:nccl" if on_gpu else "gloo")
    try:
        shape, names = ((size,), ("shard",)) if over == size else ((size // over, over), ("replicate", "shard"))
        mesh = init_device_mesh(own.type, shape, mesh_dim_names=names)
        yield World(rank, size, own, mesh, context_group(rank, context_parallel))
    finally:
        distributed.destroy_process_group()
        time.sleep(LAST_TENSORS_SECONDS)


def check_sharing(size: int, shard_over: int | None) -> int:
    """How many of `size` processes share one copy of the weights. Raises TennerError where not all copies are whole."""
    over = size if shard_over is None else shard_over
    if size % over:
        raise TennerError(
            f"{size} processes cannot share copies of the weights over {over} each",
            hint="train.shard_over must divide the number of processes; left out, all share one copy",
        )
    return over


def check_rows_shared(size: int, context_parallel: int) -> None:
    """Raise TennerError where `size` processes cannot share each row between so many."""
    if size % context_parallel:
        several = f"{size} processes" if size > 1 else "one process"
        raise TennerError(
            f"{several} cannot share rows between {context_parallel} each",
            hint="train.context_parallel must divide the number of processes; left out, each has rows of its own",
        )


def context_group(rank: int, context_parallel: int) -> ContextGroup | None:
    """The neighbours that share rows with this process; None where it shares none. Every process must ask."""
    if context_parallel == 1:
        return None
    from torch import distributed

    processes, _ = distributed.new_subgroups(context_parallel)  # type: ignore[no-untyped-call]
    assert processes is not None
    return ContextGroup(rank % context_parallel, context_parallel, processes)


def local_part(weight: Tensor) -> Tensor:
    """The rows of a parameter that this process holds: all of them, where it is not sharded. Shares memory."""
    from torch.distributed.tensor import DTensor

    return weight.to_local() if isinstance(weight, DTensor) else weight


def whole(weight: Tensor) -> Tensor:
    """The parameter with all its rows; every process must ask."""
    from torch.distributed.tensor import DTensor

    return weight.full_tensor() if isinstance(weight, DTensor) else weight


def first_row(weight: Tensor, world: World) -> int:
    """Which row of the parameter is the first that this process holds: FSDP deals rows out as torch.chunk does."""
    if world.shards == 1:
        return 0
    rows = weight.shape[0]
    return min(rows, world.shard_index * -(-rows // world.shards))
