"""The door: parse, call one verb, print."""

import argparse
import math
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from tenner import __version__
from tenner.commands import measure as measure_command
from tenner.commands import trace as trace_command
from tenner.core.errors import TennerError
from tenner.core.stage_names import COMPUTED, SELECT_FIRST

if TYPE_CHECKING:
    from tenner.core.recipe import Recipe
    from tenner.core.sections import Device
    from tenner.stages.resolve_student import StudentOptions

INTERRUPTED = 130


def main(argv: list[str] | None = None) -> NoReturn:
    """Run the command line and exit: 0, or by the error (see `errors.py`), or 130 for Ctrl-C."""
    args = _parser().parse_args(argv)
    try:
        args.verb(args)
        sys.stdout.flush()
    except TennerError as e:
        print(f"tenner: {e}", file=sys.stderr)
        if e.hint:
            print(f"hint: {e.hint}", file=sys.stderr)
        sys.exit(e.exit_code)
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C shall not garble the goodbye
        print("tenner: interrupted; the same command goes on from here", file=sys.stderr)
        sys.exit(INTERRUPTED)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader has left, and that is fine
    sys.exit(0)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tenner",
        description="Make a reasoning model on a budget: s1 for a tenner.",
        epilog="Progress goes to stderr, data to stdout. Exit codes: 2 unusable input, 3 cap reached, "
        "4 some calls failed, 75 the machine was taken away, 130 interrupted.",
    )
    parser.add_argument("--version", action="version", version=f"tenner {__version__}")
    verbs = parser.add_subparsers(metavar="VERB", required=True)

    run = verbs.add_parser("run", help="run a recipe to the end, or go on with it")
    run.add_argument("recipe", metavar="RECIPE", help="a built-in recipe (see `tenner recipes`) or a .toml file")
    run.add_argument("--run-dir", metavar="DIR", type=Path, help="the run's folder (default: runs/NAME)")
    _overrides(run)
    _budget(run)
    _device(run)
    run.set_defaults(verb=_run)

    for stage in SELECT_FIRST:
        verb = verbs.add_parser(stage, help=f"do the stage `{stage}` of a run")
        if stage == "trace":
            trace_command.add_options(verb)
            _budget(verb)
            verb.set_defaults(verb=_trace)
            continue
        verb.add_argument("run", metavar="RUN", type=Path, help="a run's folder")
        _budget(verb)
        if stage in COMPUTED:
            _device(verb)
        if stage == "train":
            verb.add_argument("--dry-run", action="store_true", help="only say how much memory it will take")
        verb.set_defaults(verb=_stage, stage=stage)

    plan = verbs.add_parser("plan", help="how much memory a recipe's training takes, and whether it fits")
    plan.add_argument("recipe", metavar="RECIPE", help="a built-in recipe or a .toml file")
    _overrides(plan)
    plan.add_argument("--config", metavar="FILE", type=Path, help="the student's config.json (a local folder has it)")
    plan.add_argument("--ranks", metavar="N", type=int, default=1, help="processes, one to a device (default: 1)")
    plan.add_argument("--memory-gb", metavar="X", type=float, help="of each device; without it there is no verdict")
    plan.add_argument("--cpu", action="store_true", help="trained on a CPU instead of GPUs")
    plan.add_argument("--json", action="store_true", help="one JSON object")
    plan.set_defaults(verb=_plan)

    show = verbs.add_parser("show", help="what a run has come to")
    show.add_argument("run", metavar="RUN", type=Path, help="a run's folder")
    show.add_argument("--json", action="store_true", help="one JSON object")
    show.add_argument("--why", metavar="ID", help="why a question is trained on, or at which step it fell")
    show.add_argument("--sample", metavar="ID", help="one training sample, marked by what is trained on")
    show.set_defaults(verb=_show)

    recipes = verbs.add_parser("recipes", help="the recipes that come with tenner")
    recipes.add_argument("--json", action="store_true", help="one JSON object")
    recipes.set_defaults(verb=_recipes)

    overlap = verbs.add_parser("overlap", help="find the questions of a benchmark in a file of questions")
    overlap.add_argument("questions", metavar="QUESTIONS.jsonl", type=Path, help="lines with a question, or a problem")
    overlap.add_argument(
        "--against", metavar="BENCHMARK.jsonl", type=Path, action="append", required=True,
        help="lines of the same kind; may be given more than once",
    )  # fmt: skip
    overlap.add_argument("--ngram-words", metavar="N", type=int, help="shared words in a row that count (default: 8)")
    overlap.add_argument("--json", action="store_true", help="one JSON object")
    overlap.set_defaults(verb=_overlap)

    grade = verbs.add_parser("grade", help="grade responses against reference answers")
    grade.add_argument(
        "file", metavar="FILE.jsonl|RUN", type=Path,
        help="rows with id, response, answer and maybe kind; or a run's folder: its answers again",
    )  # fmt: skip
    grade.add_argument("--json", action="store_true", help="one JSON object a row")
    grade.set_defaults(verb=_grade)

    compare = verbs.add_parser("compare", help="whether two runs differ on the questions that both have answered")
    compare.add_argument("run_a", metavar="RUN_A", type=Path, help="a run's folder")
    compare.add_argument("run_b", metavar="RUN_B", type=Path, help="another's")
    compare.add_argument(
        "--student", metavar="NAME", action="append", default=[],
        help="distilled, base, or a model by name; twice: in A and in B (default: distilled, or the only one)",
    )  # fmt: skip
    compare.add_argument(
        "--policy", metavar="LIMIT[+WAITS]",
        help="64, or 64+1 for one wait at it, or none for no limit (default: each run's largest limit)",
    )  # fmt: skip
    compare.add_argument("--json", action="store_true", help="one JSON object")
    compare.set_defaults(verb=_compare)

    measure = verbs.add_parser("measure", help="ask a benchmark of a model as it is, or of a run's student")
    measure.add_argument(
        "who", metavar="MODEL|RUN|FILE.toml",
        help="a run's folder, a model's, hf:org/name, wheel:…, or a file that describes a measurement",
    )  # fmt: skip
    measure_command.add_options(measure)
    _device(measure)
    _precision(measure)
    _overrides(measure)
    _budget(measure)
    measure.add_argument("--json", action="store_true", help="one JSON object")
    measure.set_defaults(verb=_measure)

    export = verbs.add_parser("export", help="a run's answers in the form of another tool")
    export.add_argument("run", metavar="RUN", type=Path, help="a run's folder")
    export.add_argument("--format", choices=("lm-eval",), required=True, help="lm-eval: its log of samples")
    export.add_argument("--out", metavar="DIR", type=Path, required=True, help="where the files go")
    export.set_defaults(verb=_export)

    serve = verbs.add_parser("serve", help="put a student behind OpenAI's chat completions, with a page to talk to it")
    _student(serve)
    serve.add_argument("--host", metavar="HOST", default="127.0.0.1", help="default: 127.0.0.1, this machine only")
    serve.add_argument("--port", metavar="N", type=int, default=8000, help="0: any that is free (default: 8000)")
    serve.add_argument("--api-key-env", metavar="VAR", help="the environment variable that holds the key for clients")
    serve.add_argument("--name", metavar="NAME", help="what clients call the model (default: the recipe's or folder's)")
    serve.add_argument(
        "--concurrency-max", metavar="N", type=int, default=64, help="answers under way at once (default: 64)"
    )
    serve.add_argument(
        "--request-bytes-max", metavar="N", type=int, default=1 << 20, help="the largest body (default: 1 MiB)"
    )
    serve.set_defaults(verb=_serve)

    chat = verbs.add_parser("chat", help="talk to a student; to that of a run each line is a question of its own")
    _student(chat)
    chat.add_argument("--waits", metavar="N", type=int, default=0, help="how often it must think on (default: 0)")
    chat.set_defaults(verb=_chat)
    return parser


