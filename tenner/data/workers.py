"""Maps a function over chunks of a pool: in this process, on the cores of this machine, or on a Ray cluster."""

import importlib.util
import multiprocessing
import os
import pickle
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import chain, islice
from multiprocessing.connection import wait
from typing import Any, Protocol, TypeVar

from tenner.core.errors import TennerError
from tenner.core.hardware import cores

Item = TypeVar("Item")
Result = TypeVar("Result")

CHUNK = 2_000
ALONE_MAX = 100_000
"""Up to so many items are processed in this process: starting others would take longer."""


class Workers(Protocol):
    """Maps a function over chunks. The function must be pure and importable by name."""

    def map(self, work: Callable[[list[Item]], Result], items: Sequence[Item]) -> Iterator[Result]:
        """The result of `work` for each chunk of the items, in order."""
        ...


class LocalWorkers:
    """The processes of this machine, one per core by default."""

    def __init__(self, processes: int | None = None) -> None:
        self._processes = processes or cores()

    def map(self, work: Callable[[list[Item]], Result], items: Sequence[Item]) -> Iterator[Result]:
        """See `Workers.map`. Chunks are submitted as results are taken, so that few are in memory."""
        if len(items) <= ALONE_MAX or self._processes == 1:
            yield from map(work, chunks(items))
            return
        # Spawned, not forked: torch's threads may be running in this process.
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(self._processes, mp_context=context, initializer=_end_with_parent) as pool:
            waiting = chunks(items)
            running = [pool.submit(work, chunk) for chunk in islice(waiting, 2 * self._processes)]
            for chunk in chain(waiting, [None] * len(running)):
                done = running.pop(0).result()
                if chunk is not None:
                    running.append(pool.submit(work, chunk))
                yield done


def _end_with_parent() -> None:
    """Have this worker end when its parent does, even if that is killed: it would wait for work for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None, "it is called in a worker"

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def chunks(items: Sequence[Item], size: int = CHUNK) -> Iterator[list[Item]]:
    """The items in lists of `size`."""
    return (list(items[i : i + size]) for i in range(0, len(items), size))


class RayWorkers:
    """A Ray cluster: the one at RAY_ADDRESS, or a local one."""

    def __init__(self) -> None:
        if importlib.util.find_spec("ray") is None:
            raise TennerError('clean.engine = "ray" needs Ray', hint="pip install 'tenner[ray]'")

    def map(self, work: Callable[[list[Item]], Result], items: Sequence[Item]) -> Iterator[Result]:
        """See `Workers.map`. Ray Data has a row for each chunk; results are pickled and sorted by number."""
        import ray.data

        rows = [{"number": i, "chunk": pickle.dumps(chunk)} for i, chunk in enumerate(chunks(items))]
        if not rows:
            return
        done = ray.data.from_items(rows).map(partial(_work_on_row, work=work)).take_all()
        for row in sorted(done, key=lambda row: int(row["number"])):
            yield pickle.loads(row["result"])


def _work_on_row(row: dict[str, Any], *, work: Callable[[list[Any]], Any]) -> dict[str, Any]:
    return {"number": row["number"], "result": pickle.dumps(work(pickle.loads(row["chunk"])))}


def workers_for(engine: str) -> Workers:
    """The workers for `clean.engine`."""
    return RayWorkers() if engine == "ray" else LocalWorkers()
