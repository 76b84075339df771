"""Connections to a provider: kept open between calls, and which of their errors mean that nothing was sent."""

import ssl
import urllib.request
from urllib.parse import urlsplit

import aiohttp
import httpx2

from tenner import __version__
from tenner.clients.faults import Fault, from_status
from tenner.clients.protocol import Response

CONNECT_SECONDS = 10.0
UNSENT = (
    httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout, httpx2.ProxyError, httpx2.UnsupportedProtocol,
    aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError, aiohttp.ClientHttpProxyError,
    aiohttp.InvalidURL,
)  # fmt: skip
"""There was no connection: nothing has been asked, and nothing can have been charged."""


def fault_of(error: Exception) -> Fault:
    """What a client's error is: sent or not sent makes a difference of money."""
    said = str(error) or type(error).__name__
    return Fault("unreachable" if isinstance(error, UNSENT) else "interrupted", said)


class JSONPosts:
    """Posts JSON to one URL and hands the raw response back; a third of the work of a client that types it.

    A post is never repeated here, and its time has no limit apart from connecting: `calls.PaidCalls` does both.
    """

    def __init__(self, url: str, *, key: str) -> None:
        self._url, self._proxy = url, proxy_of(url)
        self._headers = {"Content-Type": "application/json", "User-Agent": f"tenner/{__version__}"}
        if key:
            self._headers["Authorization"] = f"Bearer {key}"
        self._session: aiohttp.ClientSession | None = None

    async def post(self, body: str) -> Response:
        """One attempt. Raises Fault for a broken connection and for a status other than success."""
        if self._session is None:
            self._session = self._open()
        try:
            async with self._session.post(self._url, data=body.encode(), proxy=self._proxy) as response:
                content = await response.read()
        except aiohttp.ClientError as e:
            raise fault_of(e) from None
        if not 200 <= response.status < 300:
            raise from_status(response.status, response.headers, content.decode("utf-8", "replace"))
        return Response(content, response.headers.get("content-type", ""))

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()

    def _open(self) -> aiohttp.ClientSession:
        """A session belongs to the event loop that runs when it is made."""
        # The same certificates as for the lists of models and batches, whatever the system's own are.
        certificates: ssl.SSLContext | bool = httpx2.create_ssl_context() if self._url.startswith("https") else True
        return aiohttp.ClientSession(
            headers=self._headers,
            connector=aiohttp.TCPConnector(limit=0, ssl=certificates),  # the loop bounds the calls in flight
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS),
            cookie_jar=aiohttp.DummyCookieJar(),
        )


def proxy_of(url: str) -> str | None:
    """The proxy that the environment names for a URL; looked up once, as a look-up takes as long as a call."""
    parts = urlsplit(url)
    if urllib.request.proxy_bypass(parts.netloc):
        return None
    proxies = urllib.request.getproxies()
    return proxies.get(parts.scheme) or proxies.get("all")
