"""Several servers of one student: each job goes to the least busy one, and on to another where that fails."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import openai

from tenner.core.errors import TennerError


class Server:
    """One of the servers."""

    def __init__(self, base_url: str, api_key: str) -> None:
        self.base_url = base_url
        self.client = openai.OpenAI(base_url=base_url, api_key=api_key)
        self.jobs = 0
        """Those under way."""
        self.error: TennerError | None = None
        """Why it is set aside."""


class Lease:
    """A job's place at a server."""

    def __init__(self, servers: "Servers", server: Server) -> None:
        self._servers, self.server = servers, server

    def move(self, error: TennerError) -> None:
        """Set the server aside, for it failed with this error, and take another. Raises the error if there is none."""
        self.server = self._servers.replace(self.server, error)


class Servers:
    """Servers that answer alike. Thread-safe. One that fails is set aside for as long as this object lives."""

    def __init__(self, base_urls: Sequence[str], *, api_key: str, say: Callable[[str], None] = lambda _: None) -> None:
        """`say` gets a line about each server that is set aside."""
        self._servers = [Server(url, api_key) for url in base_urls]
        self._say = say
        self._lock = threading.Lock()

    @contextmanager
    def lease(self) -> Iterator[Lease]:
        """A place at the least busy server; where all are set aside, at the first, whose error is then seen again."""
        with self._lock:
            server = self._take()
            if server is None:
                server = self._servers[0]
                server.jobs += 1
            lease = Lease(self, server)
        try:
            yield lease
        finally:
            with self._lock:
                lease.server.jobs -= 1

    def replace(self, server: Server, error: TennerError) -> Server:
        """Another server in the place of one that failed. Raises TennerError where all have failed."""
        with self._lock:
            is_news, server.error = server.error is None, server.error or error
            other = self._take()
            if other is not None:
                server.jobs -= 1
        if other is None:
            if len(self._servers) == 1:
                raise error
            errors = "; ".join(str(s.error) for s in self._servers)
            raise TennerError(f"all {len(self._servers)} servers have failed: {errors}", hint=error.hint) from error
        if is_news:
            self._say(f"{server.base_url} is set aside, its questions go to the other servers: {error}")
        return other

    def _take(self) -> Server | None:
        found = min((s for s in self._servers if s.error is None), key=lambda s: s.jobs, default=None)
        if found is not None:
            found.jobs += 1
        return found
