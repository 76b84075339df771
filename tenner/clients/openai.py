"""A client for the chat completions protocol: OpenAI, DeepSeek, Qwen, GLM, Kimi, OpenRouter, vLLM, SGLang, …"""

import asyncio
import json
import re
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from functools import cache
from importlib import resources
from typing import BinaryIO, Final, Literal, NamedTuple
from urllib.parse import urlsplit

import httpx2
import openai
from openai.types import Batch

from tenner.budget import prices
from tenner.clients.api_keys import key_in_environment, refuse_in_settings
from tenner.clients.chat_completion import parse_completion
from tenner.clients.error_body import read_error
from tenner.clients.faults import OUT_OF_MONEY, Fault, from_report, from_status, message_of
from tenner.clients.http import CONNECT_SECONDS, JSONPosts, checked, fault_of
from tenner.clients.json_fields import count, mapping
from tenner.clients.protocol import BatchResult, BatchStatus, Call, Reply, Request, Response
from tenner.clients.worst_case import input_tokens_max
from tenner.core.errors import TennerError
from tenner.core.records import Usage
from tenner.core.sections import PaidModel

CHECK_SECONDS = 60.0  # for the list of models
BYTES_MIN, BYTES_MAX = 8 << 20, 1 << 30
BYTES_PER_TOKEN, LOGPROB_BYTES_PER_TOKEN = 1 << 10, 16 << 10
"""What a response may have: an event of a stream takes about 300 bytes for a token."""
BATCH_PATH: Final = "/v1/chat/completions"
NO_BATCH_HINT = "leave out batch mode, and pay for single calls"
BATCH_ENDS = ("completed", "failed", "expired", "cancelled")
STATUS = re.compile(r"\d{3}", re.ASCII)
TOKEN_NAME = "tenner"  # the key of our token in the metadata of a batch
RESERVED = {
    "model", "messages", "n", "stream", "stream_options", "max_tokens", "max_completion_tokens", "max_output_tokens",
    "max_new_tokens",
}  # fmt: skip
"""Parameters that would bypass the store, the cap or the parser."""
THINKING_LIMIT = "thinking_budget"
UNBOUNDED = {
    "best_of": "it is charged for completions that are not returned",
    "models": "other models have other prices",
    "plugins": "what they add to the prompt has no limit",
    "web_search_options": "what a search adds to the prompt has no limit",
    "search_parameters": "what a search adds to the prompt has no limit",
    "enable_search": "what a search adds to the prompt has no limit",
}
"""Parameters by which a call may cost more than can be reserved for it, and why."""
DEARER_TIERS = ("priority", "fast")
OWN_TOOLS = ("function", "custom")
"""Types of tools that the server only offers to the model; it runs those of all others itself, as a search."""
SEARCHING = ":online"
"""OpenRouter's suffix of a model's name that adds what a search finds."""
STREAM_DEMANDED = re.compile(
    r"for non-?streaming calls|\bonly\b[^.]{0,20}\bsupports? stream|\bonly stream(ing)?\b[^.]{0,20}\bsupported"
    r"|only (be )?(called|used|available)[^.]{0,30}\bstream|non-?stream\w*[^.]{0,40}\b(not|un)[- ]?(supported|allowed)"
    r"|stream(ing)?\W{0,4} ?(=|must|is|should|needs?|has)[^.]{0,20}\b(true|required|enabled)\b"
    r"|(set|enable|use|with|have) \W{0,2}stream(ing)?\b(?! ?(to|=|:) ?false)[^.]{0,20}(true|parameter|mode)"
    r"|stream\W{0,2} ?(=|to|:) ?(false)[^.]{0,20}not (supported|allowed)",
    re.IGNORECASE,
)
"""How servers say that a model only streams."""


class Provider(NamedTuple):
    """A server, and what it supports."""

    name: str
    base_url: str
    api_key_env: str | None = None
    reasoning: Literal["shown", "summary", "hidden"] = "shown"
    limit_parameter: str = "max_tokens"
    batches: bool = False
    streamed_models: Sequence[str] = ()
    """Patterns of the names of models that only stream, as `qwq-*`."""


