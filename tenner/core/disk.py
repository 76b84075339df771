"""Writing to a disk that may be full or read-only: a file is replaced as a whole, and a refusal is one line."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tenner.core.errors import StorageFull, TennerError

FULL = (errno.ENOSPC, errno.EDQUOT)
REFUSED = (errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.EFBIG, errno.ENXIO, errno.ENAMETOOLONG)
PRIVATE = 0o600
"""Mode of files with questions, replies and amounts: only their owner reads them."""


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Convert the errors of a disk that is full, read-only or broken to one line that names `path`."""
    try:
        yield
    except OSError as e:
        if e.errno in FULL:
            raise StorageFull(
                f"the disk is full: {path} could not be written",
                hint="free some space and give the same command again; nothing written so far is lost",
            ) from e
        if e.errno in REFUSED:
            raise TennerError(
                f"{path} cannot be written: {e.strerror}",
                hint="see that the disk is writable, and give the same command again; nothing written so far is lost",
            ) from e
        raise


def append(path: Path, data: bytes) -> None:
    """Append to a file, durable on return; where the disk refuses, the file is as it was before.

    Nothing is buffered: what a buffer still held would be written when the file is closed, behind the truncation.
    """
    with disk_errors(path):
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, PRIVATE)
        try:
            size_bytes = os.fstat(descriptor).st_size
            try:
                left = memoryview(data)
                while left:
                    left = left[os.write(descriptor, left) :]
                os.fsync(descriptor)
            except OSError:
                os.ftruncate(descriptor, size_bytes)
                raise
        finally:
            os.close(descriptor)


def create_private(path: Path) -> None:
    """Make an empty file that only its owner reads, where there is none. Raises OSError where it cannot be made."""
    os.close(os.open(path, os.O_RDONLY | os.O_CREAT, PRIVATE))


def replace_text(path: Path, text: str, *, mode: int = 0o666) -> None:
    """Write a file atomically: the old one or the new one is there, never a half. `mode` is subject to the umask."""
    partial = path.with_name(path.name + ".partial")
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
            with open(descriptor, "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
        except OSError:
            partial.unlink(missing_ok=True)
            raise
