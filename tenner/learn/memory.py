"""Keep freed memory: a training step frees and asks for the same blocks, and glibc would fetch them anew each time."""

import ctypes
import platform

M_TRIM_THRESHOLD = -1  # <malloc.h>
M_MMAP_THRESHOLD = -3


def keep_freed_memory() -> bool:
    """Tell glibc to serve large blocks from its heap and not to give them back; says whether it could be told.

    Without this every activation is a fresh mmap whose pages the kernel zeroes on first touch: about a third of the
    training time on a CPU. Other C libraries are left as they are.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None)
    return bool(libc.mallopt(M_MMAP_THRESHOLD, 1 << 30)) and bool(libc.mallopt(M_TRIM_THRESHOLD, (1 << 31) - 1))
