"""`tenner measure MODEL|RUN|FILE.toml`: its options, and what they ask for."""

import argparse
from pathlib import Path

from tenner.commands import options
from tenner.core.errors import TennerError


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
    verb.add_argument("--task", metavar="NAME", help="AIME24, AIME25, AMC23, MATH500, GSM8K or GPQA Diamond")
    verb.add_argument("--data", metavar="FILE", type=Path, help="its questions, or those of a task of your own")
    verb.add_argument("--questions", metavar="N", type=int, help="so many of them, by seeded hash (default: all)")
    verb.add_argument("--run-dir", metavar="DIR", type=Path, help="where it goes (default: runs/NAME-TASK)")
    verb.add_argument("--format", metavar="NAME", help="how a model thinks: s1, think or plain (a run knows)")
    verb.add_argument("--thinking", metavar="N,…", help="the most tokens it may think; several are a sweep")
    verb.add_argument("--waits", metavar="N,…", help="how often it must think on, at the largest of these")
    verb.add_argument("--answer", metavar="N", type=int, help="the most tokens of an answer")
    verb.add_argument("--samples", metavar="K", type=int, help="answers to each question (default: 1)")
    verb.add_argument("--temperature", metavar="X", type=float, help="default: 0, the most likely tokens")
    verb.add_argument("--top-p", metavar="X", type=float, help="draw from so much of the probability (default: 1)")
    verb.add_argument("--seed", metavar="N", type=int, help="of draws and of --questions (default: 0)")
    verb.add_argument("--engine", choices=("hf", "vllm", "api"), help="default: hf, the embedded one")
    verb.add_argument("--base-url", metavar="URL", help="of engine api: a server of /v1/completions with the model")
    verb.add_argument("--served-model", metavar="NAME", help="of engine api: the model's name on the server")
    verb.add_argument("--api-key-env", metavar="NAME", help="of engine api: the variable that holds its key")
    verb.add_argument("--context-tokens", metavar="N", type=int, help="of engine api: the server's context length")
    verb.add_argument("--speaks", choices=("ids", "text"), help="of engine api: token ids (default) or text")
    verb.add_argument("--rows", metavar="N", type=int, help="completions decoded side by side (default: 64)")
    verb.add_argument("--price-usd-per-hour", metavar="X", type=float, help="of this machine (a run knows)")


def main(args: argparse.Namespace) -> None:
    """Measure, and print what it came to."""
    from tenner import api, measurement
    from tenner.commands import show

    wanted = measurement.MeasureOptions(
        task=args.task,
        data=args.data,
        questions=args.questions,
        format=args.format,
        thinking_tokens_max=_numbers("--thinking", args.thinking),
        waits=_numbers("--waits", args.waits),
        answer_tokens_max=args.answer,
        samples=args.samples,
        temperature=args.temperature,
        top_p=args.top_p,
        seed=args.seed,
        engine=args.engine,
        rows=args.rows,
        base_url=args.base_url,
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
    print(show.as_json(done.path) if args.json else show.summary(done.path))


def _numbers(option: str, text: str | None) -> list[int] | None:
    """ "0,256" as numbers. Raises TennerError for anything else."""
    if text is None:
        return None
    try:
        return [int(number) for number in text.split(",")]
    except ValueError:
        raise TennerError(f"{option} {text} is no list of numbers", hint=f"write {option} 0,256,512") from None
