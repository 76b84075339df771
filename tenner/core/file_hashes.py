"""Sizes and hashes of written files, by which a file that was damaged since is told from one that was not."""

import hashlib
from pathlib import Path
from typing import Literal, NamedTuple

Later = Literal["appended", "replaced"]
READ_BYTES = 1 << 20


class FileHash(NamedTuple):
    """A file as it was when a stage ended."""

    size_bytes: int
    sha256: str
    """Faster than BLAKE2 on processors with instructions for it: about a second for a gigabyte."""
    later: Later | None = None
    """What a later stage does to the file: it appends, so that only the beginning is as it was, or replaces it."""


def hash_file(path: Path, size_bytes: int | None = None) -> str:
    """The SHA-256 of a file's first `size_bytes`, or of all of it. Raises OSError where it cannot be read."""
    digest, left = hashlib.sha256(), size_bytes
    with path.open("rb", buffering=0) as file:
        while block := file.read(READ_BYTES if left is None else min(READ_BYTES, left)):
            digest.update(block)
            left = None if left is None else left - len(block)
    return digest.hexdigest()


def describe(path: Path) -> FileHash:
    """The size and the hash of a file as it is now."""
    return FileHash(path.stat().st_size, hash_file(path))


def damage(path: Path, expected: FileHash, *, contents_max_bytes: int | None = None) -> str | None:
    """How a file differs from what was written, for a message; None where it does not.

    Of a file larger than `contents_max_bytes` only the size is compared.
    """
    if expected.later == "replaced":
        return None
    if not path.is_file():
        return "it has gone missing"
    size_bytes = path.stat().st_size
    if size_bytes < expected.size_bytes or (size_bytes > expected.size_bytes and expected.later is None):
        return f"its size has changed from {expected.size_bytes:,} to {size_bytes:,} bytes"
    if contents_max_bytes is not None and size_bytes > contents_max_bytes:
        return None
    return None if hash_file(path, expected.size_bytes) == expected.sha256 else "its contents have changed"


def parse(fields: object) -> FileHash:
    """A hash as JSON holds it. Raises ValueError for anything else."""
    match fields:
        case [int(size_bytes), str(sha256), None | "appended" | "replaced" as later]:
            return FileHash(size_bytes, sha256, later)
    raise ValueError("no hash of a file")
