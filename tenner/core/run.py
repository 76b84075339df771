"""A run under way: its folder, its recipe, its ledger, and the clock that charges machine time."""

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, NamedTuple, TypeAlias, cast

from typing_extensions import TypeVar

from tenner.budget.heartbeat import Heartbeat
from tenner.budget.ledger import Ledger
from tenner.core import hardware, spending
from tenner.core import recipe as recipes
from tenner.core.chat_template import ChatTemplate, PromptText
from tenner.core.errors import BudgetReached, TennerError
from tenner.core.formats import Tokenizer
from tenner.core.hardware import Hardware
from tenner.core.progress import Screen
from tenner.core.provenance import provenance
from tenner.core.recipe import D, Description, Experiment, Recipe, TraceJob, stored
from tenner.core.records import Question, StageForecast, StageHardware
from tenner.core.run_folder import SCHEMA, FolderState, RunFolder, text_hash
from tenner.core.sections import Device, Model, PromptForm, Section, TrainPrecision

SAFETY = 2.0  # how much longer than the longest so far the next stretch of machine time may be
FIRST_STRETCH_SECONDS = 60.0  # loading a model and the first piece of work, of which nothing is known beforehand
RUN_TEMPLATE = "chat_template.jinja"
"""The chat template that a run trains with, and asks its student with; the saved student has another one."""
RENTED = "TENNER_RENTED"
"""Set in the environment where a launch charges the machine from the start of its rental to its end (see
`launch/rental.py`): stages then charge no time themselves."""
SETTINGS_SHOWN = 3

Described = TypeVar("Described", bound=Experiment, covariant=True, default=Recipe)
E = TypeVar("E", bound=Experiment)
AnyRun: TypeAlias = "Run[Experiment]"
"""A run with or without a training."""


@dataclass(frozen=True)
class Run(Generic[Described]):
    """What every stage is given."""

    folder: RunFolder
    recipe: Described
    ledger: Ledger
    screen: Screen
    part_of: str | None = None
    """The stage of another run that all of this belongs to: it is booked and shown under that name."""

    def label(self, stage: str) -> str:
        """The name under which the work of a stage is booked and shown."""
        return self.part_of or stage

    def go_through(self, names: Sequence[str], stages: Mapping[str, "Stage[Described]"]) -> None:
        """Run the stages that are not done. Raises TennerError if one that comes before is missing."""
        for name in names:
            if self.folder.done(name):
                self.folder.verify_stages(name)
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
        self.ledger.check_machine(stage, FIRST_STRETCH_SECONDS, self.recipe.machine.price_usd_per_hour)
        meter = Meter(self, stage)
        try:
            yield meter
        finally:
            meter.end()


Stage: TypeAlias = Callable[[Run[Described]], tuple[int, int]]
"""A stage works on the run's folder and returns how many items went in and came out."""


class Meter:
    """Charges machine time as it passes, where no launch charges the whole rental."""

    def __init__(self, run: AnyRun, stage: str) -> None:
        self._run, self._stage = run, stage
        self._longest_seconds = 0.0
        self._price = run.recipe.machine.price_usd_per_hour
        self._heartbeat = Heartbeat(run.ledger, stage, None if RENTED in os.environ else self._price)

    def tick(self) -> None:
        """Charge the time since the last tick."""
        self._longest_seconds = max(self._longest_seconds, self._heartbeat.charge())

    def end(self) -> None:
        """Charge the rest."""
        self._heartbeat.end()

    def check(self) -> None:
        """Raise BudgetReached unless another stretch like the longest so far, with a margin, fits under the cap."""
        ahead_seconds = SAFETY * self._longest_seconds or FIRST_STRETCH_SECONDS
        self._run.ledger.check_machine(self._stage, ahead_seconds, self._price)


def chat_template_of(tokenizer: Tokenizer, described: Experiment) -> ChatTemplate:
    """The chat template that the student is asked with. Raises TennerError where the tokenizer has none."""
    section = described.student
    assert section is not None, "who has no student renders nothing"
    return ChatTemplate(tokenizer, system_prompt=section.system_prompt, kwargs=section.chat_template_kwargs)


def template_to_ask_with(folder: RunFolder, section: Model) -> str | None:
    """What `chat_template.set_template` is given for a run's students, before and after the training."""
    path = folder.path / RUN_TEMPLATE
    folder.verify(RUN_TEMPLATE)
    return str(path) if path.is_file() else section.chat_template


def render(tokenizer: Tokenizer, question: Question, form: PromptForm, described: Experiment) -> PromptText:
    """A question as the student is asked it: with what its benchmark and the prompt form put behind it."""
    return chat_template_of(tokenizer, described).question(question.question + question.suffix + form.suffix)


