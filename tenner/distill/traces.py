"""From questions to `traces.jsonl`: which calls are still to be made, and what becomes of their replies."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

from tenner.clients.billing import Bought, OnResult
from tenner.clients.faults import FAULTS
from tenner.clients.protocol import Call, Client
from tenner.clients.registry import CallContext, calls_for, client_for, shown
from tenner.core.errors import Incomplete
from tenner.core.records import FailedCall, Grade, Message, Question, Trace
from tenner.core.run_folder import RunFolder
from tenner.core.sections import TraceSection

FLUSH_SECONDS = 0.1

Questions = Callable[[], Iterable[Question]]
"""The questions, from the beginning, as often as they are asked for: a file need not fit into memory."""
Grader = Callable[[str, Question], Grade]
"""Grades a teacher's answer to a question that has a reference answer."""


class TracePurchase(NamedTuple):
    """Which traces are wanted, of whom, and where they go."""

    section: TraceSection
    questions: Questions
    folder: RunFolder
    context: CallContext
    grade: Grader


def buy_traces(purchase: TracePurchase) -> None:
    """Append a trace of every question to `traces.jsonl`, and every call that failed to `failed.jsonl`.

    Samples of a question are bought one after the other when the first correct one is all that is wanted, so that no
    more are paid for than are needed; else all at once.

    Raises:
        BudgetReached, TennerError: see `PaidCalls.run`.
        Incomplete: some calls failed in a way that may heal.
    """
    purchase.folder.write("failed", [])
    asyncio.run(_buy(purchase))
    failed = Counter(f.kind for f in purchase.folder.read("failed", FailedCall))
    healing = sum(count for kind, count in failed.items() if FAULTS[kind].heals)
    if healing:
        kinds = ", ".join(f"{kind} {count}" for kind, count in failed.most_common())
        raise Incomplete(
            f"{failed.total():,} calls failed: {kinds}",
            hint=f"the same command makes them again; what was said is in {purchase.folder.path / 'failed.jsonl'}",
        )


async def _buy(purchase: TracePurchase) -> None:
    section, known = purchase.section, _KnownTraces(purchase)
    samples = range(section.samples_per_question)
    one_by_one = section.keep in ("first-correct", "first")
    rounds = [[i] for i in samples] if one_by_one else [list(samples)]
    client = client_for(section)
    try:
        for indices in rounds:
            truncated: list[Call] = []

            def wanted(indices: Sequence[int] = indices) -> Iterator[Call]:
                return (Call(q, i) for q in purchase.questions() for i in indices if known.wants(q.id, i))

            def on_result(result: Bought | FailedCall, truncated: list[Call] = truncated) -> None:
                if (
                    isinstance(result, Bought)
                    and result.reply.outcome == "truncated"
                    and section.longer_output_tokens_max is not None
                ):
                    truncated.append(result.call)
                else:
                    _keep(result, purchase, client, known)

            total = sum(1 for _ in wanted())
            await _make(wanted(), total, on_result, purchase, client, label=purchase.context.stage)
            if truncated:
                await _buy_longer(truncated, purchase, known)
    finally:
        known.flush()
        await client.close()


async def _buy_longer(calls: Sequence[Call], purchase: TracePurchase, known: "_KnownTraces") -> None:
    """Buy what was truncated once more, with the higher limit that the recipe allows."""
    limits = {"output_tokens_max": purchase.section.longer_output_tokens_max, "longer_output_tokens_max": None}
    longer = purchase._replace(section=purchase.section.model_copy(update=limits))
    client = client_for(longer.section)

    def on_result(result: Bought | FailedCall) -> None:
        _keep(result, longer, client, known)

    try:
        await _make(calls, len(calls), on_result, longer, client, label=f"{purchase.context.stage}: longer")
    finally:
        await client.close()


async def _make(
    calls: Iterable[Call], total: int, on_result: OnResult, purchase: TracePurchase, client: Client, *, label: str
) -> None:
    """Make calls with a progress bar."""
    paid = calls_for(purchase.section, client, purchase.context)
    with purchase.context.screen.bar(label, total) as bar:
        async with shown(bar, paid, purchase.context.ledger):
            await paid.run(calls, on_result, total=total)


class _KnownTraces:
    """Which samples are there already, and the file that they are in."""

    def __init__(self, purchase: TracePurchase) -> None:
        self._folder, self._keep = purchase.folder, purchase.section.keep
        self._ids: set[str] = set()
        self._solved: set[str] = set()
        for trace in self._folder.stream("traces", Trace):
            self._note(trace)
        self._unwritten: list[Trace] = []
        self._written_at = time.monotonic()

    def append(self, trace: Trace) -> None:
        """Take a trace. Now and then they are written: until then their responses are in the store."""
        self._note(trace)
        self._unwritten.append(trace)
        if time.monotonic() - self._written_at > FLUSH_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Write what is not written yet."""
        traces, self._unwritten = self._unwritten, []
        if traces:
            self._folder.append("traces", traces)
        self._written_at = time.monotonic()

    def wants(self, question_id: str, sample_index: int) -> bool:
        """Whether the sample is still to be bought."""
        if self._keep in ("first-correct", "first") and question_id in self._solved:
            return False
        return trace_id(question_id, sample_index) not in self._ids

    def _note(self, trace: Trace) -> None:
        self._ids.add(trace.id)
        is_right = trace.grade is not None and trace.grade.verdict == "correct"
        if trace.outcome == "complete" and (is_right or self._keep == "first"):
            self._solved.add(trace.question_id)


def trace_id(question_id: str, sample_index: int) -> str:
    """The id of a sample of a question."""
    return f"{question_id}-{sample_index}"


def _keep(result: Bought | FailedCall, purchase: TracePurchase, client: Client, known: _KnownTraces) -> None:
    if isinstance(result, FailedCall):
        purchase.folder.append("failed", [result])
    else:
        known.append(_trace(result, purchase, client))


def _trace(bought: Bought, purchase: TracePurchase, client: Client) -> Trace:
    (question, sample_index), reply, section = bought.call, bought.reply, purchase.section
    asked = Message(role="user", content=question.question + section.suffix)
    told = Message(role="assistant", content=reply.answer, reasoning_content=reply.thinking)
    system = [Message(role="system", content=section.system_prompt)] if section.system_prompt else []
    can_be_graded = question.answer is not None and reply.answer
    return Trace(
        id=trace_id(question.id, sample_index),
        question_id=question.id,
        sample_index=sample_index,
        teacher=f"{client.price.provider}/{client.price.model}",
        question=question.question,
        domain=question.domain,
        thinking=reply.thinking,
        answer=reply.answer,
        messages=(*system, asked, told),
        outcome=reply.outcome,
        reasoning_is_summary=client.reasoning_is_summary,
        grade=purchase.grade(reply.answer, question) if can_be_graded else None,
        usage=reply.usage,
        cost_usd=bought.cost_usd,
        metered=bought.metered,
    )
