"""A chat completions server on loopback, with every fault that such servers have, on demand.

`with ChatServer() as server:` runs it in a thread; `python tests/support/chat_server.py` in a process of its own.
The script of a question lists its behaviours (see `BEHAVIOURS`), one for each request; the last one repeats. The server
adds up the numbers of a question, so that its answers can be graded.
"""

import asyncio
import json
import random
import re
import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from email.utils import formatdate
from typing import NamedTuple, Self

from batch_endpoints import Batches

PAUSE_SECONDS = 0.003  # between the bytes of a slow response


class Asked(NamedTuple):
    """A chat completion request as it arrived."""

    question: str
    epoch: int
    body: dict
    headers: Mapping[str, str]


class Answer(NamedTuple):
    """A response. `broken` is how the body is sent: whole, cut off after half, byte by byte, or never."""

    status: int
    body: bytes
    headers: Mapping[str, str] = {}
    broken: str = ""
    content_type: str = "application/json"
    delay_seconds: float = 0.0
    """Beside the latency of the server."""


def total_of(question: str) -> int:
    """The server's answer: the sum of the question's numbers."""
    return sum(map(int, re.findall(r"\d+", question)))


def completion(question: str, **changes) -> dict:
    """A good response; `changes` replace fields of the message, or `finish_reason` and `usage`."""
    message = {"role": "assistant", "content": f"The answer is \\boxed{{{total_of(question)}}}."}
    message["reasoning_content"] = f"I add up the numbers of: {question}"
    finish_reason = changes.pop("finish_reason", "stop")
    usage = changes.pop("usage", usage_of(question))
    for name, value in changes.items():
        if value is None:
            message.pop(name)
        else:
            message[name] = value
    whole = {"id": "c", "object": "chat.completion", "choices": [
        {"index": 0, "finish_reason": finish_reason, "message": message}]}  # fmt: skip
    return whole if usage is None else whole | {"usage": usage}


def usage_of(question: str) -> dict:
    """The usage that the server reports for a question: by its length, so that they differ."""
    return {"prompt_tokens": len(question), "completion_tokens": 2 * len(question), "total_tokens": 3 * len(question)}


def _json(status: int, fields: object, **headers: str) -> Answer:
    return Answer(status, json.dumps(fields).encode(), {k.replace("_", "-"): v for k, v in headers.items()})


def _error(status: int, message: str, code: str | None = None, **headers: str) -> Answer:
    return _json(status, {"error": {"message": message, "code": code}}, **headers)


def _good(question: str, **changes) -> Answer:
    return _json(200, completion(question, **changes))


def events_of(whole: dict, *, usage: bool = True) -> bytes:
    """A chat completion as the stream of events that adds up to it, word by word."""
    (choice,) = whole["choices"]
    deltas: list[dict[str, object]] = [{"role": "assistant", "content": ""}]
    for name, value in choice["message"].items():
        if isinstance(value, str) and name != "role":
            deltas += [{name: piece} for piece in re.findall(r"\S+\s*|\s+", value)]
        elif value is not None and name != "role":
            deltas += [{name: [part]} for part in value] if isinstance(value, list) else [{name: value}]
    chunks = [{"choices": [{"index": 0, "delta": delta, "finish_reason": None}]} for delta in deltas]
    chunks.append({"choices": [{"index": 0, "delta": {}, "finish_reason": choice["finish_reason"]}]})
    if usage and "usage" in whole:
        chunks.append({"choices": [], "usage": whole["usage"]})
    return ("".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks) + "data: [DONE]\n\n").encode()