@cache
def presets() -> dict[str, Provider]:
    """The known providers, by name."""
    table = tomllib.loads((resources.files("tenner.clients") / "presets.toml").read_text("utf-8"))
    return {name: Provider(name, **fields) for name, fields in table.items()}


class _Server:
    """One of the servers that calls are split between."""

    def __init__(self, base_url: str, *, key: str, bytes_max: int) -> None:
        self.base_url = base_url
        self.posts = JSONPosts(f"{base_url.rstrip('/')}/chat/completions", key=key, bytes_max=bytes_max)
        self.calls = 0
        """Those in flight."""
        self.failures = 0
        """Since it last answered."""


class OpenAIClient:
    """One model behind one server, or several."""

    def __init__(self, section: PaidModel, *, key: str | None = None) -> None:
        """A `key` of None is looked up in the environment.

        Raises:
            TennerError: an unknown preset, no key, no known price, a provider that hides the reasoning, for traces, or
                that takes no batches, in batch mode.
        """
        assert section.model is not None, "validated in the recipe"
        self._section, self._provider = section, _provider(section)
        if self._provider.reasoning == "hidden" and section.WANTS_THINKING:
            raise TennerError(
                f"{self._provider.name} does not show the reasoning of its models: every trace would be empty",
                hint='choose a provider that does, such as preset = "deepseek"',
            )
        if section.batch and not self._provider.batches:
            raise TennerError(f"{self._provider.name} takes no batches", hint=NO_BATCH_HINT)
        if taken := RESERVED & section.parameters.keys():
            raise TennerError(
                f"{section.PLACE}.parameters: {min(taken)} is set by tenner itself",
                hint="see model, output_tokens_max and the number of samples",
            )
        _refuse_unbounded(section)
        self.reasoning_is_summary = self._provider.reasoning == "summary"
        self._streams = any(fnmatchcase(section.model, pattern) for pattern in self._provider.streamed_models)
        self._usage_option = True
        self.price = prices.price_of(self._provider.name, section.model, section.price)
        self.secret = key_in_environment(self._provider.api_key_env) if key is None else key
        refuse_in_settings(self.secret, section)
        self._client = openai.AsyncOpenAI(
            base_url=self._provider.base_url,
            api_key=self.secret or "none",  # the SDK requires one
            max_retries=0,  # `BatchCalls` retries
            timeout=httpx2.Timeout(None, connect=CONNECT_SECONDS),
            http_client=openai.DefaultAsyncHttpxClient(follow_redirects=False),
        )
        token_bytes = LOGPROB_BYTES_PER_TOKEN if section.parameters.get("logprobs") else BYTES_PER_TOKEN
        bytes_max = min(BYTES_MIN + token_bytes * section.output_tokens_max, BYTES_MAX)
        urls = [self._provider.base_url, *section.further_base_urls]
        self._servers = [_Server(url, key=self.secret, bytes_max=bytes_max) for url in urls]

    async def check(self) -> None:
        """Fetch the list of models and, in batch mode, of batches, which is free."""
        for server in self._servers:
            await self._check_model(server)
        if self._section.batch:
            await self._check_batches()

    async def _check_model(self, server: "_Server") -> None:
        """A server without a list of models passes the check."""
        url = server.base_url
        try:
            async with asyncio.timeout(CHECK_SECONDS):
                body = await server.posts.get(f"{url.rstrip('/')}/models")
            listed = read_models(body)
        except Fault as fault:
            if fault.kind in ("unreachable", "interrupted"):
                raise _no_answer(url, fault.redacted(self.secret)) from None
            if fault.kind in ("bad_key", "redirected", *OUT_OF_MONEY):
                hint = self._key_hint() if fault.kind == "bad_key" else fault.rule.hint
                raise fault.error_class(
                    f"{self._provider.name}: {fault.kind}: {fault.redacted(self.secret)}", hint=hint
                ) from None
            return
        except TimeoutError:
            raise _no_answer(url, f"no list of models within {CHECK_SECONDS:g} s") from None
        except (ValueError, KeyError, TypeError, RecursionError):
            return
        assert self._section.model is not None, "validated in the recipe"
        if self._section.model not in listed and prices.base_model(self._section.model) not in map(
            prices.base_model, listed
        ):
            known = ", ".join(sorted(listed)[:5])
            raise TennerError(
                f"{self._provider.name} has no model {self._section.model}",
                hint=f"it has {known}" + (f" and {len(listed) - 5} more" if len(listed) > 5 else ""),
            )

    async def _check_batches(self) -> None:
        """Without a list of batches, a batch whose id was lost in a crash could not be found again."""
        try:
            with _faults():
                await self._client.batches.list(limit=1)
        except Fault as fault:
            if not fault.rule.retried:
                raise TennerError(
                    f"{self._provider.name} takes no batches: {fault.redacted(self.secret)}", hint=NO_BATCH_HINT
                ) from None

    def request(self, call: Call) -> Request:
        """The body of the chat completion but for the fields of streaming, which `send` adds."""
        section = self._section
        messages = [{"role": "user", "content": call.question.question + section.suffix}]
        if section.system_prompt:
            messages.insert(0, {"role": "system", "content": section.system_prompt})
        return {
            "model": section.model,
            "messages": messages,
            self._provider.limit_parameter: section.output_tokens_max,
            **section.parameters,
        }

    def worst_case_usage(self, call: Call, request: Request) -> Usage:  # noqa: ARG002  the request holds it all
        """An upper bound, over all that is sent."""
        messages = request["messages"]
        assert isinstance(messages, list)
        input_tokens = input_tokens_max([m["content"] for m in messages], self._section.parameters)
        beside = count(self._section.parameters.get(THINKING_LIMIT)) or 0  # some servers limit only the answer then
        return Usage(input_tokens=input_tokens, output_tokens=self._section.output_tokens_max + beside)

    async def send(self, call: Call, request: Request) -> Response:  # noqa: ARG002  the request holds it all
        """One attempt; streamed where the preset says so, or once the server has demanded it, which it does for free.

        How the response travels is no part of the request, so its key is the same either way.
        """
        if not self._streams:
            try:
                return await self._post(json.dumps(request))
            except Fault as fault:
                if fault.kind != "bad_request" or not STREAM_DEMANDED.search(fault.evidence):
                    raise
                self._streams = True
        try:
            return await self._post(json.dumps(self._streamed(request)), streamed=True)
        except Fault as fault:
            if fault.kind != "bad_request" or not self._usage_option or "stream_options" not in fault.evidence:
                raise
            self._usage_option = False  # then its calls are unmetered, and stay at their worst case
        return await self._post(json.dumps(self._streamed(request)), streamed=True)

    async def _post(self, body: str, *, streamed: bool = False) -> Response:
        """One attempt, at the server with the fewest failures since it last answered, and of these the least busy.

        So a server that fails is avoided, and its call, when it is tried again, goes to another.
        """
        server = min(self._servers, key=lambda s: (s.failures, s.calls))
        server.calls += 1
        try:
            response = await server.posts.post(body, streamed=streamed)
        except Fault as fault:
            server.failures += fault.rule.transient
            if len(self._servers) == 1:
                raise
            evidence = f"{server.base_url}: {fault.evidence}"
            raise Fault(fault.kind, evidence, retry_after_seconds=fault.retry_after_seconds) from None
        except asyncio.CancelledError:  # at its deadline
            server.failures += 1
            raise
        finally:
            server.calls -= 1
        server.failures = 0
        return response

    def _streamed(self, request: Request) -> Request:
        usage: Request = {"stream_options": {"include_usage": True}} if self._usage_option else {}
        return request | {"stream": True} | usage

    def parse(self, response: Response) -> Reply:
        """Parse a chat completion."""
        return parse_completion(response)

    def batch_line(self, key: str, request: str) -> bytes:
        """In ASCII, since some readers end a line at other characters than a newline, too."""
        fields = {"custom_id": key, "method": "POST", "url": BATCH_PATH, "body": json.loads(request)}
        return json.dumps(fields).encode() + b"\n"

    async def upload(self, lines: bytes) -> str:
        """Upload lines."""
        with _faults():
            uploaded = await self._client.files.create(file=("batch.jsonl", lines), purpose="batch")
            return _id(uploaded.id)

    async def create_batch(self, file_id: str, token: str) -> str:
        """Start a batch of the calls in a file."""
        with _faults(not_found="file_not_ready"):
            batch = await self._client.batches.create(
                input_file_id=file_id, endpoint=BATCH_PATH, completion_window="24h", metadata={TOKEN_NAME: token}
            )
            return _id(_batch(batch).id)

    async def find_batch(self, token: str) -> str | None:
        """Search the provider's list, to its end if need be."""
        with _faults():
            async for batch in self._client.batches.list(limit=100):
                if (batch.metadata or {}).get(TOKEN_NAME) == token:
                    return _id(batch.id)
        return None

    async def batch_status(self, batch_id: str) -> BatchStatus:
        """The state of a batch."""
        with _faults(not_found="unknown_batch"):
            return _status_of(_batch(await self._client.batches.retrieve(batch_id)))

    async def download(self, file_id: str, into: BinaryIO) -> None:
        """Write a result file as it arrives."""
        with _faults(not_found="file_not_ready"):
            async with self._client.files.with_streaming_response.content(file_id) as response:
                async for chunk in response.iter_bytes():
                    into.write(chunk)

    def read_result(self, line: bytes) -> BatchResult:
        """Parse a line of a result file."""
        return read_result(line)

    async def close(self) -> None:
        """Close the connections."""
        for server in self._servers:
            await server.posts.close()
        await self._client.close()

    def _key_hint(self) -> str:
        env = self._provider.api_key_env
        return f"check the key in ${env}" if env else "the server requires a key: name its variable with api_key_env"


