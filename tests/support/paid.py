"""Paid calls to a loopback server: questions, a section that names it, prices, and what makes the calls."""

import asyncio
from typing import Any

from chat_server import usage_of

from tenner.clients.billing import PaidReply
from tenner.clients.paid_calls import Limits, PaidCalls
from tenner.clients.protocol import Call
from tenner.clients.retries import RetryRule
from tenner.core.records import Question
from tenner.core.sections import PriceSection, TraceSection

LIMITS = Limits(concurrency=8, deadline_seconds=5, retries=RetryRule(attempts_max=4, backoff_seconds=0.02))


PRICE = PriceSection(input_usd_per_mtok=1.0, output_usd_per_mtok=2.0)
"""A micro-dollar for a token in, two for one out."""


def questions(*texts):
    return [Question(id=f"q{i}", question=text, source="t") for i, text in enumerate(texts)]


def section(server, **changes):
    fields: dict[str, Any] = {
        "client": "openai",
        "base_url": server.url,
        "model": "m",
        "price": PRICE,
        "output_tokens_max": 1000,
    }
    return TraceSection(**fields | changes)


def cost_microusd(question):
    usage = usage_of(question)
    return usage["prompt_tokens"] + 2 * usage["completion_tokens"]


def buy(client, ledger, asked, *, limits=LIMITS, sample_index=0, results=None):
    """The results by question id, also put into `results` as they come, and the `PaidCalls` that made them."""
    results = {} if results is None else results

    async def go():
        paid_calls = PaidCalls(client, ledger, stage="trace", limits=limits)
        calls = [Call(q, sample_index) for q in asked]
        try:
            await paid_calls.run(calls, keep, total=len(calls))
        finally:
            await client.close()
        return paid_calls

    def keep(result):
        question_id = result.call.question.id if isinstance(result, PaidReply) else result.question_id
        assert question_id not in results
        results[question_id] = result

    return results, asyncio.run(go())


def spent_microusd(ledger):
    return round(ledger.spent_usd() * 1e6)
