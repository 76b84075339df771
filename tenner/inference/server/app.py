"""The HTTP server: OpenAI's chat completions for one student, and a chat page."""

import asyncio
import base64
import hashlib
import hmac
import ipaddress
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from importlib import resources
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from aiohttp import web

from tenner.core.errors import NoRoom, TennerError
from tenner.inference.engine import LocalEngine
from tenner.inference.forcing import FormatIds
from tenner.inference.scheduler import Scheduler
from tenner.inference.server import openai_response, openai_schema
from tenner.inference.server.admission import (
    ActiveRequest,
    AdmissionQueue,
    EngineFailed,
    QueueClosed,
    QueueFull,
    UsageReport,
)
from tenner.inference.server.openai_schema import APIError
from tenner.inference.server.served_student import ServedStudent

RETRY_AFTER_SECONDS = 1
GRACE_SECONDS = 5.0
"""How long active requests may continue after a stop signal; then their streams end with an error."""
SHUTDOWN_SECONDS = 2.0
"""How long a slow client has to read that error."""
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Settings(NamedTuple):
    """Address, access and limits of the server."""

    host: str
    port: int
    """0: any free port."""
    api_key: str | None
    """The key that clients must send; None: no key is required."""
    concurrency_max: int
    request_bytes_max: int
    price_usd_per_hour: float | None


