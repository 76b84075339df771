"""The spend of a run folder: its ledger, held against the costs that the folder's other files name."""

from collections.abc import Sequence
from typing import NamedTuple

from tenner.budget.ledger_database import read_spend
from tenner.budget.ledger_rows import SpendRow
from tenner.core.errors import TennerError
from tenner.core.records import Completion, Trace, TrainStep
from tenner.core.run_folder import RunFolder

MACHINE = "machine"
ROUNDING_USD = 1e-7  # a tenth of what the ledger counts in


class NamedCost(NamedTuple):
    """What a file of the folder says was paid."""

    usd: float
    file: str


def read(folder: RunFolder) -> list[SpendRow]:
    """The spend by stage and provider. Raises as `check` does."""
    database = folder.path / "run.db"
    rows = read_spend(database)
    named = _named(folder, rows)
    if _is_less(rows, named):
        rows = read_spend(database)  # another process may have bought traces between the two looks
    _refuse_less(folder, rows, named)
    return rows


def check(folder: RunFolder, rows: Sequence[SpendRow]) -> None:
    """Raise TennerError where the ledger knows of less than the folder's files say was paid: its cap would not hold."""
    _refuse_less(folder, rows, _named(folder, rows))


def _refuse_less(folder: RunFolder, rows: Sequence[SpendRow], named: NamedCost) -> None:
    if _is_less(rows, named):
        booked_usd = sum(row.cost_usd for row in rows)
        raise TennerError(
            f"{folder.path / 'run.db'} knows of ${booked_usd:.6f}, and {named.file} names ${named.usd:.6f} as spent",
            hint="restore run.db from a copy, or start a new run folder: without it the cap would not hold",
        )


def _is_less(rows: Sequence[SpendRow], named: NamedCost) -> bool:
    return named.usd > sum(row.cost_usd for row in rows) + ROUNDING_USD


def _named(folder: RunFolder, rows: Sequence[SpendRow]) -> NamedCost:
    """The cost of the traces, read only where they are more than the calls in the ledger; else of other things."""
    calls = sum(row.calls for row in rows if row.provider != MACHINE)
    if _lines(folder, "traces") > calls:
        # Two questions in the same words are one call, and both traces name its cost.
        costs = {(t.question, t.sample_index, t.teacher): t.cost_usd for t in folder.stream("traces", Trace)}
        if any(costs.values()):
            return NamedCost(sum(costs.values()), "traces.jsonl")
    return NamedCost(0.0, "") if rows else _other_costs(folder)


def _lines(folder: RunFolder, name: str) -> int:
    path = folder.path / f"{name}.jsonl"
    if not path.exists():
        return 0
    with path.open("rb") as file:
        return sum(block.count(b"\n") for block in iter(lambda: file.read(1 << 20), b""))


def _other_costs(folder: RunFolder) -> NamedCost:
    """What a step of training or an answer is said to have cost, for a ledger without a row."""
    steps = (step.cost_usd for step in folder.stream("training", TrainStep))
    if paid_usd := next(filter(None, steps), None):
        return NamedCost(paid_usd, "training.jsonl")
    answers = (completion.cost_usd for completion in folder.stream("completions", Completion))
    if paid_usd := next(filter(None, answers), None):
        return NamedCost(paid_usd, "completions.jsonl")
    return NamedCost(0.0, "")
