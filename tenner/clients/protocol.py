"""What a client is: something that turns a question into a raw response, for a known price."""

import json
from typing import BinaryIO, NamedTuple, Protocol, runtime_checkable

from tenner.budget.prices import Price
from tenner.clients.faults import Fault
from tenner.core.records import Question, TraceOutcome, Usage
from tenner.core.seeds import digest

Request = dict[str, object]


class Call(NamedTuple):
    """One question put to the teacher; `sample_index` tells repeated samples of one question apart."""

    question: Question
    sample_index: int


class Stamped(NamedTuple):
    """A request as the store knows it."""

    text: str
    key: str


def stamp(price: Price, request: Request, sample_index: int) -> Stamped:
    """The canonical text of a request, and the key under which its response is bought once."""
    text = json.dumps(request, sort_keys=True, ensure_ascii=False)
    return Stamped(text, digest(price.provider, price.model, text, sample_index))


class Response(NamedTuple):
    """A success as it arrived, before anything read it."""

    body: bytes
    content_type: str


class Reply(NamedTuple):
    """A parsed response."""

    outcome: TraceOutcome
    thinking: str = ""
    answer: str = ""
    finish_reason: str | None = None
    usage: Usage = Usage()


class Client(Protocol):
    """Anything that answers. `calls.PaidCalls` owns the store, the ledger, the order and the retries."""

    price: Price
    reasoning_is_summary: bool
    secret: str
    """The key, so that it can be kept out of everything that is written; empty where there is none."""

    async def check(self) -> None:
        """Find out, without paying, whether calls can succeed: server, key, model. Raises TennerError if not."""
        ...

    def request(self, call: Call) -> Request:
        """All that determines the response, as JSON: parameters and messages. The store's key is made of it."""
        ...

    def worst_case_usage(self, call: Call, request: Request) -> Usage:
        """The most tokens that the call can be charged for."""
        ...

    async def send(self, call: Call, request: Request) -> Response:
        """Make the call once. Raises Fault."""
        ...

    def parse(self, response: Response) -> Reply:
        """Read a response, new or stored. Never raises: what cannot be read is an outcome."""
        ...

    async def close(self) -> None:
        """Let go of connections."""
        ...


class BatchStatus(NamedTuple):
    """What a provider says about a batch."""

    state: str
    """In its words."""
    ended: bool
    done: int
    total: int
    """Of its calls; 0 while the provider has not counted them."""
    files: tuple[str, ...] = ()
    """Where the results are."""
    refusal: str = ""
    """Why not one of its calls was made."""


class BatchResult(NamedTuple):
    """What became of one call of a batch."""

    key: str
    result: Response | Fault


@runtime_checkable
class BatchClient(Client, Protocol):
    """A client that also takes calls as batches. `batch.BatchCalls` owns the rest. All that asks raises Fault."""

    def batch_line(self, key: str, request: str) -> bytes:
        """A call as one line of a batch; the key comes back with its result."""
        ...

    async def upload(self, lines: bytes) -> str:
        """Hand lines in; nothing is done with them yet. Returns the name of the file."""
        ...

    async def create_batch(self, file_id: str, token: str) -> str:
        """Have the calls in a file made, and the batch carry our token. Returns its id."""
        ...

    async def find_batch(self, token: str) -> str | None:
        """The id of the batch that carries the token, if the provider has one."""
        ...

    async def batch_status(self, batch_id: str) -> BatchStatus:
        """How far it is."""
        ...

    async def download(self, file_id: str, into: BinaryIO) -> None:
        """Write the lines of a result file."""
        ...

    def read_result(self, line: bytes) -> BatchResult:
        """Read a line of a result file. Raises ValueError where it is none."""
        ...
