"""HTTP connections to a provider, kept open between calls, and which of their errors mean that nothing was sent."""

import ssl
import urllib.request
from urllib.parse import urlsplit

import aiohttp
import httpx2

from tenner import __version__
from tenner.clients.faults import Fault, from_status, from_success, message_of
from tenner.clients.protocol import Response
from tenner.clients.response_body import is_web_page, read_body

CONNECT_SECONDS = 10.0
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


def checked(response: Response) -> Response:
    """A response with HTTP 200, as it is. Raises Fault where it holds an error or a web page and no completion.

    A body that cannot be read is returned: it was paid, and is kept.
    """
    try:
        fault = from_success(read_body(response.body))
    except (ValueError, RecursionError):
        if is_web_page(response.body):
            said = message_of(response.body.decode("utf-8", "replace"))
            raise Fault("web_page", f"HTTP 200: {said}") from None
        return response
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
        return checked(Response(content, response.headers.get("content-type", "")))

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()

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
