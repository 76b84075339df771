"""The tables of whatever was measured: scores, who was asked, what it cost, and how the answers came about."""

from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Protocol

from tenner.budget.ledger import SpendRow
from tenner.core.records import Score, Setting, Share
from tenner.evaluation.report import published
from tenner.evaluation.report.tables import DASH, NAMES, Table, called, interval, limit, mean_tokens, percent, usd

MACHINE = "machine"  # the ledger's provider of time on one's own computer


class Facts(Protocol):
    """What is known of everything that was measured, with or without a training."""

    @property
    def base_model(self) -> str: ...
    @property
    def scores(self) -> Sequence[Score]: ...
    @property
    def published(self) -> Sequence[published.Beside]: ...
    @property
    def spend(self) -> Sequence[SpendRow]: ...
    @property
    def settings(self) -> Sequence[Setting]: ...
    @property
    def provenance(self) -> Mapping[str, str]: ...


def score_tables(facts: Facts) -> list[Table]:
    """Every thinking policy on the whole task, for each student and prompt; and, where there are several, votes."""
    whole = [s for s in facts.scores if s.domain is None]
    gaps = any(s.missing for s in whole)
    header = (
        "limit", "waits", "accuracy", "95 % interval", "n", "mean thinking tokens", "truncated", "unparsed",
        *(("missing",) if gaps else ()),
    )  # fmt: skip
    tables = []
    for student, prompt in dict.fromkeys((s.student, s.prompt) for s in whole):
        shown = [s for s in whole if (s.student, s.prompt) == (student, prompt)]
        rows = [
            (
                limit(s.policy), str(s.policy.waits), percent(s.accuracy), interval(s), str(s.n),
                mean_tokens(s.thinking_tokens_mean), str(s.truncated), str(s.unparsed),
                *((str(s.missing),) if gaps else ()),
            )
            for s in shown
        ]  # fmt: skip
        name = called(student)
        caption = f"{name.capitalize() if student in NAMES else name}, prompt “{prompt}”"
        tables.append(Table(caption, "l" + "r" * (len(header) - 1), header, rows))
        if repeated := [s for s in shown if s.samples > 1]:
            tables.append(_repeats_table(caption, repeated))
    return tables


def settings_table(facts: Facts) -> Table:
    """How the answers that are scored came about, a column for everybody who was asked."""
    scored = {s.task for s in facts.scores}
    asked = [_setting_cells(s, facts.provenance) for s in facts.settings if s.task in scored]
    rows = [(what, *(cells[what] for cells in asked)) for what in (asked[0] if asked else ())]
    header = ("", *(f"{called(s.student)}, {s.prompt}" for s in facts.settings if s.task in scored))
    return Table("How the answers came about", "l" * len(header), header, rows)


def _setting_cells(setting: Setting, run_versions: Mapping[str, str]) -> dict[str, str]:
    """Versions only where they are not those of the run, which stand above."""
    others = {k: v for k, v in setting.versions.items() if run_versions.get(k) != v}
    return {
        "model": _short(setting.model),
        "engine": setting.engine,
        "precision": setting.precision or DASH,
        "device": setting.device or DASH,
        "sampling": _listed(setting.parameters),
        "seeds": ", ".join(map(str, setting.seeds)) or DASH,
        "answer tokens at most": str(setting.answer_tokens_max),
        "rows": DASH if setting.rows is None else str(setting.rows),
        "chat template": DASH if setting.template_sha256 is None else setting.template_sha256[:12],
        "other versions": _listed(others),
    }


def _short(model: str) -> str:
    """An address without its checksum; a folder of this machine by its name."""
    name = model.partition("#")[0]
    return Path(name).name if Path(name).is_absolute() else name


def _listed(pairs: Mapping[str, object]) -> str:
    return ", ".join(f"{name} {value}" for name, value in pairs.items()) or DASH


def _repeats_table(caption: str, scores: Sequence[Score]) -> Table:
    """The majority of all answers to a question, and whether one of them is right."""
    rows = [
        (limit(s.policy), str(s.policy.waits), str(s.samples), *_share_cells(s.majority), *_share_cells(s.solved))
        for s in scores
    ]
    share = ("95 % interval", "n")
    header = ("limit", "waits", "answers", "majority right", *share, "one right", *share)
    return Table(f"{caption}: all answers to a question together", "lrrrrrrrr", header, rows)


def published_tables(facts: Facts) -> list[Table]:
    """Who was asked beside published results, a table for each benchmark that has any."""
    name = facts.base_model.rsplit("/", 1)[-1]
    return [published.table(found, student=name) for found in facts.published]


def provenance_table(facts: Facts) -> Table:
    """Versions, commit, machine and seeds."""
    return Table("Versions, machine and seeds", "ll", ("what", "which"), list(facts.provenance.items()))


def spend_table(facts: Facts) -> Table:
    """Spend by stage and provider. The ledger's machine rows have no calls and no tokens."""
    rows = []
    for r in facts.spend:
        own = is_own(r)
        tokens = (DASH, DASH, DASH) if own else (f"{r.calls:,}", f"{r.input_tokens:,}", f"{r.output_tokens:,}")
        seconds = f"{r.machine_seconds:.1f}" if own else DASH
        rows.append((r.stage, payee(r), seconds, *tokens, usd(r.cost_usd), r.price))
    cost, machine_seconds = sum(r.cost_usd for r in facts.spend), sum(r.machine_seconds for r in facts.spend)
    total = ("total", "", f"{machine_seconds:.1f}", "", "", "", usd(cost), "")
    header = ("stage", "paid for", "machine seconds", "calls", "tokens in", "tokens out", "cost", "price")
    return Table("Spend by stage", "llrrrrrl", header, rows, total)


def markdown_table(table: Table) -> str:
    """A table in GitHub's Markdown, under its caption."""
    rule = ["---:" if a == "r" else "---" for a in table.align]
    rows = [[inline(cell) for cell in row] for row in (table.header, *table.rows)]
    total = [[f"**{inline(cell)}**" if cell else "" for cell in table.total]] if table.total else []
    lines = [f"| {' | '.join(row)} |" for row in (rows[0], rule, *rows[1:], *total)]
    return "\n".join((f"{inline(table.caption)}:", "", *lines))


def _share_cells(share: Share | None) -> tuple[str, str, str]:
    """Where every question misses an answer there is no vote of all of them."""
    return (DASH, DASH, "0") if share is None else (percent(share.mean), interval(share), str(share.n))


def evaluation_usd(spend: Sequence[SpendRow]) -> float:
    """What answering took in machine time."""
    return sum(row.cost_usd for row in spend if row.stage == "evaluate" and is_own(row))


def is_own(row: SpendRow) -> bool:
    """Whether it is time on one's own computer."""
    return row.provider == MACHINE


def payee(row: SpendRow) -> str:
    """Who was paid."""
    return row.provider if is_own(row) or row.provider == row.model else f"{row.provider}/{row.model}"


def fenced(text: str, language: str = "") -> str:
    """A Markdown code block that no text can break out of."""
    longest = max((len(list(run)) for char, run in groupby(text) if char == "`"), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text.rstrip()}\n{fence}"


def inline(text: str) -> str:
    """Text as Markdown that stays on its line and in its cell, and is no markup."""
    for char in "\\`*_[]|~$":
        text = text.replace(char, f"\\{char}")
    return " ".join(text.replace("&", "&amp;").replace("<", "&lt;").splitlines())
