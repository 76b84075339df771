"""The schema of OpenAI's chat completions, with tenner's additions: requests, responses, stream chunks, errors.

A request may have, beyond OpenAI's own fields, `thinking`: an object of `max_tokens`, `min_tokens` and `waits`. A
response has the thinking as `reasoning_content` and as `reasoning`. Its field `tenner` is the usage report (see
`admission.UsageReport`), on the completion or on the last chunk that has a choice; a chunk of injected text has
`{"forced": true}` there.

Parameters that would change the answer and are not supported are refused; those without effect on it (`user`,
`metadata`, …) are accepted.
"""

import json
import secrets
import time
from collections.abc import Mapping
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from tenner.core.errors import TennerError
from tenner.core.records import Message, Policy, Sampling
from tenner.core.suggest import did_you_mean, fields_at
from tenner.inference.engine import Generation, Piece
from tenner.inference.server.admission import UsageReport
from tenner.inference.server.served_student import Effort, ServedStudent

Positive = Annotated[int, Field(gt=0)]
NotNegative = Annotated[int, Field(ge=0)]
SEED_BITS = 63


class APIError(Exception):
    """An error response in OpenAI's form."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.headers = status, dict(headers or {})
        kind = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}.get(status)
        kind = kind or ("server_error" if status >= 500 else "invalid_request_error")
        self.body = {"error": {"message": message, "type": kind, "param": param, "code": code}}

    @classmethod
    def of(cls, error: TennerError, *, code: str | None = None) -> "APIError":
        """A user's mistake, with its hint."""
        return cls(400, f"{error}. Hint: {error.hint}" if error.hint else str(error), code=code)


class _RequestPart(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


def _join_parts(content: object) -> object:
    """Text parts joined by newlines."""
    if not isinstance(content, list):
        return content
    for part in content:
        if not (isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str)):
            raise ValueError("the student reads text only: every part must be {'type': 'text', 'text': …}")
    return "\n".join(part["text"] for part in content)


def _refuse_stop(stop: object) -> object:
    """Accept only the empty list, which some clients send by default."""
    if stop:
        raise ValueError("stop strings are not supported: the answer ends where the student ends it")
    return stop


