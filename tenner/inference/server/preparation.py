"""From the body of a request to jobs for the engine: parsing, the chat template and the tokenizer.

All of it runs in one thread beside the event loop, for a body of a megabyte takes half a second. What cannot fit into
the context is refused after a first look at its length.
"""

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, Self

from tenner.core.errors import NoRoom
from tenner.inference.engine import LocalEngine
from tenner.inference.format_ids import FormatIds
from tenner.inference.job import Job, Request
from tenner.inference.server import openai_schema
from tenner.inference.server.admission import QueueFull
from tenner.inference.server.openai_schema import APIError, ChatRequest
from tenner.inference.server.served_student import ServedStudent

PIECE_CHARACTERS = 8192
PIECE_TOKENS_LESS = 64
"""A text may have so many tokens less than its pieces at each place where it was cut."""


class Prepared(NamedTuple):
    """A request that is ready to be decoded: a job for each of its answers."""

    chat: ChatRequest
    jobs: Sequence[Job]


class Preparation:
    """Prepares requests one after the other: `with Preparation(...) as preparation: await preparation.prepare(...)`."""

    def __init__(self, engine: LocalEngine, student: ServedStudent, *, answers_max: int) -> None:
        """A request may ask for at most `answers_max` answers, and as many requests may wait."""
        self._engine, self._student, self._answers_max = engine, student, answers_max
        format_ids = FormatIds.resolve(engine.tokenizer, student.fmt, student.wait_text)
        self._injected_tokens_max = format_ids.injected_tokens_max
        self._waiting = 0
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="tenner preparation")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._thread.shutdown(cancel_futures=True)

    async def prepare(self, body: bytes, request_id: str) -> Prepared:
        """Raises APIError or TennerError where the request is wrong, QueueFull where too many are being prepared."""
        if self._waiting >= self._answers_max:
            raise QueueFull
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, self._prepare, body, request_id)
        finally:
            self._waiting -= 1

    def _prepare(self, body: bytes, request_id: str) -> Prepared:
        chat, student, tokenizer = openai_schema.parse(body), self._student, self._engine.tokenizer
        if chat.model != student.name:
            message = f"there is no model {chat.model!r} here: this is {student.name!r}"
            raise APIError(404, message, code="model_not_found", param="model")
        if (chat.n or 1) > self._answers_max:
            message = f"n = {chat.n} is more than the {self._answers_max} answers that are given at a time"
            raise APIError(400, message, code="invalid_value", param="n")
        policy, answer_tokens_max = chat.limits(student, self._injected_tokens_max)
        read = student.template(tokenizer).arguments if chat.chat_template_kwargs else ()
        request = student.request(
            tokenizer, chat.conversation, policy, request_id=request_id, answer_tokens_max=answer_tokens_max,
            stop=chat.stop, chat_template_kwargs=chat.template_kwargs(read),
        )  # fmt: skip
        self._check_length(request)
        first, *others = chat.samplings()
        job = self._engine.prepare(request._replace(sampling=first))
        return Prepared(chat, [job, *(job.sampled(sampling) for sampling in others)])

    def _check_length(self, request: Request) -> None:
        """Raise NoRoom as soon as the pieces of the prompt have more tokens than the context: no more is encoded."""
        text, tokens, most = request.prompt.text, 0, self._engine.context_tokens
        for start in range(0, len(text), PIECE_CHARACTERS):
            piece = self._engine.tokenizer.encode(text[start : start + PIECE_CHARACTERS], add_special_tokens=False)
            tokens += len(piece) - (PIECE_TOKENS_LESS if start else 0)
            if tokens > most:
                raise NoRoom(
                    f"the conversation has more than {tokens} tokens: too many for the context of {most} tokens",
                    hint="shorten the conversation",
                )
