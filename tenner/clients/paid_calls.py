"""The paid-call loop: look in the store, reserve, send, store the raw response at its worst case, parse, settle."""

import asyncio
import datetime
import itertools
import time
from collections.abc import Iterable, Iterator
from functools import partial
from typing import NamedTuple

from tenner.budget.group_commit import GroupCommit
from tenner.budget.ledger import Ledger
from tenner.clients.attempt_times import AttemptTimes, HeldAttempt
from tenner.clients.billing import CallBilling, CallProgress, OnResult, PaidReply
from tenner.clients.faults import Fault
from tenner.clients.http import cut_response
from tenner.clients.protocol import Call, Client, KeyedRequest, Request, Response, keyed_request
from tenner.clients.rate_limiter import RateLimiter, sleep
from tenner.clients.retries import RetryRule
from tenner.core.errors import BudgetReached, Incomplete, TennerError
from tenner.core.records import FailedCall, Usage
from tenner.core.seeds import rng

LOST_IN_A_ROW = 20
"""So many attempts that may have been charged, and twice the calls in flight, without one response end the run."""
COMMIT_SECONDS_MAX = 60.0
"""How long after its reservation a call may be sent, for the price at that time."""
FIRST_ALONE_SECONDS = 60.0
"""How long calls to a model are made one at a time before its first reply: a server that does not keep to the limit of
output tokens is then found at the cost of one."""


class Limits(NamedTuple):
    """Concurrency, rates, deadline and retries of calls."""

    concurrency: int
    deadline_seconds: float
    """Of one attempt, from the request to the last byte."""
    retries: RetryRule
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None


