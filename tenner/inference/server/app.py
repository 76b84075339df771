"""The server: a student behind OpenAI's chat completions, with a page to talk to it."""

import asyncio
import base64
import hashlib
import hmac
import ipaddress
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from importlib import resources
from typing import NamedTuple
from urllib.parse import urlsplit

from aiohttp import web

from tenner.core.errors import NoRoom, TennerError
from tenner.inference.engine import LocalEngine
from tenner.inference.forcing import FormatIds
from tenner.inference.scheduler import Scheduler
from tenner.inference.server import openai_schema
from tenner.inference.server.admission import ActiveRequest, AdmissionQueue, EngineFailed, QueueClosed, QueueFull
from tenner.inference.server.openai_schema import APIError
from tenner.inference.server.served_student import ServedStudent

RETRY_AFTER_SECONDS = 1
GRACE_SECONDS = 5.0
"""What answers under way are given when the server is told to stop; after that their streams end with an error."""
LAST_WORDS_SECONDS = 2.0
"""What a slow reader is given to take that error in."""
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Settings(NamedTuple):
    """How the server meets the world."""

    host: str
    port: int
    """0: any that is free."""
    api_key: str | None
    """What clients must bring; None lets everybody in."""
    concurrency_max: int
    request_bytes_max: int
    price_usd_per_hour: float | None


