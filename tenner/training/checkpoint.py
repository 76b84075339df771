"""The training's state on disk: written whole or not at all, proved on loading, for any number of ranks.

    FOLDER/step-00000120/part-00000-of-00002.safetensors, part-00001-of-00002.safetensors

A checkpoint is a folder with one file for each part of the weights, and gets its name when all of it is on the disk.
The files are safetensors (8 bytes of header length, JSON header, raw tensors), written and read here in one pass
without copies: the safetensors library would hold the whole state in memory a second time. The newest two are kept:
should the last one be damaged, the one before it is gone on from.
"""

import hashlib
import json
import math
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import torch
from torch import Tensor

from tenner.core.disk import disk_errors
from tenner.core.errors import StorageFull, TennerError
from tenner.training.distributed import World

KEPT = 2
REFUSED = "damaged-"
"""What the name of a damaged checkpoint begins with, until the next one is written."""
ALONE = World(0, 1, torch.device("cpu"))
NO_HASH = "0" * 64
ALIGNMENT = 8  # what the format wants of the first tensor's place
READ_BYTES = 1 << 24
DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "U8": torch.uint8}
NAMES = {dtype: name for name, dtype in DTYPES.items()}


class Part(NamedTuple):
    """What one process holds of one tensor of the state."""

    tensor: Tensor
    first_row: int = 0
    """Which row of the whole tensor it begins with."""
    divisible: bool = True
    """Its rows may be dealt out over other processes; if not, it is only of use to a process with the same part."""


class Found(NamedTuple):
    """Where training goes on."""

    step: int
    """The 0-based step that comes next; 0: from the start."""
    refused: tuple[str, ...]
    """Newer checkpoints that could not be used, each in a line."""


class _Damaged(Exception):
    """This checkpoint is not as it was written; the message says where."""


class _Header(NamedTuple):
    layout: dict[str, Any]
    first_rows: dict[str, int]
    step: int
    fingerprint: str
    sha256: str
    data_start: int
    """Byte of the file at which the tensors begin."""


def write(folder: Path, parts: Mapping[str, Part], *, step: int, fingerprint: str, world: World = ALONE) -> None:
    """Write the state before the 0-based `step`; every process calls it with its parts, on a disk that all of them see.

    `fingerprint` names the training that may go on from it. Raises StorageFull, the checkpoints before it untouched.
    """
    writing = Writing(folder, step=step, fingerprint=fingerprint, world=world)
    writing.begin()
    writing.end(writing.put(parts))


class Writing:
    """A checkpoint on its way to the disk: every process begins and ends it with the others, and puts its parts there
    in between.
    """

    def __init__(self, folder: Path, *, step: int, fingerprint: str, world: World) -> None:
        self._folder, self._step, self._fingerprint, self._world = folder, step, fingerprint, world
        self._target = folder / f"step-{step:08d}"
        self._partial = folder / f".{self._target.name}"

    def begin(self) -> None:
        """Raises StorageFull, as `end` does."""
        self._together(self._make_folder if self._world.rank == 0 else lambda: None)

    def put(self, parts: Mapping[str, Part]) -> OSError | None:
        """Write this process' file; returns why it could not. Says nothing to other processes."""
        if not self._world.keeper:
            return None
        path = self._partial / _file_name(self._world.shard_index, self._world.shards)
        try:
            _write_file(path, parts, self._step, self._fingerprint)
        except OSError as error:
            return error
        return None

    def end(self, failure: OSError | None) -> None:
        """Give the checkpoint its name where no process had a `failure`, and delete old ones."""

        def check() -> None:
            if failure is not None:
                raise failure

        self._together(check)
        self._together(self._name if self._world.rank == 0 else lambda: None)

    def _together(self, doing: Callable[[], None]) -> None:
        with disk_errors(self._target):
            try:
                _in_step(doing, self._target, self._world)
            except (OSError, StorageFull):
                if self._world.rank == 0:
                    shutil.rmtree(self._partial, ignore_errors=True)
                raise

    def _make_folder(self) -> None:
        for leftover in self._folder.glob(".step-*"):  # of a process that was killed while it wrote
            shutil.rmtree(leftover, ignore_errors=True)
        self._partial.mkdir(parents=True)

    def _name(self) -> None:
        shutil.rmtree(self._target, ignore_errors=True)
        self._partial.rename(self._target)
        # Later ones were refused: this training went on from before them.
        others = [path for path in _checkpoints(self._folder) if path != self._target]
        earlier = [path for path in others if path.name < self._target.name]
        for path in (*others, *self._folder.glob(f"{REFUSED}*")):
            if path not in earlier[: KEPT - 1]:
                shutil.rmtree(path)