class PaidCalls:
    """Makes calls to one client, each at most once, and never over the ledger's cap."""

    def __init__(self, client: Client, ledger: Ledger, *, stage: str, limits: Limits) -> None:
        self._client, self._ledger, self._limits = client, ledger, limits
        self._billing = CallBilling(client, ledger, stage=stage, deadline_seconds=limits.deadline_seconds)
        self._commits = GroupCommit(ledger)
        self._rate_limiter = RateLimiter(
            requests_per_minute=limits.requests_per_minute, tokens_per_minute=limits.tokens_per_minute
        )
        self._tokens_mean: float | None = None
        self._open_reservations = 0
        self._freed = asyncio.Event()
        self._in_flight: dict[str, asyncio.Event] = {}
        self._stop: Exception | None = None
        self._stopped = asyncio.Event()
        self._lost_in_a_row = 0
        self._times = AttemptTimes()
        self._held: list[HeldAttempt] = []
        self._model_is_known = False
        self._first = asyncio.Lock()

    @property
    def progress(self) -> CallProgress:
        """What has been done so far."""
        return self._billing.progress

    async def run(self, calls: Iterable[Call], on_result: OnResult, *, total: int) -> None:
        """Pass the result of every call to `on_result` as it arrives. A call that was bought before costs nothing.

        Whatever stops the run, the calls in flight are finished and stored before the error is raised.

        Raises:
            BudgetReached: the worst case of the next call would cross the cap. It was not made.
            TennerError: a fault that every other call would meet, too: the key, the account, the model.
        """
        self._billing.progress = CallProgress(total=total)
        waiting = iter(calls)
        self._model_is_known = self._billing.model_is_known()
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(self._limits.concurrency, total)):
                    group.create_task(self._work(waiting, on_result))
        finally:
            self._judge_held()
        if isinstance(self._stop, BudgetReached):
            raise self._billing.with_remaining_cost(self._stop) from self._stop
        if self._stop is not None:
            raise self._stop

    async def _work(self, waiting: Iterator[Call], on_result: OnResult) -> None:
        while self._stop is None and (call := next(waiting, None)) is not None:
            try:
                if (result := await self._one(call)) is not None:
                    on_result(result)
            except Exception as e:  # noqa: BLE001  stored for `run`, which raises it when the other tasks are done
                self._stop = self._stop or e
                self._stopped.set()
                self._freed.set()

    async def _one(self, call: Call) -> PaidReply | FailedCall | None:
        """The result of one call; None if the run stopped before there was one."""
        request = self._client.request(call)
        keyed = keyed_request(self._client.price, request, call.sample_index)
        while (same := self._in_flight.get(keyed.key)) is not None:
            await same.wait()  # two identical requests are one call
        if (billed := self._billing.stored(keyed.key)) is not None:
            return self._billing.succeeded(call, billed, reused=True)
        self._in_flight[keyed.key] = asyncio.Event()
        try:
            return await self._buy(call, request, keyed)
        finally:
            self._in_flight.pop(keyed.key).set()

    async def _buy(self, call: Call, request: Request, keyed: KeyedRequest) -> PaidReply | FailedCall | None:
        worst = self._client.worst_case_usage(call, request)
        draw = rng(0, "backoff", keyed.key)
        retries = self._limits.retries
        for attempt in itertools.count(1):
            try:
                return await self._attempt(call, request, keyed, worst)
            except Fault as fault:
                if fault.rule.stops_the_run:
                    raise self._billing.fatal_error(fault) from None
                self._stop_if_all_is_lost(fault)
                if retries.gives_up(fault, attempt):
                    return self._billing.failed(call, fault, attempts=attempt)
                if self._stop is not None:
                    return None
                self._billing.retried(fault)
                if fault.kind in ("rate_limited", "late_refusal") and fault.retry_after_seconds is not None:
                    self._rate_limiter.hold(fault.retry_after_seconds)
                await sleep(retries.wait_seconds(fault, attempt, draw), self._stopped)
        raise AssertionError("the loop ends by returning")

    def _stop_if_all_is_lost(self, fault: Fault) -> None:
        """Raise Incomplete if attempt after attempt is booked or held at its worst case and none brings a response."""
        self._lost_in_a_row += fault.rule.maybe_charged
        if self._lost_in_a_row >= LOST_IN_A_ROW + 2 * self._limits.concurrency:
            raise Incomplete(
                f"the last {self._lost_in_a_row} attempts brought no response and may have been charged: "
                f"{fault.kind}: {self._billing.redacted(fault.evidence)}",
                hint="each that took long enough for work is booked at its worst case; what was bought is kept: the "
                "same command goes on from here when the provider works again",
            )

    async def _attempt(self, call: Call, request: Request, keyed: KeyedRequest, worst: Usage) -> PaidReply | None:
        """One attempt; alone before the first reply of a model, or until that takes too long."""
        if self._model_is_known:
            return await self._attempt_now(call, request, keyed, worst)
        try:
            async with asyncio.timeout(FIRST_ALONE_SECONDS):
                await self._first.acquire()
        except TimeoutError:
            self._model_is_known = True
            return await self._attempt_now(call, request, keyed, worst)
        if self._model_is_known:  # since the reply that was waited for
            self._first.release()
            return await self._attempt_now(call, request, keyed, worst)
        try:
            return await self._attempt_now(call, request, keyed, worst)
        finally:
            self._first.release()

    async def _attempt_now(self, call: Call, request: Request, keyed: KeyedRequest, worst: Usage) -> PaidReply | None:
        estimate = self._tokens_mean or (worst.input_tokens or 0) + (worst.output_tokens or 0)
        await self._rate_limiter.acquire(estimate, self._stopped)
        reservation = await self._reserve(worst)
        if reservation is None:
            return None
        sent_at, began = _now(), time.monotonic()
        response = await self._send(call, request, reservation)
        seconds = time.monotonic() - began
        try:
            stored = await self._commits.do(partial(self._billing.keep, reservation, keyed, response))
            billed = await self._commits.do(partial(self._billing.settle, stored, sent_at, _now()))
        finally:
            self._closed()
        self._model_is_known = True
        self._lost_in_a_row = 0
        if billed.reply.outcome in ("complete", "truncated"):
            self._times.replied(seconds)
            self._judge_held()
        usage = billed.reply.usage
        used = (usage.input_tokens or 0) + (usage.output_tokens or 0)
        self._rate_limiter.correct(used - estimate)
        self._tokens_mean = used if self._tokens_mean is None else 0.9 * self._tokens_mean + 0.1 * used
        return self._billing.succeeded(call, billed, reused=False)

    async def _send(self, call: Call, request: Request, reservation: int) -> Response:
        """The response to one attempt. Raises Fault, when the reservation is booked, released or held."""
        began = time.monotonic()
        try:
            async with asyncio.timeout(self._limits.deadline_seconds):
                return await self._client.send(call, request)
        except BaseException as e:
            seconds = time.monotonic() - began
            if isinstance(e, TimeoutError):
                if (cut := cut_response(e)) is not None:
                    return cut
                fault = Fault("deadline", f"no whole response within {self._limits.deadline_seconds:g} s")
            elif isinstance(e, Fault):
                fault = self._times.judged(e, seconds)
            else:
                self._release(reservation, charged=not isinstance(e, TennerError))
                raise
            if self._times.is_undecided(fault, seconds):
                self._held.append(HeldAttempt(reservation, fault.kind, seconds))
                self._lost_in_a_row += 1
                self._closed()
            else:
                self._release(reservation, charged=fault.rule.maybe_charged)
            raise fault from None

    def _judge_held(self) -> None:
        """Book or release the attempts that ended in an error before any reply came."""
        if not self._held:
            return
        held, self._held = self._held, []
        for attempt in held:
            if self._times.was_charged(attempt):
                self._ledger.lose(attempt.reservation)
            else:
                self._ledger.release(attempt.reservation)
        self._freed.set()

    async def _reserve(self, worst: Usage) -> int | None:
        """A reservation, after other calls have settled below their worst case if need be; None if the run stops."""
        while self._stop is None:
            try:
                # A cancelled caller sends nothing, so its reservation may be dropped.
                return await self._commits.do(partial(self._reserve_now, worst), droppable=True)
            except BudgetReached:
                if not self._open_reservations:
                    raise
                self._freed.clear()
                await self._freed.wait()
        return None

    def _reserve_now(self, worst: Usage) -> int:
        """Reserve at the dearest price from now to the latest moment at which the response may come."""
        now = _now()
        latest = now + datetime.timedelta(seconds=self._limits.deadline_seconds + COMMIT_SECONDS_MAX)
        reservation = self._ledger.reserve(self._billing.payee, self._billing.microusd(worst, now, latest))
        self._open_reservations += 1
        return reservation

    def _release(self, reservation: int, *, charged: bool) -> None:
        self._closed()
        if charged:
            self._ledger.lose(reservation)
        else:
            self._ledger.release(reservation)

    def _closed(self) -> None:
        """A call is no longer in flight."""
        self._open_reservations -= 1
        self._freed.set()


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)
