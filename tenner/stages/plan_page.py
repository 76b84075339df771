"""The whole plan of a recipe: stages, memory, machines to choose from, and what would change the bill."""

import json
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tenner.budget import machines, price_files
from tenner.budget.estimate import Estimate
from tenner.core import hardware
from tenner.core import recipe as recipes
from tenner.core.dollars import estimate_in_dollars, in_dollars
from tenner.core.errors import TennerError
from tenner.core.recipe import Recipe
from tenner.core.records import StagePlan
from tenner.stages import machine_choice, run_plan
from tenner.stages.machine_choice import Option
from tenner.stages.plan_speeds import Machine, Size, UnknownSize
from tenner.stages.run_plan import Measured
from tenner.stages.time_estimate import in_words
from tenner.training import plan as memory
from tenner.training import rank_balance, student_address
from tenner.training.memory_plan import row_lengths

__all__ = ["RunPlan", "UnknownSize", "make", "price_warnings", "stages_of"]

CHANGES_SHOWN = 4
CHANGE_MIN = 0.05
"""A change that saves less than this share of the bill is not shown."""


class Change(NamedTuple):
    """A setting, and what it takes off the expected bill."""

    setting: str
    saved_usd: float


class RunPlan(NamedTuple):
    """`memory` is None where the student's architecture is not at hand; `memory_note` says so."""

    recipe: str
    cap_usd: float
    machine: str
    price_usd_per_hour: float
    stages: Sequence[StagePlan]
    memory: memory.Plan | None
    memory_note: str
    options: Sequence[Option]
    changes: Sequence[Change]
    notes: Sequence[str]
    """Warnings."""

    def as_json(self) -> str:
        """One object; what the memory plan says is at its top level."""
        whole: dict[str, Any] = json.loads(self.memory.as_json()) if self.memory else {"fits": None}
        whole |= self._asdict() | {
            "stages": [stage.model_dump() for stage in self.stages],
            "options": [option._asdict() for option in self.options],
            "changes": [change._asdict() for change in self.changes],
            "total_usd": run_plan.total_usd(self.stages),
            "total_seconds": run_plan.total_seconds(self.stages),
        }
        del whole["memory"]
        return json.dumps(whole)

    def as_text(self, width: int) -> str:
        """For people, in lines of `width` characters where words allow it."""
        lines = [*(self.memory.as_text() if self.memory else f"memory: {self.memory_note}").splitlines(), ""]
        lines.append(f"on {self.machine}, {in_dollars(self.price_usd_per_hour)} an hour; low / expected / high")
        lines += _stage_lines(self.stages, self.cap_usd, width)
        if self.options:
            lines += ["", "where its training fits, at list prices, without boot and download:"]
            lines += [_option_line(option) for option in self.options]
        if self.changes:
            lines += ["", "what would change the bill:"]
            lines += [f"  --set {c.setting:44} {estimate_in_dollars(c.saved_usd)} less" for c in self.changes]
        return "\n".join(_wrapped(line, width) for line in [*lines, *self.notes])


def make(
    recipe: Recipe, *, config: Path | None = None, ranks: int | None = None, memory_gb: float | None = None,
    cpu: bool = False, measured: Measured | None = None,
) -> RunPlan:  # fmt: skip
    """The plan of a recipe; `ranks`, `memory_gb` and `cpu` stand in for the machine that it names, and what a probe has
    `measured` for the assumptions.

    Raises TennerError for a student whose size is not known, a price that is not known, or a machine that cannot be.
    """
    size, note = student_size(recipe, config)
    machine = machine_of(recipe, cpu=cpu)
    if ranks is not None:
        price = recipe.machine.price_usd_per_hour * ranks / recipe.machine.count
        own = recipe.machine.model_copy(update={"count": ranks, "price_usd_per_hour": price})
        recipe, machine = recipe.model_copy(update={"machine": own}), machine._replace(cards=ranks)
    stages = run_plan.stage_plans(recipe, size, machine, measured)
    lengths = measured.lengths if measured else run_plan.token_lengths(recipe)
    here = recipe.model_copy(update={"train": recipe.train.model_copy(update={"backend": None, "tinker": None})})
    options = machine_choice.options(here, size, run_plan.calibrated(machine, measured), lengths)
    notes = price_warnings(recipe)
    try:
        if warning := run_plan.check_cap(stages, recipe.budget_usd):
            notes.append(warning)
    except TennerError as refused:
        notes.append(f"warning: {refused}: `tenner run` refuses this")
    if recipe.train.tinker is not None:
        note = "a service trains"
    seen = next(stage.memory_bytes for stage in stages if stage.stage == "train")
    if measured is not None and seen is not None:
        notes.append(f"its training is expected to take {seen / memory.GB:.2f} GB, by the samples that were seen")
    return RunPlan(
        recipe.name, recipe.budget_usd, describe(recipe, machine), recipe.machine.price_usd_per_hour, stages,
        _memory(recipe, size, machine, ranks, memory_gb, lengths, cpu=cpu), note, options,
        _changes(recipe, size, machine, measured), notes,
    )  # fmt: skip


