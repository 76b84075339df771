"""The paid-call loop: look into the store, reserve, send, keep the raw response with its cost, then parse."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from typing import Literal

from tenner.money.ledger import Ledger
from tenner.money.prices import MICROUSD_PER_USD
from tenner.records import Trace
from tenner.seeds import digest
from tenner.teach.teacher import Call, Teacher


async def buy_traces(
    calls: Sequence[Call], teacher: Teacher, ledger: Ledger, *, stage: str, concurrency: int
) -> AsyncIterator[Trace]:
    """Yield the trace of every call, as they come in; a call that was bought before costs nothing.

    Raises:
        BudgetReached: the worst case of the next call would cross the cap. It is not made, and what is in flight
            is finished and kept before the error leaves.
    """
    waiting = iter(calls)
    in_flight: set[asyncio.Task[Trace]] = set()
    refusal: BaseException | None = None
    while True:
        while refusal is None and len(in_flight) < concurrency and (call := next(waiting, None)) is not None:
            in_flight.add(asyncio.ensure_future(_buy(call, teacher, ledger, stage)))
        if not in_flight:
            break
        finished, in_flight = await asyncio.wait(in_flight, return_when=asyncio.FIRST_COMPLETED)
        for task in finished:
            if error := task.exception():
                refusal = refusal or error
            else:
                yield task.result()
    if refusal is not None:
        raise refusal


async def _buy(call: Call, teacher: Teacher, ledger: Ledger, stage: str) -> Trace:
    request = json.dumps(teacher.request(call), sort_keys=True, ensure_ascii=False)
    price = teacher.price
    key = digest(price.provider, price.model, request, call.sample_index)
    if stored := ledger.response(key):
        body, spend_id = stored
    else:
        reservation = ledger.reserve(stage, price.microusd(teacher.worst_case_usage(call)))
        try:
            body = await teacher.send(call)
        except BaseException:
            ledger.release(reservation)
            raise
        source = f"${price.input_usd_per_mtok:g} in, ${price.output_usd_per_mtok:g} out a million tokens"
        spend_id = ledger.keep(
            reservation, key=key, request=request, body=body, stage=stage, provider=price.provider, model=price.model,
            price=f"{source} ({price.source}, {price.checked})",
        )  # fmt: skip
    reply = teacher.parse(body)
    cost_microusd = price.microusd(reply.usage)
    ledger.settle(spend_id, reply.usage, cost_microusd)
    outcome: Literal["complete", "truncated", "no_reasoning"] = "complete" if reply.thinking else "no_reasoning"
    return Trace(
        id=f"{call.question.id}-{call.sample_index}",
        question_id=call.question.id,
        sample_index=call.sample_index,
        teacher=f"{price.provider}/{price.model}",
        thinking=reply.thinking,
        answer=reply.answer,
        outcome="truncated" if reply.finish_reason == "length" else outcome,
        usage=reply.usage,
        cost_usd=cost_microusd / MICROUSD_PER_USD,
    )
