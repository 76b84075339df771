"""What a teacher is: something that turns a question into a raw response, for a known price."""

from typing import NamedTuple, Protocol

from tenner.money.prices import Price
from tenner.records import Question, Usage


class Call(NamedTuple):
    """One question put to the teacher; `sample_index` tells repeated samples of one question apart."""

    question: Question
    sample_index: int


class Reply(NamedTuple):
    """A parsed response."""

    thinking: str
    answer: str
    finish_reason: str
    """"stop", or "length" for a response that the token limit cut."""
    usage: Usage


class Teacher(Protocol):
    """Anything that answers. `calls.buy_traces` owns the store, the ledger, the order and the retries."""

    price: Price

    def request(self, call: Call) -> dict[str, object]:
        """All that determines the response, as JSON: parameters and messages. The store's key is made of it."""
        ...

    def worst_case_usage(self, call: Call) -> Usage:
        """The most tokens that the call can be charged for."""
        ...

    async def send(self, call: Call) -> bytes:
        """Make the call and return the raw body."""
        ...

    def parse(self, body: bytes) -> Reply:
        """Read a raw body, new or stored. Raises ValueError if it is not a response of this teacher."""
        ...
