"""Worker processes with a deadline and a memory limit for each request; a worker that exceeds them is killed."""

import importlib
import resource
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from typing import Any, Generic, NamedTuple, TypeVar

from tenner.core.errors import TennerError

Item = TypeVar("Item")
Result = TypeVar("Result")

START_SECONDS_MAX = 120.0
ORPHAN_FACTOR = 4.0
"""So many deadlines after a request began, its worker ends itself."""
SERVE = "from tenner.evaluation.grading.sandboxed_workers import serve; import sys; serve(*sys.argv[1:])"


class Failure(NamedTuple):
    """Why a request has no result: "too slow", "out of memory", "died", or the name of an error."""

    reason: str


class _Worker(Generic[Item, Result]):
    """One process, and the number of the request that it works on."""

    def __init__(
        self, work: Callable[[Item], Result], prepare: Callable[[], object], memory_bytes: int, deadline_seconds: float
    ) -> None:
        self.connection, theirs = Pipe()
        # Not forked, as torch's threads may be running here; and not spawned, as that would import the main module.
        command = [sys.executable, "-c", SERVE, work.__module__, work.__name__, prepare.__name__, str(theirs.fileno())]
        self.process = subprocess.Popen(
            [*command, str(memory_bytes), str(deadline_seconds)], pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        theirs.close()
        self.number: int | None = None
        self.deadline_at = time.monotonic() + START_SECONDS_MAX
        self.ready = False

    def send(self, number: int, item: Item, deadline_seconds: float) -> None:
        self.number, self.deadline_at = number, time.monotonic() + deadline_seconds
        self.connection.send(item)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        self.connection.close()


def serve(
    module: str, work_name: str, prepare_name: str, handle: str, memory_bytes: str, deadline_seconds: str
) -> None:
    """The main loop of a worker process, until the other end of its connection closes.

    A request that runs far beyond its deadline ends the process: its parent, which should have killed it, was killed
    itself. The system's timer does that, as no thread of Python's gets its turn beside a long computation in C.
    """
    connection = Connection(int(handle))
    with suppress(ValueError, OSError):  # macOS refuses: there a deadline alone ends what runs away
        resource.setrlimit(resource.RLIMIT_AS, (int(memory_bytes), int(memory_bytes)))
    work: Callable[[Any], Any] = getattr(importlib.import_module(module), work_name)
    getattr(importlib.import_module(module), prepare_name)()
    connection.send(None)  # ready
    while True:
        try:
            item = connection.recv()
        except (EOFError, ConnectionError):
            return
        signal.setitimer(signal.ITIMER_REAL, ORPHAN_FACTOR * float(deadline_seconds))  # SIGALRM, which ends a process
        try:
            result = work(item)
        except MemoryError:
            result = Failure("out of memory")
        except Exception as e:  # noqa: BLE001  # any error of the library is the result of the request
            result = Failure(type(e).__name__)
        signal.setitimer(signal.ITIMER_REAL, 0)
        try:
            connection.send(result)
        except ConnectionError:
            return


class SandboxedWorkers(Generic[Item, Result]):
    """Processes that call `work`, a function that can be imported by name. They start when they are needed.

    Each first calls `prepare` of the same module (slow imports), which the deadline does not cover.
    """

    def __init__(
        self,
        work: Callable[[Item], Result],
        *,
        prepare: Callable[[], object],
        processes: int,
        deadline_seconds: float,
        memory_bytes: int,
    ) -> None:
        self._work, self._prepare, self._processes = work, prepare, processes
        self._deadline_seconds, self._memory_bytes = deadline_seconds, memory_bytes
        self._workers: list[_Worker[Item, Result]] = []

    def map(self, items: Iterable[Item]) -> Iterator[tuple[int, Result | Failure]]:
        """Yield the number of each request with its result, in the order of completion."""
        waiting = deque(enumerate(items))
        while waiting or any(w.number is not None for w in self._workers):
            while len(self._workers) < min(self._processes, len(waiting)):
                self._workers.append(_Worker(self._work, self._prepare, self._memory_bytes, self._deadline_seconds))
            for worker in [w for w in self._workers if w.ready and w.number is None]:
                if worker.process.poll() is not None:  # killed from outside while it waited
                    self._remove(worker)
                elif waiting:
                    worker.send(*waiting.popleft(), self._deadline_seconds)
            yield from self._results()

    def _results(self) -> Iterator[tuple[int, Result | Failure]]:
        """Wait until a worker sends a result, dies, or exceeds its deadline."""
        busy = [w for w in self._workers if w.number is not None or not w.ready]
        timeout_seconds = max(0.0, min((w.deadline_at for w in busy), default=0.0) - time.monotonic())
        wait([w.connection for w in busy], timeout=timeout_seconds)
        for worker in busy:
            result: Result | Failure
            if worker.connection.poll():
                try:
                    result = worker.connection.recv()
                except (EOFError, ConnectionError):
                    result = Failure("died")
                    self._remove(worker)
            elif time.monotonic() >= worker.deadline_at:
                result = Failure("too slow")
                self._remove(worker)
            else:
                continue
            number, worker.number = worker.number, None
            if not worker.ready and isinstance(result, Failure):
                raise TennerError(f"a process for {self._work.__module__} could not start: {result.reason}")
            worker.ready = True
            if number is not None:
                yield number, result

    def _remove(self, worker: _Worker[Item, Result]) -> None:
        worker.kill()
        self._workers.remove(worker)

    def close(self) -> None:
        """End the processes."""
        for worker in list(self._workers):
            self._remove(worker)