class ChatMessage(_RequestPart):
    """A message of the conversation. Fields that must be null are those that clients send back."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[str, BeforeValidator(_join_parts)]
    reasoning_content: str | None = None
    """Accepted in earlier answers, and not fed to the student again."""
    reasoning: str | None = None
    refusal: None = None
    audio: None = None
    annotations: None = None
    function_call: None = None
    tool_calls: None = None


class Thinking(_RequestPart):
    """The thinking policy: see `records.Policy`."""

    max_tokens: NotNegative | None = None
    min_tokens: NotNegative = 0
    waits: NotNegative = 0


class StreamOptions(_RequestPart):
    """What a stream reports besides the answer."""

    include_usage: bool = False


class TextFormat(_RequestPart):
    """The only supported format."""

    type: Literal["text"]


class ChatRequest(_RequestPart):
    """The body of POST /v1/chat/completions."""

    model: str
    messages: Annotated[list[ChatMessage], Field(min_length=1)]
    thinking: Thinking | None = None
    reasoning_effort: Effort | None = None
    max_completion_tokens: Positive | None = None
    """The limit of all tokens after the prompt, thinking included."""
    max_tokens: Positive | None = None
    """The older name of max_completion_tokens."""
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    """Default: 0, which is greedy."""
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    seed: Annotated[int, Field(ge=-(2**SEED_BITS), lt=2**SEED_BITS)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    # Only the value that describes the actual behaviour is accepted.
    n: Literal[1] | None = None
    stop: Annotated[list[str] | None, BeforeValidator(_refuse_stop)] = None
    frequency_penalty: Literal[0] | None = None
    presence_penalty: Literal[0] | None = None
    logprobs: Literal[False] | None = None
    response_format: TextFormat | None = None
    store: Literal[False] | None = None
    service_tier: Literal["auto", "default"] | None = None
    # These have no effect on the answer.
    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    metadata: dict[str, str] | None = None

    @model_validator(mode="after")
    def _is_consistent(self) -> "ChatRequest":
        if self.messages[-1].role != "user":
            raise ValueError("the last message must be the user's")
        if self.reasoning_effort is not None and self.thinking is not None and self.thinking.max_tokens is not None:
            raise ValueError("reasoning_effort and thinking.max_tokens both set the budget: give one of them")
        if None not in (self.max_tokens, self.max_completion_tokens) and self.max_tokens != self.max_completion_tokens:
            raise ValueError("max_tokens and max_completion_tokens are two names of one limit, and differ")
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options requires stream = true")
        return self

    @property
    def conversation(self) -> tuple[Message, ...]:
        """The messages as records; the role developer becomes system."""
        return tuple(Message(role=_ROLES.get(m.role, m.role), content=m.content) for m in self.messages)

    @property
    def sampling(self) -> Sampling:
        """The sampling; a request without a seed gets a random one."""
        return Sampling(
            temperature=self.temperature or 0.0,
            top_p=1.0 if self.top_p is None else self.top_p,
            seed=secrets.randbits(SEED_BITS) if self.seed is None else self.seed,
        )

    def limits(self, student: ServedStudent, injected_tokens_max: int) -> tuple[Policy, int]:
        """The policy and the answer's limit; thinking, answer and injected tokens together never exceed `max_tokens`.

        A budget set by `thinking.max_tokens` must fit under `max_tokens`. The student's default budget, or that of an
        effort, is reduced so that the answer keeps half of the room, or its default limit where that is less.
        """
        thinking = self.thinking or Thinking()
        tokens_max = thinking.max_tokens if self.reasoning_effort is None else student.budget(self.reasoning_effort)
        policy = student.policy(
            thinking_tokens_max=tokens_max, thinking_tokens_min=thinking.min_tokens, waits=thinking.waits
        )
        total = self.max_completion_tokens or self.max_tokens
        if total is None:
            return policy, student.answer_tokens_max
        budget = policy.thinking_tokens_max
        assert budget is not None, "a student's policies have one"
        room = total - injected_tokens_max
        if thinking.max_tokens is None and room > 0:
            budget = min(budget, room - min(student.answer_tokens_max, (room + 1) // 2))
            policy = student.policy(
                thinking_tokens_max=budget, thinking_tokens_min=thinking.min_tokens, waits=thinking.waits
            )
        if room - budget < 1:
            raise TennerError(
                f"max_tokens = {total} leaves no room for an answer after {injected_tokens_max} tokens of delimiters "
                f"and {budget} of thinking",
                hint="raise max_tokens, or lower thinking.max_tokens",
            )
        return policy, room - budget


_ROLES: dict[str, Any] = {"developer": "system"}


def parse(body: bytes) -> ChatRequest:
    """Read a request. Raises APIError with its first mistake."""
    try:
        return ChatRequest.model_validate_json(body)
    except ValidationError as e:
        raise _explain(e) from None


def _explain(error: ValidationError) -> APIError:
    first = min(
        error.errors(include_url=False), key=lambda e: e["type"] == "missing"
    )  # a misspelt name explains a missing one
    param = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in first["loc"]).removeprefix(".")
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "json_invalid":
        return APIError(400, f"the body is not JSON: {first['ctx']['error']}", code="invalid_json")
    if first["type"] == "extra_forbidden":
        hint = did_you_mean(str(first["loc"][-1]), fields_at(first["loc"], ChatRequest), "")
        message = f"unknown or unsupported parameter {param}" + (f": {hint}" if hint else "")
        return APIError(400, message, param=param, code="unknown_parameter")
    if first["type"] == "missing":
        return APIError(400, f"{param} is missing", param=param, code="missing_required_parameter")
    return APIError(400, f"{param}: {message}" if param else message, param=param or None, code="invalid_value")


class Completion:
    """Writes one answer, as a whole or as the chunks of a stream."""

    def __init__(self, student: ServedStudent) -> None:
        self.id = f"chatcmpl-{secrets.token_hex(12)}"
        self._model = student.name
        self._created = int(time.time())

    def whole(self, generation: Generation, report: UsageReport) -> dict[str, Any]:
        """The body of an answer that is not streamed."""
        message = {"role": "assistant", "content": generation.answer, **_reasoning(generation.thinking)}
        choice = {"index": 0, "message": message, "finish_reason": _finish(generation), "logprobs": None}
        return {
            **self._envelope("chat.completion"),
            "choices": [choice],
            "usage": _usage(report),
            "tenner": report.model_dump(),
        }

    def opening(self) -> bytes:
        """The first event, which has the role."""
        return self._chunk({"role": "assistant", "content": ""})

    def piece(self, piece: Piece) -> bytes:
        """The event of a piece of text."""
        delta = {"content": piece.text} if piece.part == "answer" else _reasoning(piece.text)
        return self._chunk(delta, tenner={"forced": True} if piece.forced else None)

    def closing(self, generation: Generation, report: UsageReport, *, usage: bool) -> bytes:
        """The last events: the finish reason, the usage report, and `[DONE]`."""
        last = self._chunk({}, finish_reason=_finish(generation), tenner=report.model_dump())
        if usage:
            last += event({**self._envelope("chat.completion.chunk"), "choices": [], "usage": _usage(report)})
        return last + DONE

    def _chunk(
        self, delta: dict[str, Any], *, finish_reason: str | None = None, tenner: dict[str, Any] | None = None
    ) -> bytes:
        choice = {"index": 0, "delta": delta, "finish_reason": finish_reason, "logprobs": None}
        more = {} if tenner is None else {"tenner": tenner}
        return event({**self._envelope("chat.completion.chunk"), "choices": [choice], **more})

    def _envelope(self, kind: str) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self._created, "model": self._model}


def event(data: Mapping[str, Any]) -> bytes:
    """A server-sent event."""
    return b"data: " + json.dumps(data, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"


DONE = b"data: [DONE]\n\n"


def models(student: ServedStudent, *, price_usd_per_hour: float | None, created: int) -> dict[str, Any]:
    """The body of GET /v1/models, with the defaults of the student."""
    defaults = {
        "format": student.fmt.name,
        "thinking_tokens_max": student.thinking_tokens_max,
        "answer_tokens_max": student.answer_tokens_max,
        "efforts": {effort: student.budget(effort) for effort in get_args(Effort)},
        "wait_text": student.wait_text,
        "keeps_history": student.keeps_history,
        "price_usd_per_hour": price_usd_per_hour,
    }
    model = {"id": student.name, "object": "model", "created": created, "owned_by": "tenner", "tenner": defaults}
    return {"object": "list", "data": [model]}


def _reasoning(text: str) -> dict[str, str]:
    """Under both names in use: DeepSeek's, and that of vLLM and OpenRouter."""
    return {"reasoning_content": text, "reasoning": text}


def _finish(generation: Generation) -> str:
    return "length" if generation.truncated else "stop"


def _usage(report: UsageReport) -> dict[str, Any]:
    return {
        "prompt_tokens": report.prompt_tokens,
        "completion_tokens": report.completion_tokens,
        "total_tokens": report.prompt_tokens + report.completion_tokens,
        "completion_tokens_details": {"reasoning_tokens": report.thinking_tokens},
    }