def _student(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("student", metavar="RUN_OR_MODEL", help="a run's folder, a model's, hf:org/name, or wheel:…")
    parser.add_argument("--format", metavar="NAME", help="how it thinks: s1, think or plain (a run knows)")
    parser.add_argument("--engine", choices=("hf", "vllm"), help="default: vllm where it is installed")
    parser.add_argument("--thinking", metavar="N", type=int, help="the most tokens it thinks where nobody says more")
    parser.add_argument("--answer", metavar="N", type=int, help="the most tokens of an answer, likewise")
    parser.add_argument("--price-usd-per-hour", metavar="X", type=float, help="of this machine (a run knows)")
    _device(parser)
    _precision(parser)


def _device(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--device", choices=("auto", "cpu", "cuda", "mps"), help="default: CUDA, else Apple's MPS, else the CPU"
    )


def _precision(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--precision", choices=("auto", "bf16", "fp32"), help="default: bf16 where it is native, else fp32"
    )


def _overrides(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--set", metavar="KEY=VALUE", action="append", default=[], dest="overrides",
        help="override a recipe key, as in --set train.epochs=2",
    )  # fmt: skip


def _budget(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--budget-usd", metavar="X", type=float, help="the cap of the run, instead of the recipe's")


# Each verb imports what it needs: `tenner --help` shall not wait for a library.


def _run(args: argparse.Namespace) -> None:
    from tenner.core import recipe as recipes

    overrides = args.overrides + ([f"machine.device={args.device}"] if args.device else [])
    recipe = recipes.load(args.recipe, overrides=overrides)
    _go(args.run_dir or Path("runs") / recipe.name, recipe, SELECT_FIRST, args.budget_usd)


def _plan(args: argparse.Namespace) -> None:
    from tenner.core import recipe as recipes
    from tenner.training import plan as planjob

    machine = planjob.Machine(args.ranks, on_gpu=not args.cpu, memory_gb=args.memory_gb)
    plan = planjob.run(recipes.load(args.recipe, overrides=args.overrides), args.config, machine)
    print(plan.as_json() if args.json else plan.as_text())


def _stage(args: argparse.Namespace) -> None:
    if args.stage == "train" and args.dry_run:
        from tenner.stages import training

        if os.environ.get("RANK", "0") == "0":
            print(training.foresee(args.run, device=args.device).as_text())
        return
    if args.stage == "train" and os.environ.get("RANK", "0") != "0":  # one of torchrun's: the first keeps the run
        from tenner.stages import training

        training.follow(args.run)
        return
    _go(args.run, None, (args.stage,), args.budget_usd, getattr(args, "device", None))


def _go(
    path: Path, recipe: "Recipe | None", stages: tuple[str, ...], budget_usd: float | None,
    device: "Device | None" = None,
) -> None:  # fmt: skip
    from tenner import pipeline
    from tenner.commands import show
    from tenner.core.progress import Screen
    from tenner.core.run import open_run

    _check_budget(budget_usd)
    if recipe:
        pipeline.check(recipe)
    screen = Screen()
    with open_run(path, recipe, screen, budget_usd=budget_usd, device=device) as run:
        pipeline.run_stages(run, stages)
    if stages == SELECT_FIRST:
        print(show.summary(path))


def _check_budget(budget_usd: float | None) -> None:
    if budget_usd is not None and not 0 <= budget_usd < math.inf:
        raise TennerError(f"--budget-usd {budget_usd:g} is no amount of dollars", hint="give a number from 0 on")


def _trace(args: argparse.Namespace) -> None:
    if args.run.is_dir():
        trace_command.refuse_file_options(args)
        args.stage = "trace"
        _stage(args)
        return
    trace_command.run(args)


def _show(args: argparse.Namespace) -> None:
    from tenner.commands import show

    if args.sample and args.why:
        raise TennerError("--sample and --why are two questions", hint="ask one of them at a time")
    if args.sample:
        show.print_sample(args.run, args.sample, as_json=args.json)
    elif args.why:
        print(show.why(args.run, args.why, as_json=args.json))
    else:
        print(show.as_json(args.run) if args.json else show.summary(args.run))


def _overlap(args: argparse.Namespace) -> None:
    from tenner.commands import overlap as overlapjob

    print(overlapjob.run(args.questions, args.against, ngram_words=args.ngram_words, as_json=args.json))


def _grade(args: argparse.Namespace) -> None:
    from tenner.commands import grade as gradejob

    graded = gradejob.run(args.file)
    if args.json:
        for id_, grade in graded:
            print(gradejob.as_json(id_, grade))
    else:
        print(gradejob.as_text(list(graded)))


def _compare(args: argparse.Namespace) -> None:
    from tenner.commands import compare as comparejob

    print(comparejob.run(args.run_a, args.run_b, students=args.student, policy=args.policy, as_json=args.json))


def _measure(args: argparse.Namespace) -> None:
    _check_budget(args.budget_usd)
    measure_command.run(args)


def _export(args: argparse.Namespace) -> None:
    from tenner.commands import export as exportjob

    print(exportjob.run(args.run, args.out))


def _recipes(args: argparse.Namespace) -> None:
    from tenner.commands import show

    print(show.recipes(as_json=args.json))


def _wishes(args: argparse.Namespace) -> "StudentOptions":
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


def _serve(args: argparse.Namespace) -> None:
    from tenner.commands import serve as servejob

    ended_by = servejob.run(
        args.student, _wishes(args), host=args.host, port=args.port, api_key_env=args.api_key_env,
        concurrency_max=args.concurrency_max, request_bytes_max=args.request_bytes_max,
        engine_name=args.engine,
    )  # fmt: skip
    sys.exit(INTERRUPTED if ended_by == signal.SIGINT else 0)


def _chat(args: argparse.Namespace) -> None:
    from tenner.commands import chat

    if args.waits < 0:
        raise TennerError(f"--waits {args.waits} is negative")
    chat.talk(args.student, _wishes(args), waits=args.waits, engine_name=args.engine)
