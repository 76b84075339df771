"""Reads the bodies in which providers report errors: their codes, their messages and what these are about."""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from tenner.clients.json_fields import count, mapping, mappings, text
from tenner.clients.response_body import STREAM_ENDED
from tenner.core.finish_reasons import ending_of

MONEY_CODES = {
    "insufficient_quota", "billing_hard_limit_reached", "billing_not_active", "insufficient_balance",  # OpenAI
    "exceeded_current_quota_error", "insufficient_user_quota", "insufficient_credits", "insufficient_funds",  # Kimi
    "1113", "arrearage", "accountoverdueerror", "not_enough_balance", "payment_required", "billing_error",
    "credit_balance_too_low", "allocationquota.freetieronly", "billing_disabled", "quota_exceeded",
    "account_balance_not_enough", "budget_exceeded", "pre_consume_token_quota_failed",  # LiteLLM, new-api
    "1309",  # GLM: the plan has expired
    "insufficientbalance", "insufficient_balance_error", "setlimitexceeded",  # Volcano: a limit that the user set
}  # fmt: skip
MONEY_WORDS = re.compile(
    r"insufficient[ _-](account |user |remaining )?(balance|credits?|funds?|quota)\b"
    r"|(not enough|no remaining|out of|requires more) (credits?|balance|funds)|\bno credits? (remaining|left)"
    r"|quota is not enough|\bused up your \w+|(trial|prepaid|free) credits? (exhausted|depleted|used up)"
    r"|used all( of)?( your| its)?( available)? credits"
    r"|(balance|credits?|funds?)( \S+){0,2} (is|are|was|were) "
    r"(too low|insufficient|not (enough|sufficient)|exhausted|depleted|used up|negative)"
    r"|(key|credits?|spend(ing)?|budget|monthly usage) limit (has been |was |is )?(exceeded|reached|hit)"
    r"|(exceed|reach|hit)(ed|ing)? (\S+ ){0,3}(spend(ing)? (limit|cap)|billing (hard )?limit|credit limit|budget"
    r"|api usage limits?)\b|budget has been exceeded|free allocated quota exceeded"
    r"|(exceeded|reached|used)( \S+){0,2} (your|monthly|included|available|remaining|free) (\S+ )?credits?\b"
    r"|exceeded your current (token )?quota|check your (account )?balance|payment required|top[ -]up your"
    r"|exceeded\w*budget\b|max budget for|\bunpaid (invoice|bill|balance)|\bpast[ -]due\b|pay past invoices"
    r"|\barrear|\boverdue\b|\brecharge\b|account .{0,40}good standing|余额不足|欠费|充值|额度(不足|已?用尽|已?用完)",
    re.IGNORECASE,
)
IN_FLIGHT = re.compile(r"\bin-flight requests\b", re.IGNORECASE)
"""OpenRouter: what the running calls may cost is more than what the account has, until they end."""
MESSAGE_CHARS = 300
"""How much of a message is searched for words: behind it some servers repeat the request."""
LINE_CHARS = 4000
"""How much of a message is kept at all: the patterns above take longer than its length."""
EXHAUSTED_CODES = {"resource_exhausted"}
"""Google's word for every quota, by the minute and by the day, whose message speaks of billing in both cases."""
NO_QUOTA = re.compile(r"credits are depleted|\blimit: 0\b", re.IGNORECASE)  # a model that this account may not use
PLAN_CODES = {"1304", "1308", "1310"}
"""GLM's: what may be used in a day, in some hours or in a week is used up."""
DAILY = re.compile(
    r"per[ _-]?(day|week|month)|\b(daily|weekly|monthly)\b(?! (plan|subscription))|\b[RT]PD\b|free-models-per-day"
    r"|for today|每日|今日|\bsession usage limit",
    re.IGNORECASE,
)
"""A limit by the day or a longer time."""
KEY_CODES = {
    "invalid_api_key", "invalidapikey", "api_key_invalid", "authentication_error", "invalid_authentication_error",
    "unauthenticated",
}  # fmt: skip
MODEL_CODES = {"model_not_found", "model_not_exist", "modelnotfound", "invalid_model", "model_decommissioned"}
NO_MODEL = re.compile(
    r"\bis not a valid model\b|\bmodel:? \S+ (has been decommissioned|does not exist|is not found|was not found)",
    re.IGNORECASE,
)
BATCH_LIMIT = re.compile(
    r"enqueued token|too many .{0,20}\bbatch|\bbatch.{0,30} (limit|quota)\b|(concurrent|pending|active) batch"
    r"|quota of batch|\bbatch\b.{0,40}(more than the max|too (many|large)|exceeds)",
    re.IGNORECASE,
)
MISSING_FILE = re.compile(
    r"no such file|(could not find|resource not found:?) (the )?file|(\b|_)file(\b|_).{0,80}(not found"
    r"|could not be found|does not exist|being process|still (process|validat)"
    r"|not (yet )?(ready|available|processed|uploaded|finished)|is '?pending|must be '?processed)",
    re.IGNORECASE,
)
TIMEOUT = re.compile(r"time[d -]?\s?out|prematurely closed|upstream .*(closed|reset)|connection (was )?reset", re.I)
DURATION = re.compile(
    r"(?:(\d{1,6}) ?d(?:ays?)?\b)? ?(?:(\d{1,6}) ?h(?:ours?)?(?![a-z]))? ?(?:(\d{1,6}) ?m(?:in(?:ute)?s?)?(?![a-z]))?"
    r" ?(?:(\d{1,9}(?:\.\d{1,9})?) ?s(?:ec(?:ond)?s?)?(?![a-z]))? ?(?:(\d{1,9}(?:\.\d{1,9})?) ?ms\b)?",
    re.IGNORECASE | re.ASCII,
)
"""Days, hours, minutes, seconds and milliseconds; also nothing at all."""
UNIT_SECONDS = (86400.0, 3600.0, 60.0, 1.0, 1e-3)
WAIT = re.compile(rf"\b(?:try|retry|wait)(?: again)?(?: in| after| for)? {DURATION.pattern}", re.IGNORECASE)
WAIT_FIELDS = {"retryDelay": 1.0, "retry_after": 1.0, "retry_after_seconds": 1.0, "retry_after_ms": 1e-3}
"""Where errors hold the wait that they ask for, as a number or a duration, and in what unit, in seconds."""

