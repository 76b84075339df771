"""A client for Gemini's own protocol, which returns summaries of the thinking as parts of the answer."""

import json
import logging
import re
from collections.abc import AsyncIterator, Awaitable, Mapping
from contextvars import ContextVar
from typing import Any

import httpx2
from pydantic import ValidationError

from tenner.budget import prices
from tenner.clients.api_keys import key_in_environment, refuse_in_settings
from tenner.clients.control_tokens import clean_answer, clean_thinking
from tenner.clients.faults import Fault, from_status
from tenner.clients.http import BODY_BYTES, CONNECT_SECONDS, checked, fault_of
from tenner.clients.json_fields import count, mapping, mappings, text
from tenner.clients.protocol import Call, Reply, Request, Response
from tenner.clients.reply_outcome import judge
from tenner.clients.thinking import Thought
from tenner.clients.usage import checked_usage
from tenner.clients.worst_case import input_tokens_max
from tenner.core.errors import TennerError
from tenner.core.records import Usage
from tenner.core.sections import PaidModel
from tenner.core.suggest import did_you_mean

try:
    from google import genai
    from google.genai import types
except ImportError as e:
    raise TennerError("the gemini client needs google-genai", hint="pip install 'tenner[gemini]'") from e

BASE_URL = "https://generativelanguage.googleapis.com"
API_VERSION = "v1beta"  # the documented version; v1 lacks some models
KEY_VARIABLE = "GEMINI_API_KEY"

ELSEWHERE = {
    "max_output_tokens": "set {place}.output_tokens_max",
    "candidate_count": "tenner makes one call for each sample",
    "system_instruction": "set {place}.system_prompt",
    "tools": "what tools add to the prompt has no limit, so the cap could be crossed",
    "cached_content": "what the cache adds to the prompt is not known here, so the cap could be crossed",
    "http_options": "tenner itself retries and keeps the deadline",
    "should_return_http_response": "tenner always keeps the response as it came",
}
"""Parameters that the recipe sets by other names, or that would get round the cap; `place` is the section."""

DEARER_TIER = "priority"
KEY_REASONS = re.compile(r"API_KEY_\w+|CONSUMER_(INVALID|SUSPENDED)|SERVICE_DISABLED")  # of google.api.ErrorReason
KEY_WORDS = re.compile(r"api.?key|project|unregistered caller", re.IGNORECASE)
RETRY_DELAY = re.compile(r"(\d+(?:\.\d+)?)s")  # a protobuf Duration in JSON

_arrived: ContextVar[httpx2.Response | None] = ContextVar("arrived", default=None)
"""The last response that the current task received."""


