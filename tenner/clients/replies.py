"""Answers that are not traces, such as labels and a benchmark's: by the same paid-call loop, store and cap."""

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence

from tenner.clients.billing import Bought
from tenner.clients.faults import FAULTS
from tenner.clients.protocol import Call
from tenner.clients.registry import CallContext, calls_for, client_for, shown
from tenner.core.errors import Incomplete
from tenner.core.records import FailedCall, Question
from tenner.core.sections import PaidModel


def buy_answers(section: PaidModel, questions: Sequence[Question], context: CallContext) -> dict[str, str]:
    """What the model answers to each question, by the question's id. Raises as `buy_replies` does."""
    answers: dict[str, str] = {}

    def on_bought(bought: Bought) -> None:
        answers[bought.call.question.id] = bought.reply.answer

    buy_replies(section, [Call(q, 0) for q in questions], on_bought, context)
    return answers


def buy_replies(
    section: PaidModel, calls: Sequence[Call], on_bought: Callable[[Bought], None], context: CallContext
) -> list[FailedCall]:
    """Hand the reply to each call to `on_bought`, as they come in; give the calls that are refused for good.

    Raises:
        BudgetReached, TennerError: see `PaidCalls.run`.
        Incomplete: some calls failed in a way that may heal.
    """
    refused: list[FailedCall] = []

    def on_result(result: Bought | FailedCall) -> None:
        if isinstance(result, FailedCall):
            refused.append(result)
        else:
            on_bought(result)

    async def buy() -> None:
        client = client_for(section)
        paid = calls_for(section, client, context)
        try:
            with context.screen.bar(context.stage, len(calls)) as bar:
                async with shown(bar, paid, context.ledger):
                    await paid.run(calls, on_result, total=len(calls))
        finally:
            await client.close()

    asyncio.run(buy())
    failed = Counter(f.kind for f in refused)
    if any(FAULTS[kind].heals for kind in failed):
        kinds = ", ".join(f"{kind} {count}" for kind, count in failed.most_common())
        raise Incomplete(f"{failed.total():,} calls failed: {kinds}", hint="the same command makes them again")
    return refused