BEHAVIOURS: dict[str, Callable[[str], Answer]] = {
    "good": _good,
    "rate limit": lambda _: _error(429, "slow down"),
    "rate limit for a second": lambda _: _error(429, "slow down", retry_after="1"),
    "rate limit until a date": lambda _: _error(429, "slow down", retry_after=formatdate(time.time() + 2, usegmt=True)),
    "rate limit for a day": lambda _: _error(429, "come back tomorrow", retry_after="86400"),
    "server error": lambda _: _error(500, "oops"),
    "overloaded": lambda _: _error(503, "too busy"),
    "reset": lambda q: _good(q)._replace(broken="half"),
    "hang up": lambda q: _good(q)._replace(broken="all"),
    "hang": lambda q: _good(q)._replace(broken="never"),
    "drip": lambda q: _good(q)._replace(broken="drip"),
    "invalid json": lambda _: Answer(200, b'{"choices": [{"message": '),
    "not a completion": lambda _: _json(200, {"hello": "world"}),
    "no usage": lambda q: _good(q, usage=None),
    "no choices": lambda q: _json(200, {"choices": [], "usage": usage_of(q)}),
    "nothing said": lambda q: _good(q, content="", reasoning_content=None),
    "truncated": lambda q: _good(q, finish_reason="length", content=""),
    "content filter": lambda q: _good(q, finish_reason="content_filter", content="", reasoning_content=None),
    "web page": lambda _: Answer(200, b"<html>Welcome</html>", content_type="text/html"),
    "plain text": lambda _: Answer(200, b"Welcome", content_type="text/plain"),
    "bad key": lambda _: _error(401, "Incorrect API key provided"),
    "bad request": lambda _: _error(400, "unknown parameter"),
    "refused": lambda _: _error(403, "the input was flagged"),
    "no money": lambda _: _error(402, "Insufficient Balance"),
    "no quota": lambda _: _error(429, "You exceeded your current quota", code="insufficient_quota"),
    "no such model": lambda _: _error(404, "The model does not exist", code="model_not_found"),
    "wrong": lambda q: _good(q, content="The answer is \\boxed{-1}."),
    "rules same": lambda q: _good(q, content="They are equal.\nSAME"),
    "rules different": lambda q: _good(q, content="One is negative.\n**DIFFERENT**"),
    "reasoning details": lambda q: _good(
        q, reasoning_content="not this", reasoning_details=[{"type": "reasoning.text", "text": "in details"}]
    ),
    "reasoning": lambda q: _good(q, reasoning_content=None, reasoning="in reasoning"),
    "think block": lambda q: _good(q, reasoning_content=None, content="<think>\nin a block\n</think>\n\n\\boxed{1}"),
    "think block, opened by the prompt": lambda q: _good(
        q, reasoning_content=None, content="in a block\n</think>\n\n\\boxed{1}"
    ),
    "no reasoning": lambda q: _good(q, reasoning_content=None),
    "cached": lambda q: _good(q, usage={"prompt_tokens": 100, "prompt_cache_hit_tokens": 64,
                                        "prompt_cache_miss_tokens": 36, "completion_tokens": 50,
                                        "completion_tokens_details": {"reasoning_tokens": 40}}),
    # As DeepSeek's documentation shows it: blank lines while it thinks, then the body.
    "deepseek": lambda q: Answer(200, b"\n\n\n" + json.dumps(completion(q, usage={
        "prompt_tokens": 1000, "prompt_cache_hit_tokens": 640, "prompt_cache_miss_tokens": 360,
        "completion_tokens": 2000, "total_tokens": 3000,
        "completion_tokens_details": {"reasoning_tokens": 1900}})).encode()),
    "too much": lambda q: _good(q, usage={"prompt_tokens": 10, "completion_tokens": 10**6}),
}  # fmt: skip