class GeminiClient:
    """One Gemini model."""

    reasoning_is_summary = True

    def __init__(self, section: PaidModel, *, key: str | None = None) -> None:
        """A `key` of None is looked up in the environment.

        Raises:
            TennerError: no key, no known price, or a parameter that cannot be sent or has another price.
        """
        assert section.model is not None, "validated in the recipe"
        self._section, self._model = section, section.model
        self._url = section.base_url or BASE_URL
        self._key_variable = section.api_key_env or KEY_VARIABLE
        _check_parameters(section.parameters, section.PLACE)
        if section.price is None and str(section.parameters.get("service_tier")).lower() == DEARER_TIER:
            raise TennerError(
                f"{section.PLACE}.parameters: service_tier could cross the cap: its price is not that of the table, "
                "so give one",
                hint="leave service_tier out",
            )
        self.price = prices.price_of("gemini", section.model, section.price)
        self.secret = key_in_environment(self._key_variable) if key is None else key
        refuse_in_settings(self.secret, section)
        # The SDK returns text, not bytes, and only for responses that it accepts; so this HTTP client keeps every
        # response. With it the SDK does not use aiohttp, with which it retries a broken request by itself; and it
        # follows no redirects, which would send the key's header to another host.
        self._http = httpx2.AsyncClient(
            limits=httpx2.Limits(max_connections=None, max_keepalive_connections=section.concurrency),
            event_hooks={"request": [_limit_connecting], "response": [_keep]},
        )
        # If GOOGLE_API_KEY is set, the SDK warns that it uses that key, although it uses the one given here.
        logging.getLogger("google_genai").setLevel(logging.ERROR)
        self._client = genai.Client(
            vertexai=False,  # explicit, as URL and version are: the SDK's environment variables must not change them
            api_key=self.secret or "none",  # the SDK requires one
            http_options=types.HttpOptions(
                base_url=self._url,
                api_version=API_VERSION,
                httpx_async_client=self._http,
                retry_options=types.HttpRetryOptions(attempts=1),  # `PaidCalls` retries and keeps the deadline
            ),
        )

    async def check(self) -> None:
        """Look the model up, which is free. A server with a transient fault passes the check."""
        try:
            await self._exchange(self._client.aio.models.get(model=self._model))
        except Fault as fault:
            evidence = fault.redacted(self.secret)
            if fault.kind == "unreachable" or fault.kind == "interrupted":
                raise TennerError(
                    f"no server answers at {self._url}: {evidence}",
                    hint="check the base URL, and that the server runs",
                ) from None
            if fault.kind == "unknown_model":
                raise TennerError(
                    f"gemini has no model {self._model}: {evidence}",
                    hint="see https://ai.google.dev/gemini-api/docs/models",
                ) from None
            if not fault.rule.retried:
                hint = f"check the key in ${self._key_variable}, and its project"
                raise fault.error_class(f"gemini: {fault.kind}: {evidence}", hint=hint) from None

    def request(self, call: Call) -> Request:
        """The arguments of the SDK's `generate_content`."""
        section = self._section
        config: dict[str, object] = {
            "max_output_tokens": section.output_tokens_max,
            **section.parameters,
            "thinking_config": {"include_thoughts": True, **section.parameters.get("thinking_config", {})},
        }
        if section.system_prompt:
            config["system_instruction"] = section.system_prompt
        return {"model": self._model, "contents": call.question.question + section.suffix, "config": config}

    def worst_case_usage(self, call: Call, request: Request) -> Usage:  # noqa: ARG002  the request holds it all
        """An upper bound, over all that is sent."""
        contents, config = request["contents"], request["config"]
        assert isinstance(contents, str)
        assert isinstance(config, dict)
        return Usage(
            input_tokens=input_tokens_max([contents], config),
            output_tokens=self._section.output_tokens_max,  # for Gemini, too, thinking and answer together
        )

    async def send(self, call: Call, request: Request) -> Response:  # noqa: ARG002  the request holds it all
        """One attempt."""
        model, contents, config = request["model"], request["contents"], request["config"]
        assert isinstance(model, str)
        assert isinstance(contents, str)
        assert isinstance(config, dict)
        sdk_config = types.GenerateContentConfig.model_validate(
            # With the raw response the SDK cannot make further calls of its own, for which nothing is reserved.
            {**config, "should_return_http_response": True, "automatic_function_calling": {"disable": True}}
        )
        response = await self._exchange(
            self._client.aio.models.generate_content(model=model, contents=contents, config=sdk_config)
        )
        return checked(Response(response.content, response.headers.get("content-type", "")))

    def parse(self, response: Response) -> Reply:
        """Parse a response of `generateContent`."""
        return parse_generation(response)

    async def close(self) -> None:
        """Close the connections."""
        self._client.close()
        await self._http.aclose()

    async def _exchange(self, sdk_call: Awaitable[object]) -> httpx2.Response:
        """The raw response to a call of the SDK, whatever the SDK makes of it. Raises Fault."""
        _arrived.set(None)
        try:
            await sdk_call
        except httpx2.RequestError as e:  # timeouts are subclasses
            raise fault_of(e) from None
        except Fault:
            raise
        except Exception as e:
            if _arrived.get() is None:
                if isinstance(e, ValueError):  # refused by the SDK itself
                    raise Fault("bad_request", " ".join(str(e).split())) from None
                raise
        response = _arrived.get()
        assert response is not None, "the event hook has set it"
        if not response.is_success:
            raise _fault(response)
        return response


def parse_generation(response: Response) -> Reply:
    """Parse the body of a `generateContent` response; never raises."""
    try:
        fields = json.loads(response.body)
    except (ValueError, RecursionError):
        is_json = "json" in response.content_type
        return Reply("unreadable" if is_json else "wrong_content_type")
    if not isinstance(fields, dict) or not fields.keys() & {"candidates", "promptFeedback", "usageMetadata"}:
        return Reply("unreadable")
    counts = mapping(fields.get("usageMetadata"))
    usage, claimed = _usage(counts, text_chars=0), _claimed(counts)
    if blocked := text(mapping(fields.get("promptFeedback")).get("blockReason")):
        evidence = f"blockReason is {blocked}"
        return Reply("content_filter", finish_reason=blocked, usage=usage, claimed=claimed, evidence=evidence)
    candidates = mappings(fields.get("candidates"))
    if not candidates:
        return Reply("empty", usage=usage, claimed=claimed, evidence="it has no candidates")
    thought = _thought(mapping(candidates[0].get("content")))
    usage = _usage(counts, text_chars=len(thought.thinking) + len(thought.answer))
    finish_reason = text(candidates[0].get("finishReason")) or None
    return judge(thought, finish_reason, fields="no part is marked as a thought", usage=usage, claimed=claimed)