class Opened(NamedTuple, Generic[D]):
    """A run folder under its lock, with its ledger open."""

    folder: RunFolder
    description: D
    ledger: Ledger


@contextmanager
def open_run(
    path: Path, recipe: E | None, screen: Screen, *, budget_usd: float | None, device: Device | None = None
) -> Iterator[Run[E]]:
    """Open a run or a measurement: `open_folder`, with what a stage is given. `device` overrides the recipe's."""

    def on_device(given: E) -> E:
        return given.model_copy(update={"machine": given.machine.model_copy(update={"device": device})})

    kind = cast("type[E]", Recipe) if recipe is None else type(recipe)
    change = None if device is None else on_device
    with open_folder(path, kind, recipe, screen, budget_usd=budget_usd, change=change) as opened:
        yield Run(opened.folder, opened.description, opened.ledger, screen)


@contextmanager
def open_folder(
    path: Path,
    kind: type[D],
    given: D | None,
    screen: Screen,
    *,
    budget_usd: float | None,
    change: Callable[[D], D] | None = None,
) -> Iterator[Opened[D]]:
    """Take the folder's lock, and continue what it holds, or start `given` in it.

    `budget_usd` is a cap that the user names; see `cap_in_force`. `change` is applied to the description.

    Raises:
        TennerError: the folder holds something else, or nothing while nothing is given.
        BudgetReached: the cap is lowered below what is spent already; it is not stored then.
    """
    if budget_usd is not None:
        recipes.parse_cap(str(budget_usd))
    folder = RunFolder.existing(path) if given is None else RunFolder(path)
    with folder.writing():
        found = stored_as(kind, folder)
        if isinstance(found, TraceJob) and given and differences(found, given) and _has_nothing(folder):
            screen.say(f"{path} holds nothing yet that was bought: it begins again with these settings")
            found = None
        if found and given and (differing := differences(found, given)):
            raise TennerError(
                f"{path} holds {found.KIND} with other settings: {differing}",
                hint=_hint_for_other_settings(path, found, given),
            )
        current = given or found
        assert current is not None
        state = folder.state()
        cap_usd = cap_in_force(found, given, state.recipe_budget_usd, named_usd=budget_usd)
        current = current.model_copy(update={"budget_usd": cap_usd})
        if change is not None:
            current = change(current)
        recipe_budget_usd = given.budget_usd if given else state.recipe_budget_usd
        if found is None:
            start(folder, current, recipe_budget_usd)
        ledger = Ledger(path / "run.db", budget_usd=cap_usd)
        try:
            spending.check(folder, ledger.rows())
            if RENTED not in os.environ:
                ledger.lose_rental()
            if lost := ledger.lose_orphans():
                calls = "1 call was" if lost == 1 else f"{lost:,} calls were"
                screen.say(f"{calls} in flight when the last session ended: booked at the worst case")
            if unbooked_seconds := ledger.charge_orphans():
                screen.say(
                    f"{unbooked_seconds:.1f} s of machine time before the last session was killed are booked now"
                )
            if found is not None:
                _refuse_cap_below_spent(ledger, found.budget_usd, cap_usd)
            if found is not None:
                _keep_up(folder, state, recipe_budget_usd, current, is_changed=current != found)
            yield Opened(folder, current, ledger)
        finally:
            ledger.close()


def start(folder: RunFolder, description: Description, recipe_budget_usd: float | None = None) -> None:
    """Write what makes a folder a run folder; its description last, for that is what it is recognised by.

    Whatever a kill leaves of it is written anew by the next start.
    """
    texts = {"provenance.json": json.dumps(provenance(), indent=1), description.FILE: description.to_toml()}
    cap_usd = description.budget_usd if recipe_budget_usd is None else recipe_budget_usd
    hashes = {name: (text_hash(text),) for name, text in texts.items()}
    folder.write_state(FolderState(recipe_budget_usd=cap_usd, start_files=hashes))
    for name, text in texts.items():
        folder.write_text(name, text)


def _keep_up(
    folder: RunFolder, state: FolderState, recipe_budget_usd: float | None, description: Description, *,
    is_changed: bool,
) -> None:  # fmt: skip
    """Bring run.json and the description of a folder that goes on up to date; a kill in between leaves both valid."""
    hashes = dict(state.start_files)
    if not (folder.path / "provenance.json").exists():
        lost = provenance() | {"note": "of a later session: what the first one wrote was lost"}
        text = json.dumps(lost, indent=1)
        hashes["provenance.json"] = (text_hash(text),)
        folder.write_state(state._replace(schema=SCHEMA, start_files=hashes))
        folder.write_text("provenance.json", text)
    stored_text, text = folder.read_start_file(description.FILE), description.to_toml()
    hashes.setdefault("provenance.json", (text_hash(folder.read_start_file("provenance.json")),))
    new_text = text if is_changed else stored_text
    hashes[description.FILE] = tuple(dict.fromkeys((text_hash(stored_text), text_hash(new_text))))
    new_state = FolderState(recipe_budget_usd=recipe_budget_usd, start_files=hashes)
    if new_state != state:
        folder.write_state(new_state)
    if is_changed:
        folder.write_text(description.FILE, text)


