"""A Gemini on loopback: `generateContent` and `models.get` as its REST reference describes them, and their failures.

What it does with a question is said by the question's script: one behaviour for each time it is asked, the last one
for ever (see `BEHAVIOURS`). Requests with fields that the reference does not know are refused, as Google does.
"""

import json
import socket
import struct
import threading
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple

KEY = "AIzaSy-test-key-0123456789"
REQUEST_FIELDS = {"contents", "systemInstruction", "generationConfig", "safetySettings"}
CONFIG_FIELDS = {"maxOutputTokens", "thinkingConfig", "temperature", "topP", "topK", "seed", "stopSequences"}


class Answer(NamedTuple):
    """What goes back. `broken` says how: cut off after half of the body, or hung up before the first byte."""

    status: int
    body: bytes
    headers: Mapping[str, str] = {}
    broken: str = ""
    content_type: str = "application/json; charset=UTF-8"


class Asked(NamedTuple):
    """A request as it arrived."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: dict


def usage_of(question: str, **changes) -> dict:
    """The tokens that the server says a question took; None leaves a count out."""
    counts = {"promptTokenCount": len(question), "candidatesTokenCount": 7, "thoughtsTokenCount": 2 * len(question)}
    counts |= changes
    counts = {name: count for name, count in counts.items() if count is not None}
    cached = counts.get("cachedContentTokenCount", 0)  # a part of the prompt
    return counts | {"totalTokenCount": sum(counts.values()) - cached}


def thought(text: str) -> dict:
    return {"text": text, "thought": True}


def generation(question: str, *, parts: Sequence[dict] | None = None, finish_reason="STOP", usage=None) -> dict:
    """A good response, or one that ended otherwise."""
    if parts is None:
        parts = [thought(f"**Planning**\n\nI think about: {question}"), {"text": f"It is: {question}"}]
    content = {"role": "model"} | ({"parts": list(parts)} if parts else {})
    return {
        "candidates": [{"content": content, "finishReason": finish_reason, "index": 0}],
        "usageMetadata": usage_of(question) if usage is None else usage,
        "modelVersion": "m",
        "responseId": "r",
    }


def _json(status: int, fields: object, **headers: str) -> Answer:
    body = json.dumps(fields, indent=2, ensure_ascii=False).encode()
    return Answer(status, body, {name.replace("_", "-"): value for name, value in headers.items()})


def _good(question: str, **changes) -> Answer:
    return _json(200, generation(question, **changes))


def _error(code: int, status: str, message: str, *details: dict, **headers: str) -> Answer:
    error = {"code": code, "message": message, "status": status}
    return _json(code, {"error": error | ({"details": list(details)} if details else {})}, **headers)


def _reason(name: str) -> dict:
    return {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": name, "domain": "googleapis.com"}


def _retry_in(delay: str) -> dict:
    return {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": delay}


QUOTA = {"@type": "type.googleapis.com/google.rpc.QuotaFailure", "violations": [{"quotaId": "PerMinute"}]}
BAD_KEY = _error(400, "INVALID_ARGUMENT", "API key not valid. Please pass a valid API key.", _reason("API_KEY_INVALID"))

BEHAVIOURS: dict[str, Callable[[str], Answer]] = {
    "good": _good,
    "several thoughts": lambda q: _good(
        q, parts=[thought("One. "), thought("Two."), {"text": "", "thoughtSignature": "c2ln"}, {"text": "A "},
                  {"text": "and B."}]
    ),
    "cached": lambda q: _good(q, usage=usage_of(q, promptTokenCount=100, cachedContentTokenCount=64)),
    "truncated": lambda q: _good(q, parts=[thought("I never")], finish_reason="MAX_TOKENS",
                                 usage=usage_of(q, candidatesTokenCount=None, thoughtsTokenCount=1000)),
    "truncated before a word": lambda q: _good(q, parts=[], finish_reason="MAX_TOKENS"),
    "to be continued": lambda q: _json(200, {"candidates": [
        generation(q)["candidates"][0] | {"finishReason": "CONTINUATION", "continuationToken": "dG9rZW4="}],
        "usageMetadata": usage_of(q)}),
    "safety": lambda q: _good(q, parts=[], finish_reason="SAFETY", usage=usage_of(q, candidatesTokenCount=None)),
    "recitation": lambda q: _good(q, parts=[{"text": "To be or"}], finish_reason="RECITATION"),
    "blocked": lambda q: _json(200, {
        "promptFeedback": {"blockReason": "PROHIBITED_CONTENT"},
        "usageMetadata": {"promptTokenCount": len(q), "totalTokenCount": len(q)}}),
    "no thoughts": lambda q: _good(q, parts=[{"text": "Just so."}], usage=usage_of(q, thoughtsTokenCount=None)),
    "nothing said": lambda q: _good(q, parts=[]),
    "no candidates": lambda q: _json(200, {"usageMetadata": usage_of(q)}),
    "zeros": lambda q: _good(q, parts=[thought("I add."), {"text": "3."}], usage={
        "promptTokenCount": 0, "candidatesTokenCount": 0, "totalTokenCount": 0}),
    "hidden thoughts": lambda q: _good(q, parts=[thought("I add."), {"text": "3."}], usage={
        "promptTokenCount": 10, "candidatesTokenCount": 5, "totalTokenCount": 915}),
    "no usage": lambda q: _json(200, {"candidates": generation(q)["candidates"]}),
    "invalid json": lambda _: Answer(200, b'{"candidates": [{"content": '),
    "not utf-8": lambda _: Answer(200, b'{"candidates": "\xff\xfe"}'),
    "no generation": lambda _: _json(200, {"hello": "world"}),
    "web page": lambda _: Answer(200, b"<html>Welcome</html>", content_type="text/html"),
    "plain text": lambda _: Answer(200, b"Welcome", content_type="text/plain"),
    "empty body": lambda _: Answer(200, b""),
    "repeats the key": lambda q: _good(q, parts=[thought(f"The key is {KEY}."), {"text": "Secret."}]),
    "rate limit": lambda _: _error(429, "RESOURCE_EXHAUSTED", "You exceeded your current quota", QUOTA,
                                   _retry_in("17s"), retry_after="99"),
    "rate limit for a moment": lambda _: _error(429, "RESOURCE_EXHAUSTED", "Quota", _retry_in("0.050000001s")),
    "rate limit by header": lambda _: _error(429, "RESOURCE_EXHAUSTED", "Resource has been exhausted", retry_after="3"),
    "quota of a day": lambda _: _error(429, "RESOURCE_EXHAUSTED", "You exceeded your current quota", {
        "violations": [{"quotaId": "GenerateRequestsPerDayPerProjectPerModel-FreeTier"}]}, _retry_in("31s")),
    "error in a success": lambda _: _json(200, {"error": {"code": 500, "message": "An internal error"}}),
    "no credits": lambda _: _error(429, "RESOURCE_EXHAUSTED", "Your prepayment credits are depleted."),
    "no free tier": lambda _: _error(400, "FAILED_PRECONDITION", "User location is not supported."),
    "billing disabled": lambda _: _error(403, "PERMISSION_DENIED", "Enable billing", _reason("BILLING_DISABLED")),
    "bad key": lambda _: BAD_KEY,
    "leaked key": lambda _: _error(403, "PERMISSION_DENIED", "Your API key was reported as leaked."),
    "suspended key": lambda _: _error(403, "PERMISSION_DENIED", f"Consumer 'api_key:{KEY}' has been suspended.",
                                      _reason("CONSUMER_SUSPENDED")),
    "blocked service": lambda _: _error(403, "PERMISSION_DENIED", "Requests to this API are blocked.",
                                        _reason("API_KEY_SERVICE_BLOCKED")),
    "forbidden": lambda _: _error(403, "PERMISSION_DENIED", "The caller does not have permission"),
    "bad request": lambda _: _error(400, "INVALID_ARGUMENT", "Thinking budget is out of range"),
    "internal": lambda _: _error(500, "INTERNAL", "An internal error has occurred."),
    "overloaded": lambda _: _error(503, "UNAVAILABLE", "The model is overloaded."),
    "gateway": lambda _: Answer(502, b"<html>\xff 502</html>", content_type="text/html"),
    "elsewhere": lambda _: Answer(307, b"", {"location": "/v1beta/models/m:generateContent"}),
    "reset": lambda q: _good(q)._replace(broken="half"),
    "hung up": lambda q: _good(q)._replace(broken="at once"),
    "hang": lambda q: _good(q)._replace(broken="never"),
}  # fmt: skip


class GeminiServer:
    """The server; `asked` says what came, `sent` what went back as a success."""

    def __init__(self, scripts: Mapping[str, Sequence[str]] | None = None, *, models: Sequence[str] = ("m",)) -> None:
        self.scripts, self.models = dict(scripts or {}), models
        self.asked: list[Asked] = []
        self.sent: dict[str, bytes] = {}
        self.closing = threading.Event()
        self._times: defaultdict[str, int] = defaultdict(int)
        self._lock = threading.Lock()

    @property
    def url(self) -> str:
        """The base URL that clients are given."""
        return f"http://127.0.0.1:{self._http.server_port}"

    def __enter__(self) -> "GeminiServer":
        server = self

        class Handler(_Handler):
            owner = server

        self._http = _Server(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.closing.set()
        self._http.shutdown()
        self._thread.join(10)
        self._http.server_close()

    def answer(self, asked: Asked) -> Answer:
        """The answer to a request of either kind."""
        with self._lock:
            self.asked.append(asked)
        if asked.headers.get("x-goog-api-key") != KEY:
            return BAD_KEY
        path, _, method = asked.path.removeprefix("/v1beta/").partition(":")
        model = path.removeprefix("models/")
        if (asked.method, method) not in (("GET", ""), ("POST", "generateContent")) or model not in self.models:
            return _error(404, "NOT_FOUND", f"{path} is not found for API version v1beta. Call ModelService.ListModels")
        if asked.method == "GET":
            if f"models/{model}" in self.scripts:
                return self._behave(f"models/{model}")
            return _json(200, {"name": path, "version": "1", "supportedGenerationMethods": ["generateContent"]})
        unknown = (asked.body.keys() - REQUEST_FIELDS) | (asked.body["generationConfig"].keys() - CONFIG_FIELDS)
        if unknown:
            return _error(400, "INVALID_ARGUMENT", f"Unknown name {sorted(unknown)}: Cannot find field.")
        return self._behave(asked.body["contents"][-1]["parts"][0]["text"])

    def _behave(self, question: str) -> Answer:
        script = self.scripts.get(question, ("good",))
        with self._lock:
            behaviour = script[min(self._times[question], len(script) - 1)]
            self._times[question] += 1
            answer = BEHAVIOURS[behaviour](question)
            if answer.status == 200 and not answer.broken:
                self.sent[question] = answer.body
        return answer


class _Server(ThreadingHTTPServer):
    request_queue_size = 256  # many connect at once


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    owner: GeminiServer

    def do_GET(self) -> None:
        self._respond({})

    def do_POST(self) -> None:
        self._respond(json.loads(self.rfile.read(int(self.headers["content-length"]))))

    def _respond(self, body: dict) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        answer = self.owner.answer(Asked(self.command, self.path, headers, body))
        if answer.broken == "never":
            self.owner.closing.wait(30)
        if answer.broken in ("never", "at once"):
            self.close_connection = True
            return
        self.send_response(answer.status)
        for name, value in {"content-type": answer.content_type, **answer.headers}.items():
            self.send_header(name, value)
        self.send_header("content-length", str(len(answer.body)))
        self.end_headers()
        if answer.broken == "half":
            self.wfile.write(answer.body[: len(answer.body) // 2])
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a reset
            self.close_connection = True
            return
        self.wfile.write(answer.body)

    def log_message(self, *args: object) -> None:
        """Tests are quiet."""