def _in_step(doing: Callable[[], None], target: Path, world: World) -> None:
    """Do it, and return when all have done theirs; raises in every process where one could not."""
    error: OSError | None = None
    try:
        doing()
    except OSError as e:
        error = e
    (failed,) = world.sum(error is not None)
    if error is not None:
        raise error
    if failed:
        raise StorageFull(f"another process could not write its part of {target}")


def read(folder: Path, parts: Mapping[str, Part], *, fingerprint: str, world: World = ALONE) -> Found:
    """Fill the parts' tensors in place from the newest checkpoint that is whole; untouched where none is there.

    Raises TennerError when the newest is of another training, when there are checkpoints and all are damaged, and when
    what cannot be dealt out anew was written by another number of processes.
    """
    refused: list[str] = []
    for checkpoint in _checkpoints(folder):
        try:
            headers = _verified(checkpoint, world)
        except _Damaged as damage:
            refused.append(str(damage))
            continue
        first = next(iter(headers.values()))
        if first.fingerprint != fingerprint:
            raise TennerError(
                f"the checkpoint {checkpoint} belongs to another training: "
                "of another model, or with other samples, seed or settings",
                hint="delete it to train from the start",
            )
        _fill(checkpoint, headers, parts)
        if refused and world.rank == 0:
            _set_aside([path for path in _checkpoints(folder) if path.name > checkpoint.name])
        return Found(first.step, tuple(refused))
    if refused:
        raise TennerError("; ".join(refused), hint=f"delete {folder} to train from the start")
    return Found(0, ())


def delete(folder: Path) -> None:
    """Remove all checkpoints, when there are any."""
    shutil.rmtree(folder, ignore_errors=True)


def _checkpoints(folder: Path) -> list[Path]:
    """The newest first."""
    return sorted(folder.glob("step-*"), reverse=True)


def _set_aside(damaged: Sequence[Path]) -> None:
    """Have them no longer count as checkpoints: the next one is to take their place, not that of a whole one."""
    for path in damaged:
        aside = path.with_name(REFUSED + path.name)
        with disk_errors(aside):
            shutil.rmtree(aside, ignore_errors=True)
            path.rename(aside)


def _file_name(index: int, count: int) -> str:
    return f"part-{index:05d}-of-{count:05d}.safetensors"


def _write_file(path: Path, parts: Mapping[str, Part], step: int, fingerprint: str) -> None:
    parts = {name: part for name, part in parts.items() if part.tensor.numel()}
    draft = _header_bytes(parts, step, fingerprint, NO_HASH)
    digest = hashlib.sha256(draft)
    with path.open("wb") as file:
        file.write(draft)
        for part in parts.values():
            block = _memory(part.tensor.cpu())
            digest.update(block)
            file.write(block)
        file.seek(0)
        file.write(_header_bytes(parts, step, fingerprint, digest.hexdigest()))
        file.flush()
        os.fsync(file.fileno())