STATUS_NAMES = {
    "rate_limit_exceeded": 429, "rate_limit_error": 429, "rate_limited": 429, "too_many_requests": 429,
    "throttling": 429, "throttling.ratequota": 429, "resource_exhausted": 429,
    "invalid_request_error": 400, "badrequesterror": 400, "invalid_argument": 400, "invalidparameter": 400,
    "invalid_parameter_error": 400, "unsupported_parameter": 400, "context_length_exceeded": 400,
    "permission_error": 403, "permission_denied": 403, "accessdenied": 403, "not_found_error": 404,
    "authentication_error": 401, "unauthenticated": 401, "invalid_api_key": 401,
    "overloaded_error": 529, "unavailable": 503, "service_unavailable": 503,
    "server_error": 500, "internal_server_error": 500, "api_error": 500, "internal": 500,
}  # fmt: skip
"""The HTTP status that stands behind a code or a type, in lower case."""
HTTP_ERROR = re.compile(r"[45]\d\d", re.ASCII)
BASE_RESP_STATUS = {1002: 429, 1004: 401, 1008: 402, 1026: 403, 1027: 403, 1039: 429, 2013: 400, 2049: 401, 2056: 429}
"""The HTTP status that stands behind MiniMax's `base_resp.status_code`."""
SUCCESS_CODES = (None, 0, 200, "0", "200", "ok", "success")


