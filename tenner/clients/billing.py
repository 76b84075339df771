"""The cost and the progress of paid calls, single or in batches: store a response, price it, settle it."""

import datetime
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from tenner.budget.ledger import Ledger
from tenner.budget.ledger_rows import Payee
from tenner.budget.prices import MICROUSD_PER_USD, ceil_microusd
from tenner.clients.faults import Fault
from tenner.clients.protocol import Call, Client, KeyedRequest, Reply, Response
from tenner.core.errors import BudgetReached, TennerError
from tenner.core.records import FailedCall, Usage
from tenner.core.secrets import redact_body, redact_message

BAD_REQUESTS_BEFORE_GIVING_UP = 5  # with no success before: the recipe is at fault, not the questions
NOT_JSON_BEFORE_GIVING_UP = 3  # with no success before: the base URL is wrong, or a proxy asks for a login


class Overcharged(TennerError):
    """A call cost more than its worst case."""


class BilledReply(NamedTuple):
    """A stored response, parsed, with its cost."""

    reply: Reply
    microusd: int
    metered: bool
    """False: the provider reported no usage, and `microusd` is the worst case."""


class StoredResponse(NamedTuple):
    """A response that is stored and not parsed yet."""

    spend_id: int
    response: Response
    worst_microusd: int
    """What it is booked at until it is settled."""


class PaidReply(NamedTuple):
    """The reply to a call, with its cost; `reused` where it was bought before."""

    call: Call
    reply: Reply
    cost_usd: float
    metered: bool
    """False: the provider reported no usage, and `cost_usd` is the worst case."""
    reused: bool


OnResult = Callable[[PaidReply | FailedCall], None]


@dataclass
class CallProgress:
    """What has been done so far, for the progress bar."""

    total: int
    done: int = 0
    bought: int = 0
    reused: int = 0
    bought_microusd: int = 0
    output_tokens: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    """Calls that failed for good, by the kind of their last fault."""
    retries: Counter[str] = field(default_factory=Counter)
    """Faults after which a call was retried, by kind."""
    waiting_for: str = ""
    """The state of open batches, in the provider's words; empty for single calls."""
    started: float = field(default_factory=time.monotonic)

    def tokens_per_second(self) -> float:
        """Output tokens bought in this session, per second."""
        return self.output_tokens / max(1e-9, time.monotonic() - self.started)

    def left_usd(self) -> float | None:
        """The cost of the remaining calls, at the mean cost so far; None before the first."""
        if not self.bought:
            return None
        return (self.total - self.done) * self.bought_microusd / self.bought / MICROUSD_PER_USD


