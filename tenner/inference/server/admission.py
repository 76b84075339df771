"""Admission: limit how many requests the engine answers at a time, and report what each answer used."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Self

from tenner.core.formats import Tokenizer
from tenner.core.records import Intervention, Policy, Record
from tenner.inference.engine import Generation, Piece
from tenner.inference.job import Job
from tenner.inference.scheduler import Event, Scheduler

SECONDS_PER_HOUR = 3600.0


class QueueFull(Exception):
    """As many requests as allowed are active: try again later."""


class QueueClosed(Exception):
    """The queue is closing, and the answer will not be finished."""


class EngineFailed(Exception):
    """The engine has failed: this answer will not be finished, and no other is started."""


class RequestFailed(Exception):
    """The engine cannot decode this request; it answers the others."""


class Forced(Intervention):
    """An intervention and the text that it injected."""

    text: str


class UsageReport(Record):
    """What an answer used, and how it was forced."""

    policy: Policy
    prompt_tokens: int
    thinking_tokens: int
    answer_tokens: int
    """Sampled tokens only: delimiters and cue count in `completion_tokens`."""
    trial_tokens: int
    """Sampled in trial answers of early exit, beside the completion."""
    completion_tokens: int
    """All that came after the prompt."""
    machine_seconds: float
    """Its share of the machine's time, which is divided equally among the requests active at each moment."""
    cost_usd: float | None
    """`machine_seconds` at the price of the machine. None: the price is not known."""
    interventions: tuple[Forced, ...]


class AdmissionQueue:
    """Admits at most `concurrency_max` requests to a scheduler. Create it in the event loop that uses it."""

    def __init__(
        self, scheduler: Scheduler, tokenizer: Tokenizer, *, concurrency_max: int, price_usd_per_hour: float | None
    ) -> None:
        self.scheduler = scheduler
        self.tokenizer = tokenizer
        self.concurrency_max = concurrency_max
        self.price_usd_per_hour = price_usd_per_hour
        self._loop = asyncio.get_running_loop()
        self.failure: asyncio.Future[Exception] = self._loop.create_future()
        """The exception that the engine raised, once it has failed."""
        self._active: set[ActiveRequest] = set()
        self._closing = False
        self._share_seconds = 0.0  # the share of a request active since the queue was created
        self._share_until = time.monotonic()

    @property
    def active(self) -> int:
        """The number of active requests."""
        return len(self._active)

    @property
    def closing(self) -> bool:
        """Whether new requests are refused from now on."""
        return self._closing

    @property
    def failed(self) -> bool:
        """Whether the engine has failed."""
        if (fault := self.scheduler.fault) is not None and not self.failure.done():
            self.failure.set_result(fault)
        return self.failure.done()

    def check(self) -> None:
        """Raise QueueFull, QueueClosed or EngineFailed where no request would be admitted now."""
        if self.failed:
            raise EngineFailed
        if self._closing:
            raise QueueClosed
        if self.active >= self.concurrency_max:
            raise QueueFull

    def admit(self, job: Job) -> "ActiveRequest":
        """Start a request that the engine has prepared. Raises what `check` does.

        Use it as `async with queue.admit(job) as active: async for piece in active.pieces(): …`.
        """
        self.check()
        active = ActiveRequest(self, job)
        self._active.add(active)
        return active

    def stop_admitting(self) -> None:
        """Refuse new requests; the active ones continue."""
        self._closing = True

    def close(self) -> None:
        """Stop admitting and end the active requests: their readers get QueueClosed."""
        self.stop_admitting()
        for active in list(self._active):
            active.release()

    def _share(self) -> float:
        """Update the accumulated share; must be called before the number of active requests changes."""
        now = time.monotonic()
        if self._active:
            self._share_seconds += (now - self._share_until) / self.active
        self._share_until = now
        return self._share_seconds


class ActiveRequest:
    """A request being answered. Leaving its block ends the decoding and makes room for another request."""

    def __init__(self, queue: AdmissionQueue, job: Job) -> None:
        self._queue = queue
        self._events: asyncio.Queue[Event] = asyncio.Queue()
        self._stream = queue.scheduler.start(job, listener=self._on_event)
        self._share_before = queue._share()
        self._share_after: float | None = None
        self.generation: Generation | None = None
        """The whole answer, once its pieces have ended."""

    def _on_event(self, event: Event) -> None:
        self._queue._loop.call_soon_threadsafe(self._handle, event)

    def _handle(self, event: Event) -> None:
        if not isinstance(event, Piece):  # the answer is complete, however slowly it is read
            self._finish_accounting()
        self._events.put_nowait(event)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        self.release()

    async def pieces(self) -> AsyncIterator[Piece]:
        """The answer, piece by piece; none once it was read to its end.

        Raises QueueClosed where it is cancelled, RequestFailed or EngineFailed where the engine raises an exception.
        """
        if self.generation is not None:
            return
        while isinstance(event := await self._events.get(), Piece):
            yield event
        if event is None:
            raise QueueClosed
        if isinstance(event, Exception):
            raise (EngineFailed if self._queue.failed else RequestFailed) from event
        self.generation = event

    def release(self) -> None:
        """Stop decoding, if it has not ended yet, and make room for another request."""
        if self._share_after is None:
            self._finish_accounting()
            self._stream.cancel()

    def usage(self) -> UsageReport:
        """What the finished answer used."""
        generation, after = self.generation, self._share_after
        assert generation is not None
        assert after is not None
        seconds, price = after - self._share_before, self._queue.price_usd_per_hour
        decode = self._queue.tokenizer.decode

        def injected_text(i: Intervention) -> str:
            ids = list(generation.token_ids[i.position : i.position + i.tokens])
            return str(decode(ids, skip_special_tokens=False)) if ids else ""

        return UsageReport(
            policy=generation.policy,
            prompt_tokens=self._stream.prompt_tokens,
            thinking_tokens=generation.thinking_tokens,
            answer_tokens=generation.answer_tokens,
            trial_tokens=generation.trial_tokens,
            completion_tokens=len(generation.token_ids),
            machine_seconds=seconds,
            cost_usd=None if price is None else seconds * price / SECONDS_PER_HOUR,
            interventions=tuple(Forced(**i.model_dump(), text=injected_text(i)) for i in generation.interventions),
        )

    def _finish_accounting(self) -> None:
        if self._share_after is None:
            self._share_after = self._queue._share()
            self._queue._active.discard(self)
