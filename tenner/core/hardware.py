"""What this machine computes on, and in which precision: by what the processor has, confirmed by a short trial."""

import os
import platform
import resource
import sys
import time
from functools import lru_cache
from typing import TYPE_CHECKING, Literal, NamedTuple

from tenner.core.errors import TennerError
from tenner.core.records import NamedPrecision
from tenner.core.sections import Device, TrainPrecision

if TYPE_CHECKING:
    import torch

DeviceKind = Literal["cpu", "cuda", "mps"]
PROBE_ROWS, PROBE_WIDTH = 256, 1024
"""The products that are timed: a batch of tokens times a layer's weight."""
PROBE_TRIALS_MIN = 5
"""The first one makes the kernel, and takes longer."""
PROBE_SECONDS = 0.1
PROBE_SECONDS_MAX = 1.0
"""For one precision; where it is slow there are fewer trials."""
CONTRADICTIONS = 4
"""So many trials in a row must find a precision slow that the processor has natively, with a pause between them."""
PAUSE_SECONDS = 0.2
SLOW_FACTOR = 2.0
"""A precision that is so much slower than the other one is worth a line."""


class Hardware(NamedTuple):
    """What something is computed on."""

    device: DeviceKind
    name: str
    """Of the GPU or the processor, for people."""
    threads: int
    precision: NamedPrecision

    def __str__(self) -> str:
        where = f"{self.name}, {self.threads} thread{'s' * (self.threads != 1)}" if self.device == "cpu" else self.name
        return f"{self.device} ({where}), {self.precision}"


class Speeds(NamedTuple):
    """Matrix products of a device in each precision, in GFLOP/s."""

    bf16: float
    fp32: float


def choose(device: Device = "auto", precision: TrainPrecision = "auto") -> Hardware:
    """The device and the precision to compute with; what is named is honoured.

    Raises TennerError where the named device is not there.
    """
    kind = device_kind(device)
    import torch

    if precision == "auto":
        precision = best_precision(kind)
    return Hardware(kind, device_name(kind), torch.get_num_threads(), precision)


def device_kind(device: Device = "auto") -> DeviceKind:
    """CUDA, else Apple's MPS, else the CPU; or the named one. Raises TennerError where that is not there."""
    import torch

    there: list[DeviceKind] = ["cpu"]
    if torch.backends.mps.is_available():
        there.insert(0, "mps")
    if torch.cuda.is_available():
        there.insert(0, "cuda")
    if device == "auto":
        return there[0]
    if device not in there:
        raise TennerError(
            f"PyTorch finds no {device} device on this machine",
            hint=f"there is {there[0]}: leave the device out, or install a build of PyTorch for {device}",
        )
    return device


def best_precision(kind: DeviceKind) -> Literal["bf16", "fp32"]:
    """bf16 where the device has it natively and a trial does not contradict, else fp32.

    Native bf16 is faster, and emulated bf16 ten times slower: a trial that other work on the machine has disturbed must
    not decide between what is close, nor one alone against what the processor has.
    """
    if not has_native_bf16(kind):
        return "fp32"
    for trial in range(CONTRADICTIONS):
        if trial:
            time.sleep(PAUSE_SECONDS)
        found = measured_speeds(kind) if trial else speeds(kind)
        if found.bf16 > found.fp32 / SLOW_FACTOR:
            return "bf16"
    return "fp32"


