"""Replies other than traces, for labels and benchmarks: by the same paid-call loop, store and cap."""

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

from tenner.clients.billing import PaidReply
from tenner.clients.faults import FAULTS
from tenner.clients.protocol import Call
from tenner.clients.registry import CallContext, calls_for, client_for, live_progress
from tenner.core.errors import Incomplete
from tenner.core.records import FailedCall, Question
from tenner.core.sections import PaidModel


class Answers(NamedTuple):
    """The answers to questions, by the question's id, and the calls that failed for good."""

    by_id: dict[str, str]
    failures: list[FailedCall]


def buy_answers(section: PaidModel, questions: Sequence[Question], context: CallContext) -> Answers:
    """The model's answer to each question. Raises as `buy_replies` does."""
    answers: dict[str, str] = {}

    def on_reply(paid: PaidReply) -> None:
        answers[paid.call.question.id] = paid.reply.answer

    failures = buy_replies(section, [Call(q, 0) for q in questions], on_reply, context)
    return Answers(answers, failures)


def buy_replies(
    section: PaidModel, calls: Sequence[Call], on_reply: Callable[[PaidReply], None], context: CallContext
) -> list[FailedCall]:
    """Pass the reply to each call to `on_reply` as it arrives; return the calls that failed for good.

    Raises:
        BudgetReached, TennerError: see `PaidCalls.run`.
        Incomplete: some calls failed with a transient fault.
    """
    failures: list[FailedCall] = []

    def on_result(result: PaidReply | FailedCall) -> None:
        if isinstance(result, FailedCall):
            failures.append(result)
        else:
            on_reply(result)

    async def buy() -> None:
        client = client_for(section)
        paid_calls = calls_for(section, client, context)
        try:
            with context.screen.bar(context.stage, len(calls)) as bar:
                async with live_progress(bar, paid_calls, context.ledger):
                    await paid_calls.run(calls, on_result, total=len(calls))
        finally:
            await client.close()

    asyncio.run(buy())
    failed = Counter(f.kind for f in failures)
    if any(FAULTS[kind].transient for kind in failed):
        kinds = ", ".join(f"{kind} {count}" for kind, count in failed.most_common())
        raise Incomplete(f"{failed.total():,} calls failed: {kinds}", hint="the same command makes them again")
    return failures
