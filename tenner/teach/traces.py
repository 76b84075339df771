"""From questions to `traces.jsonl`: which calls are still to be made, and what becomes of their replies."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

from tenner.errors import Incomplete, TennerError
from tenner.money.ledger import Ledger
from tenner.recipe import stored_trace_section
from tenner.records import FailedCall, Grade, Message, Question, Trace
from tenner.runfolder import RunFolder
from tenner.screen import Bar, Screen
from tenner.sections import PaidModel, TraceSection
from tenner.teach.batch import BatchCalls, batch_teacher
from tenner.teach.calls import Limits, PaidCalls
from tenner.teach.faults import FAULTS
from tenner.teach.teacher import Call, Teacher
from tenner.teach.till import Bought, Tally
from tenner.teach.worked import WorkedTeacher

PAGE_SECONDS = 0.1
SHOW_EVERY_SECONDS = 0.25

Questions = Callable[[], Iterable[Question]]
"""The questions, from the beginning, as often as they are asked for: a file need not fit into memory."""
Grader = Callable[[str, Question], Grade]
"""Grades a teacher's answer to a question that has a reference answer."""


class Desk(NamedTuple):
    """Where the work is done."""

    folder: RunFolder
    ledger: Ledger
    screen: Screen
    stage: str
    grade: Grader


def teacher_for(section: PaidModel, *, key: str | None = None) -> Teacher:
    """The teacher that a recipe names; clients are imported only for those who need them."""
    if section.teacher == "worked":
        return WorkedTeacher()
    if section.teacher == "openai":
        from tenner.teach.openai import OpenAITeacher

        return OpenAITeacher(section, key=key)
    if section.teacher == "gemini":
        from tenner.teach.gemini import GeminiTeacher

        return GeminiTeacher(section, key=key)
    from tenner.teach.replay import ReplayTeacher

    assert section.replay_from is not None, "the recipe has seen to it"
    other = Path(section.replay_from)
    return ReplayTeacher(teacher_for(_section_of(other), key=""), other / "run.db")


def check(section: PaidModel, screen: Screen) -> None:
    """Find out, before anything is paid, whether calls can succeed. Raises TennerError if not."""

    async def ask() -> None:
        teacher = teacher_for(section)
        if teacher.reasoning_is_summary and section.WANTS_THINKING:
            screen.say(f"warning: {teacher.price.provider} shows summaries of its thinking only; traces will say so")
        try:
            if section.batch:
                batch_teacher(teacher)
            await teacher.check()
        finally:
            await teacher.close()

    asyncio.run(ask())


def buy_traces(section: TraceSection, questions: Questions, desk: Desk) -> None:
    """Append a trace of every question to `traces.jsonl`, and every call that failed to `failed.jsonl`.

    Samples of a question are bought one after the other when the first correct one is all that is wanted, so that no
    more are paid for than are needed; else all at once.

    Raises:
        BudgetReached, TennerError: see `PaidCalls.run`.
        Incomplete: some calls failed in a way that may heal.
    """
    desk.folder.write("failed", [])
    asyncio.run(_buy(section, questions, desk))
    failed = Counter(f.kind for f in desk.folder.read("failed", FailedCall))
    healing = sum(count for kind, count in failed.items() if FAULTS[kind].heals)
    if healing:
        kinds = ", ".join(f"{kind} {count}" for kind, count in failed.most_common())
        raise Incomplete(
            f"{failed.total():,} calls failed: {kinds}",
            hint=f"the same command makes them again; what was said is in {desk.folder.path / 'failed.jsonl'}",
        )


async def _buy(section: TraceSection, questions: Questions, desk: Desk) -> None:
    teacher = teacher_for(section)
    have = _Have(section, desk.folder)
    samples = range(section.samples_per_question)
    one_by_one = section.keep in ("first-correct", "first")
    rounds = [[i] for i in samples] if one_by_one else [list(samples)]
    try:
        for indices in rounds:
            truncated: list[Call] = []
            await _round(section, teacher, questions, indices, have, desk, truncated)
            if truncated:
                assert section.longer_output_tokens_max is not None
                await _longer(section, truncated, have, desk)
    finally:
        have.turn()
        await teacher.close()


async def _round(
    section: TraceSection, teacher: Teacher, questions: Questions, indices: list[int], have: "_Have", desk: Desk,
    truncated: list[Call],
) -> None:  # fmt: skip
    """One call for every question and sample index that is still wanted."""

    def wanted() -> Iterator[Call]:
        return (Call(q, i) for q in questions() for i in indices if have.wants(q.id, i))

    total = sum(1 for _ in wanted())
    loop = loop_for(section, teacher, desk)
    with desk.screen.bar(desk.stage, total) as bar:

        def on_result(result: Bought | FailedCall) -> None:
            if (
                isinstance(result, Bought)
                and result.reply.outcome == "truncated"
                and section.longer_output_tokens_max is not None
            ):
                truncated.append(result.call)
            else:
                _keep(result, section, teacher, desk, have)

        async with shown(bar, loop, desk.ledger):
            await loop.run(wanted(), on_result, total=total)


