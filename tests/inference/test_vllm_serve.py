"""`tenner serve --engine vllm`: the whole command before a real vLLM, and OpenAI's own client before it."""

import json
import os
import signal
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import openai
import pytest
from vllm_server import PROGRAM, STOP_SECONDS, environment

from tenner.core import recipe
from tenner.training import student_address

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.xdist_group("tenner serve"),
    pytest.mark.skipif(not PROGRAM, reason="TENNER_VLLM names no vllm program (see scripts/install_vllm.sh)"),
]
BUDGET, ANSWER_TOKENS_MAX = 48, 16
QUESTION = "What is 2 + 2? Think step by step."


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """Of a server whose standard output holds its address and nothing else, and which ends at a signal."""
    command: list[str | Path] = [
        Path(PROGRAM).parent / "python", "-m", "tenner", "serve",
        student_address.resolve(recipe.load("demo").student.model),
        "--engine", "vllm", "--format", "s1", "--name", "m", "--thinking", str(BUDGET),
        "--answer", str(ANSWER_TOKENS_MAX), "--port", "0", "--concurrency-max", "4", "--price-usd-per-hour", "0.36",
    ]  # fmt: skip
    with (
        tempfile.TemporaryFile() as log,
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=log, text=True, env=environment(), start_new_session=True
        ) as server,
    ):
        assert server.stdout is not None
        try:
            address = server.stdout.readline().strip()
            if not address.startswith("http://"):
                log.seek(0)
                pytest.fail(f"instead of an address: {address!r}\n{log.read().decode(errors='replace')[-4000:]}")
            yield address
            server.send_signal(signal.SIGTERM)
            assert server.wait(STOP_SECONDS) == 0
            assert server.stdout.read() == ""
        finally:
            with suppress(ProcessLookupError):
                os.killpg(server.pid, signal.SIGKILL)


@pytest.fixture(scope="module")
def client(url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=60) as client:
        yield client


def ask(client: openai.OpenAI, **options: Any) -> Any:
    options.setdefault("model", "m")
    return client.chat.completions.create(messages=[{"role": "user", "content": QUESTION}], **options)


def thinking(**limits: int) -> dict[str, Any]:
    return {"extra_body": {"thinking": limits}}


@pytest.mark.parametrize(
    ("options", "least", "most"),
    [
        ({}, 0, BUDGET),
        ({"reasoning_effort": "none"}, 0, 0),
        ({"reasoning_effort": "low"}, 0, BUDGET // 4),
        (thinking(max_tokens=9), 0, 9),
        (thinking(max_tokens=40, min_tokens=24, waits=1), 24, 40),
        (thinking(waits=2), 0, BUDGET),
        (thinking(max_tokens=30) | {"temperature": 0.8, "top_p": 0.9, "seed": 7}, 0, 30),
    ],
)
def test_the_requested_policy_is_applied_and_a_stream_agrees(
    client: openai.OpenAI, options: dict[str, Any], least: int, most: int
) -> None:
    whole = ask(client, **options)
    message, report = whole.choices[0].message, whole.model_extra["tenner"]
    assert report["policy"]["thinking_tokens_max"] == most
    assert least <= report["thinking_tokens"] <= most
    assert whole.usage.completion_tokens_details.reasoning_tokens == report["thinking_tokens"]
    assert report["answer_tokens"] <= ANSWER_TOKENS_MAX
    kinds = [i["kind"] for i in report["interventions"]]
    assert kinds[0] == "open"
    assert "cut" in kinds or report["thinking_tokens"] < most
    assert kinds.count("wait") <= report["policy"]["waits"] + report["policy"]["thinking_tokens_min"]
    assert report["cost_usd"] == pytest.approx(report["machine_seconds"] * 0.36 / 3600)

    chunks = list(ask(client, stream=True, **options))
    deltas = [chunk.choices[0].delta for chunk in chunks]
    assert "".join(delta.content or "" for delta in deltas) == message.content
    assert "".join(getattr(delta, "reasoning", None) or "" for delta in deltas) == message.reasoning
    assert chunks[-1].model_extra["tenner"]["interventions"] == report["interventions"]


def test_mistakes_are_refused(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError):
        ask(client, model="other")
    with pytest.raises(openai.BadRequestError, match="did you mean temperature"):
        ask(client, extra_body={"temprature": 1})
    with pytest.raises(openai.BadRequestError, match="too many for the context"):
        ask(client, **thinking(max_tokens=10) | {"max_tokens": 100_000})


def test_a_client_that_disconnects_releases_its_request(client: openai.OpenAI, url: str) -> None:
    def under_way() -> int:
        with urllib.request.urlopen(f"{url}/health", timeout=10) as response:
            active: int = json.load(response)["answers_under_way"]
        return active

    stream = ask(client, stream=True, **thinking(max_tokens=4000, min_tokens=4000))
    next(iter(stream))
    assert under_way() == 1
    stream.close()
    deadline = time.monotonic() + 10
    while under_way() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert under_way() == 0
    assert ask(client).choices[0].finish_reason