def read_models(body: bytes) -> set[str]:
    """The names in a server's list of its models. Raises what a body raises that holds none."""
    return {str(row["id"]) for row in json.loads(body)["data"]}


def read_result(line: bytes) -> BatchResult:
    """Parse a line of an output or error file. Raises ValueError for an invalid line."""
    fields = json.loads(line)
    if not isinstance(fields, dict) or not isinstance(key := fields.get("custom_id"), str):
        raise ValueError("no custom_id")
    response, error = fields.get("response"), fields.get("error")
    if response is not None:
        told = mapping(response).get("status_code")
        status = count(int(told) if isinstance(told, str) and STATUS.fullmatch(told) else told)
        if status is None:
            raise ValueError("no status_code")  # it may have been charged
        body = json.dumps(mapping(response).get("body"))
        if 200 <= status < 300:
            try:
                return BatchResult(key, checked(Response(body.encode(), "application/json")))
            except Fault as fault:
                return BatchResult(key, fault)
        return BatchResult(key, from_status(status, {}, body))
    code = error.get("code") if isinstance(error, dict) else None
    if code in ("batch_expired", "batch_cancelled"):
        return BatchResult(key, Fault("expired", message_of(json.dumps({"error": error}))))
    reported = from_report(code, message_of(json.dumps({"error": error})))
    return BatchResult(key, Fault("server_error", reported.evidence) if reported.kind == "bad_request" else reported)


