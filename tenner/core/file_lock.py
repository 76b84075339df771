"""The exclusive lock of a file, which the system frees when the process ends, however it ends."""

import errno
import fcntl
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
