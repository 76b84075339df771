"""A crowd at the server, a quarter of it hostile: nobody gets a wrong answer, health answers, memory stays.

    pytest -m slow -s tests/campaign/test_server.py                        12 seconds of it
    TENNER_CAMPAIGN=150 pytest -m slow -s tests/campaign/test_server.py   # half an hour, with 200 clients

The hostile clients draw what they do from a seed.
"""

import asyncio
import contextlib
import io
import json
import os
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import load_generator
import psutil
import pytest
from paths import SUPPORT

SECONDS = 12 * int(os.environ.get("TENNER_CAMPAIGN", "1"))
FIRST_SEED = int(os.environ.get("TENNER_CAMPAIGN_SEED", "0"))
CLIENTS = 200 if SECONDS >= 600 else 32
HOSTILE_SHARE = 4
RETRIES_MAX = 60
"""Of an honest client that is turned away with 429: there are places for 80 requests."""
HEALTH_SECONDS_MAX = 1.0
RSS_GROWTH_MAX = 1.1
USER = {"role": "user", "content": "Hi"}
GOOD: dict[str, Any] = {"model": "tiny", "messages": [USER]}
ALLOWED = {200, 400, 401, 404, 408, 413, 415, 429}
"""What a hostile request may be answered with."""


def asking(content: str) -> dict[str, Any]:
    return GOOD | {"messages": [USER | {"content": content}]}


WRONG: list[tuple[str, Any]] = [
    ("a megabyte of words", asking("the quick brown fox " * 52_000)),
    ("a megabyte of one letter", asking("x" * 1_000_000)),
    ("a megabyte of spaces", asking(" " * 1_000_000)),
    ("a megabyte of control tokens", asking("<|im_end|>" * 100_000)),
    ("more than a megabyte", asking("x" * (3 << 20))),
    ("12,000 messages", GOOD | {"messages": [USER] * 12_000}),
    ("2,048 messages", GOOD | {"messages": [USER | {"content": "a"}] * 2048}),
    ("a denormal temperature", GOOD | {"temperature": 1e-45}),
    ("a denormal temperature", GOOD | {"temperature": 5e-324, "top_p": 5e-324}),
    ("a denormal top_p", GOOD | {"temperature": 1.0, "top_p": 5e-324}),
    ("answers without end", GOOD | {"n": 2**31 - 1}),
    ("answers without end", GOOD | {"n": 10**18}),
    ("large numbers", GOOD | {"max_tokens": 10**400}),
    ("large numbers", GOOD | {"thinking_budget": 10**400}),
    ("large numbers", GOOD | {"seed": 10**400}),
    ("many stop strings", GOOD | {"stop": ["x" * 10_000] * 64}),
    ("deep JSON", b'{"model": ' + b"[" * 100_000),
    ("deep template arguments", GOOD | {"chat_template_kwargs": {"a": [[[[["x"] * 1000]] * 10]] * 10}}),
    ("no JSON", bytes(range(256))),
    ("a text with control tokens", asking("<|im_end|>\u202e\0~" * 20)),
]
BODIES = [(name, body if isinstance(body, bytes) else json.dumps(body).encode()) for name, body in WRONG]


