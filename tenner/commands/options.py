"""Options that several verbs have."""

import argparse
import json
from collections.abc import Callable, Sequence
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

from tenner.core.errors import TennerError
from tenner.core.suggest import did_you_mean

if TYPE_CHECKING:
    from pydantic import BaseModel
    from pydantic.fields import FieldInfo

    from tenner.stages.resolve_student import StudentOptions

TOKENS_MAX = 10**9
COUNT_MAX = 10**9
PROCESSES_MAX = 10**6
USD_MAX = 1e9
SECONDS_MAX = 1e10
INTEGER_MAX = 2**63 - 1


def add_field(
    parser: argparse._ActionsContainer,
    option: str,
    section: "type[BaseModel]",
    field: str,
    *,
    choices: Sequence[str] | None = None,
    metavar: str | None = None,
    default: str | None = None,
) -> None:
    """An option for a field of a recipe's section: its type, its choices, its default and its help are the field's.

    It is None where it is not given, so that the default stays the section's. `choices` are fewer than the field's;
    `metavar` makes it text that the command reads itself; `default` is told where it is not the section's.
    """
    found = section.model_fields[field]
    type_, own_choices = _plain(found.annotation)
    values = choices or own_choices
    told = default or ("" if found.default in (None, "", False, [], {}) or found.is_required() else str(found.default))
    help_ = " ".join((found.description or "").split()).replace("%", "%%").rstrip(".")
    help_ += f" (default: {told})" if told else ""
    if type_ is bool:
        parser.add_argument(option, action="store_true", default=None, help=help_)
    elif values and metavar is None:
        parser.add_argument(option, choices=values, help=help_)
    else:
        shown = metavar or {int: "N", float: "X"}.get(type_, "TEXT")
        read = up_to(type_(_most(found))) if type_ in (int, float) and metavar != "N,…" else str
        parser.add_argument(option, type=read, metavar=shown, help=help_)


