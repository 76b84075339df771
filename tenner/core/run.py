"""A run under way: its folder, its recipe, its ledger, and the clock that charges machine time."""

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeAlias, cast

from typing_extensions import TypeVar

from tenner.budget.ledger import Ledger
from tenner.core import hardware
from tenner.core import recipe as recipes
from tenner.core.errors import TennerError
from tenner.core.formats import Tokenizer, render_prompt
from tenner.core.hardware import Hardware
from tenner.core.progress import Screen
from tenner.core.provenance import provenance
from tenner.core.recipe import D, Measurement, Recipe
from tenner.core.records import Question, StageForecast, StageHardware
from tenner.core.run_folder import RunFolder
from tenner.core.sections import Device, PromptForm, Section, TrainPrecision

SAFETY = 2.0  # how much longer than the longest so far the next stretch of machine time may be
CAP_FILE = "cap.json"
FIRST_STRETCH_SECONDS = 60.0  # loading a model and the first piece of work, of which nothing is known beforehand

Described = TypeVar("Described", bound=Measurement, covariant=True, default=Recipe)
AnyRun: TypeAlias = "Run[Measurement]"
"""A run with or without a training."""


@dataclass(frozen=True)
class Run(Generic[Described]):
    """What every stage is given."""

    folder: RunFolder
    recipe: Described
    ledger: Ledger
    screen: Screen

    def go_through(self, names: Sequence[str], stages: Mapping[str, "Stage[Described]"]) -> None:
        """Run the stages that are not done. Raises TennerError if one that comes before is missing."""
        for name in names:
            if self.folder.done(name):
                self.screen.say(f"{name}: done before")
                continue
            self.check_turn(name)
            with self.folder.stage(name) as clock:
                clock.items_in, clock.items_out = stages[name](self)
            told = f"{clock.items_in:,} in, {clock.items_out:,} out, {clock.seconds:.1f} s"
            self.screen.say(f"{name}: {told}, {self.spent()}")

    def check_turn(self, name: str) -> None:
        """Raise TennerError if a stage that comes before `name` is missing."""
        order = self.recipe.stages
        if missing := next((s for s in order[: order.index(name)] if not self.folder.done(s)), None):
            raise TennerError(f"{name} needs {missing}, which is not done", hint=f"tenner {missing} {self.folder.path}")

    def spent(self) -> str:
        """The spend so far, for people."""
        return f"${self.ledger.spent_usd():.4f}"

    def hardware(self, stage: str, precision: TrainPrecision) -> Hardware:
        """What a stage is computed on, written down and said.

        A stage that was begun goes on in the precision that it began in: one result is computed in one precision.
        Raises TennerError where the recipe's device is not there.
        """
        begun = [row for row in self.folder.read("hardware", StageHardware) if row.stage == stage]
        wanted = begun[-1].precision if begun and precision == "auto" else precision
        chosen = hardware.choose(self.recipe.machine.device, wanted)
        row = StageHardware(stage=stage, **chosen._asdict())
        if begun[-1:] != [row]:
            self.folder.append("hardware", [row])
        self.screen.say(f"{stage}: on {chosen}")
        if wanted != "auto" and (told := hardware.slowness(chosen.device, wanted)):
            self.screen.say(f"{stage}: {told}")
        return chosen

    def expected_seconds(self, stage: str, part: str = "") -> float | None:
        """How long a part of a stage takes, as it was foreseen; None where it was not."""
        rows = [f for f in self.folder.read("forecast", StageForecast) if f.stage == stage]
        return next((f.seconds for f in rows if part == f.part or part.startswith(f"{f.part}, ")), None)

    @contextmanager
    def machine_time(self, stage: str) -> Iterator["Meter"]:
        """Charge the time of the block to the ledger: at every tick, and what is left when it ends."""
        meter = Meter(self, stage)
        meter.check()
        try:
            yield meter
        finally:
            meter.tick()


Stage: TypeAlias = Callable[[Run[Described]], tuple[int, int]]
"""A stage works on the run's folder and returns how many items went in and came out."""


class Meter:
    """Charges machine time as it passes."""

    def __init__(self, run: AnyRun, stage: str) -> None:
        self._run, self._stage = run, stage
        self._last, self._longest_seconds = time.monotonic(), 0.0
        self._price = run.recipe.machine.price_usd_per_hour

    def tick(self) -> None:
        """Charge the time since the last tick."""
        now = time.monotonic()
        seconds, self._last = now - self._last, now
        self._longest_seconds = max(self._longest_seconds, seconds)
        self._run.ledger.charge_machine(self._stage, seconds, self._price)

    def check(self) -> None:
        """Raise BudgetReached unless another stretch like the longest so far, with a margin, fits under the cap."""
        ahead_seconds = SAFETY * self._longest_seconds or FIRST_STRETCH_SECONDS
        self._run.ledger.check_machine(self._stage, ahead_seconds, self._price)


def render(tokenizer: Tokenizer, question: Question, form: PromptForm, described: Measurement) -> str:
    """A question as the student is asked it: with what its benchmark and the prompt form put behind it."""
    assert described.student is not None, "who has no student renders nothing"
    text = question.question + question.suffix + form.suffix
    return render_prompt(tokenizer, text, system_prompt=described.student.system_prompt)


