"""Calls in batches, at the price of batches: reserve, submit, poll, collect, and continue after a kill."""

import asyncio
import datetime
import itertools
import random
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from typing import BinaryIO, NamedTuple, TypeVar

from tenner.budget.ledger import Ledger
from tenner.budget.ledger_rows import BatchRow, Line, WaitingLine
from tenner.clients.billing import BilledReply, CallBilling, CallProgress, OnResult, Overcharged
from tenner.clients.faults import Fault
from tenner.clients.paid_calls import Limits
from tenner.clients.protocol import BatchClient, BatchResult, BatchStatus, Call, Client, KeyedRequest, keyed_request
from tenner.core.disk import disk_errors
from tenner.core.errors import BudgetReached, TennerError
from tenner.core.seeds import rng

UNSENT = ("unreachable", "rate_limited", "file_not_ready")
"""Retried faults after which the request has certainly not been carried out."""
EXPIRED_TRIES_MAX = 3
"""How many batches may expire without the result of a call before the call has failed."""

T = TypeVar("T")


class BatchLimits(NamedTuple):
    """The size of batches, and how they are polled."""

    lines_max: int = 10_000
    bytes_max: int = 100_000_000
    """A batch takes no further line once it has so many bytes."""
    poll_seconds: float = 2.0
    """The wait before the second poll; it doubles with every further one."""
    poll_seconds_max: float = 60.0
    unlisted_seconds: float = 20.0
    """How long after its submission a batch may exist without being in the provider's list."""


def batch_client(client: Client, place: str) -> BatchClient:
    """The client, if it takes batches; `place` is its section of the recipe.

    Raises TennerError if it takes none, or if their price is not known.
    """
    price = client.price
    if not isinstance(client, BatchClient):
        raise TennerError(
            f"{price.provider} takes no batches here", hint='leave out batch mode, or choose client = "openai"'
        )
    if price.batch_multiplier is None:
        option = ", or --batch-multiplier with --price-in and --price-out" if place == "trace" else ""
        raise TennerError(
            f"what {price.provider}/{price.model} costs in a batch is not known",
            hint=f"give batch_multiplier in [{place}.price]{option}: 0.5 is half",
        )
    return client


