"""`tenner measure MODEL|RUN|FILE.toml`: its options, and what they ask for."""

import argparse
from pathlib import Path

from tenner.commands import options
from tenner.core.recipe import Experiment
from tenner.core.sections import Benchmark, Draws, Endpoint, Evaluate, Machine
from tenner.core.terminal import say, write_rendered
from tenner.evaluation.benchmarks import TASKS

COLUMNS = ("id", "question", "answer", "domain")
"""What is read of a file of questions."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of the verb."""
    parser.add_argument(
        "who", metavar="MODEL|RUN|FILE.toml",
        help="a run's folder, a model's, hf:org/name, wheel:…, or a file that describes a measurement",
    )  # fmt: skip
    _add_own(parser)
    options.add_device(parser)
    options.add_precision(parser)
    options.add_overrides(parser)
    options.add_budget(parser)
    parser.add_argument("--json", action="store_true", help="one JSON object")


def _add_own(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--task", metavar="NAME", help=f"a known benchmark: {', '.join(TASKS)}")
    verb.add_argument("--data", metavar="FILE", type=Path, help="its questions, or those of a benchmark of your own")
    options.add_columns(verb, *COLUMNS)
    options.add_field(verb, "--questions", Benchmark, "sample", default="all")
    verb.add_argument("--run-dir", metavar="DIR", type=Path, help="where it goes (default: runs/NAME-TASK)")
    options.add_chat(verb)
    options.add_field(verb, "--thinking", Evaluate, "thinking_tokens_max", metavar="N,…")
    options.add_field(verb, "--thinking-min", Evaluate, "thinking_tokens_min")
    options.add_field(verb, "--waits", Evaluate, "waits", metavar="N,…")
    options.add_early_stops(verb)
    options.add_field(verb, "--answer", Evaluate, "answer_tokens_max")
    options.add_field(verb, "--samples", Evaluate, "samples")
    options.add_field(verb, "--temperature", Draws, "temperature")
    options.add_field(verb, "--top-p", Draws, "top_p")
    options.add_field(verb, "--seed", Experiment, "seed", default="0")
    options.add_field(verb, "--engine", Evaluate, "engine")
    options.add_field(verb, "--rows", Evaluate, "rows")
    options.add_field(verb, "--price-usd-per-hour", Machine, "price_usd_per_hour", default="the run's")
    server = verb.add_argument_group("for engine api")
    options.add_field(server, "--base-url", Endpoint, "base_url", metavar="URL,…")
    options.add_field(server, "--served-model", Endpoint, "model")
    options.add_field(server, "--api-key-env", Endpoint, "api_key_env")
    options.add_field(server, "--context-tokens", Endpoint, "context_tokens")
    options.add_field(server, "--speaks", Endpoint, "speaks")


def main(args: argparse.Namespace) -> None:
    """Measure, and print what it came to."""
    from tenner import api, measurement
    from tenner.clients import failed_calls
    from tenner.commands import show
    from tenner.core.run_folder import RunFolder

    wanted = measurement.MeasureOptions(
        task=args.task,
        data=args.data,
        columns=options.columns_of(args.column, *COLUMNS),
        questions=args.questions,
        format=args.format,
        chat_template=args.chat_template,
        chat_template_kwargs=options.json_object("--chat-template-kwargs", args.chat_template_kwargs),
        thinking_tokens_max=options.numbers("--thinking", args.thinking),
        thinking_tokens_min=args.thinking_min,
        waits=options.numbers("--waits", args.waits),
        early_exit=options.early_exit(args),
        grace=options.grace(args),
        answer_tokens_max=args.answer,
        samples=args.samples,
        temperature=args.temperature,
        top_p=args.top_p,
        seed=args.seed,
        engine=args.engine,
        rows=args.rows,
        base_urls=None if args.base_url is None else args.base_url.split(","),
        served_model=args.served_model,
        api_key_env=args.api_key_env,
        context_tokens=args.context_tokens,
        speaks=args.speaks,
        device=args.device,
        precision=args.precision,
        price_usd_per_hour=args.price_usd_per_hour,
        budget_usd=args.budget_usd,
    )
    done = api.measure(args.who, wanted, run_dir=args.run_dir, overrides=args.overrides)
    if args.json:
        say(show.as_json(done.path))
    else:
        write_rendered(show.summary(done.path))
    failed_calls.check(RunFolder(done.path))
