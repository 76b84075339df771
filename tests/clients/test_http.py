"""Connections to a provider: as many as are asked for, by the environment's proxy, each post sent once."""

import asyncio
import json

import pytest
from aiohttp import web

from tenner.clients.faults import Fault
from tenner.clients.http import JSONPosts, proxy_of

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
    seen = {}

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
