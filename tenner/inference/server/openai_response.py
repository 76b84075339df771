"""The schema of responses to OpenAI's chat completions, whole or in the chunks of a stream, with tenner's additions.

A response has the thinking as `reasoning_content` and as `reasoning`. Its field `tenner` is the usage report (see
`admission.UsageReport`), on the completion (a list of them where several answers were asked for) or on the last chunk
of each answer; a chunk of injected text has `{"forced": true}` there.
"""

import json
import secrets
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, get_args

from tenner.inference.engine import Generation, Piece
from tenner.inference.server.admission import UsageReport
from tenner.inference.server.served_student import Effort, ServedStudent


class Answer(NamedTuple):
    """One of a request's answers."""

    generation: Generation
    report: UsageReport


class Completion:
    """Writes the answers to one request, as a whole or as the chunks of a stream."""

    def __init__(self, student: ServedStudent) -> None:
        self.id = f"chatcmpl-{secrets.token_hex(12)}"
        self._model = student.name
        self._created = int(time.time())

    def whole(self, answers: Sequence[Answer]) -> dict[str, Any]:
        """The body of an answer, or of the several that were asked for, that is not streamed."""
        choices, reports = [], [report.model_dump() for _, report in answers]
        for i, (generation, _) in enumerate(answers):
            message = {"role": "assistant", "content": generation.answer, **_reasoning(generation.thinking)}
            choices.append({"index": i, "message": message, "finish_reason": _finish(generation), "logprobs": None})
        return {
            **self._envelope("chat.completion"),
            "choices": choices,
            "usage": _usage([report for _, report in answers]),
            "tenner": reports[0] if len(reports) == 1 else reports,
        }

    def opening(self, index: int) -> bytes:
        """The first event of an answer, which has the role."""
        return self._chunk(index, {"role": "assistant", "content": ""})

    def piece(self, index: int, piece: Piece) -> bytes:
        """The event of a piece of text."""
        delta = {"content": piece.text} if piece.part == "answer" else _reasoning(piece.text)
        return self._chunk(index, delta, tenner={"forced": True} if piece.forced else None)

    def closing(self, index: int, answer: Answer) -> bytes:
        """The last event of an answer: the finish reason and the usage report."""
        return self._chunk(index, {}, finish_reason=_finish(answer.generation), tenner=answer.report.model_dump())

    def usage(self, reports: Sequence[UsageReport]) -> bytes:
        """The event after all answers for clients that want to know what they used."""
        return event({**self._envelope("chat.completion.chunk"), "choices": [], "usage": _usage(reports)})

    def _chunk(
        self,
        index: int,
        delta: dict[str, Any],
        *,
        finish_reason: str | None = None,
        tenner: dict[str, Any] | None = None,
    ) -> bytes:
        choice = {"index": index, "delta": delta, "finish_reason": finish_reason, "logprobs": None}
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


def examples(student: ServedStudent) -> dict[str, Any]:
    """The body of GET /v1/examples: questions to begin with, and what the untrained student answered to them."""
    data = [
        {"object": "example", "question": question, "before": None if before is None else before._asdict()}
        for question, before in student.examples
    ]
    return {"object": "list", "data": data}


def _reasoning(text: str) -> dict[str, str]:
    """Under both names in use: DeepSeek's, and that of vLLM and OpenRouter."""
    return {"reasoning_content": text, "reasoning": text}


def _finish(generation: Generation) -> str:
    return "length" if generation.truncated else "stop"


def _usage(reports: Sequence[UsageReport]) -> dict[str, Any]:
    """OpenAI's counts: the prompt once, the completions of all answers together."""
    prompt_tokens = reports[0].prompt_tokens
    completion_tokens = sum(report.completion_tokens for report in reports)
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
        "completion_tokens_details": {"reasoning_tokens": sum(report.thinking_tokens for report in reports)},
    }
