"""The processes that train a run together, started by torch's elastic launcher on this machine."""

import logging
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, NoReturn

from tenner.core import hardware
from tenner.core.errors import Preempted, TennerError
from tenner.core.sections import Device, Train

SHUTDOWN_SECONDS = "600"
"""How long processes may take to write a checkpoint after SIGTERM; the launcher's own 30 s are too few for that."""


class Group(NamedTuple):
    """The processes of a training: so many on each of the nodes, of which this machine is one."""

    processes: int = 1
    """On each node."""
    nodes: int = 1
    node_rank: int = 0
    rendezvous: str | None = None
    """HOST:PORT on the first node, where the nodes meet."""

    @property
    def size(self) -> int:
        """All of them."""
        return self.nodes * self.processes


def is_worker() -> bool:
    """Whether this process was started by torchrun, or whoever speaks its language."""
    return "WORLD_SIZE" in os.environ


def group_of(settings: Train, device: Device, *, processes: int | None = None, nodes: int = 1) -> Group:
    """`processes` on each node, or as many as there are GPUs; one on another device, for 4-bit weights, and where a
    service trains.

    Raises TennerError for a number that this machine or the training cannot have.
    """
    import torch

    from tenner.training import distributed

    kind = hardware.device_kind(device)
    gpus = torch.cuda.device_count() if kind == "cuda" else 0
    one = settings.quantization is not None or settings.backend is not None or kind != "cuda"
    group = Group(processes if processes is not None else 1 if one else gpus, nodes)
    if group.processes < 1:
        raise TennerError(f"--processes {group.processes} is not a number of processes", hint="give at least 1")
    if kind == "cuda" and group.processes > gpus:
        raise TennerError(
            f"{group.processes} processes need as many GPUs, and {gpus} are here", hint=f"give --processes {gpus}"
        )
    if group.size > 1:
        _check_several(group, settings, kind)
    distributed.check_rows_shared(group.size, settings.context_parallel)
    return group


def _check_several(group: Group, settings: Train, kind: hardware.DeviceKind) -> None:
    from tenner.training import distributed

    if kind == "mps":
        raise TennerError("several processes cannot train on one Apple GPU", hint="train with one process")
    if settings.backend is not None:
        raise TennerError(
            f'with train.backend = "{settings.backend}" nothing is trained here', hint="leave it to one process"
        )
    if settings.quantization is not None:
        raise TennerError(f'train.quantization = "{settings.quantization}" is for one process', hint="leave it out")
    distributed.check_sharing(group.size, settings.shard_over)


def train(path: Path, group: Group, *, budget_usd: float | None = None, device: Device | None = None) -> None:
    """Do the stage `train` of the run in `path` by this machine's part of the group; returns when it is done.

    Raises:
        Preempted: the system asked this process to end; its processes have saved what they had.
        TennerError: a process was killed.
        SystemExit: a process failed, and has said why; the exit code is its own.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    words = ["-m", "tenner", "train", str(path)]
    words += [] if budget_usd is None else ["--budget-usd", repr(budget_usd)]
    words += [] if device is None else ["--device", device]
    several = group.nodes > 1
    config = LaunchConfig(
        min_nodes=group.nodes, max_nodes=group.nodes, nproc_per_node=group.processes, run_id=f"tenner-{path.name}",
        # Of several nodes the static rendezvous puts rank 0, which keeps the run, on the first; the other one on any.
        rdzv_backend="static" if several else "c10d", rdzv_endpoint=group.rendezvous or "localhost:0", max_restarts=0,
        rdzv_configs={"rank": group.node_rank} if several else {},
    )  # fmt: skip
    with _surroundings(group):
        try:
            elastic_launch(config, sys.executable)(*words)
        except ChildFailedError as e:
            _, failure = e.get_first_failure()
            _fail(failure.exitcode)
        except SignalException as e:
            if e.sigval == signal.SIGINT:
                raise KeyboardInterrupt from None
            raise Preempted(
                "the system asked to stop: the training processes have saved what they had",
                hint="the same command goes on from here",
            ) from None


def _fail(exit_code: int) -> NoReturn:
    if exit_code < 0:
        raise TennerError(
            f"a training process was ended by {signal.Signals(-exit_code).name}",
            hint="if it was the system, for want of memory, lower train.tokens_per_row; the same command goes on from "
            "the last checkpoint",
        )
    raise SystemExit(exit_code)


@contextmanager
def _surroundings(group: Group) -> Iterator[None]:
    """What the launcher needs and changes: threads for each process, signal handlers, a log level."""
    set_here = {"TORCH_ELASTIC_SHUTDOWN_TIMEOUT": SHUTDOWN_SECONDS}
    if group.processes > 1:  # else each would start a thread on every core
        set_here["OMP_NUM_THREADS"] = str(max(1, hardware.cores() // group.processes))
    missing = {name: value for name, value in set_here.items() if name not in os.environ}
    handlers = {number: signal.getsignal(number) for number in HANDLED}
    disabled = logging.root.manager.disable
    logging.disable(logging.ERROR)  # why a process fails it says itself
    os.environ.update(missing)
    try:
        yield
    finally:
        logging.disable(disabled)
        for name in missing:
            os.environ.pop(name, None)
        os.environ.pop("TORCHELASTIC_SIGNALS_TO_HANDLE", None)
        for number, handler in handlers.items():
            signal.signal(number, handler)


HANDLED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
"""Signals that the elastic launcher installs handlers of."""
