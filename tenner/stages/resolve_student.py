"""Who is spoken to: the student of a run, or any model, in an engine that answers many at once."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from tenner.core import hardware
from tenner.core.errors import TennerError
from tenner.core.formats import FORMATS
from tenner.core.run import stored_recipe
from tenner.core.run_folder import RunFolder
from tenner.core.sections import Device, EngineName, Precision
from tenner.inference import engines

if TYPE_CHECKING:
    from tenner.inference.engine import LocalEngine
    from tenner.inference.server.served_student import ServedStudent

THINKING_TOKENS_MAX = 1024
ANSWER_TOKENS_MAX = 512
"""For a model that is no run's student, where the command says nothing."""


class StudentOptions(NamedTuple):
    """What the command says of the student; None leaves it to the run, or to what is usual for a model."""

    format: str | None = None
    name: str | None = None
    thinking_tokens_max: int | None = None
    answer_tokens_max: int | None = None
    price_usd_per_hour: float | None = None
    device: Device = "auto"
    precision: Precision = "auto"


class ResolvedStudent(NamedTuple):
    """A student and what its machine costs, if that is known."""

    speaker: "ServedStudent"
    price_usd_per_hour: float | None


def resolve_student(address: str, wishes: StudentOptions) -> ResolvedStudent:
    """Find the student at an address: a run's folder, or what `student.resolve` knows.

    Raises TennerError where there is none, or where a wish does not go with it.
    """
    for option, value, least in (
        ("thinking", wishes.thinking_tokens_max, 0),
        ("answer", wishes.answer_tokens_max, 1),
        ("price-usd-per-hour", wishes.price_usd_per_hour, 0),
    ):
        if value is not None and not value >= least:  # a price may be no number
            raise TennerError(f"--{option} {value:g} is less than {least}")
    if wishes.format is not None and wishes.format not in FORMATS:
        raise TennerError(f"no think format is called {wishes.format}", hint=f"there are {', '.join(FORMATS)}")
    is_run = (Path(address) / "recipe.toml").is_file()
    return _of_run(Path(address), wishes) if is_run else _of_model(address, wishes)


def load(
    speaker: "ServedStudent", wishes: StudentOptions, *, rows: int, engine: EngineName | None = None
) -> "LocalEngine":
    """The engine with the student in it: vLLM where it is installed, unless one is named.

    `rows` answers are decoded at a time. A precision that is named and slow on this device is told on standard error.
    Raises TennerError where vLLM is named and not installed, or where the device is not there.
    """
    if engine is None:
        engine = "vllm" if engines.is_there("vllm") else "hf"
    if wishes.precision != "auto":
        kind = hardware.device_kind(wishes.device)
        if told := hardware.slowness(kind, wishes.precision):
            print(told, file=sys.stderr)
    return engines.load(
        engine, speaker.model_dir, rows=rows, wait_text=speaker.wait_text, precision=wishes.precision,
        device=wishes.device,
    )  # fmt: skip


def _of_run(path: Path, wishes: StudentOptions) -> ResolvedStudent:
    recipe = stored_recipe(RunFolder.existing(path))
    assert recipe is not None, "RunFolder.existing has seen it"
    if wishes.format not in (None, recipe.student.format):
        raise TennerError(f"{path} was taught the format {recipe.student.format}, not {wishes.format}")
    student = path / "student"
    if not student.is_dir():
        raise TennerError(f"{path} has no distilled student yet", hint=f"tenner train {path}")
    from tenner.inference.server.served_student import ServedStudent

    asked = recipe.evaluate
    speaker = ServedStudent(
        name=wishes.name or recipe.name,
        model_dir=student,
        fmt=FORMATS[recipe.student.format],
        system_prompt=recipe.student.system_prompt,
        wait_text=asked.wait_text,
        thinking_tokens_max=_first(wishes.thinking_tokens_max, asked.thinking_tokens_max[-1]),
        answer_tokens_max=_first(wishes.answer_tokens_max, asked.answer_tokens_max),
        remembers=False,
    )
    given = wishes.price_usd_per_hour
    return ResolvedStudent(speaker, recipe.machine.price_usd_per_hour if given is None else given)


def _of_model(address: str, wishes: StudentOptions) -> ResolvedStudent:
    if wishes.format is None:
        raise TennerError(
            f"{address} is not a run folder, and how a model thinks cannot be guessed",
            hint=f"give a run's folder, or say --format {'|'.join(FORMATS)}",
        )
    from tenner.inference.server.served_student import ServedStudent
    from tenner.training import student

    folder = student.resolve(address)
    speaker = ServedStudent(
        name=wishes.name or (known[1] if (known := student.HUB.fullmatch(address)) else folder.resolve().name),
        model_dir=folder,
        fmt=FORMATS[wishes.format],
        system_prompt=None,
        wait_text="Wait",
        thinking_tokens_max=_first(wishes.thinking_tokens_max, THINKING_TOKENS_MAX),
        answer_tokens_max=_first(wishes.answer_tokens_max, ANSWER_TOKENS_MAX),
        remembers=True,
    )
    return ResolvedStudent(speaker, wishes.price_usd_per_hour)


def _first(wish: int | None, usual: int) -> int:
    return usual if wish is None else wish
