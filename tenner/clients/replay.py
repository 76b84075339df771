"""A client that answers from the store of another run, free of charge."""

import sqlite3
from pathlib import Path

from tenner.budget.ledger_database import sqlite_errors
from tenner.budget.prices import Price
from tenner.clients.faults import Fault
from tenner.clients.protocol import Call, Client, Reply, Request, Response, keyed_request
from tenner.core.errors import TennerError
from tenner.core.records import Usage


class ReplayClient:
    """Makes the requests of `original` and looks their responses up in `database`, at no price."""

    secret = ""

    def __init__(self, original: Client, database: Path) -> None:
        """Raise TennerError where the database is damaged or holds no responses."""
        self._original, self._database = original, database
        with sqlite_errors(database):
            self._db = sqlite3.connect(f"{database.absolute().as_uri()}?mode=ro", uri=True)
            try:
                begun = self._db.execute("SELECT 1 FROM sqlite_master WHERE name = 'responses'").fetchone()
                if begun is not None:
                    self._db.execute("SELECT key, body, content_type FROM responses LIMIT 0")
            except sqlite3.Error:
                self._db.close()
                raise
        if begun is None:
            self._db.close()
            raise TennerError(f"{database} holds no responses", hint="name the folder of another run")
        price, source = original.price, f"replayed from {database.parent}"
        self.price = Price(price.provider, price.model, 0.0, 0.0, source=source, checked=price.checked)
        self.reasoning_is_summary = original.reasoning_is_summary

    async def check(self) -> None:
        """There is no server to check."""

    def request(self, call: Call) -> Request:
        """What the original would send, so that the key is the same."""
        return self._original.request(call)

    def worst_case_usage(self, call: Call, request: Request) -> Usage:
        """As of the original; its price is 0."""
        return self._original.worst_case_usage(call, request)

    async def send(self, call: Call, request: Request) -> Response:
        """Look the response up. Raises Fault `not_stored`."""
        key = keyed_request(self.price, request, call.sample_index).key
        with sqlite_errors(self._database):
            row = self._db.execute("SELECT body, content_type FROM responses WHERE key = ?", (key,)).fetchone()
        match row:
            case None:
                raise Fault("not_stored", "the other run holds no response to this request")
            case (bytes() as body, str() as content_type):
                return Response(body, content_type)
        raise Fault("not_stored", "what the other run holds as its response is damaged")

    def parse(self, response: Response) -> Reply:
        """As the original does."""
        return self._original.parse(response)

    async def close(self) -> None:
        """Close the database, and the original."""
        self._db.close()
        await self._original.close()
