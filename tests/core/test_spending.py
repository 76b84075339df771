"""A ledger that was deleted beside what it paid for is noticed."""

import pytest

from tenner.budget.ledger_rows import Payee
from tenner.core import spending
from tenner.core.errors import TennerError
from tenner.core.progress import Screen
from tenner.core.recipe import TraceJob
from tenner.core.records import Trace, Usage
from tenner.core.run import open_folder
from tenner.core.run_folder import RunFolder
from tenner.tracing import describe, result

JOB = describe({"client": "openai", "model": "m", "base_url": "http://h/v1"}, budget_usd=1)


def trace(i, cost_usd, question=None):
    return Trace(
        id=f"q{i}-0", question_id=f"q{i}", sample_index=0, teacher="p/m", question=question or f"{i}?", domain=None,
        thinking="t", answer="a", messages=(), outcome="complete", reasoning_is_summary=False, grade=None,
        usage=Usage(), cost_usd=cost_usd, metered=True,
    )  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    """A trace job with two traces of 300 micro-dollars and their ledger."""
    with open_folder(tmp_path / "out", TraceJob, JOB, Screen(), budget_usd=None) as opened:
        for i in range(2):
            reservation = opened.ledger.reserve(Payee("trace", "p", "m", "row"), 900)
            spend_id = opened.ledger.keep(
                reservation, key=f"k{i}", request="{}", body=b"{}", content_type="application/json"
            )
            opened.ledger.settle(spend_id, Usage(input_tokens=1, output_tokens=1), 300)
            opened.folder.append("traces", [trace(i, 0.0003)])
    return RunFolder(tmp_path / "out")


def reopen(folder):
    with open_folder(folder.path, TraceJob, JOB, Screen(), budget_usd=None):
        pass


def test_a_whole_ledger_passes(folder):
    folder.append("traces", [trace(7, 0.0003, question="1?")])  # the words of another: one call, two traces
    reopen(folder)
    assert result(folder).spent_usd == 0.0006


@pytest.mark.parametrize("damage", ["deleted", "emptied", "an older copy"])
def test_a_ledger_that_has_forgotten_is_refused(damage, folder):
    database = folder.path / "run.db"
    if damage == "deleted":
        database.unlink()
    elif damage == "emptied":
        database.write_bytes(b"")
    else:
        folder.append("traces", [trace(2, 0.0002)])
    for use in (reopen, result, spending.read):
        with pytest.raises(TennerError, match=r"run\.db knows of \$0\.000\d00, and traces\.jsonl names \$0\.000[68]00"):
            use(folder)


def test_free_traces_need_no_ledger(folder):
    folder.write("traces", [trace(0, 0.0)])
    (folder.path / "run.db").unlink()
    assert spending.read(folder) == []