def _refuse_unbounded(section: PaidModel) -> None:
    """Raise TennerError for a parameter or a model by which a call may cost more than is reserved."""
    refused = dict(UNBOUNDED)
    if section.parameters.get("service_tier") in DEARER_TIERS and section.price is None:
        refused["service_tier"] = "its price is not that of the table, so give one"
    tools = section.parameters.get("tools")
    if not isinstance(tools, list) or any(mapping(tool).get("type") not in OWN_TOOLS for tool in tools):
        refused["tools"] = "what a tool of the server adds to the prompt has no limit"
    for name, why in refused.items():
        if section.parameters.get(name):
            raise TennerError(
                f"{section.PLACE}.parameters: {name} could cross the cap: {why}", hint=f"leave {name} out"
            )
    if section.model is not None and section.model.endswith(SEARCHING):
        raise TennerError(
            f"{section.PLACE}.model: {section.model} could cross the cap: {UNBOUNDED['web_search_options']}",
            hint=f"leave {SEARCHING} out",
        )


def _provider(section: PaidModel) -> Provider:
    """The preset that the section names, with its overrides; or the server at `base_url`, named by its host."""
    known = presets()
    if section.preset is not None:
        if section.preset not in known:
            raise TennerError(
                f"{section.PLACE}.preset: no provider is called {section.preset}", hint=f"there are {', '.join(known)}"
            )
        provider = known[section.preset]
    else:
        assert section.base_url is not None, "validated in the recipe"
        provider = Provider(urlsplit(section.base_url).hostname or section.base_url, section.base_url)
    if section.base_url is not None:
        provider = provider._replace(base_url=section.base_url, batches=True)
    if section.limit_parameter is not None:
        provider = provider._replace(limit_parameter=section.limit_parameter)
    if section.api_key_env is not None:
        provider = provider._replace(api_key_env=section.api_key_env)
    return provider