class ChatServer:
    """The server; `asked` and `completed` record its requests and its successes."""

    def __init__(
        self,
        scripts: Mapping[str, Sequence[str]] | None = None,
        *,
        key: str | None = None,
        models: Sequence[str] = ("m",),
        lists_models: bool = True,
        latency_seconds: tuple[float, float] = (0.0, 0.0),
        fault_rate: float = 0.0,
        records: bool = True,
        tells_headers: bool = False,
        streams: str = "if asked",
    ) -> None:
        """`streams` is "if asked", "only" as of DashScope's open models, or "only, without options": then
        `stream_options` are refused.
        """
        self.scripts = dict(scripts or {})
        self.key, self.models, self.lists_models = key, models, lists_models
        self.latency_seconds, self.fault_rate, self.records = latency_seconds, fault_rate, records
        self.tells_headers = tells_headers
        self.streams = streams
        self.epoch = 0
        self.asked: list[Asked] = []
        self.completed: Counter[str] = Counter()
        self.in_flight = 0
        self.in_flight_max = 0
        self.batches = Batches(self._batch_line)
        self._times: defaultdict[str, int] = defaultdict(int)
        self._random = random.Random(0)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._writers: set[asyncio.StreamWriter] = set()
        self.port = 0

    @property
    def url(self) -> str:
        """The base URL for clients."""
        return f"http://127.0.0.1:{self.port}/v1"

    def __enter__(self) -> Self:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(10)
        return self

    def __exit__(self, *exc: object) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    async def _listen(self, port: int = 0) -> None:
        self._server = await asyncio.start_server(self._connection, "127.0.0.1", port, backlog=1024)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _close(self) -> None:
        self._server.close()
        for writer in list(self._writers):
            writer.transport.abort()
        tasks = [t for t in asyncio.all_tasks() if t is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
                method, path, _ = head[0].split(" ", 2)
                fields = (line.split(":", 1) for line in head[1:] if line)
                headers = {name.strip().lower(): value.strip() for name, value in fields}
                body = await reader.readexactly(int(headers.get("content-length", 0)))
                await self._exchange(method, path.removeprefix("/v1"), headers, body, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the client disconnected
        finally:
            self._writers.discard(writer)
            writer.close()

    async def _exchange(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes, writer: asyncio.StreamWriter
    ) -> None:
        if self.key is not None and headers.get("authorization") != f"Bearer {self.key}":
            given = headers.get("authorization", "nothing")
            await _send(writer, _error(401, f"Incorrect API key provided: {given}"))  # some servers repeat it
        elif path == "/chat/completions":
            self.in_flight += 1
            self.in_flight_max = max(self.in_flight_max, self.in_flight)
            try:
                await self._complete(json.loads(body), headers, writer)
            finally:
                self.in_flight -= 1
        elif path == "/models" and self.lists_models:
            await _send(writer, _json(200, {"object": "list", "data": [{"id": m} for m in self.models]}))
        elif (answer := self.batches.answer(method, path, headers, body)) is not None:
            await _send(writer, Answer(answer.status, answer.body, content_type=answer.content_type))
        else:
            await _send(writer, _error(404, "not here"))

    async def _complete(self, fields: dict, headers: Mapping[str, str], writer: asyncio.StreamWriter) -> None:
        if not fields["messages"]:
            return await _send(writer, _error(400, "no messages"))  # some clients probe the rate limits so
        question = fields["messages"][-1]["content"]
        if self.records:
            self.asked.append(Asked(question, self.epoch, fields, headers))
        answer = self._answer(question)
        if self.tells_headers:
            answer = _good(question, reasoning_content=f"I was sent {headers}")
        if self.latency_seconds[1]:
            await asyncio.sleep(self._random.uniform(*self.latency_seconds))
        await asyncio.sleep(answer.delay_seconds)
        answer = self._as_stream(answer, fields)
        await _send(writer, answer)
        if answer.status == 200 and self.records:
            self.completed[question] += 1

    def _as_stream(self, answer: Answer, fields: dict) -> Answer:
        """A good answer as a stream of events where that is asked for; a refusal where it should have been."""
        if "only" in self.streams and not fields.get("stream"):
            return _error(400, "parameter.enable_thinking must be set to false for non-streaming calls")
        if "without options" in self.streams and "stream_options" in fields:
            return _error(400, "Unrecognized request argument supplied: stream_options")
        if not fields.get("stream") or answer.status != 200 or answer.content_type != "application/json":
            return answer
        usage = bool(fields.get("stream_options", {}).get("include_usage"))
        return answer._replace(body=events_of(json.loads(answer.body), usage=usage), content_type="text/event-stream")

    def _answer(self, question: str) -> Answer:
        script = self.scripts.get(question, ("good",))
        behaviour = script[min(self._times[question], len(script) - 1)]
        if self.records:
            self._times[question] += 1
        if behaviour == "good" and self._random.random() < self.fault_rate:
            behaviour = self._random.choice(("rate limit", "server error", "overloaded", "reset"))
        return BEHAVIOURS[behaviour](question)

    def _batch_line(self, fields: dict) -> tuple[int, dict]:
        """The status and the body of one request of a batch."""
        question = fields["messages"][-1]["content"]
        if self.records:
            self.asked.append(Asked(question, self.epoch, fields, {}))
        answer = self._answer(question)
        if answer.status == 200:
            self.completed[question] += 1
        return answer.status, json.loads(answer.body)


async def _send(writer: asyncio.StreamWriter, answer: Answer) -> None:
    headers = {"content-type": answer.content_type, "content-length": str(len(answer.body)), **answer.headers}
    head = f"HTTP/1.1 {answer.status} X\r\n" + "".join(f"{k}: {v}\r\n" for k, v in headers.items()) + "\r\n"
    if answer.broken == "never":
        await asyncio.sleep(3600)
    if answer.broken == "all":
        writer.transport.abort()
        raise ConnectionResetError
    body = answer.body[: len(answer.body) // 2] if answer.broken == "half" else answer.body
    if answer.broken == "drip":
        writer.write(head.encode())
        for i in range(len(body)):
            writer.write(body[i : i + 1])
            await writer.drain()
            await asyncio.sleep(PAUSE_SECONDS)
        return
    writer.write(head.encode() + body)
    await writer.drain()
    if answer.broken == "half":
        writer.transport.abort()
        raise ConnectionResetError


def serve(port: int) -> None:
    """Answer at once and record nothing, until killed; for benchmarks."""
    server = ChatServer(records=False)
    asyncio.set_event_loop(server._loop)
    server._loop.run_until_complete(server._listen(port))
    print(server.port, flush=True)
    server._loop.run_forever()


if __name__ == "__main__":
    serve(int(sys.argv[1]) if len(sys.argv) > 1 else 0)
