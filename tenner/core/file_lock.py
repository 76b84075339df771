"""The exclusive lock of a file or a folder, which the system frees when the process ends, however it ends."""

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from tenner.core.errors import TennerError

WITHOUT_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL)
"""How file systems refuse a lock that they do not implement, or whose lock server does not answer."""


def no_locks(path: Path) -> TennerError:
    """The error for a path on a file system that has no locks."""
    return TennerError(
        f"the file system of {path} does not lock files, so two processes could write at once",
        hint="use a folder on a local disk, or have the network file system mounted with locks",
    )


def lock(file: IO[Any], *, wait: bool) -> None:
    """Take the lock of an open file.

    Raises:
        BlockingIOError: another process has it, and `wait` is false.
        TennerError: the file system does not lock files.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        raise
    except OSError as e:
        if e.errno in WITHOUT_LOCKS:
            raise no_locks(Path(file.name)) from e
        raise


@contextmanager
def folder_locked(path: Path) -> Iterator[None]:
    """Hold the lock of a folder itself, where the file system has one.

    NFS locks only what is open for writing, which no folder is: there a lock file alone has to do. Raises
    BlockingIOError where another process has it.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise
        except OSError as e:
            if e.errno not in (*WITHOUT_LOCKS, errno.EBADF):
                raise
        yield
    finally:
        os.close(descriptor)