async def _longer(section: TraceSection, calls: list[Call], have: "_Have", desk: Desk) -> None:
    """Buy what was truncated once more, with the higher limit that the recipe allows."""
    longer = section.model_copy(
        update={"output_tokens_max": section.longer_output_tokens_max, "longer_output_tokens_max": None}
    )
    teacher = teacher_for(longer)
    loop = loop_for(longer, teacher, desk)
    try:
        with desk.screen.bar(f"{desk.stage}: longer", len(calls)) as bar:

            def on_result(result: Bought | FailedCall) -> None:
                _keep(result, longer, teacher, desk, have)

            async with shown(bar, loop, desk.ledger):
                await loop.run(calls, on_result, total=len(calls))
    finally:
        await teacher.close()


class _Have:
    """Which samples are there already, and the file that they are in."""

    def __init__(self, section: TraceSection, folder: RunFolder) -> None:
        self._keep = section.keep
        self._ids: set[str] = set()
        self._solved: set[str] = set()
        for trace in folder.stream("traces", Trace):
            self._know(trace)
        self._folder, self._page = folder, list[Trace]()
        self._turned = time.monotonic()

    def append(self, trace: Trace) -> None:
        """Take a trace, and write a page of them now and then: until it is written, its response is in the store."""
        self._know(trace)
        self._page.append(trace)
        if time.monotonic() - self._turned > PAGE_SECONDS:
            self.turn()

    def turn(self) -> None:
        """Write what is not written yet."""
        page, self._page = self._page, []
        if page:
            self._folder.append("traces", page)
        self._turned = time.monotonic()

    def _know(self, trace: Trace) -> None:
        self._ids.add(trace.id)
        is_right = trace.grade is not None and trace.grade.verdict == "correct"
        if trace.outcome == "complete" and (is_right or self._keep == "first"):
            self._solved.add(trace.question_id)

    def wants(self, question_id: str, sample_index: int) -> bool:
        if self._keep in ("first-correct", "first") and question_id in self._solved:
            return False
        return trace_id(question_id, sample_index) not in self._ids


def trace_id(question_id: str, sample_index: int) -> str:
    """The id of a sample of a question."""
    return f"{question_id}-{sample_index}"


def _keep(result: Bought | FailedCall, section: TraceSection, teacher: Teacher, desk: Desk, have: _Have) -> None:
    if isinstance(result, FailedCall):
        desk.folder.append("failed", [result])
        return
    trace = _trace(result, section, teacher, desk.grade)
    have.append(trace)


def _trace(bought: Bought, section: TraceSection, teacher: Teacher, grade: Grader) -> Trace:
    (question, sample_index), reply = bought.call, bought.reply
    asked = Message(role="user", content=question.question + section.suffix)
    told = Message(role="assistant", content=reply.answer, reasoning_content=reply.thinking)
    system = [Message(role="system", content=section.system_prompt)] if section.system_prompt else []
    answered = question.answer is not None and reply.answer
    return Trace(
        id=trace_id(question.id, sample_index),
        question_id=question.id,
        sample_index=sample_index,
        teacher=f"{teacher.price.provider}/{teacher.price.model}",
        question=question.question,
        domain=question.domain,
        thinking=reply.thinking,
        answer=reply.answer,
        messages=(*system, asked, told),
        outcome=reply.outcome,
        reasoning_is_summary=teacher.reasoning_is_summary,
        grade=grade(reply.answer, question) if answered else None,
        usage=reply.usage,
        cost_usd=bought.cost_usd,
        metered=bought.metered,
    )


def loop_for(section: PaidModel, teacher: Teacher, desk: Desk) -> PaidCalls | BatchCalls:
    """What makes the calls: one by one, or in batches."""
    limits = Limits(
        concurrency=section.concurrency,
        attempts_max=section.attempts_max,
        deadline_seconds=section.deadline_seconds,
        requests_per_minute=section.requests_per_minute,
        tokens_per_minute=section.tokens_per_minute,
    )
    if section.batch:
        return BatchCalls(batch_teacher(teacher), desk.ledger, stage=desk.stage, limits=limits)
    return PaidCalls(teacher, desk.ledger, stage=desk.stage, limits=limits)


@asynccontextmanager
async def shown(bar: Bar, loop: PaidCalls | BatchCalls, ledger: Ledger) -> AsyncIterator[None]:
    """Keep the bar up to date, also while nothing arrives: an answer may take hours."""

    async def keep_showing() -> None:
        while True:
            _show(bar, loop.tally, ledger)
            await asyncio.sleep(SHOW_EVERY_SECONDS)

    showing = asyncio.create_task(keep_showing())
    try:
        yield
    finally:
        showing.cancel()


def _show(bar: Bar, tally: Tally, ledger: Ledger) -> None:
    spent_usd, left_usd = ledger.spent_usd(), tally.left_usd()
    note = f"${spent_usd:.4f} spent, ${ledger.reserved_usd():.4f} in flight"
    if left_usd is not None:
        note += f", ${spent_usd + left_usd:.4f} in the end"
    note += f"  {tally.waiting_for or f'{tally.tokens_per_second():.0f} tokens/s'}"
    for label, counts in (("failed", tally.failures), ("retried", tally.retries)):
        if counts:
            note += f"  {label}: " + ", ".join(f"{kind} {count}" for kind, count in counts.most_common())
    bar.update(tally.done, note)


def _section_of(folder: Path) -> TraceSection:
    """How the run in `folder` asked its teacher."""
    section = stored_trace_section(folder)
    if section is None:
        raise TennerError(f"{folder} holds no traces", hint="trace.replay_from is the folder of another run")
    return section
