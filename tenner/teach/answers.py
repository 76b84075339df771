"""Answers that are not traces, such as labels and a benchmark's: by the same paid-call loop, store and cap."""

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence

from tenner.errors import Incomplete
from tenner.records import FailedCall, Question
from tenner.sections import PaidModel
from tenner.teach.faults import FAULTS
from tenner.teach.teacher import Call
from tenner.teach.till import Bought
from tenner.teach.traces import Desk, loop_for, shown, teacher_for


def buy_answers(section: PaidModel, questions: Sequence[Question], desk: Desk) -> dict[str, str]:
    """What the model answers to each question, by the question's id. Raises as `buy_replies` does."""
    answers: dict[str, str] = {}

    def on_bought(bought: Bought) -> None:
        answers[bought.call.question.id] = bought.reply.answer

    buy_replies(section, [Call(q, 0) for q in questions], on_bought, desk)
    return answers


def buy_replies(
    section: PaidModel, calls: Sequence[Call], on_bought: Callable[[Bought], None], desk: Desk
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
        teacher = teacher_for(section)
        loop = loop_for(section, teacher, desk)
        try:
            with desk.screen.bar(desk.stage, len(calls)) as bar:
                async with shown(bar, loop, desk.ledger):
                    await loop.run(calls, on_result, total=len(calls))
        finally:
            await teacher.close()

    asyncio.run(buy())
    failed = Counter(f.kind for f in refused)
    if any(FAULTS[kind].heals for kind in failed):
        kinds = ", ".join(f"{kind} {count}" for kind, count in failed.most_common())
        raise Incomplete(f"{failed.total():,} calls failed: {kinds}", hint="the same command makes them again")
    return refused