def _id(given: object) -> str:
    """The id of a file or a batch; the SDK passes on whatever stands in its place."""
    if not isinstance(given, str) or not given:
        raise Fault("server_error", f"the response has no id, but {str(given)[:40]}")
    return given


def _status_of(batch: Batch) -> BatchStatus:
    """The state of a batch."""
    counts = batch.request_counts
    completed, failed, total = (count(getattr(counts, name, None)) or 0 for name in ("completed", "failed", "total"))
    files = tuple(_id(file_id) for file_id in (batch.output_file_id, batch.error_file_id) if file_id)
    # Completed calls are charged, so their file must exist: while it is missing, the batch has not ended.
    missing = completed > 0 and not batch.output_file_id
    refusal = None
    if batch.status == "failed" and not files:
        errors = (batch.errors and batch.errors.data) or []
        messages = "; ".join(str(e.message) for e in errors if e.message)
        refusal = from_report(next((e.code for e in errors), None), messages or "no reason given")
    return BatchStatus(
        state=str(batch.status),
        ended=batch.status in BATCH_ENDS and not missing,
        done=completed + failed,
        total=total,
        files=files,
        refusal=refusal,
    )


def _batch(parsed: object) -> Batch:
    """The SDK returns what it cannot parse as it is, such as the web page of a proxy."""
    if not isinstance(parsed, Batch) or not parsed.id:
        raise Fault("server_error", f"the response is not a batch: {message_of(str(parsed))}")
    return parsed


@contextmanager
def _faults(*, not_found: str = "unknown_model") -> Iterator[None]:
    """Convert the SDK's errors to faults; `not_found` is the kind of an HTTP 404."""
    try:
        yield
    except openai.APIStatusError as e:
        found = _fault_of_status(e)
        is_missing = found.kind == "unknown_model"
        if not_found == "file_not_ready" and found.kind == "bad_request":
            is_missing = read_error(e.response.text).is_about_missing_file
        raise (Fault(not_found, found.evidence) if is_missing else found) from None
    except (ValueError, RecursionError) as e:
        raise Fault("server_error", f"the response is not JSON: {e}") from None
    except (AttributeError, TypeError) as e:  # the SDK checks no types: a web page is text, and a field anything
        raise Fault("server_error", f"the response is not one of this protocol: {e}") from None
    except httpx2.RequestError as e:  # while a body is read; timeouts are subclasses
        raise fault_of(e) from None
    except openai.APIConnectionError as e:
        cause = e.__cause__
        raise fault_of(cause if isinstance(cause, httpx2.RequestError) else e) from None


def _no_answer(url: str, reason: str) -> TennerError:
    return TennerError(f"no server answers at {url}: {reason}", hint="check the base URL, and that the server runs")


def _fault_of_status(error: openai.APIStatusError) -> Fault:
    return from_status(error.status_code, error.response.headers, error.response.text)
