"""Signals that wait until a step is done: a half-made update must never become a checkpoint."""

import contextlib
import signal
import threading
from collections.abc import Iterator


class Termination:
    """Whether the system has asked this process to end (SIGTERM): spot machines are given seconds to do so."""

    def __init__(self) -> None:
        self.asked = False


@contextlib.contextmanager
def termination_noted(*, ctrl_c: bool) -> Iterator[Termination]:
    """Within the block SIGTERM is only noted; `ctrl_c`: and so is SIGINT."""
    noted = Termination()
    if threading.current_thread() is not threading.main_thread():  # only the main thread gets signals
        yield noted
        return

    def note(_number: int, _frame: object) -> None:
        noted.asked = True

    before = {number: signal.signal(number, note) for number in (signal.SIGTERM, *([signal.SIGINT] if ctrl_c else []))}
    try:
        yield noted
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def interrupts_held() -> Iterator[None]:
    """Ctrl-C waits until the block is done."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    held: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _frame: held.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if held:
        raise KeyboardInterrupt
