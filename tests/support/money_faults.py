"""What providers do with money, and what they really charge: behaviours of `ChatServer` with a bill of their own.

`with BillingServer({question: ["xai usage"]}) as server:`; `server.bill_microusd` is what a provider would charge, at a
dollar for a million tokens in and two for a million out.
"""

import json
from collections.abc import Callable
from typing import Any

from chat_server import BEHAVIOURS, Answer, ChatServer, _send, completion, usage_of

THINKING = "So I add these numbers. " * 100
THOUGHT = 900
"""Output tokens of `THINKING`."""


def _bill(question: str, output_tokens: int) -> dict[str, str]:
    return {"x-billed": str(len(question) + 2 * output_tokens)}


def _usage(tokens: int = 905, **usage: object) -> Callable[[str], Answer]:
    """A long reply of so many tokens, with this usage; a function in it is given the tokens of the prompt."""

    def answer(question: str) -> Answer:
        told = {name: value(len(question)) if callable(value) else value for name, value in usage.items()}
        fields = completion(question, reasoning_content=THINKING, usage=told)
        return Answer(200, json.dumps(fields).encode(), _bill(question, tokens))

    return answer


def _bare(choices: object, tokens: int) -> Callable[[str], Answer]:
    """A reply of these choices, of which only the cost is told."""

    def answer(question: str) -> Answer:
        fields = {"choices": choices, "usage": {"cost": (len(question) + 2 * tokens) / 1e6}}
        return Answer(200, json.dumps(fields).encode(), _bill(question, tokens))

    return answer


def _p(more: int = 0) -> Callable[[int], int]:
    return lambda prompt_tokens: prompt_tokens + more


def _broken(status: int, body: object, *, output_tokens: int = THOUGHT, kind: str = "") -> Callable[[str], Answer]:
    """An answer that the provider charges for although it holds no completion."""
    whole = body if isinstance(body, bytes) else json.dumps(body).encode()
    content_type = kind or ("text/html" if whole.startswith(b"<") else "application/json")
    return lambda question: Answer(status, whole, _bill(question, output_tokens), content_type=content_type)


def _free(status: int, body: object, **headers: str) -> Callable[[str], Answer]:
    told = {"x-billed": "0"} | {name.replace("_", "-"): value for name, value in headers.items()}
    whole = body if isinstance(body, bytes) else json.dumps(body).encode()
    return lambda _: Answer(status, whole, told)


def _finished(reason: str, **beside: object) -> Callable[[str], Answer]:
    def answer(question: str) -> Answer:
        usage = {"prompt_tokens": len(question), "completion_tokens": 300, "total_tokens": len(question) + 300}
        fields = completion(question, finish_reason=reason, usage=usage)
        fields["choices"][0] |= beside
        return Answer(200, json.dumps(fields).encode(), _bill(question, 300))

    return answer


