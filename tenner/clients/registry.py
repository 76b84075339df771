"""The client that a recipe names, what makes its calls, and what a stage shows of them while they are under way."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

from tenner.budget.ledger import Ledger
from tenner.clients.batches import BatchCalls, batch_client
from tenner.clients.billing import CallProgress
from tenner.clients.paid_calls import Limits, PaidCalls
from tenner.clients.protocol import Client
from tenner.clients.reference_solution import ReferenceSolutionClient
from tenner.core.errors import TennerError
from tenner.core.progress import Bar, Screen
from tenner.core.recipe import stored_trace_section
from tenner.core.sections import PaidModel, TraceSection

SHOW_EVERY_SECONDS = 0.25


class CallContext(NamedTuple):
    """What the paid calls of a stage are booked on and shown by."""

    ledger: Ledger
    screen: Screen
    stage: str


def client_for(section: PaidModel, *, key: str | None = None) -> Client:
    """The client that a recipe names; SDKs are imported only for those who need them.

    `key` None is looked up in the environment. Raises TennerError where the client cannot be made.
    """
    if section.client == "reference-solution":
        return ReferenceSolutionClient()
    if section.client == "openai":
        from tenner.clients.openai import OpenAIClient

        return OpenAIClient(section, key=key)
    if section.client == "gemini":
        from tenner.clients.gemini import GeminiClient

        return GeminiClient(section, key=key)
    from tenner.clients.replay import ReplayClient

    assert section.replay_from is not None, "the recipe has seen to it"
    other = Path(section.replay_from)
    return ReplayClient(client_for(_section_of(other), key=""), other / "run.db")


def check(section: PaidModel, screen: Screen) -> None:
    """Find out, before anything is paid, whether calls can succeed. Raises TennerError if not."""

    async def ask() -> None:
        client = client_for(section)
        if client.reasoning_is_summary and section.WANTS_THINKING:
            screen.say(f"warning: {client.price.provider} shows summaries of its thinking only; traces will say so")
        try:
            if section.batch:
                batch_client(client)
            await client.check()
        finally:
            await client.close()

    asyncio.run(ask())


def calls_for(section: PaidModel, client: Client, context: CallContext) -> PaidCalls | BatchCalls:
    """What makes the calls: one by one, or in batches."""
    limits = Limits(
        concurrency=section.concurrency,
        attempts_max=section.attempts_max,
        deadline_seconds=section.deadline_seconds,
        requests_per_minute=section.requests_per_minute,
        tokens_per_minute=section.tokens_per_minute,
    )
    if section.batch:
        return BatchCalls(batch_client(client), context.ledger, stage=context.stage, limits=limits)
    return PaidCalls(client, context.ledger, stage=context.stage, limits=limits)


@asynccontextmanager
async def shown(bar: Bar, calls: PaidCalls | BatchCalls, ledger: Ledger) -> AsyncIterator[None]:
    """Keep the bar up to date, also while nothing arrives: an answer may take hours."""

    async def keep_showing() -> None:
        while True:
            _show(bar, calls.progress, ledger)
            await asyncio.sleep(SHOW_EVERY_SECONDS)

    showing = asyncio.create_task(keep_showing())
    try:
        yield
    finally:
        showing.cancel()


def _show(bar: Bar, progress: CallProgress, ledger: Ledger) -> None:
    spent_usd, left_usd = ledger.spent_usd(), progress.left_usd()
    note = f"${spent_usd:.4f} spent, ${ledger.reserved_usd():.4f} in flight"
    if left_usd is not None:
        note += f", ${spent_usd + left_usd:.4f} in the end"
    note += f"  {progress.waiting_for or f'{progress.tokens_per_second():.0f} tokens/s'}"
    for label, counts in (("failed", progress.failures), ("retried", progress.retries)):
        if counts:
            note += f"  {label}: " + ", ".join(f"{kind} {count}" for kind, count in counts.most_common())
    bar.update(progress.done, note)


def _section_of(folder: Path) -> TraceSection:
    """How the run in `folder` asked its teacher."""
    section = stored_trace_section(folder)
    if section is None:
        raise TennerError(f"{folder} holds no traces", hint="trace.replay_from is the folder of another run")
    return section
