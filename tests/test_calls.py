import asyncio
import json
from contextlib import closing

import pytest

from tenner.errors import BudgetReached, TennerError
from tenner.money.ledger import Ledger
from tenner.money.prices import Price
from tenner.records import Question, Usage
from tenner.teach.calls import buy_traces
from tenner.teach.teacher import Call, Reply
from tenner.teach.worked import WorkedTeacher

QUESTIONS = [
    Question(id=f"q{i}", question=f"{i}+1?", answer=str(i + 1), solution=f"{i}+1={i + 1}.", source="t")
    for i in range(20)
]


class PaidTeacher(WorkedTeacher):
    """The embedded teacher at a price: a dollar a token, so that the cap binds; it can break once, after sending."""

    def __init__(self, breaks_at: str = "") -> None:
        self.price = Price("paid", "m", 1.0, 1.0, "test", None)
        self.sent: list[str] = []
        self.breaks_at = breaks_at

    async def send(self, call: Call) -> bytes:
        await asyncio.sleep(0)
        self.sent.append(call.question.id)
        if call.question.id == self.breaks_at:
            self.breaks_at = ""
            raise ConnectionError("cut off")
        return await super().send(call)

    def worst_case_usage(self, call: Call) -> Usage:  # noqa: ARG002  the same for every call
        return Usage(input_tokens=1, output_tokens=5)  # the actual is 3


def buy(teacher, ledger, questions=QUESTIONS, sample_index=0):
    calls = [Call(q, sample_index) for q in questions]

    async def collect(traces):
        async for trace in buy_traces(calls, teacher, ledger, stage="trace", concurrency=4):
            traces.append(trace)

    traces = []
    try:
        asyncio.run(collect(traces))
    finally:
        buy.last = traces
    return traces


@pytest.fixture
def ledger(tmp_path):
    with closing(Ledger(tmp_path / "run.db", budget_usd=1)) as opened:
        yield opened


def test_the_worked_teacher_goes_through_store_and_ledger_at_no_price(ledger):
    traces = buy(WorkedTeacher(), ledger)
    assert {t.question_id: (t.thinking, t.answer) for t in traces} == {q.id: (q.solution, q.answer) for q in QUESTIONS}
    (row,) = ledger.rows()
    assert (row.provider, row.calls, row.cost_usd) == ("worked", 20, 0)


def test_nothing_is_bought_twice(ledger):
    teacher = PaidTeacher()
    first = buy(teacher, ledger)
    spent = ledger.spent_usd()
    assert sorted(buy(teacher, ledger), key=lambda t: t.id) == sorted(first, key=lambda t: t.id)
    assert (len(teacher.sent), ledger.spent_usd()) == (20, spent)
    buy(teacher, ledger, QUESTIONS[:1], sample_index=1)  # another sample is another call
    assert len(teacher.sent) == 21


def test_the_cap_is_never_crossed_and_a_higher_one_goes_on(tmp_path):
    path, teacher = tmp_path / "run.db", PaidTeacher()
    with closing(Ledger(path, budget_usd=0.00002)) as ledger:  # 20 micro-dollars: six calls of 3, or three of 6 at once
        with pytest.raises(BudgetReached):
            buy(teacher, ledger)
        bought = len(buy.last)
        assert 0 < bought <= 6
        assert ledger.spent_usd() == pytest.approx(3e-6 * bought)
    with closing(Ledger(path, budget_usd=1)) as ledger:
        assert len(buy(teacher, ledger)) == 20
    assert len(teacher.sent) == 20


def test_a_broken_call_frees_its_reservation_and_keeps_the_others(ledger):
    teacher = PaidTeacher(breaks_at="q2")
    with pytest.raises(ConnectionError):
        buy(teacher, ledger)
    kept = {t.question_id for t in buy.last}
    assert {"q0", "q1", "q3"} <= kept
    ledger.reserve("trace", 1_000_000 - round(ledger.spent_usd() * 1e6))  # all the rest is free again
    ledger.forget_reservations()
    buy(teacher, ledger)
    assert [teacher.sent.count(q.id) for q in QUESTIONS] == [1, 1, 2] + [1] * 17


def test_a_response_is_kept_before_it_is_parsed(ledger):
    class Unreadable(PaidTeacher):
        def parse(self, body: bytes) -> Reply:  # noqa: ARG002  it is never read
            raise ValueError("a new kind of response")

    with pytest.raises(ValueError, match="new kind"):
        buy(Unreadable(), ledger, QUESTIONS[:1])
    teacher = PaidTeacher()
    buy(teacher, ledger, QUESTIONS[:1])
    assert teacher.sent == []  # the next parser reads what the first one paid for


def test_outcomes_are_named(ledger):
    class Cut(PaidTeacher):
        async def send(self, call: Call) -> bytes:
            fields = json.loads(await super().send(call))
            fields |= {"finish_reason": "length"} if call.question.id == "q0" else {"thinking": ""}
            return json.dumps(fields).encode()

    assert sorted(t.outcome for t in buy(Cut(), ledger, QUESTIONS[:2])) == ["no_reasoning", "truncated"]


def test_a_question_without_a_solution_is_refused(ledger):
    with pytest.raises(TennerError, match="has no worked solution"):
        buy(WorkedTeacher(), ledger, [QUESTIONS[0].model_copy(update={"solution": None})])
