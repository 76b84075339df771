"""The tables that a run and a measurement have in common: scores, published results, settings, versions, spend."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from tenner.budget.ledger_rows import SpendRow
from tenner.core.dollars import usd
from tenner.core.records import Score, Setting, Share
from tenner.evaluation.report import published
from tenner.evaluation.report.tables import DASH, NAMES, Table, called, interval, limit, mean_tokens, percent

MACHINE = "machine"  # the ledger's provider of machine time


class Facts(Protocol):
    """What a run and a measurement both know."""

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


def benchmark_caption(facts: Facts, benchmark: str, caption: str) -> str:
    """The caption of a table about one benchmark, which is named where there are several."""
    return f"{benchmark}: {caption[0].lower()}{caption[1:]}" if len({s.task for s in facts.scores}) > 1 else caption


def score_tables(facts: Facts) -> list[Table]:
    """A table for each benchmark, student and prompt, with a row for each thinking policy.

    Where answers were cut, a second one with the accuracy over the completed ones; where questions were answered
    several times, one with pass@k and the majority vote.
    """
    whole = [s for s in facts.scores if s.domain is None]
    gaps, trials = any(s.missing for s in whole), any(s.trial_tokens_mean for s in whole)
    header = (
        "limit", "waits", "accuracy", "95 % interval", "n", "mean thinking tokens",
        *(("mean trial tokens",) if trials else ()),
        "thinking cut", "answers cut", "unparsed",
        *(("missing",) if gaps else ()),
    )  # fmt: skip
    tables = []
    for benchmark, student, prompt in dict.fromkeys((s.task, s.student, s.prompt) for s in whole):
        shown = [s for s in whole if (s.task, s.student, s.prompt) == (benchmark, student, prompt)]
        rows = [
            (
                limit(s.policy), str(s.policy.waits), percent(s.accuracy), interval(s), str(s.n),
                mean_tokens(s.thinking_tokens_mean),
                *((mean_tokens(s.trial_tokens_mean),) if trials else ()),
                str(s.thinking_cut), str(s.truncated), str(s.unparsed),
                *((str(s.missing),) if gaps else ()),
            )
            for s in shown
        ]  # fmt: skip
        name = called(student)
        caption = f"{name.capitalize() if student in NAMES else name}, prompt “{prompt}”"
        if len({s.task for s in whole}) > 1:
            caption = f"{benchmark}: {name}, prompt “{prompt}”"
        tables.append(Table(caption, "l" + "r" * (len(header) - 1), header, rows))
        if any(s.completed is not None for s in shown):
            tables.append(_completed_table(caption, shown))
        if repeated := [s for s in shown if s.samples > 1]:
            tables.append(_samples_table(caption, repeated))
    return tables


def settings_table(facts: Facts) -> Table:
    """How the scored answers were generated, a column for each benchmark, student and prompt."""
    scored = {s.task for s in facts.scores}
    settings = [s for s in facts.settings if s.task in scored]
    with_arguments = any(s.chat_template_kwargs for s in settings)
    columns = [_setting_cells(s, facts.provenance, with_arguments=with_arguments) for s in settings]
    rows = [(name, *(cells[name] for cells in columns)) for name in (columns[0] if columns else ())]
    header = ("", *(_column_name(facts, s) for s in settings))
    return Table("How the answers came about", "l" * len(header), header, rows)


def _column_name(facts: Facts, setting: Setting) -> str:
    name = f"{called(setting.student)}, {setting.prompt}"
    return name if len({s.task for s in facts.scores}) == 1 else f"{setting.task}: {name}"


def _setting_cells(setting: Setting, run_versions: Mapping[str, str], *, with_arguments: bool) -> dict[str, str]:
    """The rows of one column. Versions are given only where they differ from those of the run."""
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
        **({"template arguments": _listed(setting.chat_template_kwargs)} if with_arguments else {}),
        "other versions": _listed(others),
    }


def _short(model: str) -> str:
    """An address without its checksum, or the name of a local folder."""
    name = model.partition("#")[0]
    return Path(name).name if Path(name).is_absolute() else name


def _listed(pairs: Mapping[str, object]) -> str:
    return ", ".join(f"{name} {value}" for name, value in pairs.items()) or DASH


def _completed_table(caption: str, scores: Sequence[Score]) -> Table:
    """The accuracy over completed answers; policies of which all are, or none is, are left out."""
    rows = [
        (limit(s.policy), str(s.policy.waits), percent(s.completed.mean), interval(s.completed), str(s.completed.n))
        for s in scores
        if s.completed is not None
    ]
    return Table(
        f"{caption}: completed answers alone", "lrrrr", ("limit", "waits", "accuracy", "95 % interval", "n"), rows
    )


def _samples_table(caption: str, scores: Sequence[Score]) -> Table:
    """maj@k and pass@k over all answers to each question."""
    rows = [
        (limit(s.policy), str(s.policy.waits), str(s.samples), *_share_cells(s.majority), *_share_cells(s.solved))
        for s in scores
    ]
    share = ("95 % interval", "n")
    header = ("limit", "waits", "answers", "majority right", *share, "one right", *share)
    return Table(f"{caption}: all answers to a question together", "lrrrrrrrr", header, rows)


def published_tables(facts: Facts) -> list[Table]:
    """Measured beside published results, a table for each benchmark that has any."""
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


def _share_cells(share: Share | None) -> tuple[str, str, str]:
    """There is no share where every question lacks an answer."""
    return (DASH, DASH, "0") if share is None else (percent(share.mean), interval(share), str(share.n))


def evaluation_usd(spend: Sequence[SpendRow]) -> float:
    """The cost of the evaluation's machine time."""
    return sum(row.cost_usd for row in spend if row.stage == "evaluate" and is_own(row))


def is_own(row: SpendRow) -> bool:
    """Whether the row is machine time and no paid call."""
    return row.provider == MACHINE


def payee(row: SpendRow) -> str:
    """Who was paid."""
    return row.provider if is_own(row) or row.provider == row.model else f"{row.provider}/{row.model}"
