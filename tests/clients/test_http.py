"""Connections to a provider: as many as are asked for, by the environment's proxy, each post sent once."""

import asyncio
import gzip
import json
import tracemalloc
from typing import Any

import pytest
from aiohttp import web
from paid import PRICE

from tenner.clients.chat_completion import parse_completion
from tenner.clients.faults import Fault
from tenner.clients.http import JSONPosts, check_proxies, cut_response, proxy_of
from tenner.clients.registry import client_for
from tenner.clients.response_body import stream_of
from tenner.core.errors import TennerError
from tenner.core.records import Usage
from tenner.core.sections import TraceSection

MANY = 150  # more than clients open by default


async def served(handle, use):
    """What `use` makes of the URL of a server on loopback that answers every post by `handle`."""
    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", handle)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0]
    try:
        return await use(f"http://{host}:{port}/v1/chat/completions")
    finally:
        await runner.cleanup()


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


def test_there_are_as_many_connections_as_calls():
    in_flight, all_there = set(), asyncio.Event()

    async def handle(request):
        in_flight.add(request.transport)
        if len(in_flight) == MANY:
            all_there.set()
        await all_there.wait()
        return web.json_response({"choices": []})

    async def use(url):
        posts = JSONPosts(url, key="")
        async with asyncio.timeout(20):
            responses = await asyncio.gather(*(posts.post("{}") for _ in range(MANY)))
        await posts.close()
        return responses

    responses = asyncio.run(served(handle, use))
    assert {r.body for r in responses} == {b'{"choices": []}'}
    assert responses[0].content_type.startswith("application/json")


def test_the_key_and_the_body_arrive_as_they_are():
    seen: dict[str, Any] = {}

    async def handle(request):
        seen.update(headers=dict(request.headers), body=await request.json())
        return web.json_response({})

    async def use(url):
        posts = JSONPosts(url, key="sk-1")
        await posts.post(json.dumps({"question": "1 + 2 = ؟"}))
        await posts.close()

    asyncio.run(served(handle, use))
    assert seen["headers"]["Authorization"] == "Bearer sk-1"
    assert seen["headers"]["Content-Type"] == "application/json"
    assert seen["body"] == {"question": "1 + 2 = ؟"}


def test_a_post_goes_by_the_proxy_that_the_environment_names(monkeypatch):
    asked = []

    async def handle(request):
        asked.append(str(request.url))
        return web.json_response({})

    async def use(url):
        monkeypatch.setenv("http_proxy", url.removesuffix("/v1/chat/completions"))
        posts = JSONPosts("http://api.example/v1/chat/completions", key="")
        await posts.post("{}")
        await posts.close()

    asyncio.run(served(handle, use))
    assert asked == ["http://api.example/v1/chat/completions"]


@pytest.mark.parametrize(
    ("environment", "url", "proxy"),
    [
        ({}, "https://api.example/v1", None),
        ({"https_proxy": "http://p:1"}, "https://api.example/v1", "http://p:1"),
        ({"http_proxy": "http://p:1"}, "https://api.example/v1", None),
        ({"all_proxy": "http://p:1"}, "https://api.example/v1", "http://p:1"),
        ({"https_proxy": "http://p:1", "no_proxy": "api.example"}, "https://api.example/v1", None),
    ],
)
def test_the_proxy_of_a_url(monkeypatch, environment, url, proxy):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert proxy_of(url) == proxy


@pytest.mark.parametrize(
    ("proxy", "message", "hint"),
    [("socks4://p:1", "all_proxy is a socks4 proxy", "socks5"), ("socks5h://p:1", "needs socksio", "tenner[socks]")],
)
def test_a_proxy_that_cannot_be_spoken_to_is_found_before_anything_is_asked(monkeypatch, proxy, message, hint):
    monkeypatch.setenv("ALL_PROXY", proxy)
    monkeypatch.setattr("tenner.clients.http.find_spec", lambda _: None)
    for client in ("openai", "gemini"):
        fields: dict[str, Any] = {"client": client, "base_url": "http://127.0.0.1:9/v1", "model": "m", "price": PRICE}
        with pytest.raises(TennerError, match=message) as caught:
            client_for(TraceSection(**fields), key="")
        assert hint in (caught.value.hint or "")


@pytest.mark.parametrize("proxy", ["p:1", "http://p:1", "https://p:1"])
def test_other_proxies_are_fine(monkeypatch, proxy):
    monkeypatch.setenv("ALL_PROXY", proxy)
    check_proxies()


async def relay_socks(reader, writer):
    """A SOCKS5 proxy (RFC 1928) that connects wherever it is asked to, without authentication."""
    _, methods = await reader.readexactly(2)
    await reader.readexactly(methods)
    writer.write(b"\x05\x00")
    _, _, _, kind = await reader.readexactly(4)
    length = 4 if kind == 1 else (await reader.readexactly(1))[0]
    address, port = await reader.readexactly(length), int.from_bytes(await reader.readexactly(2), "big")
    host = ".".join(map(str, address)) if kind == 1 else address.decode()
    there_reader, there_writer = await asyncio.open_connection(host, port)
    writer.write(b"\x05\x00\x00\x01" + bytes(6))

    async def copy(source, sink):
        while data := await source.read(65536):
            sink.write(data)
        sink.close()

    await asyncio.gather(copy(reader, there_writer), copy(there_reader, writer))


