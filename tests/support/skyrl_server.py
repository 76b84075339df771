"""A real server of the Tinker protocol: SkyRL's for JAX on the CPU, as `scripts/install_skyrl.sh` installs it."""

import json
import os
import signal
import socket
import subprocess
import time
import urllib.request
from contextlib import contextmanager, suppress
from pathlib import Path

BACKEND = {"max_lora_adapters": 3, "max_lora_rank": 8, "train_micro_batch_size": 4, "sample_max_num_sequences": 8}
START_SECONDS = 180


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@contextmanager
def serving(venv: Path, model_dir: Path, workdir: Path):
    """Serve the model in a folder; the URL. The server starts its engine by `uv run`, and so must be started by it."""
    port, bin_dir = free_port(), venv / "bin"
    command: list[str | Path] = [
        bin_dir / "uv", "run", "--no-project", "--active", "--python", bin_dir / "python", "-m", "skyrl.tinker.api",
        "--base-model", model_dir, "--backend", "jax", "--backend-config", json.dumps(BACKEND),
        "--port", str(port), "--host", "127.0.0.1", "--database-url", f"sqlite:///{workdir}/server.db",
        "--checkpoints-base", workdir / "checkpoints",
    ]  # fmt: skip
    environment = os.environ | {
        "PATH": f"{bin_dir}:{os.environ['PATH']}", "VIRTUAL_ENV": str(venv), "JAX_PLATFORMS": "cpu", "UV_OFFLINE": "1",
    }  # fmt: skip
    environment.pop("PYTHONPATH", None)
    workdir.mkdir(parents=True, exist_ok=True)
    with open(workdir / "server.log", "wb") as log:
        server = subprocess.Popen(
            command, env=environment, stdout=log, stderr=log, cwd=workdir, start_new_session=True
        )  # fmt: skip
    try:
        _wait_until_healthy(server, port, workdir)
        yield f"http://127.0.0.1:{port}"
    finally:
        with suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def _wait_until_healthy(server, port, workdir):
    until = time.monotonic() + START_SECONDS
    while time.monotonic() < until and server.poll() is None:
        with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/api/v1/healthz", timeout=5):
            return
        time.sleep(0.3)
    raise AssertionError((workdir / "server.log").read_text()[-4000:])
