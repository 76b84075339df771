"""`tenner serve MODEL_OR_RUN`: serve a student over HTTP until a signal stops it."""

import argparse
import asyncio
import signal
import sys
from pathlib import Path

from tenner.clients.api_keys import key_in_environment
from tenner.commands import options
from tenner.core.errors import TennerError
from tenner.core.run_folder import RunFolder
from tenner.core.sections import LocalEngineName
from tenner.core.terminal import say
from tenner.inference.defaults import CONCURRENCY_MAX, REQUEST_BYTES_MAX
from tenner.inference.server.access import check_exposure
from tenner.stages import resolve_student

PORT_MAX = 65535
INTERRUPTED = 130


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of the verb."""
    options.add_student(parser)
    parser.add_argument("--host", metavar="HOST", default="127.0.0.1", help="default: %(default)s, this machine only")
    parser.add_argument(
        "--port",
        metavar="N",
        type=int,
        default=8000,
        help="0: any that is free (default: %(default)s)",
    )
    parser.add_argument("--api-key-env", metavar="VAR", help="the environment variable that holds the key for clients")
    parser.add_argument("--name", metavar="NAME", help="what clients call the model (default: of recipe or folder)")
    parser.add_argument(
        "--concurrency-max",
        metavar="N",
        type=options.up_to(options.COUNT_MAX),
        default=CONCURRENCY_MAX,
        help="answers under way at once (default: %(default)s)",
    )
    parser.add_argument(
        "--request-bytes-max", metavar="N", type=options.up_to(2**40), default=REQUEST_BYTES_MAX,
        help="the largest body (default: %(default)s)",
    )  # fmt: skip


def main(args: argparse.Namespace) -> None:
    """Serve until a signal stops it, and exit as that signal asks."""
    ended_by = run(
        args.student, options.student_options(args), host=args.host, port=args.port, api_key_env=args.api_key_env,
        concurrency_max=args.concurrency_max, request_bytes_max=args.request_bytes_max, engine_name=args.engine,
    )  # fmt: skip
    sys.exit(INTERRUPTED if ended_by == signal.SIGINT else 0)


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
    check_exposure(host, api_key)
    student, price_usd_per_hour = resolve_student.resolve_student(address, options)
    from tenner.inference.server.app import Settings, serve  # imports torch, which a refused option need not wait for
    from tenner.stages.page_examples import page_examples

    if resolve_student.is_run(address):
        student = student._replace(examples=page_examples(RunFolder(Path(address))))
    settings = Settings(host, port, api_key, concurrency_max, request_bytes_max, price_usd_per_hour)
    engine = resolve_student.load(student, options, rows=concurrency_max, engine=engine_name)
    info = engine.info

    def announce(url: str) -> None:
        access = "API key required" if api_key else "no API key required"
        say(f"serving {student.name} on {info.device} in {info.precision}", file=sys.stderr)
        say(f"API: {url}/v1, chat page: {url} ({access}); Ctrl-C stops the server", file=sys.stderr)
        say(url)

    return asyncio.run(serve(engine, student, settings, announce))
