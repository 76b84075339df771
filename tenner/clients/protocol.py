"""What a client is: it turns a question into a raw response, at a known price."""

import json
from typing import BinaryIO, NamedTuple, Protocol, runtime_checkable

from tenner.budget.prices import Price
from tenner.clients.faults import Fault
from tenner.core.records import Question, TraceOutcome, Usage
from tenner.core.seeds import digest

Request = dict[str, object]


class Call(NamedTuple):
    """One question for the model; `sample_index` distinguishes repeated samples of one question."""

    question: Question
    sample_index: int


class KeyedRequest(NamedTuple):
    """A request as it is stored: its canonical text and its key."""

    text: str
    key: str


def keyed_request(price: Price, request: Request, sample_index: int) -> KeyedRequest:
    """The canonical text of a request, and the key under which its response is bought once."""
    text = json.dumps(request, sort_keys=True, ensure_ascii=False)
    return KeyedRequest(text, digest(price.provider, price.model, text, sample_index))


class Response(NamedTuple):
    """A successful response as received, not parsed yet."""

    body: bytes
    content_type: str


class Reply(NamedTuple):
    """A parsed response."""

    outcome: TraceOutcome
    thinking: str = ""
    answer: str = ""
    finish_reason: str | None = None
    usage: Usage = Usage()
    """All None where the call is unmetered: the provider did not say, or cannot be right."""
    charged_usd: float | None = None
    """What the provider says that the call cost; None where it does not."""
    claimed: Usage = Usage(input_tokens=0, output_tokens=0)
    """The largest counts that the provider named: what an unmetered call cost where that is above its worst case."""
    evidence: str | None = None
    """What in the response led to the outcome, where it is not complete."""
    is_summary: bool = False
    """The provider marks this thinking as a summary."""


class Client(Protocol):
    """Makes and parses calls to one model. `PaidCalls` owns the store, the ledger, the order and the retries."""

    price: Price
    reasoning_is_summary: bool
    secret: str
    """The API key, so that it can be redacted from everything that is written; empty where there is none."""

    async def check(self) -> None:
        """Check, free of charge, that calls can succeed: server, key, model. Raises TennerError if not."""
        ...

    def request(self, call: Call) -> Request:
        """All that determines the response, as JSON: parameters and messages. The store's key is a hash of it."""
        ...

    def worst_case_usage(self, call: Call, request: Request) -> Usage:
        """The most tokens that the call can be charged for."""
        ...

    async def send(self, call: Call, request: Request) -> Response:
        """Make the call once. Raises Fault."""
        ...

    def parse(self, response: Response) -> Reply:
        """Parse a response, new or stored. Never raises: an unreadable response is an outcome."""
        ...

    async def close(self) -> None:
        """Close connections."""
        ...


class BatchStatus(NamedTuple):
    """A batch as the provider reports it."""

    state: str
    """The provider's own word for it."""
    ended: bool
    done: int
    total: int
    """Number of calls; 0 while the provider has not counted them."""
    files: tuple[str, ...] = ()
    """Ids of the result files."""
    refusal: Fault | None = None
    """Why none of its calls was made; None if some were."""


class BatchResult(NamedTuple):
    """The result of one call of a batch."""

    key: str
    result: Response | Fault


@runtime_checkable
class BatchClient(Client, Protocol):
    """A client that also takes calls as batches; `BatchCalls` owns the rest. Methods that send requests raise Fault."""

    def batch_line(self, key: str, request: str) -> bytes:
        """A call as one line of a batch; the key comes back with its result."""
        ...

    async def upload(self, lines: bytes) -> str:
        """Upload lines; nothing is done with them yet. Returns the id of the file."""
        ...

    async def create_batch(self, file_id: str, token: str) -> str:
        """Start a batch of the calls in a file, with our token in its metadata. Returns its id."""
        ...

    async def find_batch(self, token: str) -> str | None:
        """The id of the batch with this token, None if the provider has none."""
        ...

    async def batch_status(self, batch_id: str) -> BatchStatus:
        """The state of a batch."""
        ...

    async def download(self, file_id: str, into: BinaryIO) -> None:
        """Write the lines of a result file into `into`."""
        ...

    def read_result(self, line: bytes) -> BatchResult:
        """Parse a line of a result file. Raises ValueError for an invalid line."""
        ...
