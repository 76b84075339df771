"""`tenner trace QUESTIONS.jsonl`: its options, and the job that they describe."""

import argparse
import tomllib
from pathlib import Path
from typing import Any

from tenner.commands import options, stage
from tenner.core.errors import TennerError


def add_options(verb: argparse.ArgumentParser) -> None:
    """The options; all but the cap are for a file of questions."""
    options.add_budget(verb)
    verb.description = "Buy reasoning traces: for the selected questions of a run, or for a file of questions."
    verb.add_argument("run", metavar="RUN|QUESTIONS.jsonl", type=Path, help="a run's folder, or a file of questions")
    file = verb.add_argument_group(
        "for a file of questions",
        "each line an object with id, question and, where known, answer, kind and domain",
    )
    file.add_argument("--out", metavar="DIR", type=Path, help="where traces.jsonl and the store go")
    file.add_argument(
        "--client", choices=("openai", "gemini", "replay"), help="openai: any server with chat completions"
    )
    file.add_argument("--preset", metavar="NAME", help="a known provider: deepseek, openrouter, qwen, glm, kimi, local")
    file.add_argument("--model", metavar="NAME")
    file.add_argument("--base-url", metavar="URL")
    file.add_argument("--api-key-env", metavar="VAR", help="the environment variable that holds the key")
    file.add_argument("--price-in", metavar="X", type=float, help="dollars per million input tokens")
    file.add_argument("--price-out", metavar="Y", type=float, help="dollars per million output tokens")
    file.add_argument(
        "--batch-multiplier", metavar="Z", type=float, help="what batch mode takes of these prices (0.5: half)"
    )
    file.add_argument("--system-prompt", metavar="TEXT")
    file.add_argument("--suffix", metavar="TEXT", help="put behind every question")
    file.add_argument("--parameter", metavar="KEY=VALUE", action="append", default=[], help="as temperature=0.6")
    file.add_argument("--max-output-tokens", metavar="N", type=int, help="thinking and answer together")
    file.add_argument("--longer-output-tokens", metavar="N", type=int, help="buy what was cut once more, up to N")
    file.add_argument("--samples", metavar="K", type=int, help="responses per question (default: 1)")
    file.add_argument("--keep", choices=("first-correct", "shortest-correct", "all-correct"))
    file.add_argument("--concurrency", metavar="N", type=int, help="calls in flight (default: 8)")
    file.add_argument("--requests-per-minute", metavar="N", type=int)
    file.add_argument("--tokens-per-minute", metavar="N", type=int)
    file.add_argument("--attempts", metavar="N", type=int, help="how often a call is tried (default: 6)")
    file.add_argument("--deadline-seconds", metavar="S", type=float, help="for one attempt (default: 1800)")
    file.add_argument("--batch", action="store_true", default=None, help="by the provider's batch endpoint")
    file.add_argument("--replay-from", metavar="DIR", help="the run whose responses are used again")


def main(args: argparse.Namespace) -> None:
    """Buy traces: for a run as its recipe says, or for a file of questions, and print what they came to."""
    if args.run.is_dir():
        _refuse_file_options(args)
        stage.main(args)
        return
    from tenner import tracing

    section = _section(args)
    print(tracing.run(args.run, args.out, tracing.describe(section, budget_usd=args.budget_usd)).as_text())


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
            hint="change the recipe and give `tenner run` again, or trace a file of questions",
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
    given = {
        "client": args.client or ("replay" if args.replay_from else "openai"),
        "preset": args.preset,
        "model": args.model,
        "base_url": args.base_url,
        "api_key_env": args.api_key_env,
        "system_prompt": args.system_prompt,
        "suffix": args.suffix,
        "parameters": dict(map(_parameter, args.parameter)) or None,
        "output_tokens_max": args.max_output_tokens,
        "longer_output_tokens_max": args.longer_output_tokens,
        "samples_per_question": args.samples,
        "keep": args.keep,
        "concurrency": args.concurrency,
        "requests_per_minute": args.requests_per_minute,
        "tokens_per_minute": args.tokens_per_minute,
        "attempts_max": args.attempts,
        "deadline_seconds": args.deadline_seconds,
        "batch": args.batch,
        "replay_from": args.replay_from,
    }
    section: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    if args.price_in is not None:
        section["price"] = {"input_usd_per_mtok": args.price_in, "output_usd_per_mtok": args.price_out}
        if args.batch_multiplier is not None:
            section["price"]["batch_multiplier"] = args.batch_multiplier
    return section


def _parameter(text: str) -> tuple[str, object]:
    name, equals, value = text.partition("=")
    if not equals or not name.strip():
        raise TennerError(f"--parameter {text} has no '='", hint="write --parameter temperature=0.6")
    try:
        return name.strip(), tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return name.strip(), value