class Server:
    """The handlers, around one queue."""

    def __init__(self, queue: AdmissionQueue, speaker: ServedStudent, settings: Settings) -> None:
        self._queue, self._speaker, self._settings = queue, speaker, settings
        format_ids = FormatIds.resolve(queue.tokenizer, speaker.fmt, speaker.wait_text)
        self._injected_tokens_max = format_ids.injected_tokens_max
        self._began = int(time.time())
        self._page = (resources.files("tenner.inference.server") / "page.html").read_text("utf-8")
        self._page_headers = {
            "Content-Security-Policy": _policy_of(self._page),
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer",
        }

    def app(self) -> web.Application:
        """The application; what is refused is refused in OpenAI's form."""
        app = web.Application(
            client_max_size=self._settings.request_bytes_max, middlewares=[self._in_form, self._at_the_door]
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

    # -- before any handler --------------------------------------------------------------------------------------

    @web.middleware
    async def _in_form(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            return await handler(request)
        except APIError as e:
            return web.json_response(e.body, status=e.status, headers=e.headers)
        except web.HTTPRequestEntityTooLarge:
            most = self._settings.request_bytes_max
            too_large = APIError(413, f"the body is larger than {most:,} bytes", code="request_too_large")
            return web.json_response(too_large.body, status=413)
        except web.HTTPException as e:  # no such path, or not by this method
            refused = APIError(e.status, f"{request.method} {request.path}: {e.reason}", code="not_found")
            allowed = {"Allow": e.headers["Allow"]} if "Allow" in e.headers else None
            return web.json_response(refused.body, status=e.status, headers=allowed)

    @web.middleware
    async def _at_the_door(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """No page of another site may speak for a person: not by a name that leads here, nor without a key."""
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
            "model": self._speaker.name,
            "answers_under_way": self._queue.taken,
            "concurrency_max": self._queue.seats,
        }
        return web.json_response(state, status=503 if self._queue.closing else 200)

    async def _models(self, _: web.Request) -> web.Response:
        price = self._settings.price_usd_per_hour
        return web.json_response(openai_schema.models(self._speaker, price_usd_per_hour=price, created=self._began))

    async def _complete(self, request: web.Request) -> web.StreamResponse:
        if request.content_type != "application/json":  # which a page of another site cannot send
            raise APIError(415, "the body must be application/json", code="unsupported_media_type")
        try:
            body = await request.read()
        except web.RequestPayloadError as e:  # cut off, or not compressed as it says
            raise APIError(400, f"the body cannot be read: {e}", code="invalid_body") from None
        asked = openai_schema.parse(body)
        completion = openai_schema.Completion(self._speaker)
        async with self._seat(asked, completion.id) as seat:
            if asked.stream:
                return await self._stream(request, asked, completion, seat)
            try:
                async for _ in seat.pieces():
                    pass
            except (QueueClosed, EngineFailed) as e:
                raise _broken_off(e) from None
            assert seat.generation is not None
            return web.json_response(completion.whole(seat.generation, seat.usage()))

    def _seat(self, asked: openai_schema.ChatRequest, request_id: str) -> ActiveRequest:
        speaker = self._speaker
        if asked.model != speaker.name:
            message = f"there is no model {asked.model!r} here: this is {speaker.name!r}"
            raise APIError(404, message, code="model_not_found", param="model")
        try:
            policy, answer_tokens_max = asked.limits(speaker, self._injected_tokens_max)
            return self._queue.seat(
                speaker.request(
                    self._queue.tokenizer, asked.conversation, policy, request_id=request_id,
                    answer_tokens_max=answer_tokens_max, sampling=asked.sampling,
                )
            )  # fmt: skip
        except NoRoom as e:
            raise APIError.of(e, code="context_length_exceeded") from None
        except TennerError as e:
            raise APIError.of(e, code="invalid_value") from None
        except QueueFull:
            raise APIError(
                429, f"all {self._queue.seats} seats are taken", code="rate_limit_exceeded",
                headers={"Retry-After": str(RETRY_AFTER_SECONDS)},
            ) from None  # fmt: skip
        except (QueueClosed, EngineFailed) as e:
            raise _broken_off(e) from None

    async def _stream(
        self,
        request: web.Request,
        asked: openai_schema.ChatRequest,
        completion: openai_schema.Completion,
        seat: ActiveRequest,
    ) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-cache"})
        with suppress(ConnectionResetError):  # the reader has left, and leaving frees the seat
            await response.prepare(request)
            await response.write(completion.opening())
            try:
                async for piece in seat.pieces():
                    await response.write(completion.piece(piece))
            except (QueueClosed, EngineFailed) as e:
                await response.write(openai_schema.event(_broken_off(e).body) + openai_schema.DONE)
            else:
                assert seat.generation is not None
                usage = asked.stream_options is not None and asked.stream_options.include_usage
                await response.write(completion.closing(seat.generation, seat.usage(), usage=usage))
            await response.write_eof()
        return response


class Serving(NamedTuple):
    """A server that answers."""

    url: str
    queue: AdmissionQueue


@asynccontextmanager
async def serving(engine: LocalEngine, speaker: ServedStudent, settings: Settings) -> AsyncIterator[Serving]:
    """Answer requests until the block ends; answers under way are then broken off, and their readers told.

    Raises TennerError where the address cannot be had.
    """
    with Scheduler(engine) as scheduler:
        price = settings.price_usd_per_hour
        queue = AdmissionQueue(scheduler, engine.tokenizer, seats=settings.concurrency_max, price_usd_per_hour=price)
        app = Server(queue, speaker, settings).app()
        runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=LAST_WORDS_SECONDS)
        await runner.setup()
        try:
            yield Serving(await _listen(runner, settings), queue)
        finally:
            queue.close()
            await runner.cleanup()


async def serve(
    engine: LocalEngine, speaker: ServedStudent, settings: Settings, announce: Callable[[str], None]
) -> int:
    """Serve until SIGINT or SIGTERM, and return which it was; `announce` is told the address when it answers.

    Answers under way may end then, but not for long, and not when told twice. Raises as `serving` does, and whatever
    ended the engine.
    """
    loop = asyncio.get_running_loop()
    signals: asyncio.Queue[int] = asyncio.Queue()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, signals.put_nowait, int(number))
    async with serving(engine, speaker, settings) as (url, queue):
        announce(url)
        told = asyncio.create_task(signals.get())
        await asyncio.wait((told, queue.failure), return_when=asyncio.FIRST_COMPLETED)
        if queue.failure.done():
            told.cancel()
            raise queue.failure.result()
        queue.close_door()
        with suppress(TimeoutError):
            async with asyncio.timeout(GRACE_SECONDS):
                while queue.taken and signals.empty():
                    await asyncio.sleep(0.05)
        return told.result()


async def _listen(runner: web.AppRunner, settings: Settings) -> str:
    """Open the port; the address to come to."""
    try:
        await web.TCPSite(runner, settings.host, settings.port).start()
    except OSError as e:
        raise TennerError(
            f"cannot listen on {settings.host}:{settings.port}: {e.strerror or e}",
            hint="choose another --port, or 0 for any that is free",
        ) from e
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    return f"http://{host}:{runner.addresses[0][1]}"


def _broken_off(why: QueueClosed | EngineFailed) -> APIError:
    if isinstance(why, EngineFailed):
        return APIError(500, "the engine has failed, and the server is stopping", code="engine_failed")
    return APIError(503, "the server is stopping", code="server_stopping")


def _name_in(host: str) -> str:
    """The name in a Host header, without the port; empty where it makes no sense."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _policy_of(page: str) -> str:
    """The page may run its own script and speak to this server; nothing else, and no text can become a script."""

    def own(tag: str) -> str:
        code = page.partition(f"<{tag}>")[2].partition(f"</{tag}>")[0]
        return f"'sha256-{base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()}'"

    return (
        f"default-src 'none'; script-src {own('script')}; style-src {own('style')}; img-src data:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        "require-trusted-types-for 'script'; trusted-types 'none'"
    )
