"""The client that answers from another run's store: what was paid for once, for nothing."""

import sqlite3
from pathlib import Path

from tenner.clients.faults import Fault
from tenner.clients.protocol import Call, Client, Reply, Request, Response, stamp
from tenner.core.errors import TennerError
from tenner.core.records import Usage


class ReplayClient:
    """Asks as `original` would and finds its responses in `database`, at no price."""

    secret = ""

    def __init__(self, original: Client, database: Path) -> None:
        """Raises TennerError: there is no such database."""
        if not database.is_file():
            raise TennerError(f"{database} does not exist", hint="trace.replay_from is the folder of another run")
        self._original = original
        self._db = sqlite3.connect(f"{database.absolute().as_uri()}?mode=ro", uri=True)
        self.price = original.price._replace(
            input_usd_per_mtok=0.0, output_usd_per_mtok=0.0, cached_input_usd_per_mtok=None, peak=None,
            source=f"replayed from {database.parent}",
        )  # fmt: skip
        self.reasoning_is_summary = original.reasoning_is_summary

    async def check(self) -> None:
        """There is nobody to ask."""

    def request(self, call: Call) -> Request:
        """What the original would send: the key is the same."""
        return self._original.request(call)

    def worst_case_usage(self, call: Call, request: Request) -> Usage:
        """It costs nothing, however long."""
        return self._original.worst_case_usage(call, request)

    async def send(self, call: Call, request: Request) -> Response:
        """Look the response up. Raises Fault `not_stored`."""
        key = stamp(self.price, request, call.sample_index).key
        row = self._db.execute("SELECT body, content_type FROM responses WHERE key = ?", (key,)).fetchone()
        if row is None:
            raise Fault("not_stored", "the other run never asked this with the same parameters")
        return Response(*row)

    def parse(self, response: Response) -> Reply:
        """As the original does."""
        return self._original.parse(response)

    async def close(self) -> None:
        """Close the database, and the original."""
        self._db.close()
        await self._original.close()