class ErrorBody(NamedTuple):
    """An error as a provider reports it."""

    message: str
    """In one line; the whole body where it has no message, the title of a web page."""
    codes: frozenset[str] = frozenset()
    """Codes, types and reasons, in lower case."""
    status: int | None = None
    """The HTTP status that the body itself names or implies."""
    has_output: bool = False
    """It reports output tokens, so something was generated."""
    quotas: str = ""
    """The names of Google's quotas that are used up."""
    wait_seconds: float | None = None
    """The wait that a field of it asks for."""

    @property
    def is_exhausted(self) -> bool:
        """Google's quotas: by the minute or by the day."""
        return bool(self.codes & EXHAUSTED_CODES)

    @property
    def is_about_money(self) -> bool:
        """The account has no money, or the key may spend no more."""
        if IN_FLIGHT.search(self.message):
            return False
        if self.is_exhausted:
            return bool(NO_QUOTA.search(self.message))
        return bool(self.codes & MONEY_CODES or MONEY_WORDS.search(self.message[:MESSAGE_CHARS]))

    @property
    def is_about_key(self) -> bool:
        """The key is not valid."""
        return bool(self.codes & KEY_CODES)

    @property
    def is_about_model(self) -> bool:
        """There is no such model."""
        return bool(self.codes & MODEL_CODES or NO_MODEL.search(self.message[:MESSAGE_CHARS]))

    @property
    def is_about_batch_limit(self) -> bool:
        """More tokens or batches wait than the account may have waiting."""
        return bool(BATCH_LIMIT.search(self.message))

    @property
    def is_about_missing_file(self) -> bool:
        """A file is not there, or not yet: uploads take a while to be seen everywhere."""
        return bool(MISSING_FILE.search(self.message))

    @property
    def is_daily_quota(self) -> bool:
        """A quota by the day, or the allowance of a plan, is used up, by its name or code."""
        return bool(DAILY.search(self.quotas) or self.codes & PLAN_CODES)

    @property
    def is_about_calls_in_flight(self) -> bool:
        """The account has too little for all calls that are running at once."""
        return bool(IN_FLIGHT.search(self.message))

    @property
    def says_daily(self) -> bool:
        """The message speaks of a limit by the day, or by a longer time."""
        return bool(DAILY.search(self.message))

    @property
    def says_timeout(self) -> bool:
        """A gateway lost the server behind it."""
        return bool(TIMEOUT.search(self.message))

    @property
    def retry_after_seconds(self) -> float | None:
        """The wait that a field or the message asks for, as "try again in 1m2.5s"; None without one."""
        waits = (self.wait_seconds, *map(_seconds, WAIT.finditer(self.message)))
        return next((seconds for seconds in waits if seconds is not None), None)


def read_error(body: str) -> ErrorBody:
    """The error in the body of a response with a status other than success; any text is one."""
    try:
        fields = json.loads(body, strict=False)
    except (ValueError, RecursionError):
        title = re.search(r"<title>(.*?)</title>", body, re.IGNORECASE | re.DOTALL)
        return ErrorBody(_line(f"a web page: {title[1]}" if title else body))
    return _read(fields, whole=body)


def error_in_place_of_completion(fields: object) -> ErrorBody | None:
    """The error that the JSON of a response with HTTP 200 consists of; None where it is something else."""
    if isinstance(fields, list):
        fields = fields[0] if fields else None  # as Gemini's compatible endpoint sends it
    if not isinstance(fields, dict) or fields.get("choices"):
        return None
    base_status = mapping(fields.get("base_resp")).get("status_code")
    is_error = (
        bool(_said(fields.get("error")) or fields.get("errors") or base_status)
        or fields.get("object") == "error"
        or fields.get("type") == "error"
        or fields.get("success") is False
        or fields.get("status") in ("error", "fail", "failed")
        or (any(fields.get(name) not in SUCCESS_CODES for name in ("code", "error_code", "statusCode", "status"))
            and any(isinstance(fields.get(name), str) for name in ("message", "msg", "error_msg", "detail")))
        or (fields.keys() == {"detail"} or fields.keys() == {"message"})
    )  # fmt: skip
    return _read(fields, whole=json.dumps(fields)) if is_error else None


def failure_of_completion(fields: object) -> str | None:
    """Why the provider broke a completion off: an error beside its text, or a finish reason; None where it did not."""
    choices = mappings(mapping(fields).get("choices"))
    if not choices:
        return None
    for error in (mapping(fields).get("error"), choices[0].get("error")):
        if _said(error):
            return _read({"error": error}, whole=str(error)).message
    if mapping(fields).get(STREAM_ENDED) is False:
        return "the stream broke off"
    finish_reason = text(choices[0].get("finish_reason"))
    return f"finish_reason is {finish_reason}" if ending_of(finish_reason or None) == "failed" else None


