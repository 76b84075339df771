"""The HTTP server: OpenAI's chat completions for one student, and a chat page."""

import asyncio
import logging
import signal
import time
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any, NamedTuple

from aiohttp import web

from tenner.core.errors import NoRoom, TennerError
from tenner.inference.engine import LocalEngine
from tenner.inference.scheduler import Scheduler
from tenner.inference.server import access, chat_page, openai_response, openai_schema
from tenner.inference.server.admission import (
    ActiveRequest,
    AdmissionQueue,
    EngineFailed,
    QueueClosed,
    QueueFull,
    RequestFailed,
    UsageReport,
)
from tenner.inference.server.connections import ConnectionLimits, Connections
from tenner.inference.server.openai_schema import APIError
from tenner.inference.server.preparation import Preparation
from tenner.inference.server.served_student import ServedStudent

RETRY_AFTER_SECONDS = 1
BACKLOG = 512
"""Connections that the system accepts before the server does."""
GRACE_SECONDS = 5.0
"""How long active requests may continue after a stop signal; then their streams end with an error."""
SHUTDOWN_SECONDS = 2.0
"""How long a slow client has to read that error."""
LINGERING_SECONDS = 3.0
"""How long the rest of a refused body is read, so that the client reads the refusal."""
UNREAD_SECONDS = 75.0
"""How long a stream waits for a client that does not read it."""
NOT_ADMITTED = (TennerError, QueueFull, QueueClosed, EngineFailed)
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
    limits: ConnectionLimits = ConnectionLimits()


