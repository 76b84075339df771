"""How fast calls may go out: requests and tokens per minute, and a pause for everybody when the server asks for one."""

import asyncio
import time

BURST_SECONDS = 2.0  # how much of a minute's allowance may go out at once


class RateLimiter:
    """Two leaky buckets and a barrier. A limit of None does not limit.

    Tokens are known only afterwards: a call goes out on an estimate, and `correct` pays the difference.
    """

    def __init__(self, *, requests_per_minute: int | None, tokens_per_minute: int | None) -> None:
        self._buckets = [_Bucket(requests_per_minute), _Bucket(tokens_per_minute)]
        self._held_until = 0.0

    async def turn(self, tokens: float) -> None:
        """Wait until a call of about so many tokens may go out."""
        while (delay := self._delay_seconds()) > 0:
            await asyncio.sleep(delay)
        requests, all_tokens = self._buckets
        requests.take(1)
        all_tokens.take(tokens)

    def correct(self, tokens: float) -> None:
        """Take (or, below zero, give back) what a call used beyond its estimate."""
        self._buckets[1].take(tokens)

    def hold(self, seconds: float) -> None:
        """Let no call out for so long: the server has said that it is too much."""
        self._held_until = max(self._held_until, time.monotonic() + seconds)

    def _delay_seconds(self) -> float:
        held = self._held_until - time.monotonic()
        return max(held, *(bucket.delay_seconds() for bucket in self._buckets))


class _Bucket:
    """Fills at the allowed rate up to a short burst; it may be overdrawn by what was not known beforehand."""

    def __init__(self, per_minute: int | None) -> None:
        self._per_second = None if per_minute is None else per_minute / 60
        self._size = max(1.0, (self._per_second or 0) * BURST_SECONDS)
        self._level, self._seen = self._size, time.monotonic()

    def delay_seconds(self) -> float:
        """How long until something may be taken."""
        if self._per_second is None:
            return 0.0
        now = time.monotonic()
        self._level = min(self._size, self._level + (now - self._seen) * self._per_second)
        self._seen = now
        # One request, or a first token: a call larger than the bucket goes out of a full one and overdraws it.
        return max(0.0, (1.0 - self._level) / self._per_second)

    def take(self, amount: float) -> None:
        self._level -= amount