def _header_bytes(parts: Mapping[str, Part], step: int, fingerprint: str, sha256: str) -> bytes:
    layout, end = {}, 0
    for name, (tensor, _first_row, _divisible) in parts.items():
        start, end = end, end + tensor.numel() * tensor.itemsize
        layout[name] = {"dtype": NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
    first_rows = json.dumps({name: part.first_row for name, part in parts.items()})
    strings = {"step": str(step), "fingerprint": fingerprint, "sha256": sha256, "first_rows": first_rows}
    body = json.dumps({"__metadata__": strings, **layout}).encode()
    body += b" " * (-len(body) % ALIGNMENT)
    return len(body).to_bytes(8, "little") + body


def _verified(checkpoint: Path, world: World) -> dict[Path, _Header]:
    """The headers of all files, every byte of which has been looked at by one process or another."""
    paths = sorted(checkpoint.glob("part-*"))
    counts = {path.stem.rpartition("-of-")[2] for path in paths}
    if counts != {f"{len(paths):05d}"}:
        raise _Damaged(f"the checkpoint {checkpoint} is not whole: it holds {len(paths)} parts")
    damaged = [float(i % world.size == world.rank and not _is_whole(path)) for i, path in enumerate(paths)]
    if bad := [path for path, flag in zip(paths, world.sum(*damaged), strict=True) if flag]:
        raise _Damaged(f"the checkpoint {bad[0]} is damaged")
    return {path: _read_header(path) for path in paths}


def _is_whole(path: Path) -> bool:
    """Whether the file is as it was written, to the byte."""
    try:
        header = _read_header(path)
    except _Damaged:
        return False
    with path.open("rb") as file:
        draft = file.read(header.data_start).replace(header.sha256.encode(), NO_HASH.encode())
        digest = hashlib.sha256(draft)
        while block := file.read(READ_BYTES):
            digest.update(block)
    return digest.hexdigest() == header.sha256


def _read_header(path: Path) -> _Header:
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            layout = json.loads(file.read(length))
        found = layout.pop("__metadata__")
        first_rows = json.loads(found["first_rows"])
        return _Header(layout, first_rows, int(found["step"]), found["fingerprint"], found["sha256"], 8 + length)
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, MemoryError) as error:
        raise _Damaged(f"the checkpoint {path} is damaged") from error


def _fill(checkpoint: Path, headers: Mapping[Path, _Header], parts: Mapping[str, Part]) -> None:
    for name, part in parts.items():
        if not part.tensor.numel():
            continue
        host = part.tensor if part.tensor.device.type == "cpu" else torch.empty_like(part.tensor, device="cpu")
        filled = sum(_copy_rows(path, header, name, part, host) for path, header in headers.items())
        if filled != _rows(part.tensor.shape):
            if not part.divisible:
                raise TennerError(
                    f"the checkpoint {checkpoint} holds 8-bit moments of {len(headers)} processes, "
                    "which cannot be dealt out over another number of them",
                    hint=f"go on with {len(headers)} processes",
                )
            raise TennerError(
                f"the checkpoint {checkpoint} is of another model", hint="delete it to train from the start"
            )
        if host is not part.tensor:
            part.tensor.copy_(host)


def _copy_rows(path: Path, header: _Header, name: str, part: Part, host: Tensor) -> int:
    """Copy the rows of `part` that this file holds; returns how many."""
    entry = header.layout.get(name)
    if entry is None or DTYPES[entry["dtype"]] != host.dtype or entry["shape"][1:] != list(host.shape[1:]):
        return 0
    theirs, ours = header.first_rows[name], part.first_row
    if not part.divisible and (theirs != ours or entry["shape"] != list(host.shape)):
        return 0
    start = max(theirs, ours)
    rows = min(theirs + _rows(entry["shape"]), ours + _rows(host.shape)) - start
    if rows <= 0:
        return 0
    row_bytes = math.prod(entry["shape"][1:]) * host.itemsize
    with path.open("rb") as file:
        file.seek(header.data_start + entry["data_offsets"][0] + (start - theirs) * row_bytes)
        _read_into(file, _memory(host)[(start - ours) * row_bytes : (start - ours + rows) * row_bytes])
    return rows


def _read_into(file: BinaryIO, block: memoryview) -> None:
    count = file.readinto(block)  # type: ignore[attr-defined]
    assert count == len(block), "the file was verified"


def _rows(shape: Any) -> int:
    return int(shape[0])


def _memory(tensor: Tensor) -> memoryview:
    """The bytes of a CPU tensor, not a copy."""
    assert tensor.is_contiguous()
    array: Any = tensor.view(torch.uint8).numpy()
    return memoryview(array).cast("B")
