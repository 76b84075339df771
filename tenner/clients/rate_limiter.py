"""How fast calls may be sent: requests and tokens per minute, and a pause of all calls when the server asks for one."""

import asyncio
import time

BURST_SECONDS = 2.0  # so many seconds' allowance may be sent at once


class RateLimiter:
    """Two token buckets, of requests and of tokens, and a common pause. A limit of None does not limit.

    Usage is known only afterwards: a call takes an estimate, and `correct` takes the difference.
    """

    def __init__(self, *, requests_per_minute: int | None, tokens_per_minute: int | None) -> None:
        self._buckets = [_Bucket(requests_per_minute), _Bucket(tokens_per_minute)]
        self._held_until = 0.0

    async def acquire(self, tokens: float, stopped: asyncio.Event) -> None:
        """Wait until a call of about so many tokens may be sent, or `stopped` is set, and take its share."""
        while (delay := self._delay_seconds()) > 0 and not stopped.is_set():
            await sleep(delay, stopped)
        requests, all_tokens = self._buckets
        requests.take(1)
        all_tokens.take(tokens)

    def correct(self, tokens: float) -> None:
        """Take what a call used beyond its estimate; a negative amount is given back."""
        self._buckets[1].take(tokens)

    def hold(self, seconds: float) -> None:
        """Send no call for so long, because the server is rate-limiting."""
        self._held_until = max(self._held_until, time.monotonic() + seconds)

    def _delay_seconds(self) -> float:
        held = self._held_until - time.monotonic()
        return max(held, *(bucket.delay_seconds() for bucket in self._buckets))


async def sleep(seconds: float, stopped: asyncio.Event) -> None:
    """Sleep for so long, or until `stopped` is set."""
    try:
        async with asyncio.timeout(seconds):
            await stopped.wait()
    except TimeoutError:
        pass


class _Bucket:
    """Fills at the allowed rate up to a short burst; it may be overdrawn by usage beyond an estimate."""

    def __init__(self, per_minute: int | None) -> None:
        self._per_second = None if per_minute is None else per_minute / 60
        self._size = max(1.0, (self._per_second or 0) * BURST_SECONDS)
        self._level, self._seen = self._size, time.monotonic()

    def delay_seconds(self) -> float:
        """The time until something may be taken."""
        if self._per_second is None:
            return 0.0
        now = time.monotonic()
        self._level = min(self._size, self._level + (now - self._seen) * self._per_second)
        self._seen = now
        # One request, or one token, is enough: a call larger than the bucket is sent all the same and overdraws it.
        return max(0.0, (1.0 - self._level) / self._per_second)

    def take(self, amount: float) -> None:
        self._level -= amount
