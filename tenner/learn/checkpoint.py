"""The training's state on disk: written whole or not at all, proved on loading, exact to the bit.

The file is safetensors (8 bytes of header length, JSON header, raw tensors), written and read here in one pass
without copies: the safetensors library would hold the whole state in memory a second time.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import torch
from torch import Tensor

from tenner.errors import TennerError
from tenner.runfolder import disk_errors

FILE = "checkpoint.safetensors"
NO_HASH = "0" * 64
ITEM_BYTES = 4  # all of the state is float32
ALIGNMENT = 8  # what the format wants of the first tensor's place


class _Metadata(NamedTuple):
    step: int
    fingerprint: str
    sha256: str


def write(folder: Path, tensors: Mapping[str, Tensor], *, step: int, fingerprint: str) -> None:
    """Write float32 tensors as the state before the 0-based `step`, replacing the previous checkpoint.

    `fingerprint` names the training that may go on from it. Raises StorageFull with the previous checkpoint untouched.
    """
    path, partial = folder / FILE, folder / f"{FILE}.partial"
    try:
        with disk_errors(path):
            folder.mkdir(parents=True, exist_ok=True)
            with partial.open("wb") as file:
                file.write(_header(_layout(tensors), _Metadata(step, fingerprint, NO_HASH)))
                digest = hashlib.sha256()
                for tensor in tensors.values():
                    block = _memory(tensor.cpu())
                    digest.update(block)
                    file.write(block)
                file.seek(0)
                file.write(_header(_layout(tensors), _Metadata(step, fingerprint, digest.hexdigest())))
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def resumes_at(folder: Path) -> int:
    """The 0-based step with which training would go on: 0 where there is no checkpoint. Reads the header only."""
    path = folder / FILE
    if not path.exists():
        return 0
    with path.open("rb") as file:
        return _read_header(path, file)[1].step


def read(folder: Path, tensors: Mapping[str, Tensor], *, fingerprint: str) -> int:
    """Fill `tensors` in place and return the 0-based step to go on with; 0, all untouched, without a checkpoint.

    Raises TennerError when the file is of another training or not as it was written; `tensors` are then of no use.
    """
    path = folder / FILE
    if not path.exists():
        return 0
    with path.open("rb") as file:
        layout, metadata = _read_header(path, file)
        if metadata.fingerprint != fingerprint:
            raise TennerError(
                f"the checkpoint {path} belongs to a training with other samples, seed or settings",
                hint="delete it to train from the start",
            )
        if layout != _layout(tensors):
            raise _damaged(path)
        digest = hashlib.sha256()
        for tensor in tensors.values():
            host = tensor if tensor.device.type == "cpu" else torch.empty_like(tensor, device="cpu")
            block = _memory(host)
            if file.readinto(block) != len(block):
                raise _damaged(path)
            digest.update(block)
            if host is not tensor:
                tensor.copy_(host)
        if file.read(1) or digest.hexdigest() != metadata.sha256:
            raise _damaged(path)
    return metadata.step


def delete(folder: Path) -> None:
    """Remove the checkpoint, when there is one."""
    (folder / FILE).unlink(missing_ok=True)


def _layout(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Where each tensor lies in the file, in safetensors' words; offsets in bytes."""
    entries, end = {}, 0
    for name, tensor in tensors.items():
        assert tensor.dtype == torch.float32
        start, end = end, end + tensor.numel() * ITEM_BYTES
        entries[name] = {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": [start, end]}
    return entries


def _header(layout: dict[str, Any], metadata: _Metadata) -> bytes:
    strings = {name: str(value) for name, value in metadata._asdict().items()}
    body = json.dumps({"__metadata__": strings, **layout}).encode()
    body += b" " * (-len(body) % ALIGNMENT)
    return len(body).to_bytes(8, "little") + body


def _read_header(path: Path, file: BinaryIO) -> tuple[dict[str, Any], _Metadata]:
    try:
        layout = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        found = layout.pop("__metadata__")
        return layout, _Metadata(int(found["step"]), found["fingerprint"], found["sha256"])
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, MemoryError) as error:
        raise _damaged(path) from error


def _damaged(path: Path) -> TennerError:
    return TennerError(f"the checkpoint {path} is damaged", hint="delete it to train from the start")


def _memory(tensor: Tensor) -> memoryview:
    """The bytes of a CPU tensor, not a copy."""
    assert tensor.is_contiguous()
    array: Any = tensor.numpy()
    return memoryview(array).cast("B")
