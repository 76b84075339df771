"""HTTP connections to a provider, kept open between calls, and which of their errors mean that nothing was sent."""

import asyncio
import ssl
import urllib.request
from collections.abc import Mapping
from importlib.util import find_spec
from urllib.parse import urlsplit

import aiohttp
import httpx2

from tenner import __version__
from tenner.clients.faults import Fault, from_status, from_success, message_of
from tenner.clients.protocol import Response
from tenner.clients.response_body import DECODER, is_json, read_body, stream_of, without_comments
from tenner.core.errors import TennerError

CONNECT_SECONDS = 10.0
EVENT_STREAM = "text/event-stream"
BODY_BYTES = 64 << 20
"""What the body of a response may have, decompressed, where nothing else is said."""
ERROR_BYTES = 1 << 20
"""How much of the body of an error is read."""
SOCKS_SCHEMES = ("socks5", "socks5h")
UNSENT = (
    httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout, httpx2.ProxyError, httpx2.UnsupportedProtocol,
    aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError, aiohttp.ClientHttpProxyError,
    aiohttp.InvalidURL,
)  # fmt: skip
"""There was no connection: nothing was sent, and nothing can have been charged."""


def fault_of(error: Exception) -> Fault:
    """The fault of a connection error; a request that was sent may have been charged."""
    message = str(error) or type(error).__name__
    return Fault("unreachable" if isinstance(error, UNSENT) else "interrupted", message)


def cut_response(error: TimeoutError) -> Response | None:
    """What of a response had come when the time of `asyncio.timeout` was over; None if it is of no use."""
    found = error.__cause__.args[:1] if error.__cause__ is not None else ()
    return next((cut for cut in found if isinstance(cut, Response)), None)


def check_proxies() -> None:
    """Raise TennerError where the environment names a proxy that cannot be spoken to.

    The SDKs open connections for all proxies of the environment, whatever the URL that is asked.
    """
    for name, proxy in urllib.request.getproxies().items():
        scheme = urlsplit(proxy).scheme if "://" in proxy else "http"
        if name not in ("http", "https", "all") or scheme in ("http", "https"):
            continue
        if scheme not in SOCKS_SCHEMES:
            raise TennerError(
                f"the environment's {name}_proxy is a {scheme} proxy, which is not supported",
                hint=f"use an http, https or socks5 proxy, or unset {name}_proxy and {name.upper()}_PROXY",
            )
        if find_spec("socksio") is None:
            raise TennerError(
                f"the environment's {name}_proxy is a SOCKS proxy, which needs socksio",
                hint="pip install 'tenner[socks]'",
            )


def checked(response: Response) -> Response:
    """A response with HTTP 200, as it is. Raises Fault where it holds an error, a web page or nothing.

    Damaged JSON is returned: it was paid, and is stored.
    """
    try:
        fault = from_success(read_body(response.body))
    except (ValueError, RecursionError):
        if not without_comments(response.body):
            raise Fault("interrupted", "HTTP 200: the body is empty") from None
        if is_json(response.body):
            return response
        said = message_of(response.body.decode("utf-8", "replace"))
        raise Fault("not_json", f"HTTP 200: {said}") from None
    if fault is not None:
        raise fault
    return response


def checked_start(received: bytearray, content_type: str) -> Response:
    """The response that a body begins with which went on beyond its bound. Raises Fault where there is none."""
    text = received.decode("utf-8", "replace").lstrip()
    try:
        _, end = DECODER.raw_decode(text)
    except (ValueError, RecursionError):
        raise Fault("too_large", f"HTTP 200: the body has more than {len(received):,} bytes") from None
    return checked(Response(text[:end].encode(), content_type))


