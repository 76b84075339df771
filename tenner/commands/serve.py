"""`tenner serve MODEL_OR_RUN`: a student behind a port, until it is told to stop."""

import asyncio
import sys

from tenner.clients.api_keys import key_in_environment
from tenner.core.errors import TennerError
from tenner.core.sections import EngineName
from tenner.stages import resolve_student

PORT_MAX = 65535


def run(
    address: str,
    wishes: resolve_student.StudentOptions,
    *,
    host: str,
    port: int,
    api_key_env: str | None,
    concurrency_max: int,
    request_bytes_max: int,
    engine_name: EngineName | None = None,
) -> int:
    """Serve until SIGINT or SIGTERM, and return which. The server's address is printed when it answers.

    Raises TennerError where the student, the key or the port is not to be had, before the student is loaded if
    possible.
    """
    if not 0 <= port <= PORT_MAX:
        raise TennerError(f"--port {port} is no port", hint=f"0 to {PORT_MAX}; 0 is any that is free")
    for name, value in (("concurrency-max", concurrency_max), ("request-bytes-max", request_bytes_max)):
        if value < 1:
            raise TennerError(f"--{name} {value} is too small")
    api_key = key_in_environment(api_key_env) or None
    speaker, price_usd_per_hour = resolve_student.resolve_student(address, wishes)
    from tenner.inference.server.app import Settings, serve  # which loads torch: a refusal shall not wait for it

    settings = Settings(host, port, api_key, concurrency_max, request_bytes_max, price_usd_per_hour)
    engine = resolve_student.load(speaker, wishes, rows=concurrency_max, engine=engine_name)
    about = engine.info

    def announce(url: str) -> None:
        door = "with its key" if api_key else "open to everybody who can reach it"
        print(f"{speaker.name} is on {about.device} in {about.precision}", file=sys.stderr)
        print(f"{speaker.name} answers at {url}/v1 and to people at {url}, {door}; Ctrl-C ends", file=sys.stderr)
        print(url, flush=True)

    return asyncio.run(serve(engine, speaker, settings, announce))
