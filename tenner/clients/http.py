"""HTTP connections to a provider, kept open between calls, and which of their errors mean that nothing was sent."""

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
from tenner.clients.response_body import is_json, read_body, stream_of, without_comments
from tenner.core.errors import TennerError

CONNECT_SECONDS = 10.0
EVENT_STREAM = "text/event-stream"
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


class JSONPosts:
    """Posts JSON to one URL and returns the raw response, at a third of the CPU time of an SDK that types it.

    A post is never retried here, and only connecting has a timeout: `PaidCalls` does both.
    """

    def __init__(self, url: str, *, key: str) -> None:
        self._url, self._proxy = url, proxy_of(url)
        self._headers = {"Content-Type": "application/json", "User-Agent": f"tenner/{__version__}"}
        if key:
            self._headers["Authorization"] = f"Bearer {key}"
        self._session: aiohttp.ClientSession | None = None
        self._socks: httpx2.AsyncClient | None = None

    async def post(self, body: str, *, streamed: bool = False) -> Response:
        """One attempt. Raises Fault for a broken connection and for a status other than success.

        Of a `streamed` response what came before it broke off is returned, and its parser sees that it did: a part of
        its text was paid for, and is not bought again by itself.
        """
        received, post = bytearray(), self._post
        if self._proxy is not None and urlsplit(self._proxy).scheme in SOCKS_SCHEMES:
            post = self._post_by_socks
        try:
            status, headers = await post(body, received)
        except (aiohttp.ClientError, httpx2.RequestError) as e:
            if not streamed or stream_of(received) is None:
                raise fault_of(e) from None
            status, headers = 200, {"content-type": EVENT_STREAM}
        if not 200 <= status < 300:
            raise from_status(status, headers, received.decode("utf-8", "replace"))
        response = Response(bytes(received), headers.get("content-type", ""))
        return response if streamed and stream_of(received) == "broken" else checked(response)

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()
        if self._socks is not None:
            await self._socks.aclose()

    async def _post(self, body: str, received: bytearray) -> tuple[int, Mapping[str, str]]:
        """The status and the headers; the body is put into `received` as it arrives."""
        if self._session is None:
            self._session = self._open()
        async with self._session.post(self._url, data=body.encode(), proxy=self._proxy) as response:
            async for chunk in response.content.iter_any():
                received += chunk
        return response.status, response.headers

    async def _post_by_socks(self, body: str, received: bytearray) -> tuple[int, Mapping[str, str]]:
        """The same through a SOCKS proxy, which aiohttp does not speak to."""
        if self._socks is None:
            self._socks = httpx2.AsyncClient(
                headers=self._headers, proxy=self._proxy, trust_env=False,
                limits=httpx2.Limits(max_connections=None), timeout=httpx2.Timeout(None, connect=CONNECT_SECONDS),
            )  # fmt: skip
        async with self._socks.stream("POST", self._url, content=body.encode()) as response:
            async for chunk in response.aiter_bytes():
                received += chunk
        return response.status_code, response.headers

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


def proxy_of(url: str) -> str | None:
    """The proxy that the environment names for a URL; looked up once, since a look-up takes as long as a call."""
    parts = urlsplit(url)
    if urllib.request.proxy_bypass(parts.netloc):
        return None
    proxies = urllib.request.getproxies()
    return proxies.get(parts.scheme) or proxies.get("all")
