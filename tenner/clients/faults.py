"""Why a call failed: the kinds of faults, and what each means for retries, billing and the run."""

import datetime
import email.utils
import json
from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import urlsplit

from tenner.clients import error_body
from tenner.clients.error_body import ErrorBody
from tenner.core.errors import OutOfMoney, TennerError
from tenner.core.secrets import redact_message

EVIDENCE_CHARS = 300
RETRY_AFTER_MAX_SECONDS = 600.0
"""A server that asks for a longer wait is not waited for."""


class Rule(NamedTuple):
    """What a fault means for the call, for its cost, and for all other calls."""

    retried: bool
    maybe_charged: bool
    """The provider may have charged for the request: its worst case stays booked."""
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
    # A gateway gave up waiting; the model behind it worked on.
    "gateway_timeout": Rule(retried=True, maybe_charged=True, stops_the_run=False, transient=True),
    # A refusal such as 429 that came when the server had probably worked.
    "late_refusal": Rule(retried=True, maybe_charged=True, stops_the_run=False, transient=True),
    # The same of one that is final: what was generated may have been rejected.
    "late_rejection": Rule(retried=False, maybe_charged=True, stops_the_run=False, transient=False),
    # A response with HTTP 200 that holds an error in place of a completion, or beside a part of one.
    "error_in_response": Rule(retried=True, maybe_charged=True, stops_the_run=False, transient=True),
    # A web page or plain text with HTTP 200, as of a proxy that asks for a login.
    "not_json": Rule(retried=True, maybe_charged=True, stops_the_run=False, transient=True),
    # Not retried at once: a slow call would be paid for and waited for again.
    "deadline": Rule(retried=False, maybe_charged=True, stops_the_run=False, transient=True),
    # Its batch ended without it.
    "expired": Rule(retried=False, maybe_charged=False, stops_the_run=False, transient=True),
    # An uploaded file that the provider does not find yet.
    "file_not_ready": Rule(retried=True, maybe_charged=False, stops_the_run=False, transient=True),
    # More tokens wait in batches than the account may have waiting.
    "batch_limit": Rule(retried=False, maybe_charged=False, stops_the_run=False, transient=True),
    "bad_request": Rule(retried=False, maybe_charged=False, stops_the_run=False, transient=False),
    "refused": Rule(retried=False, maybe_charged=False, stops_the_run=False, transient=False),
    "not_stored": Rule(retried=False, maybe_charged=False, stops_the_run=False, transient=False),
    "bad_key": Rule(
        retried=False, maybe_charged=False, stops_the_run=True, transient=False,
        hint="check the key in the environment variable that the recipe names",
    ),
    "billing": Rule(
        retried=False, maybe_charged=False, stops_the_run=True, transient=False,
        hint="top up the account, or raise the key's limit, at the provider; what was bought is kept, and the same "
        "command goes on",
    ),
    "quota_used_up": Rule(
        retried=False, maybe_charged=False, stops_the_run=True, transient=False,
        hint="the same command goes on when the provider's quota is renewed, or was raised; what was bought is kept",
    ),
    "unknown_model": Rule(
        retried=False, maybe_charged=False, stops_the_run=True, transient=False,
        hint="check the model's name and the base URL",
    ),
    "redirected": Rule(
        retried=False, maybe_charged=False, stops_the_run=True, transient=False,
        hint="if you trust that address, set base_url to it",
    ),
    # A body beyond any response to the request.
    "too_large": Rule(retried=False, maybe_charged=True, stops_the_run=False, transient=True),
    "unknown_batch": Rule(
        retried=False, maybe_charged=False, stops_the_run=True, transient=False,
        hint="use the key and the base URL of its submission; in another folder its calls are bought anew",
    ),
}  # fmt: skip
OUT_OF_MONEY = ("billing", "quota_used_up")

GATEWAY_TIMEOUTS = (499, 504, 520, 524, 598, 599)
"""Statuses by which a gateway (nginx, Cloudflare) says that it stopped waiting for a request that it had passed on."""


class Fault(Exception):
    """A call failed. `kind` is a key of `FAULTS`."""

    def __init__(self, kind: str, evidence: str, *, retry_after_seconds: float | None = None) -> None:
        super().__init__(f"{kind}: {evidence}")
        self.kind = kind
        self.rule = FAULTS[kind]
        self.evidence = evidence
        self.retry_after_seconds = retry_after_seconds

    @property
    def error_class(self) -> type[TennerError]:
        """The class, and so the exit code, of the error that a run stops with at this fault."""
        return OutOfMoney if self.kind in OUT_OF_MONEY else TennerError

    def redacted(self, secret: str) -> str:
        """The evidence in one short line, without the key; cut last, so that no part of a key is left at the cut."""
        return redact_message(self.evidence, secret)[:EVIDENCE_CHARS]


