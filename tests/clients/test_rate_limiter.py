import asyncio
import time

from tenner.clients.rate_limiter import RateLimiter


def elapsed(limiter, turns, tokens=0.0):
    async def go():
        began = time.monotonic()
        await asyncio.gather(*(limiter.acquire(tokens, asyncio.Event()) for _ in range(turns)))
        return time.monotonic() - began

    return asyncio.run(go())


def test_without_limits_nothing_waits():
    assert elapsed(RateLimiter(requests_per_minute=None, tokens_per_minute=None), 1000, tokens=1e9) < 0.2


def test_requests_go_out_at_their_rate_after_a_short_burst():
    limiter = RateLimiter(requests_per_minute=600, tokens_per_minute=None)  # ten a second, a burst of twenty
    assert elapsed(limiter, 20) < 0.1
    assert 0.4 < elapsed(limiter, 5) < 0.9


def test_tokens_go_out_at_their_rate_and_a_large_call_is_paid_off_afterwards():
    limiter = RateLimiter(
        requests_per_minute=None, tokens_per_minute=60_000
    )  # a thousand a second, a burst of two thousand
    assert elapsed(limiter, 1, tokens=2500) < 0.1  # larger than the bucket: it goes out of a full one
    assert 0.4 < elapsed(limiter, 1, tokens=100) < 0.9


def test_a_wrong_estimate_is_corrected():
    limiter = RateLimiter(requests_per_minute=None, tokens_per_minute=60_000)
    elapsed(limiter, 1, tokens=2000)
    limiter.correct(-2000)
    assert elapsed(limiter, 1, tokens=10) < 0.1
    limiter.correct(2300)
    assert 0.2 < elapsed(limiter, 1, tokens=10) < 0.7


def test_a_hold_stops_everybody():
    limiter = RateLimiter(requests_per_minute=None, tokens_per_minute=None)
    limiter.hold(0.3)
    assert 0.25 < elapsed(limiter, 10) < 0.6


def test_who_is_stopped_waits_no_longer():
    limiter, stopped = RateLimiter(requests_per_minute=None, tokens_per_minute=None), asyncio.Event()
    limiter.hold(60)

    async def go():
        asyncio.get_running_loop().call_later(0.1, stopped.set)
        async with asyncio.timeout(5):
            await asyncio.gather(*(limiter.acquire(1, stopped) for _ in range(10)))

    asyncio.run(go())