def _has_nothing(folder: RunFolder) -> bool:
    """Whether nothing in the folder was paid for or worked on, so that another description may take its place."""
    worked_on = [*folder.path.glob("stages/*.json"), *(p for p in folder.path.glob("*.jsonl") if p.stat().st_size)]
    return not worked_on and not spending.read(folder)


def cap_in_force(
    found: Description | None, given: Description | None, recipe_usd: float | None, *, named_usd: float | None
) -> float:
    """The cap of a folder that holds `found` and is opened with `given`.

    A cap named on the command line wins; then the recipe's, where it is not what it was (`recipe_usd`) when the
    folder was last opened; then the one in force, which an earlier command line may have changed.
    """
    if named_usd is not None:
        return named_usd
    if found is None or (given is not None and given.budget_usd != recipe_usd):
        assert given is not None
        return given.budget_usd
    return found.budget_usd


def _refuse_cap_below_spent(ledger: Ledger, before_usd: float, cap_usd: float) -> None:
    if cap_usd < before_usd and cap_usd < (spent_usd := ledger.spent_usd()):
        raise BudgetReached(
            f"a cap of ${cap_usd:g} is below the ${spent_usd:.6g} that are spent already",
            hint=f"nothing is lost, and the cap is still ${before_usd:g}: give a cap above what is spent",
        )


def _hint_for_other_settings(path: Path, found: Description, given: Description) -> str:
    """How to go on with other settings without losing anything that is paid."""
    if not isinstance(found, Recipe):
        return f"choose another {'--run-dir' if isinstance(found, Experiment) else '--out'}; this one stays as it is"
    changed = {key: new for key, (_, new) in changed_settings(found, given).items()}
    can_be_set = not any(new is None or isinstance(new, list | dict) or ".0" in key for key, new in changed.items())
    words = " ".join(f"--set {key}={new}" for key, new in changed.items() if " " not in str(new))
    is_short = can_be_set and len(changed) <= SETTINGS_SHOWN and words.count("--set") == len(changed)
    return (
        f"tenner fork {path} {words if is_short else '--recipe FILE'} makes another run of it, which buys nothing twice"
    )


def stored_recipe(folder: RunFolder) -> Recipe | None:
    """The recipe of the run in the folder, None where it is empty. Raises TennerError where it holds another kind."""
    return stored_as(Recipe, folder)


def stored_as(kind: type[D], folder: RunFolder) -> D | None:
    """What the folder was started with, None where it is empty. Raises TennerError where that is of another kind."""
    found = stored(folder)
    if found is None or isinstance(found, kind):
        return found
    wanted = getattr(kind, "KIND", "a run or a measurement")
    raise TennerError(f"{folder.path} holds {found.KIND}, not {wanted}", hint=found.HINT)


def differences(stored: Section, given: Section) -> str:
    """Where two descriptions differ in settings that must not change on resume, for people."""
    changed = list(changed_settings(stored, given).items())
    shown = [f"{key} is {old!r} there and {new!r} here" for key, (old, new) in changed[:2]]
    return "; ".join(shown) + (f"; and {len(changed) - 2} more" if len(changed) > 2 else "")


def changed_settings(stored: Section, given: Section) -> dict[str, tuple[object, object]]:
    """The settings that must not change on resume (see `sections.Resume`) and differ, by dotted keys: old and new."""
    old, new = _fixed(stored), _fixed(given)
    return {key: (old.get(key), new.get(key)) for key in sorted(old | new) if old.get(key) != new.get(key)}


def _fixed(value: object, key: str = "") -> dict[str, object]:
    """The settings that must not change, by dotted keys; those in a list of sections by their number in it."""
    parts: dict[str, object]
    if isinstance(value, Section):
        free = type(value).free_on_resume()
        parts = {name: part for name, part in value if name not in free}
    elif isinstance(value, list) and value and all(isinstance(item, dict | Section) for item in value):
        parts = {str(number): item for number, item in enumerate(value)}
    elif isinstance(value, dict) and value:
        parts = value
    else:
        return {key: value}
    return {k: v for name, part in parts.items() for k, v in _fixed(part, f"{key}.{name}" if key else name).items()}