def _thought(content: Mapping[str, Any]) -> Thought:
    parts = mappings(content.get("parts"))
    thinking = "".join(text(part.get("text")) for part in parts if part.get("thought") is True)
    answer = "".join(text(part.get("text")) for part in parts if part.get("thought") is not True)
    thinking = clean_thinking(thinking).strip()
    return Thought(thinking, clean_answer(answer, thinking).strip())


def _usage(fields: Mapping[str, Any], *, text_chars: int) -> Usage:
    """Usage as tenner counts it: thoughts are not part of the candidates. Google leaves out counts of zero."""
    prompt, cached, answer, thoughts, total = (
        count(fields.get(name))
        for name in (
            "promptTokenCount", "cachedContentTokenCount", "candidatesTokenCount", "thoughtsTokenCount",
            "totalTokenCount",
        )
    )  # fmt: skip
    output: int | None = (answer or 0) + (thoughts or 0)
    if prompt is not None and total is not None:
        output = total - prompt if total - prompt >= (output or 0) else None
    elif answer is None and thoughts is None:
        output = None
    return checked_usage(prompt, cached, output, thoughts, text_chars=text_chars)


def _claimed(fields: Mapping[str, Any]) -> Usage:
    """The most tokens that the counts speak of, whatever they contradict."""
    prompt, answer, thoughts, total = (
        count(fields.get(name)) or 0
        for name in ("promptTokenCount", "candidatesTokenCount", "thoughtsTokenCount", "totalTokenCount")
    )
    return Usage(input_tokens=prompt, output_tokens=max(answer + thoughts, total - prompt))


def _check_parameters(parameters: Mapping[str, Any], place: str) -> None:
    known = types.GenerateContentConfig.model_fields
    for name in parameters:
        if name in ELSEWHERE:
            raise TennerError(
                f"{place}.parameters: {name} is set by tenner itself", hint=ELSEWHERE[name].format(place=place)
            )
        if name not in known:
            raise TennerError(
                f"{place}.parameters: gemini has no parameter {name}",
                hint=did_you_mean(name, known, "see google.genai.types.GenerateContentConfig"),
            )
    try:
        types.GenerateContentConfig.model_validate(parameters)
    except ValidationError as e:
        first = e.errors()[0]
        raise TennerError(f"{place}.parameters: {'.'.join(map(str, first['loc']))}: {first['msg']}") from e


def _fault(response: httpx2.Response) -> Fault:
    """The fault of an error response: Google's error details say more than the HTTP status."""
    fault = from_status(response.status_code, response.headers, response.text)
    try:
        error = mapping(mapping(response.json()).get("error"))
    except (ValueError, RecursionError):
        return fault
    details = mappings(error.get("details"))
    delays = (RETRY_DELAY.fullmatch(text(detail.get("retryDelay"))) for detail in details)
    asked_seconds = next((float(delay[1]) for delay in delays if delay), fault.retry_after_seconds)
    kind = _kind(response.status_code, error, {text(detail.get("reason")) for detail in details})
    return Fault(kind or fault.kind, fault.evidence, retry_after_seconds=asked_seconds)


def _kind(status: int, error: Mapping[str, Any], reasons: set[str]) -> str:
    """The kind that only the error details tell; empty where the HTTP status is enough."""
    message = text(error.get("message"))
    if status == 400 and error.get("status") == "FAILED_PRECONDITION":  # no free tier in this country
        return "billing"
    if any(map(KEY_REASONS.fullmatch, reasons)) or (status == 403 and KEY_WORDS.search(message)):
        return "bad_key"
    return ""


async def _limit_connecting(request: httpx2.Request) -> None:
    """Set the timeout of connecting: the SDK sends every request without any, whatever the client's own is."""
    request.extensions["timeout"] = httpx2.Timeout(None, connect=CONNECT_SECONDS).as_dict()
    request.headers["accept-encoding"] = "identity"  # what a compressed body comes to is not known before it is there


async def _keep(response: httpx2.Response) -> None:
    """Keep a response; its body is read, up to a bound, by the time that the SDK returns. Raises Fault."""
    if response.headers.get("content-encoding", "identity") != "identity":
        raise Fault("too_large", "the response is compressed, although that was not asked for")
    assert isinstance(response.stream, httpx2.AsyncByteStream)
    response.stream = _BoundedStream(response.stream)
    _arrived.set(response)


class _BoundedStream(httpx2.AsyncByteStream):
    """A body of at most `BODY_BYTES`."""

    def __init__(self, stream: httpx2.AsyncByteStream) -> None:
        self._stream = stream

    async def __aiter__(self) -> AsyncIterator[bytes]:
        received = 0
        async for chunk in self._stream:
            received += len(chunk)
            if received > BODY_BYTES:
                raise Fault("too_large", f"the body has more than {BODY_BYTES:,} bytes")
            yield chunk

    async def aclose(self) -> None:
        await self._stream.aclose()
