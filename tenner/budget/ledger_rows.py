"""What the ledger takes and gives: payees, calls of batches, spends and stored responses."""

from typing import Literal, NamedTuple


class Payee(NamedTuple):
    """The provider and model that are paid, the stage, and the price row."""

    stage: str
    provider: str
    model: str
    price: str


class Line(NamedTuple):
    """A call that is to be submitted in a batch."""

    key: str
    request: str
    microusd: int
    """Its worst case."""


class WaitingLine(NamedTuple):
    """A call of a batch whose response is not stored yet."""

    reservation: int
    key: str
    request: str
    microusd: int


BatchState = Literal[
    "reserved",  # its worst case is reserved, and it was not submitted
    "submitting",  # the provider may have it; its `batch_id` is not known
    "submitted",
    "closed",  # all of its results are stored
]


class BatchRow(NamedTuple):
    """A batch that is not closed."""

    token: str
    batch_id: str | None
    state: BatchState
    submitted_at: float | None


class SpendRow(NamedTuple):
    """The spend of one stage at one provider."""

    stage: str
    provider: str
    model: str
    calls: int
    input_tokens: int
    output_tokens: int
    machine_seconds: float
    cost_usd: float
    price: str
    unsettled_usd: float = 0.0
    """The part of `cost_usd` that is the worst case of calls whose real cost is not known."""


class StoredResponse(NamedTuple):
    """A response that was bought before, and what it cost; unsettled is the worst case."""

    body: bytes
    content_type: str
    spend_id: int
    microusd: int
    received_at: float
    """Seconds since 1970."""
    settled: bool
