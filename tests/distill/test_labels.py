from contextlib import closing

import pytest
from chat_server import ChatServer
from paid import PRICE, questions

from tenner.budget.ledger import Ledger
from tenner.clients.registry import CallContext
from tenner.core.progress import Screen
from tenner.core.sections import Labeller
from tenner.distill import labels


def test_the_subjects_are_the_61_of_s1():
    assert len(labels.subjects()) == 61
    assert labels.subjects()["11"] == "Number theory"
    assert "11 Number theory" in labels.system_prompt()


@pytest.mark.parametrize(
    ("answer", "subject"),
    [
        ("It is about primes.\n11", "Number theory"), ("11", "Number theory"), ("So:\n**05**.", "Combinatorics"),
        ("The answer is 51 ", "Geometry"), ("99", None), ("2011", None), ("11\nor perhaps not", None), ("", None),
    ],
)  # fmt: skip
def test_the_last_line_names_the_subject(answer, subject):
    assert labels.parse(answer) == subject


def test_questions_without_an_answer_are_reported_as_failed(tmp_path):
    asked = questions("1+1?", "5+6?", "3+3?")
    with ChatServer({"3+3?": ["refused"]}) as server, closing(Ledger(tmp_path / "run.db", budget_usd=1)) as ledger:
        labeller = Labeller(client="openai", base_url=server.url, model="m", price=PRICE)
        bought = labels.buy_labels(labeller, asked, CallContext(ledger, Screen(), stage="select"))
    assert {label.question_id for label in bought.labels} == {"q0", "q1"}
    assert [(f.question_id, f.kind) for f in bought.failures] == [("q2", "refused")]
