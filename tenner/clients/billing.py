"""Where paid calls meet the money, however they are made: what is stored, what a response cost, how far it has come."""

import datetime
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from tenner.budget.ledger import Ledger, Payee
from tenner.budget.prices import MICROUSD_PER_USD
from tenner.clients.faults import Fault, without_key
from tenner.clients.protocol import Call, Client, Reply, Response, Stamped
from tenner.core.errors import BudgetReached, TennerError
from tenner.core.records import FailedCall, Usage

BAD_REQUESTS_BEFORE_GIVING_UP = 5  # when nothing has succeeded yet: it is the recipe, not the question


class Overcharged(TennerError):
    """A call has cost more than it could."""


class BilledReply(NamedTuple):
    """A response that is paid for, read."""

    reply: Reply
    microusd: int
    metered: bool
    """False: the provider did not say how many tokens it was, and `microusd` is the worst case."""


class StoredResponse(NamedTuple):
    """A response that is stored and not read yet."""

    spend_id: int
    response: Response


class Bought(NamedTuple):
    """A call that has a response: bought now, or before (`reused`)."""

    call: Call
    reply: Reply
    cost_usd: float
    metered: bool
    """False: the provider did not say how many tokens it was, and `cost_usd` is the worst case."""
    reused: bool


OnResult = Callable[[Bought | FailedCall], None]


@dataclass
class CallProgress:
    """What a loop has done so far, for the progress bar."""

    total: int
    done: int = 0
    bought: int = 0
    reused: int = 0
    bought_microusd: int = 0
    output_tokens: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    """Calls that were given up, by the kind of the last fault."""
    retries: Counter[str] = field(default_factory=Counter)
    """Faults that were tried again, by kind."""
    waiting_for: str = ""
    """What is under way at the provider, in its words; empty for calls that are answered at once."""
    started: float = field(default_factory=time.monotonic)

    def tokens_per_second(self) -> float:
        """Output tokens bought, over the time of this session."""
        return self.output_tokens / max(1e-9, time.monotonic() - self.started)

    def left_usd(self) -> float | None:
        """What the calls that are left will cost at the mean cost so far; None before the first."""
        if not self.bought:
            return None
        return (self.total - self.done) * self.bought_microusd / self.bought / MICROUSD_PER_USD


class CallBilling:
    """The money and the progress of one teacher's calls in one stage."""

    def __init__(
        self, client: Client, ledger: Ledger, *, stage: str, deadline_seconds: float, batch: bool = False
    ) -> None:
        self._client, self._ledger = client, ledger
        self._deadline_seconds, self._batch = deadline_seconds, batch
        price = client.price
        self.payee = Payee(stage, price.provider, price.model, price.label(batch=batch))
        self.progress = CallProgress(total=0)

    def microusd(self, usage: Usage, *moments: datetime.datetime) -> int:
        """The price of so many tokens."""
        return self._client.price.microusd(usage, *moments, batch=self._batch)

    def stored(self, key: str) -> BilledReply | None:
        """What was bought before under this key."""
        stored = self._ledger.response(key)
        if stored is None:
            return None
        reply = self._client.parse(Response(stored.body, stored.content_type))
        if stored.settled:
            return BilledReply(reply, stored.microusd, metered=True)
        # The process ended between keeping and settling, or an older parser found no usage.
        received_at = datetime.datetime.fromtimestamp(stored.received_at, datetime.UTC)
        sent_at = received_at - datetime.timedelta(seconds=self._deadline_seconds)
        return self._settle(stored.spend_id, reply, stored.microusd, sent_at, received_at)

    def keep(self, reservation: int, stamped: Stamped, response: Response) -> StoredResponse:
        """Store a response that has come, unread, at its worst case."""
        secret = self._client.secret.encode()
        body = response.body.replace(secret, b"[key]") if secret else response.body
        spend_id = self._ledger.keep(
            reservation, key=stamped.key, request=stamped.text, body=body, content_type=response.content_type
        )
        return StoredResponse(spend_id, response._replace(body=body))

    def read(self, kept: StoredResponse, worst_microusd: int, *moments: datetime.datetime) -> BilledReply:
        """Read a response that is kept, and put its real cost on the books.

        Raises:
            Overcharged: it cost more than its worst case. Its real cost is booked all the same.
        """
        return self._settle(kept.spend_id, self._client.parse(kept.response), worst_microusd, *moments)

    def bought(self, call: Call, billed: BilledReply, *, reused: bool) -> Bought:
        """The result of a call that has a response."""
        self.progress.done += 1
        self.progress.reused += reused
        if not reused:
            self.progress.bought += 1
            self.progress.bought_microusd += billed.microusd
            self.progress.output_tokens += billed.reply.usage.output_tokens or 0
        return Bought(call, billed.reply, billed.microusd / MICROUSD_PER_USD, billed.metered, reused)

    def failed(self, call: Call, fault: Fault, *, attempts: int) -> FailedCall:
        """The result of a call that is given up.

        Raises:
            TennerError: all that was asked so far was refused.
        """
        evidence = fault.told(self._client.secret)
        self.progress.failures[fault.kind] += 1
        if self.progress.failures["bad_request"] >= BAD_REQUESTS_BEFORE_GIVING_UP and not (
            self.progress.bought or self.progress.reused
        ):
            raise TennerError(
                f"the first {BAD_REQUESTS_BEFORE_GIVING_UP} requests were refused: {evidence}",
                hint="it does not take these parameters: mend them in the recipe",
            )
        self.progress.done += 1
        return FailedCall(
            question_id=call.question.id,
            sample_index=call.sample_index,
            kind=fault.kind,
            attempts=attempts,
            evidence=evidence,
        )

    def stopped(self, fault: Fault) -> TennerError:
        """The error for a fault that every other call would meet too."""
        hint = fault.rule.hint or "nothing that was bought is lost: the same command tries again"
        return TennerError(f"{fault.kind}: {fault.told(self._client.secret)}", hint=hint)

    def with_what_is_missing(self, stopped: BudgetReached) -> BudgetReached:
        """The same, and the cap with which all would be done."""
        left = self.progress.total - self.progress.done
        hint = stopped.hint
        if (left_usd := self.progress.left_usd()) is not None:
            enough_usd = self._ledger.spent_usd() + left_usd
            hint = (
                f"{left:,} calls are left, about ${left_usd:.4f} at the mean cost so far: "
                f"the same command with --budget-usd {enough_usd * 1.1:.4f} goes on from here"
            )
        return BudgetReached(str(stopped), hint=hint)

    def scrubbed(self, text: str) -> str:
        """What a server says, without the key: some repeat it."""
        return without_key(text, self._client.secret)

    def _settle(self, spend_id: int, reply: Reply, worst_microusd: int, *moments: datetime.datetime) -> BilledReply:
        if reply.usage.input_tokens is None or reply.usage.output_tokens is None:
            return BilledReply(reply, worst_microusd, metered=False)
        microusd = self.microusd(reply.usage, *moments)
        self._ledger.settle(spend_id, reply.usage, microusd, finish_reason=reply.finish_reason)
        if microusd > worst_microusd:
            raise Overcharged(
                f"{self.payee.provider}/{self.payee.model} charged {microusd} micro-dollars for a call "
                f"that could cost {worst_microusd} at most: it does not keep to the limit of output tokens",
                hint="the response and its real cost are kept; use another server or model, or a higher limit",
            )
        return BilledReply(reply, microusd, metered=True)