def events(question: str, *, usage: bool = True, end: str = "data: [DONE]\n\n") -> bytes:
    """A stream of a good response."""
    message = completion(question)["choices"][0]["message"]
    deltas = [{"role": "assistant", "content": ""}]
    deltas += [{"reasoning_content": word} for word in message["reasoning_content"].split(" ")]
    deltas += [{"content": piece} for piece in (message["content"][:9], message["content"][9:])]
    chunks: list[dict[str, Any]] = [
        {"id": "c", "choices": [{"index": 0, "delta": delta, "finish_reason": None}]} for delta in deltas
    ]
    if end:
        chunks.append({"id": "c", "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
    if usage:
        chunks.append({"id": "c", "choices": [], "usage": usage_of(question)})
    return (": keep-alive\n\n" + "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks) + end).encode()


def _stream(question: str, **changes) -> Answer:
    billed = _bill(question, 2 * len(question))
    return Answer(200, events(question, **changes), billed, content_type="text/event-stream")


USAGES: dict[str, tuple[Callable[[str], Answer], bool]] = {
    "xai": (_usage(prompt_tokens=_p(), completion_tokens=5, total_tokens=_p(905),
                   completion_tokens_details={"reasoning_tokens": 900}), True),
    "gemini without details": (_usage(prompt_tokens=_p(), completion_tokens=5, total_tokens=_p(905)), True),
    "without a total": (_usage(prompt_tokens=_p(), completion_tokens=5,
                               completion_tokens_details={"reasoning_tokens": 900}), True),
    "reasoning beside the details": (_usage(prompt_tokens=_p(), completion_tokens=5, reasoning_tokens=900), True),
    "only a total": (_usage(prompt_tokens=_p(), total_tokens=_p(905)), True),
    "openai": (_usage(prompt_tokens=_p(), completion_tokens=905, total_tokens=_p(905),
                      completion_tokens_details={"reasoning_tokens": 900}), True),
    "other names": (_usage(input_tokens=_p(), output_tokens=905), True),
    "two names, one of them zero": (_usage(prompt_tokens=_p(), completion_tokens=905, input_tokens=0, output_tokens=0,
                                           total_tokens=_p(905)), True),
    "bedrock": (_usage(inputTokens=_p(), outputTokens=905, totalTokens=_p(905)), True),
    "openrouter's cost": (_usage(prompt_tokens=_p(), completion_tokens=305, total_tokens=_p(305),
                                 cost=lambda p: (p + 2 * 905) / 1e6), True),
    "zeros": (_usage(prompt_tokens=0, completion_tokens=0, total_tokens=0), False),
    "no prompt": (_usage(prompt_tokens=0, completion_tokens=905, total_tokens=905), False),
    "one token": (_usage(prompt_tokens=_p(), completion_tokens=1, total_tokens=_p(1)), False),
    "reasoning in no sum": (_usage(prompt_tokens=_p(), completion_tokens=5, total_tokens=_p(5)), False),
    "a total that is less": (_usage(prompt_tokens=_p(), completion_tokens=300, total_tokens=200), False),
    "reasoning beyond the total": (_usage(prompt_tokens=_p(), completion_tokens=300, total_tokens=_p(300),
                                          completion_tokens_details={"reasoning_tokens": 605}), False),
    "words": (_usage(prompt_tokens="4", completion_tokens="905"), False),
    "negative": (_usage(prompt_tokens=_p(), completion_tokens=-905, total_tokens=_p(-905)), False),
    "more cached than asked": (_usage(prompt_tokens=_p(), completion_tokens=905, cached_tokens=10**6), False),
    "written to a cache": (_usage(input_tokens=_p(), output_tokens=905, cache_creation_input_tokens=500), False),
}  # fmt: skip
"""A reply with usage in many dialects; True where it says what the call cost."""

BEYOND: dict[str, Callable[[str], Answer]] = {
    "reasoning beyond total and limit": _usage(5005, prompt_tokens=_p(), completion_tokens=5, total_tokens=_p(5),
                                                       completion_tokens_details={"reasoning_tokens": 5000}),
    "a total beyond the limit, without a prompt": _usage(5005, completion_tokens=5, total_tokens=5010),
    "a cost beyond the limit, without a choice": _bare([], 5005),
    "a cost beyond the limit, without a message": _bare([{"finish_reason": "stop"}], 5005),
    "a cost beyond the limit, without tokens": _usage(5005, cost=lambda p: (p + 2 * 5005) / 1e6),
}  # fmt: skip
"""Usage that contradicts itself and names more than the limit of output tokens: the provider bills 5,005."""

PAGE = b"<html><head><title>A timeout occurred</title></head></html>"
CHARGED: dict[str, tuple[Callable[[str], Answer], str]] = {
    "finish error": (_finished("error", error={"code": 502, "message": "upstream idle timeout"}), "error_in_response"),
    "finish without resources": (_finished("insufficient_system_resource"), "error_in_response"),
    "finish network error": (_finished("network_error"), "error_in_response"),
    "finish aborted": (_finished("abort"), "error_in_response"),
    "error beside a choice": (_finished("stop", error={"message": "cut"}), "error_in_response"),
    "200 with a server error": (_broken(200, {"error": {"code": 502, "message": "idle"}}), "error_in_response"),
    "200 with a word": (_broken(200, {"error": "boom"}), "error_in_response"),
    "200 with code and message": (_broken(200, {"code": 500, "msg": "internal", "success": False}),
                                  "error_in_response"),
    "200 with a list": (_broken(200, [{"error": {"code": 503, "status": "UNAVAILABLE"}}]), "error_in_response"),
    "200 with errors": (_broken(200, {"success": False, "errors": [{"code": 7, "message": "x"}]}), "error_in_response"),
    "200 with base_resp": (_broken(200, {"choices": None, "base_resp": {"status_code": 1000, "status_msg": "x"}}),
                           "error_in_response"),
    "200 refused after all": (_broken(200, {"error": {"code": 400, "message": "x"},
                                            "usage": {"completion_tokens": 900}}), "error_in_response"),
    "200 with an error event": (_broken(200, b'data: {"choices":[{"delta":{"content":"7"}}]}\n\n'
                                        b'data: {"error":{"message":"overloaded"}}\n\n'), "error_in_response"),
    "200 with a stream cut off": (lambda q: _stream(q, end="", usage=False), "error_in_response"),
    "200 with an event of an error": (_broken(200, b'event:error\ndata:{"code":"Internal","message":"x"}\n\n'),
                                      "error_in_response"),
    "200 with nothing": (_broken(200, b"\n\n"), "interrupted"),
    "200 with comments alone": (_broken(200, b": PROCESSING\n\n: PROCESSING\n\n"), "interrupted"),
    "200 with plain text": (_broken(200, b"upstream request timeout", kind="text/plain"), "not_json"),
    "408 after a time-out": (_broken(408, {"error": {"code": 408, "message": "Your request timed out"}}),
                             "gateway_timeout"),
    "200 with a page": (_broken(200, PAGE), "not_json"),
    "504": (_broken(504, PAGE), "gateway_timeout"),
    "520": (_broken(520, PAGE), "gateway_timeout"),
    "524": (_broken(524, PAGE), "gateway_timeout"),
    "502 after a time-out": (_broken(502, {"error": "upstream timed out"}), "gateway_timeout"),
    "503 after a reset": (_broken(503, b"upstream connect error or disconnect/reset before headers"),
                          "gateway_timeout"),
}  # fmt: skip
"""What holds no completion and is charged all the same, with the name of its fault."""

FREE: dict[str, tuple[Callable[[str], Answer], str]] = {
    "200 too fast": (_free(200, {"error": {"code": 429, "message": "slow down"}}), "rate_limited"),
    "200 too fast, by name": (_free(200, {"type": "error", "error": {"type": "rate_limit_error", "message": "wait"}}),
                              "rate_limited"),
    "200 too fast, by base_resp": (_free(200, {"base_resp": {"status_code": 1002, "status_msg": "rate"}}),
                                   "rate_limited"),
    "200 bad request": (_free(200, {"object": "error", "message": "no", "code": 400}), "bad_request"),
    "200 refused": (_free(200, {"base_resp": {"status_code": 1026, "status_msg": "sensitive"}}), "refused"),
    "overloaded for a minute": (_free(503, {"error": "busy"}, retry_after="60"), "overloaded"),
    "502": (_free(502, b"<html>bad gateway</html>"), "server_error"),
    "a quota by the minute": (_free(429, {"error": {"code": 429, "status": "RESOURCE_EXHAUSTED",
        "message": "You exceeded your current quota, please check your plan and billing details.",
        "details": [{"violations": [{"quotaId": "GenerateRequestsPerMinutePerProject"}]}]}}), "rate_limited"),
    "a limit by the day that heals": (_free(429, {"error": {"message": "Limit reached on requests per day (RPD). "
        "Please try again in 0.01s."}}), "rate_limited"),
}  # fmt: skip
"""What is refused before it begins, with the name of its fault."""

GOOD: dict[str, tuple[Callable[[str], Answer], bool]] = {
    "a stream": (_stream, True),
    "a stream without usage": (lambda q: _stream(q, usage=False), False),
    "comments first": (lambda q: Answer(200, b": PROCESSING\n\n: PROCESSING\n\n" + json.dumps(completion(q)).encode()),
                       True),
    "control characters": (lambda q: Answer(200, json.dumps(completion(q, reasoning_content="1\n2\t3")).replace(
        "\\n", "\n").replace("\\t", "\t").encode()), True),
    "a byte order mark": (lambda q: Answer(200, b"\xef\xbb\xbf" + json.dumps(completion(q)).encode()), True),
    "bytes that are no text": (lambda q: Answer(200, json.dumps(completion(q)).encode().replace(b"I add", b"I \xff")),
                               True),
}  # fmt: skip
"""A completion in an odd body; True where it holds usage."""

EMPTY_ACCOUNTS: dict[str, Callable[[str], Answer]] = {
    "openai": _free(429, {"error": {"message": "You exceeded your current quota", "code": "insufficient_quota"}}),
    "kimi": _free(429, {"error": {"type": "exceeded_current_quota_error", "message": "You exceeded your current token "
                                  "quota: 0, please check your account balance"}}),
    "glm": _free(429, {"error": {"code": "1113", "message": "Insufficient balance or no resource package."}}),
    "openrouter, key": _free(403, {"error": {"message": "Key limit exceeded (total limit)", "code": 403}}),
    "openrouter, credits": _free(402, {"error": {"message": "This request requires more credits, or fewer max_tokens",
                                                 "code": 402}}),
    "dashscope": _free(400, {"error": {"code": "Arrearage", "message": "make sure your account is in good standing"}}),
    "deepseek": _free(402, {"error": {"message": "Insufficient Balance"}}),
    "anthropic": _free(400, {"type": "error", "error": {"type": "invalid_request_error", "message":
                             "Your credit balance is too low to access the Anthropic API."}}),
    "xai": _free(403, {"code": "The caller does not have permission", "error": "Your team has either used all "
                       "available credits or reached its monthly spending limit."}),
    "siliconflow": _free(403, {"code": 30001, "message": "Sorry, your account balance is insufficient"}),
    "minimax": _free(200, {"base_resp": {"status_code": 1008, "status_msg": "insufficient balance"}}),
    "volcengine": _free(403, {"error": {"code": "AccountOverdueError", "message": "overdue balance"}}),
    "a gateway": _free(403, {"error": {"code": "insufficient_user_quota", "message": "预扣费额度失败"}}),
    "200": _free(200, {"error": {"code": 402, "message": "Payment Required"}}),
    "gemini, compatible": _free(429, [{"error": {"code": 429, "status": "RESOURCE_EXHAUSTED",
                                                 "message": "Your prepayment credits are depleted."}}]),
    "gemini, by the day": _free(429, [{"error": {"code": 429, "status": "RESOURCE_EXHAUSTED", "message":
        "You exceeded your current quota", "details": [
            {"violations": [{"quotaId": "GenerateRequestsPerDayPerProjectPerModel-FreeTier"}]},
            {"retryDelay": "31s"}]}}]),
    "openrouter, by the day": _free(429, {"error": {"message": "Rate limit exceeded: free-models-per-day"}}),
}  # fmt: skip
"""Every provider's way to say that nothing more can be bought."""

BEHAVIOURS.update(BEYOND)
for table in (USAGES, CHARGED, FREE, GOOD):
    BEHAVIOURS.update({name: found[0] for name, found in table.items()})
BEHAVIOURS.update({f"empty: {name}": answer for name, answer in EMPTY_ACCOUNTS.items()})


class BillingServer(ChatServer):
    """A server that keeps its own bill."""

    bill_microusd = 0
    refusal: Answer | None = None
    """What every request but a chat completion is answered with, where there is one."""

    async def _exchange(self, method, path, headers, body, writer) -> None:
        if self.refusal is None or path == "/chat/completions":
            await super()._exchange(method, path, headers, body, writer)
        else:
            await _send(writer, self.refusal)

    def _answer(self, question: str) -> Answer:
        answer = super()._answer(question)
        usage = usage_of(question) if answer.status == 200 else {"prompt_tokens": 0, "completion_tokens": 0}
        usual = usage["prompt_tokens"] + 2 * usage["completion_tokens"]
        self.bill_microusd += int(answer.headers.get("x-billed", usual))
        return answer