class BatchCalls:
    """Makes calls to one client as `PaidCalls` does, but in batches.

    Open batches are in the ledger: whenever the process ends, the next one continues with them.
    """

    def __init__(
        self,
        client: BatchClient,
        ledger: Ledger,
        *,
        stage: str,
        limits: Limits,
        batch_limits: BatchLimits = BatchLimits(),  # noqa: B008  it is a tuple
    ) -> None:
        self._client, self._ledger, self._limits, self._batch_limits = client, ledger, limits, batch_limits
        self._billing = CallBilling(client, ledger, stage=stage, deadline_seconds=limits.deadline_seconds, batch=True)
        self._open: dict[str, BatchRow] = {}
        self._waiting: dict[str, list[Call]] = {}
        self._draft: list[Line] = []
        self._lines_max = batch_limits.lines_max
        self._is_full = False  # the provider takes no further batch until one has ended
        self._refusals = 0  # of batches of one line, in a row
        self._files: dict[str, str] = {}  # what was uploaded for a batch that is not created yet
        self._expired: Counter[str] = Counter()

    @property
    def progress(self) -> CallProgress:
        """What has been done so far."""
        return self._billing.progress

    async def run(self, calls: Iterable[Call], on_result: OnResult, *, total: int) -> None:
        """Pass the result of every call to `on_result` as it arrives. A call that was bought before costs nothing.

        Raises:
            BudgetReached: no batch is open any more, and the worst case of the next call would cross the cap.
            TennerError: a fault that every other call would meet, too, or a batch that was refused.
        """
        self._billing.progress = CallProgress(total=total)
        self._open = {row.token: row for row in self._ledger.open_batches(self._billing.payee)}
        self._waiting = {line.key: [] for token in self._open for line in self._ledger.waiting_lines(token)}
        self._draft, self._expired = [], Counter()
        pending = iter(calls)
        for row in list(self._open.values()):
            if row.state != "submitted":
                await self._submit(row)
        while True:
            capped = await self._submit_all(pending, on_result)
            if not self._open:
                break
            await self._collect_one(on_result)
        if capped is not None:
            raise self._billing.with_remaining_cost(capped) from capped

    # -- submitting ----------------------------------------------------------------------------------------------

    async def _submit_all(self, pending: Iterator[Call], on_result: OnResult) -> BudgetReached | None:
        """Submit all calls that fit under the cap. Returns the error of the first that does not, None if all do."""
        while True:
            await self._fill_draft(pending, on_result)
            if not self._draft or (self._is_full and self._open):
                return None
            self._is_full = False
            row = BatchRow(uuid.uuid4().hex, None, "reserved", None)
            try:
                count = self._ledger.reserve_batch(self._billing.payee, row.token, self._draft[: self._lines_max])
            except BudgetReached as e:
                return e
            del self._draft[:count]
            self._open[row.token] = row
            await self._submit(row)

    async def _fill_draft(self, pending: Iterator[Call], on_result: OnResult) -> None:
        """Take calls until a batch is full; calls that were bought before give their results at once."""
        size = sum(len(self._upload_line(line)) for line in self._draft)
        while len(self._draft) < self._lines_max and size < self._batch_limits.bytes_max:
            await asyncio.sleep(0)  # thousands may be in the store, and Ctrl-C must not wait for them
            if (call := next(pending, None)) is None:
                return
            request = self._client.request(call)
            text, key = keyed_request(self._client.price, request, call.sample_index)
            if (billed := self._billing.stored(key)) is not None:
                on_result(self._billing.succeeded(call, billed, reused=True))
            elif key in self._waiting:  # in a batch of an earlier session, or an identical request
                self._waiting[key].append(call)
            else:
                worst_microusd = self._billing.microusd(self._client.worst_case_usage(call, request))
                line = Line(key, text, worst_microusd + self._ledger.overrun_microusd(self._billing.payee))
                self._waiting[key] = [call]
                self._draft.append(line)
                size += len(self._upload_line(line))

    async def _submit(self, row: BatchRow) -> None:
        """Submit a batch whose worst case is reserved; once, whatever happened to it before.

        Where the provider takes no batch so large, or none for now, its calls go back to those to be submitted.

        Raises:
            TennerError: it failed. The reservation is released if the batch certainly does not exist.
        """
        draw = rng(0, "backoff", row.token)
        for attempt in itertools.count(1):
            try:
                await self._submit_once(self._open[row.token])
                self._files.pop(row.token, None)
                return
            except Fault as fault:
                if fault.rule.retried and attempt < self._limits.retries.attempts_max:
                    await self._back_off(fault, attempt, draw)
                    continue
                if self._open[row.token].state == "reserved":
                    if fault.kind == "batch_limit":
                        await self._submit_smaller(row.token, fault)
                        return
                    self._ledger.close_batch(row.token)
                raise self._billing.fatal_error(fault) from None

    async def _submit_once(self, row: BatchRow) -> None:
        if row.state == "submitting" and (batch_id := await self._find(row)) is not None:
            self._mark(row._replace(batch_id=batch_id, state="submitted"))
            return
        if (file_id := self._files.get(row.token)) is None:
            lines = b"".join(map(self._upload_line, self._ledger.waiting_lines(row.token)))
            file_id = self._files[row.token] = await self._in_time(self._client.upload(lines))
        row = row._replace(state="submitting", submitted_at=time.time())
        self._mark(row)
        try:
            batch_id = await self._in_time(self._client.create_batch(file_id, row.token))
        except Fault as fault:
            if not fault.rule.retried or fault.kind in UNSENT:
                self._mark(row._replace(state="reserved"))
            raise
        self._mark(row._replace(batch_id=batch_id, state="submitted"))

    async def _submit_smaller(self, token: str, fault: Fault) -> None:
        """Take the calls of a refused batch back, for smaller ones, when an open one has ended.

        Raises:
            TennerError: no batch is open, and even one of a single call is refused, however long it waits.
        """
        lines = self._take_back(token)
        self._is_full = True
        self.progress.retries[fault.kind] += 1
        if self._open:
            return
        if len(lines) > 1:
            self._lines_max = len(lines) // 2
            return
        self._refusals += 1
        if self._refusals >= self._limits.retries.attempts_max:
            raise self._billing.fatal_error(fault)
        await asyncio.sleep(self._limits.retries.backoff(self._refusals, rng(0, "backoff", token)))

    def _take_back(self, token: str) -> list[Line]:
        """Close a batch of which nothing came; its calls are the next to be submitted."""
        lines = [Line(line.key, line.request, line.microusd) for line in self._ledger.waiting_lines(token)]
        self._ledger.close_batch(token)
        self._open.pop(token)
        self._files.pop(token, None)
        self._draft[:0] = lines
        return lines

    async def _find(self, row: BatchRow) -> str | None:
        """The id of a batch that may or may not exist; the provider's list may lag behind."""
        assert row.submitted_at is not None
        while True:
            polled_at = time.time()
            batch_id = await self._in_time(self._client.find_batch(row.token))
            if batch_id is not None or polled_at > row.submitted_at + self._batch_limits.unlisted_seconds:
                return batch_id
            await asyncio.sleep(self._batch_limits.poll_seconds)

    def _mark(self, row: BatchRow) -> None:
        self._ledger.mark_batch(row)
        self._open[row.token] = row

    def _upload_line(self, line: Line | WaitingLine) -> bytes:
        return self._client.batch_line(line.key, line.request)

    # -- collecting ----------------------------------------------------------------------------------------------

    async def _collect_one(self, on_result: OnResult) -> None:
        """Poll until at least one batch has ended, and collect what has."""
        delay_seconds = self._batch_limits.poll_seconds
        while True:
            statuses = {token: await self._status(row) for token, row in self._open.items()}
            self.progress.waiting_for = _waiting_note(list(statuses.values()))
            if ended := {token: status for token, status in statuses.items() if status.ended}:
                for token, status in ended.items():
                    await self._collect(token, status, on_result)
                return
            await asyncio.sleep(delay_seconds)
            delay_seconds = min(2 * delay_seconds, self._batch_limits.poll_seconds_max)

    def _moments(self, token: str) -> list[datetime.datetime]:
        """When a batch was submitted, and now: its calls were worked on in between."""
        submitted_at = self._open[token].submitted_at
        times = [time.time()] if submitted_at is None else [submitted_at, time.time()]
        return [datetime.datetime.fromtimestamp(at, datetime.UTC) for at in times]

    async def _status(self, row: BatchRow) -> BatchStatus:
        batch_id = row.batch_id
        assert batch_id is not None, "set on submission"
        return await self._until_answered(lambda: self._client.batch_status(batch_id))

    async def _collect(self, token: str, status: BatchStatus, on_result: OnResult) -> None:
        """Store and settle the results of a batch, line by line, and release what was reserved for the rest."""
        waiting = {line.key: line for line in self._ledger.waiting_lines(token)}
        faults: dict[str, Fault] = {}
        stop: TennerError | None = None
        for file_id in status.files:
            async for key, result in self._results(file_id):
                if key not in waiting:
                    continue  # stored by the session that was killed
                if isinstance(result, Fault):
                    faults[key] = result
                    continue
                line = waiting.pop(key)
                try:
                    stored = self._billing.keep(line.reservation, KeyedRequest(line.request, key), result)
                    billed = self._billing.settle(stored, *self._moments(token))
                except Overcharged as e:
                    stop = stop or e
                else:
                    self._answer(key, billed, on_result)
        batch_id = self._open[token].batch_id
        if status.refusal is not None:
            await self._refused(token, status.refusal)
            return
        for key in waiting.keys() & faults.keys():
            if faults[key].rule.maybe_charged:
                self._ledger.lose(waiting[key].reservation)
        self._ledger.close_batch(token)
        self._open.pop(token)
        self._is_full, self._refusals = False, 0
        for key, line in waiting.items():
            fault = faults.get(key) or Fault("expired", f"batch {batch_id} ended ({status.state}) without it")
            if fault.kind == "expired" and status.state == "expired" and self._is_tried_again(line, len(waiting)):
                continue
            calls = self._waiting.pop(key)
            if fault.rule.stops_the_run:
                stop = stop or self._billing.fatal_error(fault)
                continue
            for call in calls:
                on_result(self._billing.failed(call, fault, attempts=1 + self._expired[key]))
        if stop is not None:
            raise stop

    async def _refused(self, token: str, fault: Fault) -> None:
        """See to a batch of which no call was made, and nothing charged.

        Raises:
            TennerError: it would be refused again.
        """
        batch_id = self._open[token].batch_id
        if fault.kind == "batch_limit":
            await self._submit_smaller(token, fault)
            return
        if fault.kind == "file_not_ready" and self.progress.retries[fault.kind] < self._limits.retries.attempts_max:
            self._take_back(token)
            await self._back_off(fault, self.progress.retries[fault.kind] + 1, rng(0, "backoff", token))
            return
        self._ledger.close_batch(token)
        self._open.pop(token)
        if fault.rule.stops_the_run:
            raise self._billing.fatal_error(fault)
        raise TennerError(
            f"{self._billing.payee.provider} refused batch {batch_id}: {self._billing.redacted(fault.evidence)}",
            hint="nothing of it was charged: correct that, and the same command submits its calls again",
        )

    def _is_tried_again(self, line: WaitingLine, expired: int) -> bool:
        """Whether a call that its batch ended without goes into another, of half as many; it has cost nothing."""
        if self._expired[line.key] + 1 >= EXPIRED_TRIES_MAX:
            return False
        self._expired[line.key] += 1
        self.progress.retries["expired"] += 1
        self._lines_max = min(self._lines_max, max(1, expired // 2))
        self._draft.append(Line(line.key, line.request, line.microusd))
        return True

    def _answer(self, key: str, billed: BilledReply, on_result: OnResult) -> None:
        for i, call in enumerate(self._waiting.pop(key)):
            on_result(self._billing.succeeded(call, billed, reused=i > 0))

    async def _results(self, file_id: str) -> AsyncIterator[BatchResult]:
        folder = self._ledger.path.parent  # on the disk that will hold the results anyway
        with disk_errors(folder), tempfile.TemporaryFile(dir=folder) as file:
            await self._until_answered(lambda: self._download(file_id, file))
            file.seek(0)
            for number, line in enumerate(file, 1):
                await asyncio.sleep(0)  # storing thousands takes time, and Ctrl-C must not wait for them
                if not line.strip():
                    continue
                try:
                    result = self._client.read_result(line)
                except (ValueError, RecursionError) as e:
                    raise TennerError(
                        f"line {number} of {self._billing.payee.provider}'s result file {file_id} cannot be read: {e}",
                        hint="the batch stays open: the same command downloads the file again",
                    ) from e
                yield result

    async def _download(self, file_id: str, file: BinaryIO) -> None:
        file.seek(0)
        file.truncate()
        await self._client.download(file_id, file)

    # -- requests ------------------------------------------------------------------------------------------------

    async def _until_answered(self, request: Callable[[], Awaitable[T]]) -> T:
        """Retry transient faults without limit: the provider works on meanwhile, so nothing is lost by waiting.

        A file that the provider does not find is asked for as often as a call.
        """
        draw = rng(0, "backoff")
        for attempt in itertools.count(1):
            try:
                return await self._in_time(request())
            except Fault as fault:
                given_up = fault.kind == "file_not_ready" and attempt >= self._limits.retries.attempts_max
                if not fault.rule.retried or given_up:
                    raise self._billing.fatal_error(fault) from None
                await self._back_off(fault, attempt, draw)
        raise AssertionError("the loop ends by returning")

    async def _back_off(self, fault: Fault, attempt: int, draw: random.Random) -> None:
        self.progress.retries[fault.kind] += 1
        await asyncio.sleep(self._limits.retries.wait_seconds(fault, attempt, draw))

    async def _in_time(self, response: Awaitable[T]) -> T:
        try:
            async with asyncio.timeout(self._limits.deadline_seconds):
                return await response
        except TimeoutError:
            raise Fault("interrupted", f"no response within {self._limits.deadline_seconds:g} s") from None


def _waiting_note(statuses: Sequence[BatchStatus]) -> str:
    """As "batch in_progress 120/500"."""
    states = "/".join(sorted({status.state for status in statuses}))
    done, total = sum(status.done for status in statuses), sum(status.total for status in statuses)
    return f"{'batch' if len(statuses) == 1 else f'{len(statuses)} batches'} {states} {done:,}/{total:,}"
