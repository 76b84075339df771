"""From a section of the recipe to its client, the calls that it makes, and their progress bar."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

from tenner.budget.ledger import Ledger
from tenner.budget.price_files import age_warnings
from tenner.clients.api_keys import search_warning
from tenner.clients.batches import BatchCalls, batch_client
from tenner.clients.billing import CallProgress
from tenner.clients.http import check_proxies
from tenner.clients.paid_calls import Limits, PaidCalls
from tenner.clients.protocol import Client
from tenner.clients.reference_solution import ReferenceSolutionClient
from tenner.clients.retries import RetryRule
from tenner.core.errors import TennerError
from tenner.core.progress import Bar, Screen
from tenner.core.recipe import stored_trace_section
from tenner.core.sections import PaidModel, PriceSection

SHOW_EVERY_SECONDS = 0.25


class CallContext(NamedTuple):
    """Where the paid calls of a stage are booked and shown."""

    ledger: Ledger
    screen: Screen
    stage: str


def client_for(section: PaidModel, *, key: str | None = None) -> Client:
    """The client that a section names; SDKs are imported only when they are needed.

    A `key` of None is looked up in the environment. Raises TennerError where the client cannot be made.
    """
    if section.client == "reference-solution":
        return ReferenceSolutionClient()
    if section.client == "openai":
        from tenner.clients.openai import OpenAIClient

        check_proxies()
        return OpenAIClient(section, key=key)
    if section.client == "gemini":
        from tenner.clients.gemini import GeminiClient

        check_proxies()
        return GeminiClient(section, key=key)
    return _replay_client(section)


def check(section: PaidModel, screen: Screen) -> None:
    """Check, before anything is spent, that calls can succeed. Raises TennerError if not."""

    async def check_client() -> None:
        client = client_for(section)
        if client.reasoning_is_summary and section.WANTS_THINKING:
            screen.say(f"warning: {client.price.provider} returns only summaries of its thinking; traces are marked so")
        if warning := search_warning(client.secret):
            screen.say(warning)
        try:
            if section.batch:
                batch_client(client, section.PLACE)
            price = client.price
            for line in age_warnings([(f"{price.provider}/{price.model}", price.checked, price.source)]):
                screen.say(line)
            await client.check()
        finally:
            await client.close()

    asyncio.run(check_client())


def calls_for(section: PaidModel, client: Client, context: CallContext) -> PaidCalls | BatchCalls:
    """What makes the calls of a client: one by one, or in batches."""
    limits = Limits(
        concurrency=section.concurrency,
        deadline_seconds=section.deadline_seconds,
        retries=RetryRule(section.attempts_max),
        requests_per_minute=section.requests_per_minute,
        tokens_per_minute=section.tokens_per_minute,
    )
    if section.batch:
        return BatchCalls(batch_client(client, section.PLACE), context.ledger, stage=context.stage, limits=limits)
    return PaidCalls(client, context.ledger, stage=context.stage, limits=limits)


@asynccontextmanager
async def live_progress(bar: Bar, calls: PaidCalls | BatchCalls, ledger: Ledger) -> AsyncIterator[None]:
    """Keep the bar up to date, also while nothing arrives: a response may take hours."""

    async def refresh() -> None:
        while True:
            _show(bar, calls.progress, ledger)
            await asyncio.sleep(SHOW_EVERY_SECONDS)

    refreshing = asyncio.create_task(refresh())
    try:
        yield
    finally:
        refreshing.cancel()


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


def _replay_client(section: PaidModel) -> Client:
    """A client that answers from the store of the run in `replay_from`, with the requests of that run's section."""
    from tenner.clients.replay import ReplayClient

    assert section.replay_from is not None, "validated in the recipe"
    folder, setting = Path(section.replay_from), f"{section.PLACE}.replay_from"
    original, database = stored_trace_section(folder), folder / "run.db"
    if original is None:
        raise TennerError(f"{setting}: {folder} holds no traces", hint="name the folder of another run")
    if not os.path.isfile(database):
        raise TennerError(f"{setting}: {database} does not exist", hint="name the folder of another run")
    free = PriceSection(input_usd_per_mtok=0.0, output_usd_per_mtok=0.0)  # what it cost may no longer be known
    return ReplayClient(client_for(original.model_copy(update={"price": free}), key=""), database)
