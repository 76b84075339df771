"""Buys the teacher's traces of questions and appends them to `traces.jsonl`."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import takewhile
from typing import NamedTuple

from tenner.clients import failed_calls
from tenner.clients.billing import OnResult, PaidReply
from tenner.clients.faults import FAULTS
from tenner.clients.protocol import Call, Client
from tenner.clients.registry import CallContext, calls_for, client_for, live_progress
from tenner.core.errors import Incomplete
from tenner.core.records import FailedCall, Grade, Message, Question, Trace
from tenner.core.run_folder import RunFolder
from tenner.core.sections import TraceSection
from tenner.distill.reply_watch import ReplyWatch

FLUSH_SECONDS = 0.1

Questions = Callable[[], Iterable[Question]]
"""Iterates over the questions, from the first, on every call: a file need not fit into memory."""
Grader = Callable[[str, Question], Grade]
"""Grades a teacher's answer to a question that has a reference answer."""


class TracePurchase(NamedTuple):
    """Which traces are wanted, from which model, and where they are written."""

    section: TraceSection
    questions: Questions
    folder: RunFolder
    context: CallContext
    grade: Grader


def buy_traces(purchase: TracePurchase) -> None:
    """Append a trace of every question to `traces.jsonl`, and every call that failed to `failed.jsonl`.

    Samples of a question are bought one after the other where only the first correct one is wanted, so that no more are
    paid for than are needed; else all at once.

    Raises:
        BudgetReached, TennerError: see `PaidCalls.run`.
        TennerError: the first few replies are of no use (see `reply_watch.py`).
        Incomplete: some calls failed with a transient fault.
    """
    failed_calls.record(purchase.folder, "trace", [])
    asyncio.run(_buy(purchase))
    failed = Counter(f.kind for f in purchase.folder.read("failed", FailedCall))
    if any(FAULTS[kind].transient for kind in failed):
        kinds = ", ".join(f"{kind} {count}" for kind, count in failed.most_common())
        raise Incomplete(
            f"{failed.total():,} calls failed: {kinds}",
            hint=f"the same command makes them again; the errors are in {purchase.folder.path / 'failed.jsonl'}",
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
                asked = (Call(q, i) for q in purchase.questions() for i in indices if known.wants(q.id, i))
                return takewhile(lambda _: not known.watch.is_hopeless, asked)

            def on_result(result: PaidReply | FailedCall, truncated: list[Call] = truncated) -> None:
                if (
                    isinstance(result, PaidReply)
                    and result.reply.outcome in ("truncated", "interrupted")
                    and section.longer_output_tokens_max is not None
                ):
                    truncated.append(result.call)
                else:
                    _record(result, purchase, client, known)

            total = sum(1 for _ in wanted())
            await _make_calls(wanted(), total, on_result, purchase, client, label=purchase.context.stage)
            known.watch.check()
            if truncated:
                await _buy_longer(truncated, purchase, known)
    finally:
        known.flush()
        if summary := known.watch.summary:
            purchase.context.screen.say(summary)
        await client.close()


async def _buy_longer(calls: Sequence[Call], purchase: TracePurchase, known: "_KnownTraces") -> None:
    """Buy traces that were cut once more, with the higher limit of the recipe."""
    limits = {"output_tokens_max": purchase.section.longer_output_tokens_max, "longer_output_tokens_max": None}
    longer = purchase._replace(section=purchase.section.model_copy(update=limits))
    client = client_for(longer.section)

    def on_result(result: PaidReply | FailedCall) -> None:
        _record(result, longer, client, known)

    try:
        await _make_calls(calls, len(calls), on_result, longer, client, label=f"{purchase.context.stage}: longer")
    finally:
        await client.close()


async def _make_calls(
    calls: Iterable[Call], total: int, on_result: OnResult, purchase: TracePurchase, client: Client, *, label: str
) -> None:
    """Make calls with a progress bar."""
    paid_calls = calls_for(purchase.section, client, purchase.context)
    with purchase.context.screen.bar(label, total) as bar:
        async with live_progress(bar, paid_calls, purchase.context.ledger):
            await paid_calls.run(calls, on_result, total=total)


class _KnownTraces:
    """The samples that exist already, and the writer of their file."""

    def __init__(self, purchase: TracePurchase) -> None:
        self._folder, self._keep = purchase.folder, purchase.section.keep
        self._ids: set[str] = set()
        self._solved: set[str] = set()
        self.watch = ReplyWatch()
        for trace in self._folder.stream("traces", Trace):
            self._add(trace)
            self.watch.known(trace)
        self._unwritten: list[Trace] = []
        self._written_at = time.monotonic()

    def append(self, trace: Trace) -> None:
        """Add a trace. The file is written every `FLUSH_SECONDS`; until then the responses are in the store."""
        self._add(trace)
        self.watch.add(trace)
        self._unwritten.append(trace)
        if time.monotonic() - self._written_at > FLUSH_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Write the traces that are not in the file yet."""
        traces, self._unwritten = self._unwritten, []
        if traces:
            self._folder.append("traces", traces)
        self._written_at = time.monotonic()

    def wants(self, question_id: str, sample_index: int) -> bool:
        """Whether the sample is still to be bought."""
        if self._keep in ("first-correct", "first") and question_id in self._solved:
            return False
        return trace_id(question_id, sample_index) not in self._ids

    def _add(self, trace: Trace) -> None:
        self._ids.add(trace.id)
        is_right = trace.grade is not None and trace.grade.verdict == "correct"
        if trace.outcome == "complete" and (is_right or self._keep == "first"):
            self._solved.add(trace.question_id)


def trace_id(question_id: str, sample_index: int) -> str:
    """The id of a sample of a question."""
    return f"{question_id}-{sample_index}"


def _record(result: PaidReply | FailedCall, purchase: TracePurchase, client: Client, known: _KnownTraces) -> None:
    if isinstance(result, FailedCall):
        purchase.folder.append("failed", [result])
    else:
        known.append(_trace(result, purchase, client))


def _trace(paid: PaidReply, purchase: TracePurchase, client: Client) -> Trace:
    (question, sample_index), reply, section = paid.call, paid.reply, purchase.section
    prompt = Message(role="user", content=question.question + section.suffix)
    response = Message(role="assistant", content=reply.answer, reasoning_content=reply.thinking)
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
        messages=(*system, prompt, response),
        outcome=reply.outcome,
        evidence=reply.evidence,
        reasoning_is_summary=client.reasoning_is_summary or reply.is_summary,
        grade=purchase.grade(reply.answer, question) if can_be_graded else None,
        usage=reply.usage,
        cost_usd=paid.cost_usd,
        metered=paid.metered,
    )
