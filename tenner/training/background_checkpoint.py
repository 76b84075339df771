"""Checkpoints of a GPU's training that are written while it goes on, from a copy in the host's memory.

Training stands still while the copy is made, not while it is hashed and written. The processes agree on the end of a
checkpoint between two steps: only then has it its name.
"""

import math
import time
from collections.abc import Mapping
from pathlib import Path
from threading import Thread

import torch

from tenner.core import hardware
from tenner.training import checkpoint
from tenner.training.checkpoint import Part, Writing
from tenner.training.distributed import World, local_size

HOURS_BETWEEN_FAILURES = 50_000
"""Of one GPU: 419 unforeseen interruptions of 16,384 in 54 days (Llama 3, arXiv 2407.21783, section 3.3.4)."""
INTERVAL_MAX_SECONDS = 3600
FREE_SHARE_MAX = 0.5
"""Of the host's free memory, so much may be taken by the copies; else training waits for the disk."""


def interval_seconds(least_seconds: float, stopped_seconds: float, ranks: int) -> float:
    """How long after a checkpoint the next one is due, on GPUs.

    Checkpoints that stop training for t seconds cost least, together with the work that a failure loses, every
    sqrt(2 t M) seconds, with M those between failures (Young 1974).
    """
    between_seconds = HOURS_BETWEEN_FAILURES * 3600 / ranks
    best_seconds = math.sqrt(2 * stopped_seconds * between_seconds)
    return max(least_seconds, min(best_seconds, INTERVAL_MAX_SECONDS))


class CheckpointWriter:
    """Writes the checkpoints of one training, at most one at a time; all processes call the same at the same step."""

    def __init__(self, folder: Path, *, fingerprint: str, world: World, in_background: bool | None = None) -> None:
        """`in_background`: None where the device is a GPU."""
        self._folder, self._fingerprint, self._world = folder, fingerprint, world
        self._in_background = world.device.type == "cuda" if in_background is None else in_background
        self._writing: Writing | None = None
        self._thread: Thread | None = None
        self._failure: OSError | None = None
        self.stopped_seconds = 0.0
        """How long the last checkpoint stopped training."""

    @property
    def is_written(self) -> bool:
        """Whether this process has written its part of a checkpoint that has not ended."""
        return self._thread is not None and not self._thread.is_alive()

    def save(self, parts: Mapping[str, Part], *, step: int, wait: bool = False) -> None:
        """Write the state before `step`, now if `wait` is set or there is no room for a copy. Raises StorageFull."""
        self.end()
        began = time.monotonic()
        if wait or not self._in_background or not self._has_room(parts):
            checkpoint.write(self._folder, parts, step=step, fingerprint=self._fingerprint, world=self._world)
        else:
            self._writing = Writing(self._folder, step=step, fingerprint=self._fingerprint, world=self._world)
            self._writing.begin()
            self._thread = Thread(target=self._put, args=(self._writing, _copies(parts)), daemon=True)
            self._thread.start()
        self.stopped_seconds = time.monotonic() - began

    def end(self) -> None:
        """Wait for a checkpoint that is being written, and give it its name. Raises StorageFull."""
        if self._writing is None or self._thread is None:
            return
        self._thread.join()
        writing, failure = self._writing, self._failure
        self._writing = self._thread = self._failure = None
        writing.end(failure)

    def _put(self, writing: Writing, parts: Mapping[str, Part]) -> None:
        self._failure = writing.put(parts)

    def _has_room(self, parts: Mapping[str, Part]) -> bool:
        """Whether every process has; those of one machine share its memory."""
        need = sum(part.tensor.numel() * part.tensor.itemsize for part in parts.values()) * local_size(self._world.size)
        free = hardware.free_memory_bytes("cpu")
        (lacking,) = self._world.sum(free is None or need > FREE_SHARE_MAX * free)
        return not lacking


def _copies(parts: Mapping[str, Part]) -> dict[str, Part]:
    """The same parts in the host's memory, which no step changes."""
    copies = {}
    for name, part in parts.items():
        on_gpu = part.tensor.device.type == "cuda"
        copy = torch.empty(part.tensor.shape, dtype=part.tensor.dtype, pin_memory=on_gpu)
        copies[name] = part._replace(tensor=copy.copy_(part.tensor, non_blocking=on_gpu))
    if any(part.tensor.device.type == "cuda" for part in parts.values()):
        torch.cuda.synchronize()
    return copies