def from_status(status: int, headers: Mapping[str, str], body: str) -> Fault:
    """The fault that an HTTP status other than success stands for."""
    if 300 <= status < 400:
        return Fault("redirected", f"HTTP {status}: the server redirects to {_origin(headers.get('location', ''))}")
    return _fault(status, error_body.read_error(body), retry_after_seconds(headers), evidence=f"HTTP {status}: ")


def from_report(code: object, message: object) -> Fault:
    """The fault of a batch, or of a line of one, that is reported by a code and a message without an HTTP status."""
    error = error_body.read_error(json.dumps({"error": {"code": code, "message": message}}))
    if error.is_about_missing_file:
        return Fault("file_not_ready", error.message)
    return _fault(400, error, None, evidence="")


def from_success(fields: object) -> Fault | None:
    """The fault in the JSON of a response with HTTP 200; None where it holds no error.

    What the provider refused before it began (no money, too fast, a wrong request) costs nothing. Any other error may
    have come after a part was generated.
    """
    if (failure := error_body.failure_of_completion(fields)) is not None:
        return Fault("error_in_response", f"HTTP 200: {failure}")
    error = error_body.error_in_place_of_completion(fields)
    if error is None:
        return None
    fault = _fault(error.status or 500, error, None, evidence="HTTP 200: ")
    was_refused = not fault.rule.maybe_charged and fault.kind not in ("server_error", "overloaded")
    return fault if was_refused and not error.has_output else Fault("error_in_response", fault.evidence)


def _origin(location: str) -> str:
    """Where a redirect leads, without what its query may hold."""
    try:
        parts = urlsplit(location)
        return f"{parts.scheme}://{parts.hostname}{parts.path}" if parts.hostname else parts.path or "nowhere"
    except ValueError:
        return "an address that is none"


def message_of(body: str) -> str:
    """The server's message, in one line."""
    return error_body.read_error(body).message


def retry_after_seconds(headers: Mapping[str, str]) -> float | None:
    """The wait that the server asks for, in milliseconds (`retry-after-ms`, as OpenAI and Azure send it), in seconds,
    with a unit, or as a date (RFC 9110, 10.2.3); None without one.
    """
    milliseconds = error_body.duration_seconds(headers.get("retry-after-ms", ""))
    if milliseconds is not None:
        return milliseconds / 1e3
    value = headers.get("retry-after", "").strip()
    if (seconds := error_body.duration_seconds(value.removeprefix("-"))) is not None:
        return 0.0 if value.startswith("-") else seconds
    try:
        until = email.utils.parsedate_to_datetime(value)
    except (ValueError, OverflowError):
        return None
    if until.tzinfo is None:
        until = until.replace(tzinfo=datetime.UTC)
    return max(0.0, (until - datetime.datetime.now(datetime.UTC)).total_seconds())


def _fault(status: int, error: ErrorBody, asked_seconds: float | None, *, evidence: str) -> Fault:
    if asked_seconds is None:
        asked_seconds = error.retry_after_seconds
    kind = _kind(status, error, asked_seconds)
    waits = kind in ("rate_limited", "overloaded", "server_error", "gateway_timeout")
    return Fault(kind, evidence + error.message, retry_after_seconds=asked_seconds if waits else None)


def _kind(status: int, error: ErrorBody, asked_seconds: float | None) -> str:
    """The most telling first: providers give many statuses to one thing, above all to an empty account."""
    if error.is_about_calls_in_flight:
        return "rate_limited"
    if status == 402 or error.is_about_money:
        return "billing"
    if status == 401 or (status < 500 and error.is_about_key):
        return "bad_key"
    if error.is_about_batch_limit:
        return "batch_limit"
    if status == 429 or error.is_exhausted or error.is_daily_quota:
        heals_soon = asked_seconds is not None and asked_seconds <= RETRY_AFTER_MAX_SECONDS
        used_up = error.is_daily_quota or (error.says_daily and not heals_soon)
        return "quota_used_up" if used_up else "rate_limited"
    if status == 404 or error.is_about_model:
        return "unknown_model"
    if status == 403:
        return "refused"
    if status in GATEWAY_TIMEOUTS or ((status >= 500 or status == 408) and error.says_timeout):
        return "gateway_timeout"
    if status in (503, 529):
        return "overloaded"
    if status >= 500 or status in (408, 409, 425):
        return "server_error"
    return "bad_request"