class Server:
    """The request handlers around one admission queue."""

    def __init__(self, queue: AdmissionQueue, student: ServedStudent, settings: Settings) -> None:
        self._queue, self._student, self._settings = queue, student, settings
        format_ids = FormatIds.resolve(queue.tokenizer, student.fmt, student.wait_text)
        self._injected_tokens_max = format_ids.injected_tokens_max
        self._began = int(time.time())
        self._page = (resources.files("tenner.inference.server") / "page.html").read_text("utf-8")
        self._page_headers = {
            "Content-Security-Policy": _content_security_policy(self._page),
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer",
        }

    def app(self) -> web.Application:
        """The aiohttp application; all errors have OpenAI's form."""
        app = web.Application(
            client_max_size=self._settings.request_bytes_max, middlewares=[self._format_errors, self._check_access]
        )
        app.add_routes(
            [
                web.get("/", self._show_page),
                web.get("/health", self._health),
                web.get("/v1/models", self._models),
                web.post("/v1/chat/completions", self._complete),
            ]
        )
        return app

    # -- middlewares ---------------------------------------------------------------------------------------------

    @web.middleware
    async def _format_errors(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            return await handler(request)
        except APIError as e:
            return web.json_response(e.body, status=e.status, headers=e.headers)
        except web.HTTPRequestEntityTooLarge:
            most = self._settings.request_bytes_max
            too_large = APIError(413, f"the body is larger than {most:,} bytes", code="request_too_large")
            return web.json_response(too_large.body, status=413)
        except web.HTTPException as e:  # no such path, or another method
            refused = APIError(e.status, f"{request.method} {request.path}: {e.reason}", code="not_found")
            allowed = {"Allow": e.headers["Allow"]} if "Allow" in e.headers else None
            return web.json_response(refused.body, status=e.status, headers=allowed)

    @web.middleware
    async def _check_access(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Refuse other sites' pages (DNS rebinding to a loopback server) and requests without the key."""
        if _is_loopback(self._settings.host) and not _is_loopback(_name_in(request.host)):
            raise APIError(403, f"this server answers to loopback names only, not to {request.host}")
        if self._settings.api_key is not None and request.path.startswith("/v1/"):
            given = request.headers.get("Authorization", "").removeprefix("Bearer ")
            if not hmac.compare_digest(given.encode(), self._settings.api_key.encode()):
                raise APIError(401, "wrong or missing API key", code="invalid_api_key")
        return await handler(request)

    # -- handlers ------------------------------------------------------------------------------------------------

    async def _show_page(self, _: web.Request) -> web.Response:
        return web.Response(text=self._page, content_type="text/html", headers=self._page_headers)

    async def _health(self, _: web.Request) -> web.Response:
        state = {
            "status": "closing" if self._queue.closing else "ok",
            "model": self._student.name,
            "answers_under_way": self._queue.active,
            "concurrency_max": self._queue.concurrency_max,
        }
        return web.json_response(state, status=503 if self._queue.closing else 200)

    async def _models(self, _: web.Request) -> web.Response:
        price = self._settings.price_usd_per_hour
        return web.json_response(openai_response.models(self._student, price_usd_per_hour=price, created=self._began))

    async def _complete(self, request: web.Request) -> web.StreamResponse:
        if request.content_type != "application/json":  # which another site's page cannot send
            raise APIError(415, "the body must be application/json", code="unsupported_media_type")
        try:
            body = await request.read()
        except web.RequestPayloadError as e:  # incomplete, or not compressed as declared
            raise APIError(400, f"the body cannot be read: {e}", code="invalid_body") from None
        chat = openai_schema.parse(body)
        completion = openai_response.Completion(self._student)
        async with AsyncExitStack() as admitted:
            active = [await admitted.enter_async_context(one) for one in self._admit(chat, completion.id)]
            if chat.stream:
                return await self._stream(request, chat, completion, active)
            try:
                answers = [await _finished(one) for one in active]
            except (QueueClosed, EngineFailed) as e:
                raise _aborted(e) from None
            return web.json_response(completion.whole(answers))

    def _admit(self, chat: openai_schema.ChatRequest, request_id: str) -> list[ActiveRequest]:
        """One request to the engine for each answer; all are admitted or none."""
        student, queue = self._student, self._queue
        if chat.model != student.name:
            message = f"there is no model {chat.model!r} here: this is {student.name!r}"
            raise APIError(404, message, code="model_not_found", param="model")
        samplings = chat.samplings()
        if len(samplings) > queue.concurrency_max:
            message = f"n = {chat.n} is more than the {queue.concurrency_max} answers that are given at a time"
            raise APIError(400, message, code="invalid_value", param="n")
        admitted: list[ActiveRequest] = []
        try:
            policy, answer_tokens_max = chat.limits(student, self._injected_tokens_max)
            read = student.template(queue.tokenizer).arguments if chat.chat_template_kwargs else ()
            request = student.request(
                queue.tokenizer, chat.conversation, policy, request_id=request_id,
                answer_tokens_max=answer_tokens_max, stop=chat.stop, chat_template_kwargs=chat.template_kwargs(read),
            )  # fmt: skip
            for sampling in samplings:
                admitted.append(queue.admit(request._replace(sampling=sampling)))
            return admitted
        except (TennerError, QueueFull, QueueClosed, EngineFailed) as e:
            for active in admitted:
                active.release()
            raise self._refusal(e) from None

    def _refusal(self, error: Exception) -> APIError:
        """Why a request is not admitted."""
        if isinstance(error, TennerError):
            return APIError.of(error, code="context_length_exceeded" if isinstance(error, NoRoom) else "invalid_value")
        if isinstance(error, QueueFull):
            return APIError(
                429, f"all {self._queue.concurrency_max} concurrent requests are in use", code="rate_limit_exceeded",
                headers={"Retry-After": str(RETRY_AFTER_SECONDS)},
            )  # fmt: skip
        return _aborted(error)

    async def _stream(
        self,
        request: web.Request,
        chat: openai_schema.ChatRequest,
        completion: openai_response.Completion,
        active: Sequence[ActiveRequest],
    ) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-cache"})

        async def write(index: int) -> UsageReport:
            await response.write(completion.opening(index))
            async for piece in active[index].pieces():
                await response.write(completion.piece(index, piece))
            answer = await _finished(active[index])
            await response.write(completion.closing(index, answer))
            return answer.report

        with suppress(ConnectionResetError):  # the client has disconnected; leaving the block releases the requests
            await response.prepare(request)
            try:
                reports = await _all_of([write(index) for index in range(len(active))])
            except (QueueClosed, EngineFailed) as e:
                await response.write(openai_response.event(_aborted(e).body))
            else:
                if chat.stream_options is not None and chat.stream_options.include_usage:
                    await response.write(completion.usage(reports))
            await response.write(openai_response.DONE)
            await response.write_eof()
        return response


async def _finished(active: ActiveRequest) -> openai_response.Answer:
    """The whole answer; pieces that nobody has read are dropped. Raises what `pieces` does."""
    async for _ in active.pieces():
        pass
    assert active.generation is not None
    return openai_response.Answer(active.generation, active.usage())


async def _all_of(work: Sequence[Coroutine[Any, Any, UsageReport]]) -> list[UsageReport]:
    """All results; at the first exception the others are cancelled, and it is raised."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one) for one in work]
    except BaseExceptionGroup as failed:
        raise failed.exceptions[0] from None
    return [task.result() for task in tasks]


class Serving(NamedTuple):
    """A running server."""

    url: str
    queue: AdmissionQueue


@asynccontextmanager
async def serving(engine: LocalEngine, student: ServedStudent, settings: Settings) -> AsyncIterator[Serving]:
    """Answer requests until the block ends; active ones are then cancelled, and their clients get an error.

    Raises TennerError where the address is not available.
    """
    with Scheduler(engine) as scheduler:
        price = settings.price_usd_per_hour
        queue = AdmissionQueue(
            scheduler, engine.tokenizer, concurrency_max=settings.concurrency_max, price_usd_per_hour=price
        )
        app = Server(queue, student, settings).app()
        runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=SHUTDOWN_SECONDS)
        await runner.setup()
        try:
            yield Serving(await _listen(runner, settings), queue)
        finally:
            queue.close()
            await runner.cleanup()


async def serve(
    engine: LocalEngine, student: ServedStudent, settings: Settings, announce: Callable[[str], None]
) -> int:
    """Serve until SIGINT or SIGTERM, and return the signal; `announce` is called with the URL once it answers.

    Active requests may finish within GRACE_SECONDS, or until a second signal. Raises what `serving` raises, and the
    exception of an engine that failed.
    """
    loop = asyncio.get_running_loop()
    signals: asyncio.Queue[int] = asyncio.Queue()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, signals.put_nowait, int(number))
    async with serving(engine, student, settings) as (url, queue):
        announce(url)
        signalled = asyncio.create_task(signals.get())
        await asyncio.wait((signalled, queue.failure), return_when=asyncio.FIRST_COMPLETED)
        if queue.failure.done():
            signalled.cancel()
            raise queue.failure.result()
        queue.stop_admitting()
        with suppress(TimeoutError):
            async with asyncio.timeout(GRACE_SECONDS):
                while queue.active and signals.empty():
                    await asyncio.sleep(0.05)
        return signalled.result()


async def _listen(runner: web.AppRunner, settings: Settings) -> str:
    """Open the port and return the URL."""
    try:
        await web.TCPSite(runner, settings.host, settings.port).start()
    except OSError as e:
        raise TennerError(
            f"cannot listen on {settings.host}:{settings.port}: {e.strerror or e}",
            hint="choose another --port, or 0 for any free port",
        ) from e
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    return f"http://{host}:{runner.addresses[0][1]}"


def _aborted(why: Exception) -> APIError:
    if isinstance(why, EngineFailed):
        return APIError(500, "the engine has failed, and the server is stopping", code="engine_failed")
    return APIError(503, "the server is stopping", code="server_stopping")


def _name_in(host: str) -> str:
    """The name in a Host header, without the port; empty where it is malformed."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _content_security_policy(page: str) -> str:
    """Allow the page its own script and style and requests to this server; no text can become a script."""

    def own(tag: str) -> str:
        code = page.partition(f"<{tag}>")[2].partition(f"</{tag}>")[0]
        return f"'sha256-{base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()}'"

    return (
        f"default-src 'none'; script-src {own('script')}; style-src {own('style')}; img-src data:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        "require-trusted-types-for 'script'; trusted-types 'none'"
    )
