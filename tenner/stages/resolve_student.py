"""Resolve a run folder or a model to the student that `tenner serve` and `tenner chat` answer with."""

import math
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from tenner.core import default_policy, hardware, policy_text
from tenner.core.chat_template import detected_format, set_template
from tenner.core.errors import TennerError
from tenner.core.formats import AUTO, FORMATS
from tenner.core.recipe import Experiment, Recipe
from tenner.core.records import EarlyExit, Grace
from tenner.core.run import stored_recipe, template_to_ask_with
from tenner.core.run_folder import RunFolder
from tenner.core.sections import Device, LocalEngineName, Model, Precision, PromptForm, Student
from tenner.core.terminal import say
from tenner.inference import engine_registry
from tenner.inference.defaults import ANSWER_TOKENS_MAX, WAIT_TEXT

if TYPE_CHECKING:
    from tenner.inference.engine import LocalEngine
    from tenner.inference.server.served_student import ServedStudent

E = TypeVar("E", bound=Experiment)
M = TypeVar("M", Model, Student, PromptForm)
THINKING_TOKENS_MAX = 1024
"""The budget of a model that is not a run's student, where no option sets one."""


class StudentOptions(NamedTuple):
    """The options of the command line; None: the run's own setting, or the default for a model."""

    format: str | None = None
    name: str | None = None
    thinking_tokens_max: int | None = None
    answer_tokens_max: int | None = None
    price_usd_per_hour: float | None = None
    device: Device = "auto"
    precision: Precision = "auto"
    chat_template: str | None = None
    chat_template_kwargs: Mapping[str, Any] | None = None
    """On top of the run's."""
    early_exit: Mapping[str, Any] | None = None
    """The fields of `records.EarlyExit`."""
    grace: Mapping[str, Any] | None = None
    """Those of `records.Grace`."""
    takes_own_policy: bool = True
    """Whether the policy that the student's folder names applies (see `core/default_policy.py`). It never does where
    one of `thinking_tokens_max`, `early_exit` and `grace` is given."""


class ResolvedStudent(NamedTuple):
    """A student and the price of its machine, if known."""

    student: "ServedStudent"
    price_usd_per_hour: float | None


def resolve_student(address: str, options: StudentOptions) -> ResolvedStudent:
    """Find the student at an address: a run folder, or a model that `training.student_address.resolve` finds.

    Raises TennerError where there is none, or where an option is invalid for it.
    """
    for option, value, least in (
        ("thinking", options.thinking_tokens_max, 0),
        ("answer", options.answer_tokens_max, 1),
        ("price-usd-per-hour", options.price_usd_per_hour, 0),
    ):
        if value is not None and not value >= least:  # true for NaN, too
            raise TennerError(f"--{option} {value:g} is less than {least}")
        if value is not None and math.isinf(value):
            raise TennerError(f"--{option} {value:g} is not a finite number")
    if options.format not in (None, AUTO, *FORMATS):
        raise TennerError(
            f"no think format is called {options.format}", hint=f"there are {', '.join(FORMATS)} and {AUTO}"
        )
    if options.name == "":
        raise TennerError("--name is empty", hint="leave it out for the name of the recipe or the folder")
    return _of_run(Path(address), options) if is_run(address) else _of_model(address, options)


def is_run(address: str) -> bool:
    """Whether an address is a run's folder, and no model's."""
    return os.path.isfile(Path(address) / "recipe.toml")


def load(
    student: "ServedStudent", options: StudentOptions, *, rows: int, engine: LocalEngineName | None = None
) -> "LocalEngine":
    """The engine with the student in it: vLLM where it is installed, unless one is named.

    `rows` answers are decoded at a time, on a CPU in as many threads as cores are free. A warning on standard error
    names a precision that is slow on this device.

    Raises TennerError where the student cannot be asked as the options say, where vLLM is named and not installed, or
    where the device is not available.
    """
    from tenner.training.student import load_tokenizer

    template = student.template(load_tokenizer(student.model_dir, student.chat_template))
    template.check(student.fmt)
    for note in template.notes:
        say(note, file=sys.stderr)
    if engine is None:
        engine = "vllm" if engine_registry.is_there("vllm") else "hf"
    if options.precision != "auto":
        kind = hardware.device_kind(options.device)
        if warning := hardware.slowness(kind, options.precision):
            say(warning, file=sys.stderr)
    if engine == "hf" and hardware.device_kind(options.device) == "cpu" and (line := hardware.use_free_cores()):
        say(line, file=sys.stderr)
    loaded = engine_registry.load(
        engine, student.model_dir, rows=rows, wait_text=student.wait_text, precision=options.precision,
        device=options.device,
    )  # fmt: skip
    set_template(loaded.tokenizer, student.chat_template)
    loaded.refuse(student.policy())
    return loaded