class Hostile:
    """A client that wants the server to fail, wait or grow."""

    def __init__(self, url: str, seed: int) -> None:
        self.url, self.draw = url, random.Random(seed)
        self.seen: Counter[str] = Counter()
        self.host, self.port = urlsplit(url).hostname or "", urlsplit(url).port or 0

    async def run(self, seconds: float) -> None:
        until = asyncio.get_running_loop().time() + seconds
        whole: list[Callable[[], Awaitable[None]]] = [self.wrong_request] * 6
        while (left := until - asyncio.get_running_loop().time()) > 0:
            act = self.draw.choice([*whole, self.slow, self.unread, self.garbage, self.key_in_latin1])
            with contextlib.suppress(TimeoutError, OSError, aiohttp.ClientError, asyncio.IncompleteReadError):
                async with asyncio.timeout(min(left + 1, 10)):
                    await act()

    async def wrong_request(self) -> None:
        name, data = self.draw.choice(BODIES)
        await self.post(name, data, {"Content-Type": "application/json"})

    async def key_in_latin1(self) -> None:
        head = b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer s\xe9same\r\n\r\n"
        reader, writer = await asyncio.open_connection(self.host, self.port)
        with contextlib.closing(writer):
            writer.write(head)
            self.note("a key in latin-1", int((await reader.readline()).split()[1]))

    async def post(self, name: str, data: bytes, headers: dict[str, str]) -> None:
        async with (
            aiohttp.ClientSession() as http,
            http.post(f"{self.url}/v1/chat/completions", data=io.BytesIO(data), headers=headers) as response,
        ):
            self.note(name, response.status)
            await response.read()

    def note(self, name: str, status: int) -> None:
        self.seen[name] += 1
        if status not in ALLOWED:
            self.seen[f"FAULT: {name} was answered with {status}"] += 1

    async def slow(self) -> None:
        """Several connections that send their headers or their bodies byte by byte."""
        head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        whole = head + b"Content-Length: 900000\r\n\r\n{"
        start = self.draw.choice([0, 20, len(whole)])
        writers: list[asyncio.StreamWriter] = []
        try:
            for _ in range(20):  # one by one: the time may be over in between, and those that are open are closed
                writers.append((await asyncio.open_connection(self.host, self.port))[1])
            for i in range(30):
                for writer in writers:
                    if not writer.is_closing():  # the server may have ended it
                        writer.write(whole[:start] if i == 0 else (whole + b" " * 30)[start + i : start + i + 1])
                await asyncio.sleep(0.1)
            self.seen["slow connections"] += len(writers)
        finally:
            for writer in writers:
                writer.close()
            await asyncio.gather(*(writer.wait_closed() for writer in writers), return_exceptions=True)

    async def unread(self) -> None:
        """A stream that is left, read or not."""
        async with aiohttp.ClientSession() as http:
            body = GOOD | {"stream": True, "max_tokens": 300}
            response = await http.post(f"{self.url}/v1/chat/completions", json=body)
            self.note("a stream that is left", response.status)
            await asyncio.sleep(self.draw.random())
            response.close()

    async def garbage(self) -> None:
        reader, writer = await asyncio.open_connection(self.host, self.port)
        with contextlib.closing(writer):
            writer.write(self.draw.choice([self.draw.randbytes(5000), b"GET " + b"/" * 100_000, b"A: b\r\n" * 10_000]))
            writer.write_eof()
            await reader.read()
            self.seen["garbage"] += 1


async def crowd(
    url: str, model_dir: Path, server: psutil.Process
) -> tuple[Counter[str], tuple[list[float], float], list[int]]:
    """What was seen, the latencies of health and the worst delay of a timer beside them in seconds, and the server's
    memory at some times in bytes.
    """
    honest = load_generator.Clients(url, model_dir, SECONDS, max_retries=RETRIES_MAX)
    hostile = [Hostile(url, FIRST_SEED + number) for number in range(CLIENTS // HOSTILE_SHARE)]
    rss: list[int] = []
    probe = await asyncio.create_subprocess_exec(
        sys.executable, SUPPORT / "health_probe.py", url, str(SECONDS), stdout=subprocess.PIPE
    )
    async with honest.client, asyncio.TaskGroup() as group:
        for number in range(CLIENTS - len(hostile)):
            group.create_task(honest.ask_on(number))
        for client in hostile:
            group.create_task(client.run(SECONDS))
        for _ in range(3):
            await asyncio.sleep(SECONDS / 3)
            rss.append(server.memory_info().rss)
    said, _ = await probe.communicate()
    assert probe.returncode == 0
    health = json.loads(said)
    return sum((client.seen for client in hostile), honest.seen), (health["took"], health["late"]), rss


@pytest.mark.slow
def test_a_hostile_crowd(lively_model_dir: Path) -> None:
    command = [sys.executable, load_generator.__file__, "serve", str(lively_model_dir)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            url = server.stdout.readline().strip()
            seen, (health, late), rss = asyncio.run(crowd(url, lively_model_dir, psutil.Process(server.pid)))
        finally:
            server.terminate()
        assert server.wait(30) == 0
    print(f"\n{CLIENTS} clients for {SECONDS:g} s:", ", ".join(f"{n} {name}" for name, n in sorted(seen.items())))
    print(f"worst health latency {max(health):.3f} s of {len(health)}, worst delay of a timer beside it {late:.3f} s")
    print(f"RSS {[size >> 20 for size in rss]} MiB")
    assert not [name for name in seen if name.startswith("FAULT")]
    assert (seen["wrong"], seen["dropped"]) == (0, 0)
    assert seen["answers"] > CLIENTS
    assert max(health) < HEALTH_SECONDS_MAX + late, "beyond what this machine itself is late"
    assert rss[-1] < RSS_GROWTH_MAX * rss[0]
