"""Writes into the ledger what many calls want written at the same moment, in one transaction: one fsync for all."""

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
    """Collects what is to be written for one turn of the event loop, and then commits it."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._jobs: list[_Job] = []

    async def do(self, work: Callable[[], T], *, droppable: bool = False) -> T:
        """Have `work` done, and return when it is on the disk. Raises what it raises.

        A caller that is cancelled meanwhile leaves its work to be done, unless it is `droppable`. A TennerError that
        `work` raises is its own affair; anything else undoes the work of all.
        """
        loop = asyncio.get_running_loop()
        done: asyncio.Future[T] = loop.create_future()
        if not self._jobs:
            loop.call_soon(self._commit)
        self._jobs.append(_Job(work, done, droppable))
        return await done

    def _commit(self) -> None:
        jobs, self._jobs = [job for job in self._jobs if not (job.droppable and job.done.cancelled())], []
        told: list[tuple[_Job, Any, Exception | None]] = []
        try:
            with self._ledger.together():
                for job in jobs:
                    try:
                        told.append((job, job.work(), None))
                    except TennerError as e:
                        told.append((job, None, e))
        except Exception as e:  # noqa: BLE001  every caller learns of it
            told = [(job, None, e) for job in jobs]
        for job, result, error in told:
            if job.done.cancelled():
                continue
            if error is None:
                job.done.set_result(result)
            else:
                job.done.set_exception(error)