def test_a_post_goes_by_a_socks_proxy(monkeypatch):
    pytest.importorskip("socksio")
    asked = []

    async def handle(request):
        asked.append(await request.text())
        return web.json_response({"choices": []}, status=200 if len(asked) == 1 else 429)

    async def use(url):
        proxy = await asyncio.start_server(relay_socks, "127.0.0.1", 0)
        monkeypatch.setenv("ALL_PROXY", f"socks5h://127.0.0.1:{proxy.sockets[0].getsockname()[1]}")
        posts = JSONPosts(url, key="")
        response = await posts.post('{"a": 1}')
        with pytest.raises(Fault, match="rate_limited"):
            await posts.post('{"a": 2}')
        await posts.close()
        proxy.close()
        gone = JSONPosts(url, key="")
        with pytest.raises(Fault, match="unreachable"):
            await gone.post("{}")
        await gone.close()
        return response

    assert asyncio.run(served(handle, use)).body == b'{"choices": []}'
    assert asked == ['{"a": 1}', '{"a": 2}']


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/v1", "http://no-such-host.invalid/v1"])
def test_where_there_is_no_connection_nothing_was_asked(url):
    async def ask():
        posts = JSONPosts(url, key="")
        try:
            await posts.post("{}")
        finally:
            await posts.close()

    with pytest.raises(Fault) as e:
        asyncio.run(ask())
    assert e.value.kind == "unreachable"
    assert not e.value.rule.maybe_charged


GOOD = b'{"choices": [{"message": {"content": "7"}, "finish_reason": "stop"}]}'
EVENT = b'data: {"choices": [{"index": 0, "delta": {"content": "seven "}}]}\n\n'


async def posted(url, *, bytes_max=1 << 20, streamed=False, seconds=20.0):
    """The response to one post, or the fault."""
    posts = JSONPosts(url, key="sk-1", bytes_max=bytes_max)
    try:
        async with asyncio.timeout(seconds):
            return await posts.post("{}", streamed=streamed)
    except Fault as fault:
        return fault
    finally:
        await posts.close()


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed(status):
    async def go():
        reached = []

        async def elsewhere(request):
            reached.append(request.headers)
            return web.Response(body=GOOD)

        async def use(there):
            location = there + "?key=secret"

            async def here(request):  # noqa: ARG001
                return web.Response(status=status, headers={"location": location})

            return await served(here, posted)

        return await served(elsewhere, use), reached

    fault, reached = asyncio.run(go())
    assert (fault.kind, fault.rule.stops_the_run, fault.rule.maybe_charged, reached) == ("redirected", True, False, [])
    assert "the server redirects to http://127.0.0.1/v1/chat/completions" in fault.evidence
    assert "secret" not in fault.evidence


def endless(start, chunk):
    """A server whose body does not end."""

    async def handle(request):
        response = web.StreamResponse()
        await response.prepare(request)
        try:
            await response.write(start)
            while True:
                await response.write(chunk)
        except ConnectionError:
            return response

    return handle


def test_a_body_without_end_is_read_up_to_its_bound():
    fault = asyncio.run(served(endless(b'{"choices": "', b"x" * 65536), posted))
    assert (fault.kind, fault.rule.maybe_charged, fault.rule.retried) == ("too_large", True, False)


def test_a_response_before_an_endless_rest_is_kept():
    response = asyncio.run(served(endless(b"\n" + GOOD, b" " * 65536), posted))
    assert response.body == GOOD


def test_a_stream_without_end_keeps_what_came():
    response = asyncio.run(served(endless(b"", EVENT * 1000), lambda url: posted(url, streamed=True)))
    assert len(response.body) < 3 << 20
    assert stream_of(response.body) == "broken"
    assert parse_completion(response).usage == Usage()


def test_a_compressed_body_counts_as_what_it_unpacks_to():
    bomb = gzip.compress(GOOD + b" " * (64 << 20), 1)

    async def handle(request):  # noqa: ARG001
        return web.Response(body=bomb, headers={"content-encoding": "gzip"})

    tracemalloc.start()
    response = asyncio.run(served(handle, posted))
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert response.body == GOOD
    assert peak_bytes < 40 << 20


def test_a_stream_that_the_deadline_cuts_keeps_its_text():
    async def handle(request):
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(EVENT * 3)
        await asyncio.sleep(0.4)
        return response

    async def use(url):
        with pytest.raises(TimeoutError) as caught:
            await posted(url, streamed=True, seconds=0.2)
        return cut_response(caught.value)

    response = asyncio.run(served(handle, use))
    reply = parse_completion(response)
    assert (reply.outcome, reply.answer, reply.usage) == ("interrupted", "seven seven seven", Usage())
    assert cut_response(TimeoutError()) is None


@pytest.mark.parametrize("end", ["breaks", "stays open"])
def test_a_whole_completion_is_kept_although_its_connection_does_not_end(end):
    async def handle(request):
        response = web.StreamResponse(headers={"content-length": "5000"})
        await response.prepare(request)
        await response.write(GOOD)
        if end == "breaks":
            request.transport.abort()
        await asyncio.sleep(0.4)
        return response

    async def use(url):
        if end == "breaks":
            return await posted(url)
        with pytest.raises(TimeoutError) as caught:
            await posted(url, seconds=0.2)
        return cut_response(caught.value)

    assert asyncio.run(served(handle, use)).body == GOOD
