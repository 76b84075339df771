"""Group commit: the ledger changes of many concurrent calls in one transaction, with one fsync."""

import asyncio
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

from tenner.budget.ledger import Ledger
from tenner.core.errors import TennerError

T = TypeVar("T")


class _Job(NamedTuple):
    work: Callable[[], Any]
    done: asyncio.Future[Any]
    droppable: bool


class GroupCommit:
    """Collects the changes of one turn of the event loop, and then commits them together."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._jobs: list[_Job] = []

    async def do(self, work: Callable[[], T], *, droppable: bool = False) -> T:
        """Do `work` in the next transaction, and return its result when that is committed. Raises what `work` raises.

        If the caller is cancelled meanwhile, the work is done all the same unless it is `droppable`. A TennerError
        fails this work alone; any other exception rolls the transaction back and fails the work of all callers.
        """
        loop = asyncio.get_running_loop()
        done: asyncio.Future[T] = loop.create_future()
        if not self._jobs:
            loop.call_soon(self._commit)
        self._jobs.append(_Job(work, done, droppable))
        return await done

    def _commit(self) -> None:
        jobs, self._jobs = [job for job in self._jobs if not (job.droppable and job.done.cancelled())], []
        results: list[tuple[_Job, Any, Exception | None]] = []
        try:
            with self._ledger.together():
                for job in jobs:
                    try:
                        results.append((job, job.work(), None))
                    except TennerError as e:
                        results.append((job, None, e))
        except Exception as e:  # noqa: BLE001  passed on to every caller
            results = [(job, None, e) for job in jobs]
        for job, result, error in results:
            if job.done.cancelled():
                continue
            if error is None:
                job.done.set_result(result)
            else:
                job.done.set_exception(error)
