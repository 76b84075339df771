"""A real vLLM server on loopback, on the CPU: `with VLLMServer(model, name="m") as server:`.

Which program is started is said by the environment variable TENNER_VLLM; `scripts/install_vllm.sh` installs one.
"""

import os
import signal
import socket
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from paths import ROOT, SUPPORT

from tenner.core import hardware

PROGRAM = os.environ.get("TENNER_VLLM", "")
START_SECONDS = 300
STOP_SECONDS = 30
TAIL_LINES = 40
OLDER_PROCESSOR = SUPPORT / "older_processor"
DTYPES = {"bf16": "bfloat16", "fp32": "float32"}
FEW_PROCESSES = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
"""The engine of a server computes in its own process, not in a third one, which would import everything once more and
keep a core free of computing for the second."""
OPTIONS = (
    "--enforce-eager", "--max-model-len", "2048", "--max-num-seqs", "32",
    "--kv-cache-memory-bytes", "1G",  # else it wants nearly all of the machine's
)  # fmt: skip


def environment(*folders: Path) -> dict[str, str]:
    """For a process with vLLM, whose Python finds tenner and what is in `folders`."""
    found = [ROOT, *folders]
    if os.environ.get("ATEN_CPU_CAPABILITY") == "avx2":
        found.append(OLDER_PROCESSOR)
    talk_to_nobody = {"VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1"}
    return os.environ | talk_to_nobody | FEW_PROCESSES | {"PYTHONPATH": os.pathsep.join(map(str, found))}


class Tokens(NamedTuple):
    """What the server has counted since it started."""

    prompt: int
    generated: int

    def __sub__(self, other: "Tokens") -> "Tokens":
        return Tokens(self.prompt - other.prompt, self.generated - other.generated)


class VLLMServer:
    """`vllm serve` in a process group of its own, from /health on."""

    def __init__(self, model: Path, *, name: str, options: Sequence[str] = ()) -> None:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port = probe.getsockname()[1]
        self._command = [
            PROGRAM, "serve", str(model), "--served-model-name", name,
            "--host", "127.0.0.1", "--port", str(self.port), "--dtype", DTYPES[hardware.best_precision("cpu")],
            *OPTIONS, *options,
        ]  # fmt: skip

    @property
    def url(self) -> str:
        """The base URL that clients are given."""
        return f"http://127.0.0.1:{self.port}/v1"

    def __enter__(self) -> "VLLMServer":
        self._log = tempfile.TemporaryFile()
        self._process = subprocess.Popen(
            self._command, stdin=subprocess.DEVNULL, stdout=self._log, stderr=subprocess.STDOUT,
            env=environment(), start_new_session=True,
        )  # fmt: skip
        try:
            self._wait_for_health()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        self._signal(signal.SIGTERM)
        try:
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(STOP_SECONDS)
        finally:
            self._signal(signal.SIGKILL)  # the engine's processes too, should they have stayed
            self._process.wait()
            self._log.close()

    def tokens(self) -> Tokens:
        """The server's own counters, once they have come to rest."""
        before, now = None, self._counted()
        while now != before:
            time.sleep(1)
            before, now = now, self._counted()
        return now

    def _counted(self) -> Tokens:
        lines = self._get("/metrics").splitlines()

        def total(counter: str) -> int:
            return sum(int(float(line.rsplit(" ", 1)[1])) for line in lines if line.startswith(counter + "{"))

        return Tokens(total("vllm:prompt_tokens_total"), total("vllm:generation_tokens_total"))

    def _wait_for_health(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if (status := self._process.poll()) is not None:
                raise RuntimeError(f"vLLM ended with status {status}:\n{self._tail()}")
            try:
                self._get("/health")
            except OSError:  # not yet: URLError is one of its children
                time.sleep(0.5)
            else:
                return
        raise RuntimeError(f"vLLM was not up after {START_SECONDS} s:\n{self._tail()}")

    def _get(self, path: str) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=30) as response:
            return response.read().decode()

    def _tail(self) -> str:
        self._log.seek(0)
        return "\n".join(self._log.read().decode(errors="replace").splitlines()[-TAIL_LINES:])

    def _signal(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)