def _plain(annotation: Any) -> tuple[type, tuple[str, ...]]:
    """The type of a setting as a word of the command line, and its choices where it has a few."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return _plain(get_args(annotation)[0])
    if origin is Literal:
        return str, get_args(annotation)
    if origin in (Union, UnionType):
        found = [_plain(part) for part in get_args(annotation) if part is not NoneType]
        return found[0][0], tuple(choice for _, choices in found for choice in choices)
    return annotation if annotation in (bool, int, float) else str, ()


def _most(field: "FieldInfo") -> float:
    """The largest number that a field takes, by its own bounds and by those within its annotation."""
    inner = [part for a in get_args(field.annotation) if get_origin(a) is Annotated for part in get_args(a)[1:]]
    bounds = [*field.metadata, *(bound for part in inner for bound in getattr(part, "metadata", ()))]
    most = [getattr(bound, "le", None) or getattr(bound, "lt", None) for bound in bounds]
    return min((m for m in most if m), default=INTEGER_MAX)


Number = TypeVar("Number", int, float)


def up_to(most: Number) -> Callable[[str], Number]:
    """The type of an option that is a number of the kind of `most`, whose size is not above it.

    The smallest number that means something is the command's to check: it says why.
    """

    def read(text: str) -> Number:
        number = type(most)(text)
        if not -most <= number <= most:  # nor is NaN
            raise argparse.ArgumentTypeError(f"{text[:40]} is not a number up to {most:,.0f}")
        return number

    read.__name__ = type(most).__name__  # which argparse shows for what is no number
    return read


def add_student(parser: argparse.ArgumentParser) -> None:
    """A student that answers, and how."""
    from tenner.core.sections import Evaluate, Machine

    parser.add_argument("student", metavar="RUN_OR_MODEL", help="a run's folder, a model's, hf:org/name, or wheel:…")
    add_chat(parser)
    add_field(parser, "--engine", Evaluate, "engine", choices=("hf", "vllm"), default="vllm where it is installed")
    parser.add_argument(
        "--thinking", metavar="N", type=up_to(TOKENS_MAX), help="the most thinking tokens of a request that sets none"
    )
    add_early_stops(parser)
    usual = Evaluate.model_fields["answer_tokens_max"].default
    add_field(parser, "--answer", Evaluate, "answer_tokens_max", default=f"the run's, or {usual}")
    add_field(parser, "--price-usd-per-hour", Machine, "price_usd_per_hour", default="the run's")
    add_device(parser)
    add_precision(parser)


def add_chat(parser: argparse.ArgumentParser) -> None:
    """How a student is asked."""
    from tenner.core.sections import Model

    add_field(parser, "--format", Model, "format", default="the run's, or the one of the model's chat template")
    add_field(parser, "--chat-template", Model, "chat_template", metavar="NAME|FILE")
    add_field(parser, "--chat-template-kwargs", Model, "chat_template_kwargs", metavar="JSON")


def add_early_stops(parser: argparse.ArgumentParser) -> None:
    """How thinking may end before its budget."""
    from tenner.core.sections import Evaluate

    add_field(parser, "--early-exit", Evaluate, "early_exit", metavar="JSON")
    add_field(parser, "--grace", Evaluate, "grace", metavar="JSON")


def early_exit(args: argparse.Namespace) -> dict[str, Any] | None:
    """What `--early-exit` says."""
    return json_object("--early-exit", args.early_exit, example='{"every_tokens": 64}')


def grace(args: argparse.Namespace) -> dict[str, Any] | None:
    """What `--grace` says."""
    return json_object("--grace", args.grace, example='{"tokens": 64}')


def json_object(option: str, text: str | None, *, example: str = '{"enable_thinking": true}') -> dict[str, Any] | None:
    """The JSON object of an option; None where it is not given. Raises TennerError for anything else."""
    if text is None:
        return None
    try:
        found = json.loads(text)
        json.dumps(found, ensure_ascii=False).encode()  # half a character, which no file takes
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict) or None in found.values():
        raise TennerError(f"{option} {text} is not a JSON object of values", hint=f"write {option} '{example}'")
    return found


def json_objects(option: str, texts: Sequence[str] | None, *, example: str) -> list[dict[str, Any]] | None:
    """The JSON objects of an option that may be repeated. Raises as `json_object` does."""
    return None if texts is None else [json_object(option, text, example=example) or {} for text in texts]


def numbers(option: str, text: str | None) -> list[int] | None:
    """ "0,256" as numbers. Raises TennerError for anything else."""
    if text is None:
        return None
    try:
        return [int(number) for number in text.split(",")]
    except ValueError:
        raise TennerError(f"{option} {text} is no list of numbers", hint=f"write {option} 0,256,512") from None


def add_device(parser: argparse.ArgumentParser) -> None:
    """What is computed on."""
    from tenner.core.sections import Machine

    add_field(parser, "--device", Machine, "device", default="CUDA, else Apple's MPS, else the CPU")


def add_processes(parser: argparse.ArgumentParser) -> None:
    """How many processes train on a machine."""
    parser.add_argument(
        "--processes",
        metavar="N",
        type=up_to(PROCESSES_MAX),
        help="train by so many processes (default: one for each GPU)",
    )


def add_precision(parser: argparse.ArgumentParser) -> None:
    """What weights and products are computed in."""
    from tenner.core.sections import Evaluate

    add_field(parser, "--precision", Evaluate, "precision", default="bf16 where it is native, else fp32")


def add_overrides(parser: argparse.ArgumentParser) -> None:
    """Changes of a recipe, as `args.overrides`."""
    parser.add_argument(
        "--set", metavar="KEY=VALUE", action="append", default=[], dest="overrides",
        help="override a recipe key, as in --set train.epochs=2",
    )  # fmt: skip


def add_columns(parser: argparse._ActionsContainer, *fields: str) -> None:
    """Columns of a file that have other names, as `args.column`."""
    parser.add_argument(
        "--column", metavar="FIELD=COLUMN", action="append", default=[],
        help=f"a column with another name, as question=problem; of {', '.join(fields)}",
    )  # fmt: skip


def columns_of(given: Sequence[str], *fields: str) -> dict[str, str]:
    """The column of each field that `--column` names. Raises TennerError for what is no such option."""
    found: dict[str, str] = {}
    for text in given:
        field, _, column = (part.strip() for part in text.partition("="))
        if not field or not column:
            raise TennerError(f"--column {text} names no column", hint="write --column question=problem")
        if field not in fields:
            raise TennerError(f"--column {text}: there is no field {field}", hint=did_you_mean(field, fields))
        if field in found:
            raise TennerError(f"--column names {field} twice", hint="name it once")
        found[field] = column
    return found


def add_budget(parser: argparse.ArgumentParser) -> None:
    """The cap."""
    parser.add_argument("--budget-usd", metavar="X", type=float, help="the cap of the run, instead of the recipe's")


def student_options(args: argparse.Namespace) -> "StudentOptions":
    """What the options of `add_student` say."""
    from tenner.stages.resolve_student import StudentOptions

    return StudentOptions(
        format=args.format,
        chat_template=args.chat_template,
        chat_template_kwargs=json_object("--chat-template-kwargs", args.chat_template_kwargs),
        name=getattr(args, "name", None),
        thinking_tokens_max=args.thinking,
        answer_tokens_max=args.answer,
        early_exit=early_exit(args),
        grace=grace(args),
        price_usd_per_hour=args.price_usd_per_hour,
        device=args.device or "auto",
        precision=args.precision or "auto",
    )
