"""Why a call came to nothing: every fault has a name, and the name says what to do about it."""

import datetime
import email.utils
import json
from collections.abc import Mapping
from typing import NamedTuple

EVIDENCE_CHARS = 300


class Rule(NamedTuple):
    """What a fault means for the call, for the money, and for all the other calls."""

    retried: bool
    maybe_charged: bool
    """The request went out and nothing came back: its worst case stays on the books."""
    stops_the_run: bool
    """The next call would fail in the same way."""
    heals: bool
    """The same call may succeed another time."""
    hint: str = ""


FAULTS: dict[str, Rule] = {
    "rate_limited": Rule(retried=True, maybe_charged=False, stops_the_run=False, heals=True),
    "overloaded": Rule(retried=True, maybe_charged=False, stops_the_run=False, heals=True),
    "server_error": Rule(retried=True, maybe_charged=False, stops_the_run=False, heals=True),
    "unreachable": Rule(retried=True, maybe_charged=False, stops_the_run=False, heals=True),
    "interrupted": Rule(retried=True, maybe_charged=True, stops_the_run=False, heals=True),
    # Not retried at once: what was too slow would be paid for and waited for again.
    "deadline": Rule(retried=False, maybe_charged=True, stops_the_run=False, heals=True),
    # Its batch came to an end without it.
    "expired": Rule(retried=False, maybe_charged=False, stops_the_run=False, heals=True),
    "bad_request": Rule(retried=False, maybe_charged=False, stops_the_run=False, heals=False),
    "refused": Rule(retried=False, maybe_charged=False, stops_the_run=False, heals=False),
    "not_stored": Rule(retried=False, maybe_charged=False, stops_the_run=False, heals=False),
    "bad_key": Rule(
        retried=False, maybe_charged=False, stops_the_run=True, heals=False,
        hint="check the key in the environment variable that the recipe names",
    ),
    "billing": Rule(
        retried=False, maybe_charged=False, stops_the_run=True, heals=False,
        hint="top the account up at the provider; nothing that was bought is lost",
    ),
    "unknown_model": Rule(
        retried=False, maybe_charged=False, stops_the_run=True, heals=False,
        hint="check the model's name and the base URL",
    ),
    "unknown_batch": Rule(
        retried=False, maybe_charged=False, stops_the_run=True, heals=False,
        hint="use the key and the base URL that it was handed in with; another folder buys its calls anew",
    ),
}  # fmt: skip
BILLING_CODES = {"insufficient_quota", "billing_hard_limit_reached", "insufficient_balance"}
MODEL_CODES = {"model_not_found", "model_not_exist"}


class Fault(Exception):
    """A call failed. `kind` is a key of `FAULTS`."""

    def __init__(self, kind: str, evidence: str, *, retry_after_seconds: float | None = None) -> None:
        super().__init__(f"{kind}: {evidence}")
        self.kind = kind
        self.rule = FAULTS[kind]
        self.evidence = evidence
        self.retry_after_seconds = retry_after_seconds

    def told(self, secret: str) -> str:
        """The evidence without the key, in one short line; cut last, so that no part of a key is left at the cut."""
        return without_key(self.evidence, secret)[:EVIDENCE_CHARS]


def without_key(text: str, secret: str) -> str:
    """The text, with the key blotted out wherever it occurs."""
    return text.replace(secret, "[key]") if secret else text


def from_status(status: int, headers: Mapping[str, str], body: str) -> Fault:
    """The fault that an HTTP status other than success stands for."""
    evidence = f"HTTP {status}: {message_of(body)}"
    code = _code(body)
    if status == 402 or code in BILLING_CODES:
        return Fault("billing", evidence)
    if status == 401:
        return Fault("bad_key", evidence)
    if status == 404 or code in MODEL_CODES:
        return Fault("unknown_model", evidence)
    if status == 403:
        return Fault("refused", evidence)
    if status == 429:
        return Fault("rate_limited", evidence, retry_after_seconds=retry_after_seconds(headers))
    if status in (503, 529):
        return Fault("overloaded", evidence, retry_after_seconds=retry_after_seconds(headers))
    if status >= 500 or status in (408, 409, 425):
        return Fault("server_error", evidence, retry_after_seconds=retry_after_seconds(headers))
    return Fault("bad_request", evidence)


def message_of(body: str) -> str:
    """What the server says, in one line."""
    error = _error(body)
    said = error.get("message") if isinstance(error, dict) else error
    return " ".join(str(said or body).split())


def retry_after_seconds(headers: Mapping[str, str]) -> float | None:
    """The wait that the server asks for: seconds, or a date (RFC 9110, 10.2.3); None where it asks for none."""
    value = headers.get("retry-after", "").strip()
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        until = email.utils.parsedate_to_datetime(value)
    except ValueError:
        return None
    if until.tzinfo is None:
        until = until.replace(tzinfo=datetime.UTC)
    return max(0.0, (until - datetime.datetime.now(datetime.UTC)).total_seconds())


def _error(body: str) -> object:
    try:
        fields = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return fields.get("error", fields) if isinstance(fields, dict) else None


def _code(body: str) -> str:
    error = _error(body)
    codes = (error.get("code"), error.get("type")) if isinstance(error, dict) else ()
    return next((c.lower() for c in codes if isinstance(c, str) and c.lower() in BILLING_CODES | MODEL_CODES), "")