@contextmanager
def open_run(
    path: Path, recipe: D | None, screen: Screen, *, budget_usd: float | None, device: Device | None = None
) -> Iterator[Run[D]]:
    """Take the folder's lock and open the run: a new one by `recipe`, or the one that is there.

    `budget_usd` and `device`, where they are given, take the place of the recipe's. A cap that was set so stays, until
    another one is given or the recipe names another one than before.

    Raises:
        TennerError: the folder holds a run of another recipe, or none and no recipe is given.
    """
    folder = RunFolder.existing(path) if recipe is None else RunFolder(path)
    with folder.writing():
        stored = cast("D | None", stored_as(Recipe if recipe is None else type(recipe), folder))
        if stored and recipe and (differing := differences(stored, recipe)):
            raise TennerError(
                f"{path} holds a run of another recipe: {differing}",
                hint="choose another --run-dir, or delete that one if it is not needed",
            )
        current = recipe or stored
        assert current is not None
        if (cap_usd := _cap_usd(folder, recipe, stored, budget_usd)) != current.budget_usd:
            current = current.model_copy(update={"budget_usd": cap_usd})
        if device is not None:
            current = current.model_copy(update={"machine": current.machine.model_copy(update={"device": device})})
        if current != stored:
            folder.write_text(current.FILE, current.to_toml())
        if recipe is not None:
            folder.write_text(CAP_FILE, json.dumps({"recipe_usd": recipe.budget_usd}))
        if stored is None:
            folder.write_text("provenance.json", json.dumps(provenance(), indent=1))
        ledger = Ledger(path / "run.db", budget_usd=current.budget_usd)
        try:
            ledger.lose_orphans()
            yield Run(folder, current, ledger, screen)
        finally:
            ledger.close()


def _cap_usd(
    folder: RunFolder, given: Measurement | None, stored: Measurement | None, asked_usd: float | None
) -> float:
    """The cap in force: the one asked for by itself, else the given recipe's where it is another than that recipe's
    last time (by `--set`, or in the file), else the one that is stored.

    What the recipe said last is kept in CAP_FILE: the stored recipe has the cap in force.
    """
    path = folder.path / CAP_FILE
    before_usd = json.loads(path.read_text("utf-8"))["recipe_usd"] if path.exists() else None
    if asked_usd is not None:
        return asked_usd
    if given is not None and (stored is None or given.budget_usd != before_usd):
        return given.budget_usd
    assert stored is not None, "an existing folder has a recipe"
    return stored.budget_usd


def stored_recipe(folder: RunFolder) -> Recipe | None:
    """The recipe that the run was started with, if it was. Raises TennerError where it is a measurement."""
    return stored_as(Recipe, folder)


def stored_as(kind: type[D], folder: RunFolder) -> D | None:
    """What a run or a measurement was started with, if it was. Raises TennerError where it is the other of them."""
    found = stored(folder)
    if found is None or type(found) is kind:
        return found
    if isinstance(found, Recipe):
        raise TennerError(f"{folder.path} holds a run, not a measurement", hint="choose another --run-dir")
    raise TennerError(
        f"{folder.path} holds a measurement, not a run: nothing is trained in it",
        hint="it goes on by `tenner measure`; show, compare, export and grade read it",
    )


def stored(folder: RunFolder) -> Measurement | None:
    """What is in the folder: a recipe, a measurement, or nothing yet."""
    for kind in (Recipe, Measurement):
        if (path := folder.path / kind.FILE).exists():
            return recipes.parse_as(kind, path.read_text("utf-8"), where=str(path))
    return None


def differences(stored: Section, given: Section) -> str:
    """Where two descriptions of a run differ, apart from the fields that are free to change; empty where nowhere."""
    found = list(_differences(stored, given, ""))
    shown = [f"{key} is {old!r} there and {new!r} here" for key, old, new in found[:2]]
    return "; ".join(shown) + (f"; and {len(found) - 2} more" if len(found) > 2 else "")


def _differences(old: object, new: object, key: str) -> Iterator[tuple[str, object, object]]:
    """The dotted keys at which two values differ, with both; the sections of a list go by their number in it."""
    if isinstance(old, Section) and type(old) is type(new):
        for name in sorted(type(old).model_fields.keys() - type(old).free_fields()):
            dotted = f"{key}.{name}" if key else name
            yield from _differences(getattr(old, name), getattr(new, name), dotted)
    elif (
        isinstance(old, list) and isinstance(new, list) and len(old) == len(new) and old and isinstance(old[0], Section)
    ):
        for i, (a, b) in enumerate(zip(old, new, strict=True)):
            yield from _differences(a, b, f"{key}.{i}")
    elif old != new:
        yield key, _plain(old), _plain(new)


def _plain(value: object) -> object:
    """A value as a recipe writes it."""
    if isinstance(value, Section):
        return value.model_dump(exclude_defaults=True)
    return [_plain(item) for item in value] if isinstance(value, list) else value
