"""A real vLLM server, SmolLM2 on the CPU: bought, killed, gone on, graded, and every token accounted for."""

import asyncio
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from contextlib import closing

import openai
import pytest
from vllm_server import PROGRAM

from tenner.clients.worst_case import input_tokens_max
from tenner.data import puzzles

QUESTIONS = min(100, 40 * int(os.environ.get("TENNER_CAMPAIGN", "1")))
CONCURRENCY, OUTPUT_TOKENS, TRACES_AT_KILL = 16, 48, 12
SUFFIX = " Think first, then put the answer into a box."
# SmolLM2 does not think by itself. vLLM keeps it to this form while it decodes; what it says in it is its own.
FORM = r"<think>\n[^<]{10,40}\n</think>\n\\boxed\{[A-Za-z0-9 $.,]{1,12}\}"


def microusd(input_tokens, output_tokens):
    """At $0.10 and $0.40 per million tokens, rounded up."""
    return -(-(input_tokens + 4 * output_tokens) // 10)


def lines_of(path):
    return path.read_text().splitlines() if path.exists() else []


def killed_at(command, traces, count):
    """Run `command` until `traces` has `count` lines, and kill it."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        deadline = time.monotonic() + 300
        while len(lines_of(traces)) < count and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.02)
    finally:
        process.kill()
        _, said = process.communicate()
    assert process.returncode == -signal.SIGKILL, said.decode()


async def asked_by_openai(url, requests):
    """What the `openai` client is told for each request: prompt tokens, completion tokens and the text."""
    at_once = asyncio.Semaphore(CONCURRENCY)
    own = {"structured_outputs"}  # what this server understands beyond the protocol

    async with openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as client:

        async def ask(request):
            fields = {name: value for name, value in request.items() if name not in own}
            async with at_once:
                said = await client.chat.completions.create(
                    **fields, extra_body={name: request[name] for name in own & request.keys()}
                )
            return said.usage.prompt_tokens, said.usage.completion_tokens, said.choices[0].message.content

        return await asyncio.gather(*map(ask, requests))


@pytest.mark.vllm
@pytest.mark.xdist_group("vllm server")
@pytest.mark.skipif(not PROGRAM, reason="TENNER_VLLM names no vllm program (see scripts/install_vllm.sh)")
def test_every_token_of_a_real_server_is_accounted_for(vllm_server, tmp_path):
    questions = list(puzzles.generate(QUESTIONS, families=list(puzzles.FAMILIES), split="train", seed=0, distinct=True))
    file, out = tmp_path / "questions.jsonl", tmp_path / "out"
    file.write_text(
        "".join(q.model_dump_json(include={"id", "question", "answer", "domain"}) + "\n" for q in questions)
    )
    command = [
        sys.executable, "-m", "tenner", "trace", file, "--out", out, "--client", "openai", "--model", "m",
        "--base-url", vllm_server.url, "--price-in", "0.1", "--price-out", "0.4", "--budget-usd", "1",
        "--suffix", SUFFIX, "--max-output-tokens", str(OUTPUT_TOKENS), "--concurrency", str(CONCURRENCY),
        "--parameter", "temperature=0", "--parameter", f"structured_outputs={{regex='{FORM}'}}",
    ]  # fmt: skip
    before = vllm_server.tokens()
    killed_at(command, out / "traces.jsonl", TRACES_AT_KILL)
    assert TRACES_AT_KILL <= len(lines_of(out / "traces.jsonl")) < QUESTIONS - CONCURRENCY
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    counted = vllm_server.tokens() - before

    # Every question once, graded where there is an answer.
    traces = [json.loads(line) for line in lines_of(out / "traces.jsonl")]
    assert sorted(t["question_id"] for t in traces) == sorted(q.id for q in questions)
    outcomes = Counter(t["outcome"] for t in traces)
    assert set(outcomes) <= {"complete", "truncated"}
    assert outcomes["complete"] >= QUESTIONS // 2
    assert all(t["thinking"] for t in traces)
    verdicts = Counter(t["grade"]["verdict"] for t in traces if t["grade"])
    assert all((t["grade"] is not None) == bool(t["answer"]) for t in traces)
    assert all(t["grade"]["verdict"] in ("correct", "wrong") for t in traces if t["outcome"] == "complete")

    # The server's usage in the raw bodies, in the ledger and in the traces.
    with closing(sqlite3.connect(out / "run.db")) as db:
        rows = db.execute(
            "SELECT request, body, input_tokens, output_tokens, microusd, settled "
            "FROM responses JOIN spends ON spends.id = spend_id"
        ).fetchall()
        lost = [amount for (amount,) in db.execute("SELECT microusd FROM spends WHERE settled = 0")]
        (spent_microusd,) = db.execute("SELECT SUM(microusd) FROM spends").fetchone()
        (calls,) = db.execute("SELECT COUNT(*) FROM spends").fetchone()
    usage, cost, kept = {}, {}, []
    for request, body, input_tokens, output_tokens, amount, settled in rows:
        said = json.loads(body)
        counts = said["usage"]["prompt_tokens"], said["usage"]["completion_tokens"]
        kept.append((*counts, said["choices"][0]["message"]["content"]))
        text = json.loads(request)["messages"][-1]["content"].removesuffix(SUFFIX)
        usage[text] = input_tokens, output_tokens
        cost[text] = amount
        assert counts == (input_tokens, output_tokens)
        assert (amount, settled) == (microusd(input_tokens, output_tokens), 1)
        assert 0 < output_tokens <= OUTPUT_TOKENS
    assert len(usage) == len(rows) == QUESTIONS
    for t in traces:
        assert (t["usage"]["input_tokens"], t["usage"]["output_tokens"]) == usage[t["question"]]
        assert (round(t["cost_usd"] * 1e6), t["metered"]) == (cost[t["question"]], True)

    # The same requests by the provider's own client: the server tells it the same counts.
    told = asyncio.run(asked_by_openai(vllm_server.url, [json.loads(request) for request, *_ in rows]))
    assert [told_in for told_in, *_ in told] == [kept_in for kept_in, *_ in kept]
    # Other requests in its batch round differently: now and then it says something else, or the same in other tokens.
    same = [told_out == kept_out for (_, told_out, a), (_, kept_out, b) in zip(told, kept, strict=True) if a == b]
    assert len(same) >= QUESTIONS // 2
    assert sum(same) >= 0.9 * len(same)

    # The bill: what was used, and the worst case of what was in flight when the process was killed.
    assert calls == QUESTIONS + len(lost)
    assert 1 <= len(lost) <= CONCURRENCY
    parameters = {"temperature": 0, "structured_outputs": {"regex": FORM}}
    worst = {microusd(input_tokens_max([q.question + SUFFIX], parameters), OUTPUT_TOKENS) for q in questions}
    assert set(lost) <= worst
    assert spent_microusd == sum(microusd(*used) for used in usage.values()) + sum(lost)
    assert f"${spent_microusd / 1e6:.6f} spent, of it ${sum(lost) / 1e6:.6f} at worst case" in done.stdout

    # The server's own counters: all that was kept, and at most as many calls more as were in flight.
    input_tokens, output_tokens = (sum(column) for column in zip(*usage.values(), strict=True))
    longest = max(used[0] for used in usage.values())
    assert 0 <= counted.prompt - input_tokens <= len(lost) * longest
    assert 0 <= counted.generated - output_tokens <= len(lost) * OUTPUT_TOKENS
    print(
        f"{dict(outcomes)}, {dict(verdicts)}; {len(lost)} in flight at the kill; tokens kept {input_tokens:,} and "
        f"{output_tokens:,}, made {counted.prompt:,} and {counted.generated:,}; openai's client: {len(same)} the same"
    )