def _said(error: object) -> object:
    """An error; an object without a value is none: gateways in Go write one of empty fields beside a completion."""
    return any(error.values()) if isinstance(error, dict) else error


def _read(fields: object, *, whole: str) -> ErrorBody:
    if isinstance(fields, list):
        fields = fields[0] if fields else None
    outer = mapping(fields)
    inner = outer.get("error") or outer.get("errors") or outer.get("base_resp") or outer
    if isinstance(inner, list):
        inner = inner[0] if inner else outer
    error = mapping(inner)
    details = mappings(error.get("details"))
    levels = (error, outer, *details)
    message = inner if isinstance(inner, str) else next(filter(None, _messages(error, outer)), "")
    codes = frozenset(
        str(code).lower()
        for level in levels
        for name in ("code", "type", "status", "reason", "error_code")
        if isinstance(code := level.get(name), str | int) and not isinstance(code, bool)
    )
    message = _line(message or whole)
    if "RESOURCE_EXHAUSTED" in message:  # Google's error, quoted by a router
        codes |= EXHAUSTED_CODES
    violations = [v for detail in details for v in mappings(detail.get("violations"))]
    return ErrorBody(
        message,
        codes,
        _status(outer, codes),
        has_output=any(count(mapping(outer.get("usage")).get(n)) for n in ("completion_tokens", "output_tokens")),
        quotas=" ".join(f"{text(v.get('quotaId'))} {text(v.get('quotaMetric'))}" for v in violations),
        wait_seconds=_asked_seconds(*levels, mapping(error.get("metadata"))),
    )


def _asked_seconds(*levels: Mapping[str, Any]) -> float | None:
    """The first wait that a field of the error asks for; None without one."""
    for level in levels:
        for name, unit_seconds in WAIT_FIELDS.items():
            value = level.get(name)
            said = duration_seconds(str(value)) if isinstance(value, str | int | float) else None
            if said is not None:
                return said * unit_seconds
    return None


def duration_seconds(text: str) -> float | None:
    """The seconds of "12", "1.5s", "1m30s" or "2 minutes"; None for anything else."""
    found = DURATION.fullmatch(text.strip())
    if found is not None:
        return _seconds(found)
    return float(text) if re.fullmatch(r"\s*\d{1,9}(\.\d{1,9})?\s*", text, re.ASCII) else None


def _seconds(duration: re.Match[str]) -> float | None:
    """The seconds that a match of `DURATION` stands for; None for an empty one."""
    if not any(duration.groups()):
        return None
    return sum(float(part or 0) * unit for part, unit in zip(duration.groups(), UNIT_SECONDS, strict=True))


def _messages(*levels: Mapping[str, Any]) -> Iterator[str]:
    """The messages of an error; what a router's upstream said (OpenRouter's `metadata.raw`) belongs to it."""
    for level in levels:
        for name in ("message", "msg", "status_msg", "error_msg", "detail", "error"):
            if name == "detail" and (found := mappings(level.get(name))):  # as FastAPI reports an invalid body
                yield text(found[0].get("msg"))
            said, raw = text(level.get(name)), text(mapping(level.get("metadata")).get("raw"))
            yield f"{said}: {raw}" if said and raw else said


def _status(outer: Mapping[str, Any], codes: frozenset[str]) -> int | None:
    """The HTTP status that the body names, as a number or by a code that stands for one."""
    base_status = count(mapping(outer.get("base_resp")).get("status_code"))
    if base_status is not None:
        return BASE_RESP_STATUS.get(base_status)
    named = [int(code) for code in codes if HTTP_ERROR.fullmatch(code)]
    return next(iter(named or [STATUS_NAMES[code] for code in sorted(codes) if code in STATUS_NAMES]), None)


def _line(message: str) -> str:
    return " ".join(message[:LINE_CHARS].split())