def with_format(described: E) -> E:
    """The recipe or measurement with the format that `auto` stands for, for which the student is fetched.

    Raises TennerError where the student's chat template does not tell it.
    """
    section = described.student
    forms = described.attempt.prompts if isinstance(described, Recipe) else []
    if section is None or AUTO not in (section.format, *(form.format for form in forms)):
        return described
    from tenner.training.student import load_tokenizer
    from tenner.training.student_address import resolve

    fmt = detected_format(load_tokenizer(resolve(section.model), section.chat_template))
    if fmt is None:
        raise TennerError(
            f"the chat template of {section.model} does not tell the think format",
            hint=f"set student.format to one of {', '.join(FORMATS)}",
        )

    found = fmt.name

    def known(part: M) -> M:
        return part.model_copy(update={"format": found}) if part.format == AUTO else part

    changes: dict[str, Any] = {"student": known(section)}
    if isinstance(described, Recipe):
        changes["attempt"] = described.attempt.model_copy(update={"prompts": [known(form) for form in forms]})
    return described.model_copy(update=changes)


def _of_run(path: Path, options: StudentOptions) -> ResolvedStudent:
    folder = RunFolder.existing(path)
    recipe = stored_recipe(folder)
    assert recipe is not None, "RunFolder.existing checks it"
    if options.format not in (None, AUTO, recipe.student.format):
        raise TennerError(f"{path} was trained with the format {recipe.student.format}, not {options.format}")
    if options.chat_template is not None:
        raise TennerError(
            f"{path} was trained with its own chat template", hint="leave --chat-template out, or name a model"
        )
    model_dir = path / "student"
    if not model_dir.is_dir():
        raise TennerError(f"{path} has no distilled student yet", hint=f"tenner train {path}")
    folder.verify_folder(model_dir.name)
    from tenner.inference.server.served_student import ServedStudent

    evaluate = recipe.evaluate
    policy = _policy(model_dir, options, evaluate.thinking_tokens_max[-1])
    student = ServedStudent(
        name=options.name or recipe.name,
        model_dir=model_dir,
        fmt=FORMATS[recipe.student.format],
        system_prompt=recipe.student.system_prompt,
        wait_text=evaluate.wait_text,
        thinking_tokens_max=policy.thinking_tokens_max,
        answer_tokens_max=_or_default(options.answer_tokens_max, evaluate.answer_tokens_max),
        keeps_history=False,
        chat_template=template_to_ask_with(folder, recipe.student),
        chat_template_kwargs={**recipe.student.chat_template_kwargs, **(options.chat_template_kwargs or {})},
        early_exit=policy.early_exit,
        grace=policy.grace,
    )
    price = options.price_usd_per_hour
    return ResolvedStudent(student, recipe.machine.price_usd_per_hour if price is None else price)


def _of_model(address: str, options: StudentOptions) -> ResolvedStudent:
    from tenner.inference.server.served_student import ServedStudent
    from tenner.training.student import load_tokenizer
    from tenner.training.student_address import HUB, resolve

    if os.path.isdir(address) and not os.path.isfile(Path(address) / "config.json"):
        raise TennerError(f"{address} is not a run folder, and holds no model", hint="one has a config.json")
    folder = resolve(address)
    if options.format in (None, AUTO):
        fmt = detected_format(load_tokenizer(folder, options.chat_template))
        if fmt is None:
            raise TennerError(
                f"{address} is not a run folder, and its chat template does not tell the think format",
                hint=f"give a run's folder, or say --format {'|'.join(FORMATS)}",
            )
        say(f"think format {fmt.name}, as the chat template of {address} has it", file=sys.stderr)
    else:
        fmt = FORMATS[options.format]
    hub_name, policy = HUB.fullmatch(address), _policy(folder, options, THINKING_TOKENS_MAX)
    student = ServedStudent(
        name=options.name or (hub_name[1] if hub_name else folder.resolve().name),
        model_dir=folder,
        fmt=fmt,
        system_prompt=None,
        wait_text=WAIT_TEXT,
        thinking_tokens_max=policy.thinking_tokens_max,
        answer_tokens_max=_or_default(options.answer_tokens_max, ANSWER_TOKENS_MAX),
        keeps_history=True,
        chat_template=options.chat_template,
        chat_template_kwargs=options.chat_template_kwargs or {},
        early_exit=policy.early_exit,
        grace=policy.grace,
    )
    return ResolvedStudent(student, options.price_usd_per_hour)


class _OwnPolicy(NamedTuple):
    thinking_tokens_max: int
    early_exit: EarlyExit | None
    grace: Grace | None


def _policy(model_dir: Path, options: StudentOptions, usual_tokens_max: int) -> _OwnPolicy:
    """What the options say, else what the student's folder names, else the usual budget."""
    exit_fields, grace_fields = options.early_exit, options.grace
    early_exit = None if exit_fields is None else policy_text.rule("--early-exit", EarlyExit, exit_fields)
    grace = None if grace_fields is None else policy_text.rule("--grace", Grace, grace_fields)
    is_given = any(option is not None for option in (options.thinking_tokens_max, early_exit, grace))
    if is_given or not options.takes_own_policy:
        return _OwnPolicy(_or_default(options.thinking_tokens_max, usual_tokens_max), early_exit, grace)
    own = default_policy.read(model_dir)
    if own is None:
        return _OwnPolicy(usual_tokens_max, None, None)
    say(f"thinking policy of {model_dir / default_policy.FILE}: {policy_text.words(own.policy)}", file=sys.stderr)
    most = _or_default(own.policy.thinking_tokens_max, usual_tokens_max)
    return _OwnPolicy(most, own.policy.early_exit, own.policy.grace)


def _or_default(value: int | None, default: int) -> int:
    return default if value is None else value