class JSONPosts:
    """Posts JSON to one URL and returns the raw response, at a third of the CPU time of an SDK that types it.

    A post is never retried here, and only connecting has a timeout: `PaidCalls` does both. No redirect is followed: it
    would send questions to an address that nobody named.
    """

    def __init__(self, url: str, *, key: str, bytes_max: int = BODY_BYTES) -> None:
        """`bytes_max` bounds the body of a response, decompressed."""
        self._url, self._proxy, self._bytes_max = url, proxy_of(url), bytes_max
        self._headers = {"Content-Type": "application/json", "User-Agent": f"tenner/{__version__}"}
        if key:
            self._headers["Authorization"] = f"Bearer {key}"
        self._session: aiohttp.ClientSession | None = None
        self._socks: httpx2.AsyncClient | None = None

    async def post(self, body: str, *, streamed: bool = False) -> Response:
        """One attempt. Raises Fault for a broken connection and for a status other than success.

        Of a `streamed` response what came before it broke off is returned, and its parser sees that it did: a part of
        its text was paid for, and is not bought again by itself. So is a whole completion whose connection broke or
        stayed open. Where the caller's time is over, that is in the CancelledError (see `cut_response`). A body beyond
        its bound is read no further; what it begins with is returned, if that is a response.
        """
        received = bytearray()
        try:
            status, headers, is_whole = await self._exchange("POST", self._url, body, received)
        except (aiohttp.ClientError, httpx2.RequestError) as e:
            if (response := _usable_part(received, streamed=streamed)) is None:
                raise fault_of(e) from None
            return response
        except asyncio.CancelledError as e:
            if (response := _usable_part(received, streamed=streamed)) is not None:
                e.args = (response,)
            raise
        _check_status(status, headers, received)
        response = Response(bytes(received), headers.get("content-type", ""))
        if streamed and stream_of(received) == "broken":
            return response
        return checked(response) if is_whole else checked_start(received, response.content_type)

    async def get(self, url: str) -> bytes:
        """The body of another resource of the same server. Raises Fault."""
        received = bytearray()
        try:
            status, headers, _ = await self._exchange("GET", url, None, received)
        except (aiohttp.ClientError, httpx2.RequestError) as e:
            raise fault_of(e) from None
        _check_status(status, headers, received)
        return bytes(received)

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()
        if self._socks is not None:
            await self._socks.aclose()

    async def _exchange(
        self, method: str, url: str, body: str | None, received: bytearray
    ) -> tuple[int, Mapping[str, str], bool]:
        """The status, the headers, and whether the body was within its bound; it is put into `received` as it comes."""
        data = None if body is None else body.encode()
        if self._proxy is not None and urlsplit(self._proxy).scheme in SOCKS_SCHEMES:
            return await self._exchange_by_socks(method, url, data, received)
        if self._session is None:
            self._session = self._open()
        async with self._session.request(method, url, data=data, proxy=self._proxy, allow_redirects=False) as response:
            async for chunk in response.content.iter_any():
                received += chunk
                if len(received) > self._bytes_max:
                    response.close()
                    return response.status, response.headers, False
        return response.status, response.headers, True

    async def _exchange_by_socks(
        self, method: str, url: str, data: bytes | None, received: bytearray
    ) -> tuple[int, Mapping[str, str], bool]:
        """The same through a SOCKS proxy, which aiohttp does not speak to."""
        if self._socks is None:
            self._socks = httpx2.AsyncClient(
                headers=self._headers, proxy=self._proxy, trust_env=False,
                limits=httpx2.Limits(max_connections=None), timeout=httpx2.Timeout(None, connect=CONNECT_SECONDS),
            )  # fmt: skip
        async with self._socks.stream(method, url, content=data) as response:
            async for chunk in response.aiter_bytes():
                received += chunk
                if len(received) > self._bytes_max:
                    return response.status_code, response.headers, False
        return response.status_code, response.headers, True

    def _open(self) -> aiohttp.ClientSession:
        """A new session, bound to the running event loop."""
        # The same certificates as the SDK uses for the lists of models and batches.
        certificates: ssl.SSLContext | bool = httpx2.create_ssl_context() if self._url.startswith("https") else True
        return aiohttp.ClientSession(
            headers=self._headers,
            connector=aiohttp.TCPConnector(limit=0, ssl=certificates),  # `PaidCalls` bounds the calls in flight
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS),
            cookie_jar=aiohttp.DummyCookieJar(),
        )


def _usable_part(received: bytearray, *, streamed: bool) -> Response | None:
    """What is worth keeping of a body that did not end: a part of a stream, or a whole completion."""
    if streamed and stream_of(received) is not None:
        return Response(bytes(received), EVENT_STREAM)
    try:
        whole = checked_start(received, "application/json")
        fields = DECODER.decode(whole.body.decode())
    except (Fault, ValueError, RecursionError):
        return None
    return whole if isinstance(fields, dict) and fields.get("choices") else None


def _check_status(status: int, headers: Mapping[str, str], received: bytearray) -> None:
    """Raise Fault for a status other than success."""
    if not 200 <= status < 300:
        raise from_status(status, headers, received[:ERROR_BYTES].decode("utf-8", "replace"))


def proxy_of(url: str) -> str | None:
    """The proxy that the environment names for a URL; looked up once, since a look-up takes as long as a call."""
    parts = urlsplit(url)
    if urllib.request.proxy_bypass(parts.netloc):
        return None
    proxies = urllib.request.getproxies()
    return proxies.get(parts.scheme) or proxies.get("all")
