"""`tenner serve MODEL_OR_RUN`: serve a student over HTTP until a signal stops it."""

import asyncio
import sys

from tenner.clients.api_keys import key_in_environment
from tenner.core.errors import TennerError
from tenner.core.sections import LocalEngineName
from tenner.stages import resolve_student

PORT_MAX = 65535


def run(
    address: str,
    options: resolve_student.StudentOptions,
    *,
    host: str,
    port: int,
    api_key_env: str | None,
    concurrency_max: int,
    request_bytes_max: int,
    engine_name: LocalEngineName | None = None,
) -> int:
    """Serve until SIGINT or SIGTERM, and return the signal. The URL is printed once the server answers.

    Raises TennerError where the student, the key or the port is not available, before the student is loaded if
    possible.
    """
    if not 0 <= port <= PORT_MAX:
        raise TennerError(f"--port {port} is not a port", hint=f"0 to {PORT_MAX}; 0 is any free port")
    for name, value in (("concurrency-max", concurrency_max), ("request-bytes-max", request_bytes_max)):
        if value < 1:
            raise TennerError(f"--{name} {value} is too small")
    api_key = key_in_environment(api_key_env) or None
    student, price_usd_per_hour = resolve_student.resolve_student(address, options)
    from tenner.inference.server.app import Settings, serve  # imports torch, which a refused option need not wait for

    settings = Settings(host, port, api_key, concurrency_max, request_bytes_max, price_usd_per_hour)
    engine = resolve_student.load(student, options, rows=concurrency_max, engine=engine_name)
    info = engine.info

    def announce(url: str) -> None:
        access = "API key required" if api_key else "no API key required"
        print(f"serving {student.name} on {info.device} in {info.precision}", file=sys.stderr)
        print(f"API: {url}/v1, chat page: {url} ({access}); Ctrl-C stops the server", file=sys.stderr)
        print(url, flush=True)

    return asyncio.run(serve(engine, student, settings, announce))