def has_native_bf16(kind: DeviceKind) -> bool:
    """Whether the device multiplies bfloat16 matrices in hardware, as far as PyTorch knows.

    Elsewhere they are emulated: 6 to 13 GFLOP/s were measured on a CPU with AVX2, a tenth of its float32. On Apple's
    GPUs it depends on the generation, which PyTorch does not tell: float32.
    """
    import torch

    if kind == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if kind == "mps" or not hasattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported"):
        return False
    # oneDNN's own answer heeds ONEDNN_MAX_CPU_ISA, but is yes for every AVX-512, with or without bfloat16.
    by_onednn = bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return by_onednn
    return by_onednn and (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def slowness(kind: DeviceKind, precision: NamedPrecision) -> str | None:
    """A line for people who named a precision that this device is slow at; None where it is not."""
    if precision == "fp32" and not has_native_bf16(kind):
        return None
    found = speeds(kind)
    other, factor = ("bf16", found.bf16 / found.fp32) if precision == "fp32" else ("fp32", found.fp32 / found.bf16)
    if factor < SLOW_FACTOR:
        return None
    return f"{precision} was asked for: {other} multiplies matrices {factor:.0f} times as fast on this {kind} device"


@lru_cache
def speeds(kind: DeviceKind) -> Speeds:
    """`measured_speeds`, of this process's first call."""
    return measured_speeds(kind)


def measured_speeds(kind: DeviceKind) -> Speeds:
    """Both precisions tried, each for a fraction of a second; the best trial counts, as others may use the machine."""
    import torch

    return Speeds(_speed(kind, torch.bfloat16), _speed(kind, torch.float32))


def _speed(kind: DeviceKind, dtype: "torch.dtype") -> float:
    import torch

    a = torch.ones(PROBE_ROWS, PROBE_WIDTH, dtype=dtype, device=kind)
    b = torch.ones(PROBE_WIDTH, PROBE_WIDTH, dtype=dtype, device=kind)
    best_seconds, spent_seconds, trials = float("inf"), 0.0, 0
    while (trials < PROBE_TRIALS_MIN and spent_seconds < PROBE_SECONDS_MAX) or spent_seconds < PROBE_SECONDS:
        began = time.perf_counter()
        torch.nn.functional.linear(a, b)[0, 0].item()  # reading a number waits for a device that works on its own
        seconds = time.perf_counter() - began
        best_seconds, spent_seconds, trials = min(best_seconds, seconds), spent_seconds + seconds, trials + 1
    return 2 * PROBE_ROWS * PROBE_WIDTH**2 / best_seconds / 1e9


def device_name(kind: DeviceKind) -> str:
    """The GPU's or the processor's name."""
    import torch

    if kind == "cuda":
        return str(torch.cuda.get_device_name())
    if kind == "mps":
        return "Apple GPU"
    return processor_name()


@lru_cache
def processor_name() -> str:
    """As the system tells it."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as lines:
            return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def cores() -> int:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def free_cores() -> int:
    """How many of them other work leaves, by the load of the last minute; at least one."""
    idle_share = max(0.0, 1.0 - os.getloadavg()[0] / (os.cpu_count() or 1))
    return max(1, round(cores() * idle_share))


def use_free_cores() -> str | None:
    """Let PyTorch compute in no more threads than there are free cores, unless OMP_NUM_THREADS is set.

    Threads wait for one another at every product: with eight rows of the demo's student on two busy cores, two threads
    gave 7 tokens a second where one gave 86. Returns a line for people where there are fewer threads now.
    """
    import torch

    free = free_cores()
    if "OMP_NUM_THREADS" in os.environ or free >= torch.get_num_threads():
        return None
    torch.set_num_threads(free)
    return f"{free} thread{'s' * (free != 1)}, as other work keeps the cores busy (OMP_NUM_THREADS sets the number)"


def free_memory_bytes(kind: DeviceKind) -> int | None:
    """What is free of the device's memory right now; None where the system does not tell."""
    import torch

    if kind == "cuda":
        return int(torch.cuda.mem_get_info()[0])
    try:
        with open("/proc/meminfo", encoding="utf-8") as lines:
            found = next(line for line in lines if line.startswith("MemAvailable"))
        return int(found.split()[1]) * 1024
    except (OSError, StopIteration):
        return None


def peak_memory_bytes() -> int:
    """The most memory that this process has had at one time.

    Linux's `getrusage` does not fall below what the process that started this one had, so its own count is read.
    """
    try:
        with open("/proc/self/status", encoding="utf-8") as lines:
            return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) * 1024
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
