"""Answers that are not traces, such as labels: by the same paid-call loop, store and cap."""

import asyncio
from collections import Counter
from collections.abc import Sequence

from tenner.errors import Incomplete
from tenner.recipe import TraceSection
from tenner.records import FailedCall, Question
from tenner.teach.faults import FAULTS
from tenner.teach.teacher import Call
from tenner.teach.till import Bought
from tenner.teach.traces import Desk, loop_for, shown, teacher_for


def buy_answers(section: TraceSection, questions: Sequence[Question], desk: Desk) -> dict[str, str]:
    """What the teacher answers to each question, by the question's id; what it refuses for good is left out.

    Raises:
        BudgetReached, TennerError: see `PaidCalls.run`.
        Incomplete: some calls failed in a way that may heal.
    """
    answers: dict[str, str] = {}
    failed: Counter[str] = Counter()

    def on_result(result: Bought | FailedCall) -> None:
        if isinstance(result, FailedCall):
            failed[result.kind] += 1
        else:
            answers[result.call.question.id] = result.reply.answer

    async def buy() -> None:
        teacher = teacher_for(section)
        loop = loop_for(section, teacher, desk)
        try:
            with desk.screen.bar(desk.stage, len(questions)) as bar:
                async with shown(bar, loop, desk.ledger):
                    await loop.run((Call(q, 0) for q in questions), on_result, total=len(questions))
        finally:
            await teacher.close()

    asyncio.run(buy())
    if any(FAULTS[kind].heals for kind in failed):
        kinds = ", ".join(f"{kind} {count}" for kind, count in failed.most_common())
        raise Incomplete(f"{failed.total():,} calls failed: {kinds}", hint="the same command makes them again")
    return answers
