"""`tenner trace QUESTIONS.jsonl`: its options, and the job that they describe."""

import argparse
import os
from pathlib import Path
from typing import Any

from tenner.commands import options, stage
from tenner.core.errors import TennerError
from tenner.core.sections import PriceSection, TraceSection
from tenner.core.terminal import say
from tenner.core.toml_text import named_value

FIELDS = {
    "--preset": "preset",
    "--model": "model",
    "--base-url": "base_url",
    "--api-key-env": "api_key_env",
    "--system-prompt": "system_prompt",
    "--suffix": "suffix",
    "--max-output-tokens": "output_tokens_max",
    "--limit-parameter": "limit_parameter",
    "--longer-output-tokens": "longer_output_tokens_max",
    "--samples": "samples_per_question",
    "--keep": "keep",
    "--concurrency": "concurrency",
    "--requests-per-minute": "requests_per_minute",
    "--tokens-per-minute": "tokens_per_minute",
    "--attempts": "attempts_max",
    "--deadline-seconds": "deadline_seconds",
    "--batch": "batch",
    "--replay-from": "replay_from",
}
"""The options that are fields of `sections.TraceSection`."""
COLUMNS = ("id", "question", "answer", "kind", "domain")
"""What is read of a file of questions."""


def add_options(verb: argparse.ArgumentParser) -> None:
    """The options; all but the cap are for a file of questions."""
    options.add_budget(verb)
    verb.description = "Buy reasoning traces: for the selected questions of a run, or for a file of questions."
    verb.add_argument("run", metavar="RUN|QUESTIONS", type=Path, help="a run, or a .jsonl, .csv or .parquet file")
    file = verb.add_argument_group(
        "for a file of questions",
        "each line or row has id, question and, where known, answer, kind and domain",
    )
    options.add_columns(file, *COLUMNS)
    file.add_argument("--out", metavar="DIR", type=Path, help="where traces.jsonl and the store go")
    options.add_field(file, "--client", TraceSection, "client", choices=("openai", "gemini", "replay"))
    for option, field in FIELDS.items():
        options.add_field(file, option, TraceSection, field)
    options.add_field(file, "--price-in", PriceSection, "input_usd_per_mtok")
    options.add_field(file, "--price-out", PriceSection, "output_usd_per_mtok")
    options.add_field(file, "--batch-multiplier", PriceSection, "batch_multiplier")
    file.add_argument("--parameter", metavar="KEY=VALUE", action="append", default=[], help="as temperature=0.6")


def main(args: argparse.Namespace) -> None:
    """Buy traces: for a run as its recipe says, or for a file of questions, and print what they came to."""
    if os.path.isdir(args.run):
        _refuse_file_options(args)
        stage.main(args)
        return
    from tenner import tracing
    from tenner.clients import failed_calls
    from tenner.core.run_folder import RunFolder

    section = _section(args)
    columns = options.columns_of(args.column, *COLUMNS)
    job = tracing.describe(section, budget_usd=args.budget_usd)
    say(tracing.run(args.run, args.out, job, columns=columns).as_text())
    failed_calls.check(RunFolder(args.out))


def _refuse_file_options(args: argparse.Namespace) -> None:
    """A run is traced as its recipe says: an option for a file of questions would have no effect."""
    parser = argparse.ArgumentParser()
    add_options(parser)
    usual = vars(parser.parse_args([str(args.run)]))
    given = [
        name for name, value in usual.items() if getattr(args, name) != value and name not in ("run", "budget_usd")
    ]
    if given:
        raise TennerError(
            f"--{given[0].replace('_', '-')} has no effect on a run: {args.run} is traced as its recipe says",
            hint=f"tenner fork {args.run} --set trace.KEY=VALUE makes another run of it, or trace a file of questions",
        )


def _section(args: argparse.Namespace) -> dict[str, Any]:
    """The section `trace` that the options describe. Raises TennerError where one is missing or alone."""
    if args.out is None:
        raise TennerError("--out is missing", hint="name the folder that traces.jsonl shall go to")
    if args.budget_usd is None:
        raise TennerError("--budget-usd is missing", hint="say what it may cost: nothing is bought without a cap")
    if (args.price_in is None) != (args.price_out is None):
        raise TennerError("--price-in and --price-out belong together")
    if args.batch_multiplier is not None and args.price_in is None:
        raise TennerError("--batch-multiplier goes with --price-in and --price-out")
    if args.replay_from is not None and args.client not in (None, "replay"):
        raise TennerError(
            f"--replay-from has no effect with --client {args.client}", hint="leave --client out, or give replay"
        )
    section: dict[str, Any] = {"client": args.client or ("replay" if args.replay_from else "openai")}
    for option, field in FIELDS.items():
        if (value := getattr(args, option.removeprefix("--").replace("-", "_"))) is not None:
            section[field] = value
    if args.parameter:
        section["parameters"] = dict(map(_parameter, args.parameter))
    if args.price_in is not None:
        section["price"] = {"input_usd_per_mtok": args.price_in, "output_usd_per_mtok": args.price_out}
        if args.batch_multiplier is not None:
            section["price"]["batch_multiplier"] = args.batch_multiplier
    return section


def _parameter(text: str) -> tuple[str, object]:
    return named_value("--parameter", text, example="temperature=0.6")