class CallBilling:
    """The cost and the progress of one client's calls in one stage."""

    def __init__(
        self, client: Client, ledger: Ledger, *, stage: str, deadline_seconds: float, batch: bool = False
    ) -> None:
        self._client, self._ledger = client, ledger
        self._deadline_seconds, self._batch = deadline_seconds, batch
        price = client.price
        self.payee = Payee(stage, price.provider, price.model, price.label(batch=batch))
        self.progress = CallProgress(total=0)

    def microusd(self, usage: Usage, *moments: datetime.datetime) -> int:
        """The price of this usage; at the peak's if any time between sending and receiving lies in it."""
        return self._client.price.microusd(usage, *moments, batch=self._batch)

    def model_is_known(self) -> bool:
        """Whether replies of this model were settled before, or cost nothing."""
        price = self._client.price
        return not (price.input_usd_per_mtok or price.output_usd_per_mtok) or self._ledger.has_settled(self.payee)

    def stored(self, key: str) -> BilledReply | None:
        """The response that was bought before under this key, None if there is none."""
        stored = self._ledger.response(key)
        if stored is None:
            return None
        reply = self._client.parse(Response(stored.body, stored.content_type))
        if stored.settled:
            return BilledReply(reply, stored.microusd, metered=True)
        # The process ended between storing and settling, or an older parser found no usage.
        received_at = datetime.datetime.fromtimestamp(stored.received_at, datetime.UTC)
        sent_at = received_at - datetime.timedelta(seconds=self._deadline_seconds)
        return self._settle(stored.spend_id, reply, stored.microusd, sent_at, received_at)

    def keep(self, reservation: int, keyed: KeyedRequest, response: Response) -> StoredResponse:
        """Store a new response, not parsed yet, at its worst case."""
        body = redact_body(response.body, self._client.secret)
        spend_id = self._ledger.keep(
            reservation, key=keyed.key, request=keyed.text, body=body, content_type=response.content_type
        )
        return StoredResponse(spend_id, response._replace(body=body), self._ledger.booked_microusd(spend_id))

    def settle(self, stored: StoredResponse, *moments: datetime.datetime) -> BilledReply:
        """Parse a stored response and book its actual cost.

        Raises:
            Overcharged: it cost more than its worst case. Its actual cost is booked all the same, and the reservations
                of the calls to its model grow by the difference.
        """
        reply = self._client.parse(stored.response)
        return self._settle(stored.spend_id, reply, stored.worst_microusd, *moments)

    def succeeded(self, call: Call, billed: BilledReply, *, reused: bool) -> PaidReply:
        """Count a call that has a response, and give its result."""
        self.progress.done += 1
        self.progress.reused += reused
        if not reused:
            self.progress.bought += 1
            self.progress.bought_microusd += billed.microusd
            self.progress.output_tokens += billed.reply.usage.output_tokens or 0
        return PaidReply(call, billed.reply, billed.microusd / MICROUSD_PER_USD, billed.metered, reused)

    def failed(self, call: Call, fault: Fault, *, attempts: int) -> FailedCall:
        """Count a call that failed for good, and give its result.

        Raises:
            TennerError: every request so far was refused, or answered with something else than JSON.
        """
        self.progress.failures[fault.kind] += 1
        self._give_up_if_hopeless(fault)
        self.progress.done += 1
        return FailedCall(
            question_id=call.question.id,
            sample_index=call.sample_index,
            kind=fault.kind,
            attempts=attempts,
            evidence=fault.redacted(self._client.secret),
        )

    def fatal_error(self, fault: Fault) -> TennerError:
        """The error for a fault that every other call would meet, too."""
        hint = fault.rule.hint or "what was bought is kept: the same command tries again"
        if fault.kind == "bad_key" and not self._client.secret:
            hint = "the server requires a key: name its variable with api_key_env"
        return fault.error_class(f"{fault.kind}: {fault.redacted(self._client.secret)}", hint=hint)

    def retried(self, fault: Fault) -> None:
        """Count an attempt after which the call is made again. Raises as `failed` does."""
        self.progress.retries[fault.kind] += 1
        self._give_up_if_hopeless(fault)

    def with_remaining_cost(self, stopped: BudgetReached) -> BudgetReached:
        """The same error, with a hint at the cap that the remaining calls need."""
        left = self.progress.total - self.progress.done
        hint = stopped.hint
        if (left_usd := self.progress.left_usd()) is not None:
            enough_usd = self._ledger.spent_usd() + left_usd
            hint = (
                f"{left:,} calls are left, about ${left_usd:.4f} at the mean cost so far: "
                f"the same command with --budget-usd {enough_usd * 1.1:.4f} goes on from here"
            )
        return BudgetReached(str(stopped), hint=hint)

    def redacted(self, text: str) -> str:
        """A server's message without the key, which some repeat."""
        return redact_message(text, self._client.secret)

    def _give_up_if_hopeless(self, fault: Fault) -> None:
        if self.progress.bought or self.progress.reused:
            return
        failures, evidence = self.progress.failures, fault.redacted(self._client.secret)
        if failures["bad_request"] >= BAD_REQUESTS_BEFORE_GIVING_UP:
            raise TennerError(
                f"the first {BAD_REQUESTS_BEFORE_GIVING_UP} requests were refused: {evidence}",
                hint="the provider does not accept these parameters: change them in the recipe",
            )
        if failures["not_json"] + self.progress.retries["not_json"] >= NOT_JSON_BEFORE_GIVING_UP:
            raise TennerError(
                f"the first {NOT_JSON_BEFORE_GIVING_UP} responses are no JSON: {evidence}",
                hint="check the base URL (most end in /v1), and whether a proxy asks for a login",
            )

    def _settle(self, spend_id: int, reply: Reply, worst_microusd: int, *moments: datetime.datetime) -> BilledReply:
        metered = reply.usage.input_tokens is not None and reply.usage.output_tokens is not None
        usage = reply.usage if metered else reply.claimed
        charged = ceil_microusd((reply.charged_usd or 0.0) * MICROUSD_PER_USD)
        microusd = max(charged, self.microusd(usage, *moments))
        if not metered and microusd <= worst_microusd:
            return BilledReply(reply, worst_microusd, metered=False)
        with self._ledger.together():
            self._ledger.settle(spend_id, usage, microusd, finish_reason=reply.finish_reason)
            if microusd > worst_microusd:
                self._ledger.overrun(self.payee, microusd - worst_microusd)
        if microusd > worst_microusd:
            raise Overcharged(
                f"{self.payee.provider}/{self.payee.model} charged {microusd} micro-dollars for a call "
                f"that could cost {worst_microusd} at most: it does not keep to the limit of output tokens, "
                "or its price is higher than the one given",
                hint="the response and its actual cost are kept; use another server or model, a higher limit, or the "
                "right price; the same command goes on, and reserves as much more for each call",
            )
        return BilledReply(reply, microusd, metered=True)
