"""The connections of the server: how many there may be, and how long each may take to send a request.

aiohttp waits for the rest of a request as long as its connection lasts. So every connection has a deadline while it is
idle or sends a request, and where there are too many, the one that has been waited for longest makes room.
"""

import asyncio
import resource
from typing import NamedTuple, cast

REQUEST_SECONDS = 15.0
IDLE_SECONDS = 75.0
"""Longer than common clients keep a connection that they may use again."""
CONNECTIONS_MAX = 512
FILES_SHARE = 2
"""Connections get at most this fraction, 1 / FILES_SHARE, of the files that the process may have open."""


class ConnectionLimits(NamedTuple):
    """What connections may take."""

    request_seconds: float = REQUEST_SECONDS
    """From the first byte of a request, or the start of the connection, to the last byte of the body."""
    idle_seconds: float = IDLE_SECONDS
    """From the end of a handler to the next request; a response that the client does not read counts, too."""
    connections_max: int = CONNECTIONS_MAX


class Connections:
    """All connections of a server; `protocol` is the factory of its protocols, as for `loop.create_server`."""

    def __init__(self, limits: ConnectionLimits) -> None:
        files_max, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        most = limits.connections_max
        if files_max != resource.RLIM_INFINITY:
            most = min(most, files_max // FILES_SHARE)
        self._limits = limits._replace(connections_max=most)
        self._open: dict[asyncio.BaseTransport, _Connection] = {}

    def __len__(self) -> int:
        return len(self._open)

    def protocol(self, inner: asyncio.Protocol) -> asyncio.Protocol:
        """The protocol of a new connection around the one that reads its requests."""
        return _Connection(self, inner, self._limits)

    def answering(self, transport: asyncio.BaseTransport | None) -> None:
        """The whole request has been read: from now on the client waits for the server."""
        if connection := self._of(transport):
            connection.wait_for(None)

    def idle(self, transport: asyncio.BaseTransport | None) -> None:
        """The request has been answered: the server waits for the client to read it, and to send another."""
        if connection := self._of(transport):
            connection.wait_for(self._limits.idle_seconds)

    def _of(self, transport: asyncio.BaseTransport | None) -> "_Connection | None":
        """None: the client has disconnected."""
        return None if transport is None else self._open.get(transport)

    def _add(self, transport: asyncio.BaseTransport, connection: "_Connection") -> None:
        self._open[transport] = connection
        if len(self._open) > self._limits.connections_max:
            waited_for = [one for one in self._open.values() if one.since is not None]
            min(waited_for, key=lambda one: cast(float, one.since)).abort()  # the new one is among them

    def _remove(self, transport: asyncio.BaseTransport) -> None:
        self._open.pop(transport, None)


class _Connection(asyncio.Protocol):
    """Passes everything on to the protocol inside, and ends a connection that is waited for too long."""

    def __init__(self, all_open: Connections, inner: asyncio.Protocol, limits: ConnectionLimits) -> None:
        self._all, self._inner, self._limits = all_open, inner, limits
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._sends = False
        self.since: float | None = None
        """When the server began to wait for the client, in the loop's time; None: the client waits."""

    def wait_for(self, seconds: float | None, *, sends: bool = False) -> None:
        """Wait for the client so long; None: it waits for the server. `sends`: it has begun to send a request."""
        if self._timer is not None:
            self._timer.cancel()
        loop = asyncio.get_running_loop()
        self._sends = sends
        self._timer = None if seconds is None else loop.call_later(seconds, self.abort)
        self.since = None if seconds is None else loop.time()

    def abort(self) -> None:
        """End the connection at once."""
        assert self._transport is not None
        self._all._remove(self._transport)  # room is made now, not when the loop has closed it
        self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self.wait_for(self._limits.request_seconds, sends=True)
        self._inner.connection_made(transport)
        self._all._add(transport, self)

    def data_received(self, data: bytes) -> None:
        if self.since is not None and not self._sends:
            self.wait_for(self._limits.request_seconds, sends=True)
        self._inner.data_received(data)

    def eof_received(self) -> bool | None:
        return self._inner.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        self.wait_for(None)
        if self._transport is not None:
            self._all._remove(self._transport)
        self._inner.connection_lost(exc)

    def pause_writing(self) -> None:
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        self._inner.resume_writing()