def stages_of(recipe: Recipe) -> list[StagePlan]:
    """The stages alone, on the machine that the recipe names. Raises as `make` does."""
    return run_plan.stage_plans(recipe, student_size(recipe)[0], machine_of(recipe))


def price_warnings(recipe: Recipe) -> list[str]:
    """A line where the price of the recipe's card is an old one."""
    section = recipe.machine
    if section.card is None:
        return []
    try:
        offer = machines.charged(section.card, terms=section.terms, provider=section.provider)
    except TennerError:  # the recipe gives its price itself
        return []
    return price_files.age_warnings([(f"{offer.card} at {offer.provider}", offer.checked, offer.source)])


def machine_of(recipe: Recipe, *, cpu: bool = False) -> Machine:
    """The cards that the recipe names, else the card of this machine where it is a known one, else its CPU."""
    if cpu:
        return Machine(None, 1)
    if recipe.machine.card:
        return Machine(machines.card(recipe.machine.card), recipe.machine.count)
    kind = hardware.device_kind() if recipe.machine.device == "auto" else recipe.machine.device
    if kind == "cuda":
        name = hardware.device_name("cuda")
        known = sorted(machines.cards().values(), key=lambda card: -len(card.device_name))
        return Machine(next((card for card in known if card.device_name in name), None), 1)
    return Machine(None, 1)


def describe(recipe: Recipe, machine: Machine) -> str:
    """The machine in words."""
    if machine.card is None:
        return f"{hardware.processor_name()}, {hardware.cores()} cores"
    rented = f", {recipe.machine.provider or 'listed'}, {recipe.machine.terms}" if recipe.machine.card else ""
    return f"{machine.cards} {machine.card.name}{rented}"


def student_size(recipe: Recipe, config: Path | None = None) -> tuple[Size, str]:
    """The student's size by its config.json, else by its name; and in that case why memory cannot be told."""
    if config is None and (folder := student_address.local(recipe.student.model)) is not None:
        config = folder / "config.json"
    if config is not None:
        return Size.of(memory.read_config(config)), ""
    note = (
        f"not known: the config.json of {recipe.student.base_model} is not on this machine; the run fetches it before "
        "anything is paid, or give it: --config FILE"
    )
    return Size.by_name(recipe.student.model, recipe.student.base_model), note


def _memory(
    recipe: Recipe, size: Size, machine: Machine, ranks: int | None, memory_gb: float | None,
    lengths: run_plan.Tokens, *, cpu: bool,
) -> memory.Plan | None:  # fmt: skip
    named = ranks is not None or memory_gb is not None
    if recipe.train.tinker is not None:
        if named or cpu:
            memory.check_trains_here(recipe.train)
        return None
    if memory_gb is None and machine.card is not None:
        memory_gb = machine.card.memory_gb
    on_gpu = not cpu and (machine.card is not None or named)
    if memory_gb is None and not named and not on_gpu and (free := hardware.free_memory_bytes("cpu")):
        memory_gb = free / memory.GB
    of = memory.Machine(machine.cards, on_gpu=on_gpu, memory_gb=memory_gb)
    memory.check(of, recipe.train)
    if size.architecture is None:
        return None
    limit = recipe.train.tokens_max
    samples = rank_balance.assumed_lengths(lengths.sample.expected, recipe.select.samples, tokens_max=limit)
    return memory.plan(
        size.architecture, recipe.train, of, longest_tokens=limit, lengths=samples, seed=recipe.seed,
        row_lengths=row_lengths(
            recipe.train, samples=recipe.select.samples, mean_tokens=lengths.sample.expected, longest_tokens=limit
        ),
    )  # fmt: skip


