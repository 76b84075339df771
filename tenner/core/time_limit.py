"""A limit on how long a stranger's program may run in this process, as that of a chat template."""

import ctypes
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class TimeLimitPassed(Exception):
    """Raised in what runs under a `time_limit`."""


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise TimeLimitPassed in the body once it has run so long, in whatever thread that is.

    It comes between two steps of the interpreter: a single call that is not Python's own is waited for.
    """
    thread, lock, is_over = ctypes.c_ulong(threading.get_ident()), threading.Lock(), False

    def interrupt() -> None:
        with lock:
            if not is_over:
                ctypes.pythonapi.PyThreadState_SetAsyncExc(thread, ctypes.py_object(TimeLimitPassed))

    timer = threading.Timer(seconds, interrupt)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        with lock:
            is_over = True
            ctypes.pythonapi.PyThreadState_SetAsyncExc(thread, None)  # one that is on its way comes too late
        timer.cancel()
