"""A server of /v1/completions on loopback that speaks ids or text, and may be told to misbehave.

Its student is a function of the ids before each token, so what it must say is known.
"""

import json
import threading
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tenner.core.formats import Tokenizer


class CompletionsServer:
    """`with CompletionsServer(tokenizer, model) as server:`; `requests` are the bodies that came."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        model: Callable[[list[int]], int],
        *,
        gives_ids: bool = True,
        heeds_max_tokens: bool = True,
        choices: int = 1,
        words: Mapping[str, str | None] | None = None,
        body: bytes | None = None,
    ) -> None:
        """`words` are the server's own for the finish reasons `stop` and `length`; `body` is what it says to all."""
        self._tokenizer = tokenizer
        self._model = model
        self._gives_ids = gives_ids
        self._heeds_max_tokens = heeds_max_tokens
        self._choices = choices
        self._words = words or {}
        self.requests: list[dict[str, Any]] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
                server.requests.append(asked)
                said = json.dumps(server.answer(asked)).encode() if body is None else body
                self.send_response(200)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(said)))
                self.end_headers()
                self.wfile.write(said)

            def log_message(self, *_: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            request_queue_size = 128  # with the usual 5, one of many connections at once waits a second to be let in

        self._http = Server(("127.0.0.1", 0), Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._http.server_port}/v1"

    def __enter__(self) -> "CompletionsServer":
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    def answer(self, body: dict[str, Any]) -> dict[str, Any]:
        prompt = body["prompt"]
        ids = self._tokenizer.encode(prompt, add_special_tokens=False) if isinstance(prompt, str) else list(prompt)
        said: list[int] = []
        stops = {self._tokenizer.eos_token_id, *body.get("stop_token_ids", ())}
        strings, text, finish, reason = body.get("stop") or [], "", "length", None
        while len(said) < (body["max_tokens"] if self._heeds_max_tokens else 60):
            said.append(self._model(ids + said))
            text = self._tokenizer.decode(said, skip_special_tokens=False)
            found = [text.index(s) for s in strings if s in text]
            if said[-1] in stops or found:
                text = text[: found[0]] if found else self._tokenizer.decode(said[:-1], skip_special_tokens=False)
                finish, reason = "stop", strings[0] if found else None
                break
        choice = {"index": 0, "text": text, "stop_reason": reason, "logprobs": None}
        choice["finish_reason"] = self._words.get(finish, finish)
        if self._gives_ids:
            choice["token_ids"] = said
        return {
            "id": "1", "object": "text_completion", "created": 0, "model": body["model"],
            "choices": [choice] * self._choices, "usage": {
                "prompt_tokens": len(ids), "completion_tokens": len(said), "total_tokens": len(ids) + len(said)
            },
        }  # fmt: skip