def _changes(recipe: Recipe, size: Size, machine: Machine, measured: Measured | None) -> list[Change]:
    """Settings that make the run cheaper, the most first."""
    before = run_plan.total_usd(run_plan.stage_plans(recipe, size, machine, measured)).expected
    tries = {
        "select.samples": recipe.select.samples // 2,
        "train.epochs": recipe.train.epochs // 2,
        "attempt.questions": recipe.attempt.questions // 2,
        "evaluate.thinking_tokens_max": str(recipe.evaluate.thinking_tokens_max[:-1]),
        "evaluate.waits": "[]" if recipe.evaluate.waits else None,
        "evaluate.samples": 1 if recipe.evaluate.samples > 1 else None,
        "trace.samples_per_question": 1 if recipe.trace.samples_per_question > 1 else None,
        "machine.count": recipe.machine.count // 2 if recipe.machine.card else None,
        "evaluate.engine": "vllm" if machine.card is not None and recipe.evaluate.engine == "hf" else None,
    }
    found = []
    for key, value in tries.items():
        if not value or (value == "[]" and key != "evaluate.waits"):
            continue
        try:
            changed = recipes.parse(recipe.to_toml(), where=recipe.name, overrides=_overrides(recipe, key, value))
            on = machine._replace(cards=changed.machine.count) if machine.card is not None else machine
            after = run_plan.total_usd(run_plan.stage_plans(changed, size, on, measured)).expected
        except TennerError:  # the recipe does not allow it
            continue
        found.append(Change(f"{key}={value}", before - after))
    found = [change for change in found if change.saved_usd > CHANGE_MIN * before]
    return sorted(found, key=lambda change: -change.saved_usd)[:CHANGES_SHOWN]


def _overrides(recipe: Recipe, key: str, value: object) -> list[str]:
    if key != "machine.count":
        return [f"{key}={value}"]
    price = recipe.machine.price_usd_per_hour / recipe.machine.count
    return [f"{key}={value}", f"machine.price_usd_per_hour={price * int(str(value))}"]


def _stage_lines(stages: Sequence[StagePlan], cap_usd: float, width: int) -> list[str]:
    """Name, hours, dollars and what is done, in columns; in a narrow terminal what has no room goes below."""
    rows = [
        (stage.stage, _times(stage.seconds) if stage.seconds else "", _usd(stage.usd) if stage.usd else "not known",
         stage.what)
        for stage in stages
        if stage.usd is None or stage.usd.high or stage.seconds
    ]  # fmt: skip
    usd, seconds = run_plan.total_usd(stages), run_plan.total_seconds(stages)
    rows.append(("together", _times(seconds), _usd(usd), f"cap {in_dollars(cap_usd)}"))
    names, times, dollars = (max(len(row[place]) for row in rows) for place in range(3))
    columns = names + 2 + times + 2 + dollars
    if columns + 2 + max(len(row[3]) for row in rows) <= width:
        return [f"{name:{names}}  {time:>{times}}  {usd:>{dollars}}  {what}" for name, time, usd, what in rows]
    if columns <= width:
        below = [(f"{name:{names}}  {time:>{times}}  {usd:>{dollars}}", f"  {what}") for name, time, usd, what in rows]
        return [line for lines in below for line in lines]
    return [line for name, time, usd, what in rows for line in (f"{name:{names}}  {time}", f"  {usd}", f"  {what}")]


def _wrapped(line: str, width: int) -> str:
    """The line, broken between words; its further lines are indented by two more than it is itself."""
    indent = line[: len(line) - len(line.lstrip())] + "  "
    return line if len(line) <= width else textwrap.fill(line, width, subsequent_indent=indent, break_on_hyphens=False)


def _option_line(option: Option) -> str:
    took = in_words(option.seconds.expected) if option.seconds else "time not known"
    low, high = option.usd.low, option.usd.high
    return f"  {option.what}: {took}, {estimate_in_dollars(low)} to {estimate_in_dollars(high)} ({option.source})"


def _times(seconds: Estimate) -> str:
    return " / ".join(in_words(each) for each in seconds)


def _usd(usd: Estimate) -> str:
    return " / ".join(f"${each:,.0f}" if each >= 100 else estimate_in_dollars(each) for each in usd)
