"""`tenner tune RUN`: choose the cheapest thinking policy that loses no more accuracy than a margin."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from tenner.commands import options
from tenner.core.console import SafeConsole, fitting_table
from tenner.core.terminal import say, write_rendered

if TYPE_CHECKING:
    from tenner.tuning import Tuned

LEFT_OUT = ("95 % interval", "n")
"""Columns of the report's table for which a terminal has no room: the interval of the difference decides."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of the verb."""
    from tenner.tuning import TuneOptions

    usual = TuneOptions()
    parser.add_argument("run", metavar="RUN", type=Path, help="a run's folder, whose student is trained")
    parser.add_argument(
        "--questions", metavar="N", type=options.up_to(options.COUNT_MAX), default=usual.questions,
        help="held-out questions that every policy answers (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--margin", metavar="POINTS", type=options.up_to(100.0), default=usual.margin_points,
        help="accuracy that may be lost at most, with 97.5 %% confidence (default: %(default)s)",
    )  # fmt: skip
    tried = parser.add_argument_group("what is tried (default: smaller budgets, early exit and grace at the full one)")
    tried.add_argument("--thinking", metavar="N,…", help="smaller budgets")
    tried.add_argument("--early-exit", metavar="JSON", action="append", help="a rule at the full budget; repeatable")
    tried.add_argument("--grace", metavar="JSON", action="append", help="a soft end at the full budget; repeatable")
    options.add_budget(parser)
    options.add_device(parser)
    parser.add_argument("--json", action="store_true", help="one JSON object")


def main(args: argparse.Namespace) -> None:
    """Tune, and print accuracy against tokens."""
    from tenner import api
    from tenner.tuning import TuneOptions

    done = api.tune(
        args.run,
        TuneOptions(
            questions=args.questions,
            margin_points=args.margin,
            thinking_tokens_max=options.numbers("--thinking", args.thinking),
            early_exit=options.json_objects("--early-exit", args.early_exit, example='{"every_tokens": 8}'),
            grace=options.json_objects("--grace", args.grace, example='{"tokens": 32}'),
            budget_usd=args.budget_usd,
            device=args.device,
        ),
    )
    if args.json:
        say(as_json(done))
    else:
        write_rendered(as_text(done))


def as_json(done: "Tuned") -> str:
    """The chosen policy with its test, and every policy that was tried."""
    tried = [
        {
            "policy": c.policy.model_dump(),
            "n": c.n,
            "accuracy": c.accuracy,
            "ci": list(c.ci),
            "tokens_mean": c.tokens,
            "difference": c.difference.mean,
            "difference_ci": list(c.difference.ci),
            "p_value": c.difference.p_value,
            "is_no_worse": c.is_no_worse,
        }
        for c in done.candidates
    ]
    return json.dumps({"file": str(done.file), "chosen": done.chosen.model_dump(), "policies": tried})


def as_text(done: "Tuned") -> str:
    """A table of accuracy against tokens, and the choice in a sentence."""
    from tenner.evaluation.report import policy_table

    shown = policy_table.table(done.candidates, done.chosen)
    console = SafeConsole(width=min(SafeConsole().width, 100), highlight=False)
    with console.capture() as captured:
        columns = {
            name: [row[place] for row in shown.rows] for place, name in enumerate(shown.header) if name not in LEFT_OUT
        }
        console.print(fitting_table(columns, width=console.width, left=shown.header[:1]))
        console.print(f"\n{done.chosen.sentence}", soft_wrap=True)
        console.print(str(done.file), soft_wrap=True)
    return captured.get().rstrip()
