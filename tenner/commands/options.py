"""Options that several verbs have."""

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tenner.stages.resolve_student import StudentOptions


def add_student(parser: argparse.ArgumentParser) -> None:
    """A student that answers, and how."""
    parser.add_argument("student", metavar="RUN_OR_MODEL", help="a run's folder, a model's, hf:org/name, or wheel:…")
    parser.add_argument("--format", metavar="NAME", help="how it thinks: s1, think or plain (a run knows)")
    parser.add_argument("--engine", choices=("hf", "vllm"), help="default: vllm where it is installed")
    parser.add_argument("--thinking", metavar="N", type=int, help="the most tokens it thinks where nobody says more")
    parser.add_argument("--answer", metavar="N", type=int, help="the most tokens of an answer, likewise")
    parser.add_argument("--price-usd-per-hour", metavar="X", type=float, help="of this machine (a run knows)")
    add_device(parser)
    add_precision(parser)


def add_device(parser: argparse.ArgumentParser) -> None:
    """What is computed on."""
    parser.add_argument(
        "--device", choices=("auto", "cpu", "cuda", "mps"), help="default: CUDA, else Apple's MPS, else the CPU"
    )


def add_precision(parser: argparse.ArgumentParser) -> None:
    """What weights and products are computed in."""
    parser.add_argument(
        "--precision", choices=("auto", "bf16", "fp32"), help="default: bf16 where it is native, else fp32"
    )


def add_overrides(parser: argparse.ArgumentParser) -> None:
    """Changes of a recipe, as `args.overrides`."""
    parser.add_argument(
        "--set", metavar="KEY=VALUE", action="append", default=[], dest="overrides",
        help="override a recipe key, as in --set train.epochs=2",
    )  # fmt: skip


def add_budget(parser: argparse.ArgumentParser) -> None:
    """The cap."""
    parser.add_argument("--budget-usd", metavar="X", type=float, help="the cap of the run, instead of the recipe's")


def student_options(args: argparse.Namespace) -> "StudentOptions":
    """What the options of `add_student` say."""
    from tenner.stages.resolve_student import StudentOptions

    return StudentOptions(
        format=args.format,
        name=getattr(args, "name", None),
        thinking_tokens_max=args.thinking,
        answer_tokens_max=args.answer,
        price_usd_per_hour=args.price_usd_per_hour,
        device=args.device or "auto",
        precision=args.precision or "auto",
    )
