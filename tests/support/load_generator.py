"""A load generator: many concurrent clients with mixed policies, each reply checked against its own policy.

    python tests/support/load_generator.py serve MODEL_DIR                       prints the URL; serves until Ctrl-C
    python tests/support/load_generator.py ask URL MODEL_DIR PID --seconds 100   prints a LoadReport as JSON

MODEL_DIR is a model whose output does not depend on the batch: a small one, in fp32. PID is the server's process.
"""

import argparse
import asyncio
import json
import random
import sys
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import openai
import psutil
import torch
from short_format import SHORT

from tenner.core.chat_template import ChatTemplate
from tenner.core.records import Policy
from tenner.inference.defaults import WAIT_TEXT
from tenner.inference.engine import Generation
from tenner.inference.hf.engine import HFEngine
from tenner.inference.job import Prompt
from tenner.inference.server.app import Settings, serve
from tenner.inference.server.served_student import ServedStudent

CLIENTS = 64
ANSWER_TOKENS_MAX = 24
QUESTIONS = [f"What is {i} + {i * i}?" for i in range(8)]
POLICIES = [
    *(Policy(thinking_tokens_max=budget) for budget in (0, 1, 8, 30, 64)),
    *(Policy(thinking_tokens_max=64, waits=waits) for waits in (1, 3)),
    Policy(thinking_tokens_max=50, thinking_tokens_min=20),
    Policy(thinking_tokens_max=40, thinking_tokens_min=40, waits=2),
]
DISCONNECT_RATE = 0.1
"""The share of streams whose client disconnects before the end."""


class LoadReport(NamedTuple):
    """What the clients observed."""

    answers: int
    tokens: int
    left: int
    wrong: int
    """Answers that differ from those of their own policy in any token."""
    dropped: int
    """Answers that were cut off by an error."""
    rss_start_mib: float
    """After every kind of request has been made many times."""
    rss_end_mib: float


def student(model_dir: Path) -> ServedStudent:
    """The served student."""
    return ServedStudent(
        name="tiny", model_dir=model_dir, fmt=SHORT, system_prompt=None, wait_text=WAIT_TEXT, thinking_tokens_max=64,
        answer_tokens_max=ANSWER_TOKENS_MAX, keeps_history=False,
    )  # fmt: skip


def load(model_dir: Path) -> HFEngine:
    """The engine of the server, and of the expected answers."""
    return HFEngine.load(model_dir, rows=CLIENTS, dtype=torch.float32)


class Clients:
    """Clients that know the right answers, and count what they see."""

    def __init__(self, url: str, model_dir: Path, seconds: float, *, max_retries: int = 0) -> None:
        self.client = openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=max_retries)
        engine = load(model_dir)
        prompts = [Prompt(q, ChatTemplate(engine.tokenizer, system_prompt=None).question(q).text) for q in QUESTIONS]
        swept = engine.sweep(prompts, POLICIES, SHORT, answer_tokens_max=ANSWER_TOKENS_MAX)
        self.expected: dict[tuple[str, Policy], Generation] = {(g.prompt_id, g.policy): g for g in swept}
        self.seconds = seconds
        self.seen: Counter[str] = Counter()

    async def ask_on(self, number: int) -> None:
        """One client, sending one question after the other."""
        draw, until = random.Random(number), asyncio.get_running_loop().time() + self.seconds
        while asyncio.get_running_loop().time() < until:
            question, policy = draw.choice(QUESTIONS), draw.choice(POLICIES)
            thinking = {"max_tokens": policy.thinking_tokens_max, "min_tokens": policy.thinking_tokens_min}
            try:
                found = await self._ask(question, thinking | {"waits": policy.waits}, draw)
            except (openai.APIError, openai.APIConnectionError) as e:
                print(f"client {number}: {e}", file=sys.stderr)
                self.seen["dropped"] += 1
                continue
            if found is None:
                self.seen["left"] += 1
                continue
            self.seen["answers"] += 1
            self.seen["tokens"] += found["completion_tokens"]
            self.seen["wrong"] += not self._is_right(found, self.expected[question, policy])

    async def _ask(self, question: str, thinking: dict[str, Any], draw: random.Random) -> dict[str, Any] | None:
        """The report with the text; None if this client disconnected before the end."""
        stream = draw.random() < 0.7
        reply: Any = await self.client.chat.completions.create(
            model="tiny", messages=[{"role": "user", "content": question}], stream=stream,
            extra_body={"thinking": thinking},
        )  # fmt: skip
        if not stream:
            message = reply.choices[0].message
            return {**reply.model_extra["tenner"], "thinking": message.reasoning, "answer": message.content}
        disconnect_at = draw.randrange(1, 20) if draw.random() < DISCONNECT_RATE else None
        words, report, chunks = {"thinking": "", "answer": ""}, None, 0
        async with reply:
            async for chunk in reply:
                chunks += 1
                if chunks == disconnect_at:
                    return None
                delta = chunk.choices[0].delta
                words["thinking"] += (delta.model_extra or {}).get("reasoning") or ""
                words["answer"] += delta.content or ""
                if chunk.choices[0].finish_reason:
                    report = chunk.model_extra["tenner"]
        if report is None:
            raise openai.APIError("the stream ended without its last chunk", request=reply.response.request, body=None)
        return {**report, **words}

    def _is_right(self, found: dict[str, Any], expected: Generation) -> bool:
        done = [(i["kind"], i["position"], i["tokens"]) for i in found["interventions"]]
        wanted = [(i.kind, i.position, i.tokens) for i in expected.interventions]
        return (
            (found["thinking"], found["answer"]) == (expected.thinking, expected.answer)
            and found["policy"] == expected.policy.model_dump()
            and found["thinking_tokens"] == expected.thinking_tokens <= found["policy"]["thinking_tokens_max"]
            and done == wanted
        )


async def ask(url: str, model_dir: Path, server: psutil.Process, *, seconds: float) -> LoadReport:
    """Generate load for so long, and compare the server's memory after the first fifth with that at the end."""
    generator = Clients(url, model_dir, seconds)
    async with generator.client, asyncio.TaskGroup() as clients:
        for number in range(CLIENTS):
            clients.create_task(generator.ask_on(number))
        await asyncio.sleep(seconds / 5)
        rss_start = server.memory_info().rss
    rss_end = server.memory_info().rss
    seen = {name: generator.seen[name] for name in ("answers", "tokens", "left", "wrong", "dropped")}
    return LoadReport(**seen, rss_start_mib=rss_start / 2**20, rss_end_mib=rss_end / 2**20)


def main() -> None:
    """Run the server or the clients."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sides = parser.add_subparsers(required=True, dest="side")
    serving = sides.add_parser("serve")
    serving.add_argument("model_dir", type=Path)
    asking = sides.add_parser("ask")
    asking.add_argument("url")
    asking.add_argument("model_dir", type=Path)
    asking.add_argument("pid", type=int)
    asking.add_argument("--seconds", type=float, default=20.0)
    args = parser.parse_args()
    if args.side == "serve":
        settings = Settings("127.0.0.1", 0, None, CLIENTS + 16, 1 << 20, None)  # room for those that disconnected
        asyncio.run(serve(load(args.model_dir), student(args.model_dir), settings, lambda url: print(url, flush=True)))
    else:
        report = asyncio.run(ask(args.url, args.model_dir, psutil.Process(args.pid), seconds=args.seconds))
        print(json.dumps(report._asdict()))


if __name__ == "__main__":
    main()
