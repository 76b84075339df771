"""Who does the work on chunks of a pool: this process, or all the cores of this machine; the outcome is the same."""

import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import chain, islice
from typing import Protocol, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

CHUNK = 2_000
ALONE_MAX = 100_000
"""Up to so many items, starting processes takes longer than the work."""


class Workers(Protocol):
    """Anything that maps a function over chunks. The function must be importable by name, and pure."""

    def map(self, work: Callable[[list[Item]], Result], items: Sequence[Item]) -> Iterator[Result]:
        """What `work` makes of each chunk of the items, in their order."""
        ...


class LocalWorkers:
    """The cores of this machine."""

    def __init__(self, processes: int | None = None) -> None:
        self._processes = processes or len(os.sched_getaffinity(0))

    def map(self, work: Callable[[list[Item]], Result], items: Sequence[Item]) -> Iterator[Result]:
        """See `Workers.map`. Chunks are handed out as results are taken, so that few are in memory."""
        if len(items) <= ALONE_MAX or self._processes == 1:
            yield from map(work, chunks(items))
            return
        # Spawned, not forked: torch's threads may be running in this process.
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(self._processes, mp_context=context) as pool:
            waiting = chunks(items)
            running = [pool.submit(work, chunk) for chunk in islice(waiting, 2 * self._processes)]
            for chunk in chain(waiting, [None] * len(running)):
                done = running.pop(0).result()
                if chunk is not None:
                    running.append(pool.submit(work, chunk))
                yield done


def chunks(items: Sequence[Item], size: int = CHUNK) -> Iterator[list[Item]]:
    """The items in lists of `size`."""
    return (list(items[i : i + size]) for i in range(0, len(items), size))