class Server:
    """The request handlers around one admission queue."""

    def __init__(
        self,
        queue: AdmissionQueue,
        preparation: Preparation,
        connections: Connections,
        student: ServedStudent,
        settings: Settings,
    ) -> None:
        self._queue, self._preparation, self._connections = queue, preparation, connections
        self._student, self._settings = student, settings
        self._began = int(time.time())

    def app(self) -> web.Application:
        """The aiohttp application; all errors have OpenAI's form."""
        app = web.Application(
            client_max_size=self._settings.request_bytes_max,
            middlewares=[self._free_connection, self._format_errors, self._check_access],
        )
        app.add_routes(
            [
                *chat_page.routes(),
                web.get("/health", self._health),
                web.get("/v1/models", self._models),
                web.get("/v1/examples", self._examples),
                web.post("/v1/chat/completions", self._complete),
            ]
        )
        return app

    # -- middlewares ---------------------------------------------------------------------------------------------

    @web.middleware
    async def _free_connection(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            return await handler(request)
        finally:
            self._connections.idle(request.transport)

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
        except Exception as e:  # noqa: BLE001 a mistake of ours: this request gets an answer, and the server goes on
            traceback.print_exc()
            return web.json_response(_failed(e).body, status=500)

    @web.middleware
    async def _check_access(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Refuse other sites' pages (DNS rebinding to a loopback server) and requests without the key."""
        if access.is_loopback(self._settings.host) and not access.names_loopback(request.host):
            raise APIError(403, f"this server answers to loopback names only, not to {request.host}")
        key = self._settings.api_key
        given = request.headers.get("Authorization", "")
        if key is not None and request.path.startswith("/v1/") and not access.is_key(given, key):
            raise APIError(401, "wrong or missing API key", code="invalid_api_key")
        return await handler(request)

    # -- handlers ------------------------------------------------------------------------------------------------

    async def _health(self, _: web.Request) -> web.Response:
        status = "failed" if self._queue.failed else "closing" if self._queue.closing else "ok"
        state = {
            "status": status,
            "model": self._student.name,
            "answers_under_way": self._queue.active,
            "concurrency_max": self._queue.concurrency_max,
        }
        return web.json_response(state, status=200 if status == "ok" else 503)

    async def _models(self, _: web.Request) -> web.Response:
        price = self._settings.price_usd_per_hour
        return web.json_response(openai_response.models(self._student, price_usd_per_hour=price, created=self._began))

    async def _examples(self, _: web.Request) -> web.Response:
        return web.json_response(openai_response.examples(self._student))

    async def _complete(self, request: web.Request) -> web.StreamResponse:
        if request.content_type != "application/json":  # which another site's page cannot send
            raise APIError(415, "the body must be application/json", code="unsupported_media_type")
        try:
            body = await request.read()
        except web.RequestPayloadError as e:  # incomplete, or not compressed as declared
            raise APIError(400, f"the body cannot be read: {e}", code="invalid_body") from None
        self._connections.answering(request.transport)
        completion = openai_response.Completion(self._student)
        async with AsyncExitStack() as admitted:
            try:
                self._queue.check()
                chat, jobs = await self._preparation.prepare(body, completion.id)
                active = [await admitted.enter_async_context(self._queue.admit(job)) for job in jobs]
            except NOT_ADMITTED as e:
                raise self._refusal(e) from None
            if chat.stream:
                return await self._stream(request, chat, completion, active)
            try:
                answers = [await _finished(one) for one in active]
            except (QueueClosed, EngineFailed, RequestFailed) as e:
                raise _aborted(e) from None
            return web.json_response(completion.whole(answers))

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

        async def write(data: bytes) -> None:
            async with asyncio.timeout(UNREAD_SECONDS):
                await response.write(data)

        async def answer(index: int) -> UsageReport:
            await write(completion.opening(index))
            async for piece in active[index].pieces():
                await write(completion.piece(index, piece))
            answer = await _finished(active[index])
            await write(completion.closing(index, answer))
            return answer.report

        # The client has disconnected or does not read; leaving the block releases the requests.
        with suppress(ConnectionResetError, TimeoutError):
            await response.prepare(request)
            try:
                reports = await _all_of([answer(index) for index in range(len(active))])
            except (QueueClosed, EngineFailed, RequestFailed) as e:
                await write(openai_response.event(_aborted(e).body))
            else:
                if chat.stream_options is not None and chat.stream_options.include_usage:
                    await write(completion.usage(reports))
            await write(openai_response.DONE)
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
    connections: Connections


@asynccontextmanager
async def serving(engine: LocalEngine, student: ServedStudent, settings: Settings) -> AsyncIterator[Serving]:
    """Answer requests until the block ends; active ones are then cancelled, and their clients get an error.

    Raises TennerError where the address is not available, or where a key is missing (see `access.check_exposure`).
    """
    access.check_exposure(settings.host, settings.api_key)
    most = settings.concurrency_max
    with Scheduler(engine) as scheduler, Preparation(engine, student, answers_max=most) as preparation:
        price = settings.price_usd_per_hour
        queue = AdmissionQueue(scheduler, engine.tokenizer, concurrency_max=most, price_usd_per_hour=price)
        connections = Connections(settings.limits)
        app = Server(queue, preparation, connections, student, settings).app()
        runner = web.AppRunner(
            app, handler_cancellation=True, access_log=None, shutdown_timeout=SHUTDOWN_SECONDS,
            lingering_time=LINGERING_SECONDS, logger=_quiet_logger(),
        )  # fmt: skip
        await runner.setup()
        try:
            listener = await _listen(runner, connections, settings)
            try:
                yield Serving(_url(listener, settings), queue, connections)
            finally:
                listener.close()
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
    async with serving(engine, student, settings) as (url, queue, _):
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


def _quiet_logger() -> logging.Logger:
    """aiohttp's, which would write a traceback for every request that is no HTTP; our own are written above."""
    logger = logging.getLogger("tenner.server")
    logger.setLevel(logging.CRITICAL)
    return logger


async def _listen(runner: web.AppRunner, connections: Connections, settings: Settings) -> asyncio.Server:
    """Open the port."""
    server = runner.server
    assert server is not None, "the runner is set up"
    try:
        return await asyncio.get_running_loop().create_server(
            lambda: connections.protocol(server()), settings.host, settings.port, backlog=BACKLOG
        )
    except OSError as e:
        raise TennerError(
            f"cannot listen on {settings.host}:{settings.port}: {e.strerror or e}",
            hint="choose another --port, or 0 for any free port",
        ) from e


def _url(listener: asyncio.Server, settings: Settings) -> str:
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    return f"http://{host}:{listener.sockets[0].getsockname()[1]}"


def _aborted(why: Exception) -> APIError:
    if isinstance(why, EngineFailed):
        return APIError(500, "the engine has failed, and the server is stopping", code="engine_failed")
    if isinstance(why, RequestFailed):
        return _failed(why.__cause__ or why)
    return APIError(503, "the server is stopping", code="server_stopping")


def _failed(why: BaseException) -> APIError:
    return APIError(500, f"this request failed with {type(why).__name__}; others are answered", code="request_failed")
