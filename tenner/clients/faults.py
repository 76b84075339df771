"""Why a call failed: the kinds of faults, and what each means for retries, billing and the run."""

import datetime
import email.utils
import json
from collections.abc import Mapping
from typing import NamedTuple

EVIDENCE_CHARS = 300


class Rule(NamedTuple):
    """What a fault means for the call, for its cost, and for all other calls."""

    retried: bool
    maybe_charged: bool
    """The request was sent and no response arrived: its worst case stays booked."""
    stops_the_run: bool
    """Every other call would fail in the same way."""
    transient: bool
    """The same call may succeed later."""
    hint: str = ""


FAULTS: dict[str, Rule] = {
    "rate_limited": Rule(retried=True, maybe_charged=False, stops_the_run=False, transient=True),
    "overloaded": Rule(retried=True, maybe_charged=False, stops_the_run=False, transient=True),
    "server_error": Rule(retried=True, maybe_charged=False, stops_the_run=False, transient=True),
    "unreachable": Rule(retried=True, maybe_charged=False, stops_the_run=False, transient=True),
    "interrupted": Rule(retried=True, maybe_charged=True, stops_the_run=False, transient=True),
    # Not retried at once: a slow call would be paid for and waited for again.
    "deadline": Rule(retried=False, maybe_charged=True, stops_the_run=False, transient=True),
    # Its batch ended without it.
    "expired": Rule(retried=False, maybe_charged=False, stops_the_run=False, transient=True),
    "bad_request": Rule(retried=False, maybe_charged=False, stops_the_run=False, transient=False),
    "refused": Rule(retried=False, maybe_charged=False, stops_the_run=False, transient=False),
    "not_stored": Rule(retried=False, maybe_charged=False, stops_the_run=False, transient=False),
    "bad_key": Rule(
        retried=False, maybe_charged=False, stops_the_run=True, transient=False,
        hint="check the key in the environment variable that the recipe names",
    ),
    "billing": Rule(
        retried=False, maybe_charged=False, stops_the_run=True, transient=False,
        hint="top up the account at the provider; what was bought is kept",
    ),
    "unknown_model": Rule(
        retried=False, maybe_charged=False, stops_the_run=True, transient=False,
        hint="check the model's name and the base URL",
    ),
    "unknown_batch": Rule(
        retried=False, maybe_charged=False, stops_the_run=True, transient=False,
        hint="use the key and the base URL of its submission; in another folder its calls are bought anew",
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

    def redacted(self, secret: str) -> str:
        """The evidence in one short line, without the key; cut last, so that no part of a key is left at the cut."""
        return redact(self.evidence, secret)[:EVIDENCE_CHARS]


def redact(text: str, secret: str) -> str:
    """The text with the key replaced wherever it occurs."""
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
    """The server's message, in one line."""
    error = _error(body)
    message = error.get("message") if isinstance(error, dict) else error
    return " ".join(str(message or body).split())


def retry_after_seconds(headers: Mapping[str, str]) -> float | None:
    """The wait that the server asks for, given in seconds or as a date (RFC 9110, 10.2.3); None without one."""
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
