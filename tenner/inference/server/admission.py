"""The queue: where requests take one of a limited number of seats, and learn what their answer took."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Self

from tenner.core.formats import Tokenizer
from tenner.core.records import Intervention, Policy, Record
from tenner.inference.engine import Generation, Piece
from tenner.inference.job import Request
from tenner.inference.scheduler import Event, Scheduler

SECONDS_PER_HOUR = 3600.0


class QueueFull(Exception):
    """Every seat is taken: try again when one is free."""


class QueueClosed(Exception):
    """The queue closes, and the answer will not be finished."""


class EngineFailed(Exception):
    """The engine has failed: this answer will not be finished, and no other begun."""


class Forced(Intervention):
    """An intervention with the words that it put in."""

    text: str


class UsageReport(Record):
    """What an answer took, and what was done to it."""

    policy: Policy
    prompt_tokens: int
    thinking_tokens: int
    answer_tokens: int
    """Sampled ones: delimiters and cue are counted in `completion_tokens` only."""
    completion_tokens: int
    """All that came after the prompt."""
    machine_seconds: float
    """Its share of the machine: the time of every moment is divided equally among the answers under way in it."""
    cost_usd: float | None
    """`machine_seconds` at the price of the machine. None: nobody has said what it costs."""
    interventions: tuple[Forced, ...]


class AdmissionQueue:
    """The seats before one scheduler; it belongs to the event loop that runs when it is made."""

    def __init__(
        self, scheduler: Scheduler, tokenizer: Tokenizer, *, seats: int, price_usd_per_hour: float | None
    ) -> None:
        self.scheduler = scheduler
        self.tokenizer = tokenizer
        self.seats = seats
        self.price_usd_per_hour = price_usd_per_hour
        self._loop = asyncio.get_running_loop()
        self.failure: asyncio.Future[Exception] = self._loop.create_future()
        """What the engine raised, should it fail."""
        self._taken: set[ActiveRequest] = set()
        self._closing = False
        self._share_seconds = 0.0  # what a seat taken since the beginning would have used
        self._share_until = time.monotonic()

    @property
    def taken(self) -> int:
        """Answers under way."""
        return len(self._taken)

    @property
    def closing(self) -> bool:
        """Whether new requests are turned away for good."""
        return self._closing

    def seat(self, request: Request) -> "ActiveRequest":
        """Begin an answer: `async with queue.seat(request) as seat: async for piece in seat.pieces(): …`.

        Raises:
            QueueFull, QueueClosed, EngineFailed: there is no seat now, or never again.
            TennerError: the engine cannot do what is asked; NoRoom where it does not fit into the context.
        """
        if self.failure.done():
            raise EngineFailed
        if self._closing:
            raise QueueClosed
        if self.taken >= self.seats:
            raise QueueFull
        seat = ActiveRequest(self, request)
        self._taken.add(seat)
        return seat

    def close_door(self) -> None:
        """Turn new requests away; those under way go on."""
        self._closing = True

    def close(self) -> None:
        """End the answers that are still under way: their readers get QueueClosed."""
        self.close_door()
        for seat in list(self._taken):
            seat.leave()

    def _share(self) -> float:
        """Bring the shares up to now: to be called before the number of seats taken changes."""
        now = time.monotonic()
        if self._taken:
            self._share_seconds += (now - self._share_until) / self.taken
        self._share_until = now
        return self._share_seconds


class ActiveRequest:
    """One answer under way. Leaving it, for whatever reason, frees it for others and ends its decoding."""

    def __init__(self, queue: AdmissionQueue, request: Request) -> None:
        self._queue, self._request = queue, request
        self._events: asyncio.Queue[Event] = asyncio.Queue()
        self._stream = queue.scheduler.submit(request, listener=self._hear)
        self._share_before = queue._share()
        self._share_after: float | None = None
        self.generation: Generation | None = None
        """The whole answer, when its pieces have come to an end."""

    def _hear(self, event: Event) -> None:
        self._queue._loop.call_soon_threadsafe(self._note, event)

    def _note(self, event: Event) -> None:
        if isinstance(event, Exception) and not self._queue.failure.done():
            self._queue.failure.set_result(event)
        if not isinstance(event, Piece):  # it is over: the seat is free however slowly the answer is read
            self._rise()
        self._events.put_nowait(event)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        self.leave()

    async def pieces(self) -> AsyncIterator[Piece]:
        """The answer as it comes. Raises QueueClosed where it was broken off, and EngineFailed where the engine was."""
        while isinstance(event := await self._events.get(), Piece):
            yield event
        if event is None:
            raise QueueClosed
        if isinstance(event, Exception):
            raise EngineFailed from event
        self.generation = event

    def leave(self) -> None:
        """Give the seat up."""
        if self._share_after is None:
            self._rise()
            self._stream.cancel()

    def usage(self) -> UsageReport:
        """What the finished answer took."""
        generation, after = self.generation, self._share_after
        assert generation is not None
        assert after is not None
        seconds, price = after - self._share_before, self._queue.price_usd_per_hour
        decode = self._queue.tokenizer.decode

        def words(i: Intervention) -> str:
            ids = list(generation.token_ids[i.position : i.position + i.tokens])
            return str(decode(ids, skip_special_tokens=False)) if ids else ""

        return UsageReport(
            policy=generation.policy,
            prompt_tokens=self._stream.prompt_tokens,
            thinking_tokens=generation.thinking_tokens,
            answer_tokens=generation.answer_tokens,
            completion_tokens=len(generation.token_ids),
            machine_seconds=seconds,
            cost_usd=None if price is None else seconds * price / SECONDS_PER_HOUR,
            interventions=tuple(Forced(**i.model_dump(), text=words(i)) for i in generation.interventions),
        )

    def _rise(self) -> None:
        if self._share_after is None:
            self._share_after = self._queue._share()
            self._queue._taken.discard(self)
