"""Connections that are slow, idle or too many, at a real port."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from aiohttp import web

from tenner.inference.server.connections import ConnectionLimits, Connections

HEAD = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n"
WHOLE = HEAD + b"0123456789"
LIMITS = ConnectionLimits(request_seconds=0.1, idle_seconds=1.0, connections_max=3)
Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Server:
    """Answers a request whose body has come, `held` ones when the test ends."""

    def __init__(self, limits: ConnectionLimits) -> None:
        self.connections = Connections(limits)
        self.release = asyncio.Event()
        self.release.set()
        self.port = 0
        self.opened: list[asyncio.StreamWriter] = []

    async def handle(self, request: web.BaseRequest) -> web.Response:
        try:
            await request.read()
            self.connections.answering(request.transport)
            await self.release.wait()
            return web.Response(text="done")
        finally:
            self.connections.idle(request.transport)

    async def connect(self, data: bytes = b"") -> Connection:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        self.opened.append(writer)
        writer.write(data)
        return reader, writer


@contextlib.asynccontextmanager
async def served(limits: ConnectionLimits) -> AsyncIterator[Server]:
    server = Server(limits)
    inner = web.Server(server.handle)
    listener = await asyncio.get_running_loop().create_server(
        lambda: server.connections.protocol(inner()), "127.0.0.1", 0
    )
    server.port = listener.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        listener.close()
        server.release.set()
        for writer in server.opened:
            writer.close()
        await inner.shutdown(1)


def run(test: Callable[[Server], Awaitable[None]], limits: ConnectionLimits = LIMITS) -> None:
    async def inside() -> None:
        async with served(limits) as server, asyncio.timeout(10):
            await test(server)

    asyncio.run(inside())


async def ended_after(connection: Connection, trickle: bytes = b"") -> float:
    """The seconds until the server ends the connection, while a byte is sent every 50 ms."""
    reader, writer = connection
    loop = asyncio.get_running_loop()
    began, end = loop.time(), asyncio.create_task(reader.read())
    for i in range(100):
        with contextlib.suppress(ConnectionError):
            writer.write(trickle[i : i + 1])
        if (await asyncio.wait([end], timeout=0.05))[0]:
            break
    with contextlib.suppress(ConnectionError):
        await end
    return loop.time() - began


def test_a_request_that_does_not_come_ends_its_connection() -> None:
    async def test(server: Server) -> None:
        for first, trickle in ((b"", b""), (b"", WHOLE), (HEAD[:9], HEAD[9:]), (HEAD, b"01234567")):
            seconds = await ended_after(await server.connect(first), trickle)
            assert 0.05 < seconds < 1.5, (first, trickle)

    run(test)


@pytest.mark.slow
def test_a_connection_is_kept_for_the_next_request_and_not_for_ever() -> None:
    async def test(server: Server) -> None:
        reader, writer = await server.connect(WHOLE)
        for _ in range(2):
            assert (await reader.readuntil(b"done")).startswith(b"HTTP/1.1 200")
            await asyncio.sleep(0.2)  # longer than a request may take
            writer.write(WHOLE)
        await reader.readuntil(b"done")
        assert 0.8 < await ended_after((reader, writer)) < 3
        late = await server.connect(WHOLE)
        await late[0].readuntil(b"done")
        assert await ended_after(late, WHOLE) < 0.9, "a trickled second request has the time of a request"

    run(test)


def test_a_client_that_waits_for_its_answer_has_time() -> None:
    async def test(server: Server) -> None:
        server.release.clear()
        reader, _ = await server.connect(WHOLE)
        await asyncio.sleep(0.3)
        server.release.set()
        await reader.readuntil(b"done")

    run(test)


def test_where_there_are_too_many_the_oldest_that_sends_nothing_makes_room() -> None:
    async def test(server: Server) -> None:
        server.release.clear()
        answered = await server.connect(WHOLE)
        await asyncio.sleep(0.1)
        oldest, second = await server.connect(HEAD), await server.connect()
        await asyncio.sleep(0.1)
        newest = await server.connect(WHOLE)
        assert await ended_after(oldest) < 1
        assert len(server.connections) == 3
        server.release.set()
        for reader, _ in (answered, newest):
            await reader.readuntil(b"done")
        second[1].write(WHOLE)
        await second[0].readuntil(b"done")

    run(test, LIMITS._replace(request_seconds=30, idle_seconds=30))


def test_a_connection_beyond_those_that_are_answered_is_refused() -> None:
    async def test(server: Server) -> None:
        server.release.clear()
        answered = [await server.connect(WHOLE) for _ in range(3)]
        await asyncio.sleep(0.1)
        assert await ended_after(await server.connect(WHOLE)) < 1
        server.release.set()
        for reader, _ in answered:
            await reader.readuntil(b"done")

    run(test, LIMITS._replace(request_seconds=30))
