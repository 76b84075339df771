"""`tenner init QUESTIONS`: a commented recipe for questions of one's own, by flags or by questions on a terminal."""

import argparse
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tenner.commands import options
from tenner.core.disk import disk_errors
from tenner.core.errors import TennerError
from tenner.core.recipe import parse_cap
from tenner.core.sections import PriceSection
from tenner.core.terminal import say
from tenner.stages import first_recipe
from tenner.stages.first_recipe import FirstRecipe, FirstRecipeOptions

ASKED = {
    "file": "your questions, a .jsonl, .csv or .parquet file",
    "teacher": "the teacher: a provider (deepseek, openai, openrouter, qwen, glm, kimi, local) or the URL of a server",
    "teacher_model": "the teacher's model, as the provider calls it",
    "benchmark": "what proves it: a known benchmark (GSM8K, MATH500, …) or a file of questions with answers",
    "budget_usd": "the most that the whole run may cost, in dollars",
}
"""What has no default: the option, and how it is asked on a terminal."""
QUESTION_CHARS_MIN = 30
"""Of a question as it is shown, in however narrow a terminal."""
EXAMPLES = {
    "file": "questions.csv",
    "teacher": "deepseek",
    "teacher_model": "deepseek-flash",
    "benchmark": "GSM8K",
    "budget_usd": "5",
}


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of the verb."""
    parser.description = "Write a commented recipe for questions of your own; what is missing is asked on a terminal."
    parser.add_argument("file", metavar="QUESTIONS", type=Path, nargs="?", help=ASKED["file"])
    parser.add_argument("--out", metavar="FILE", type=Path, help="where the recipe goes (default: NAME.toml)")
    parser.add_argument("--name", metavar="NAME", help="of the run (default: of the file)")
    parser.add_argument("--question", metavar="COLUMN", help="the column of the questions (default: by its name)")
    parser.add_argument("--answer", metavar="COLUMN", help="the column of the answers (default: by its name)")
    parser.add_argument("--id", metavar="COLUMN", help="the column of the ids (default: id, or a hash of the question)")
    parser.add_argument("--teacher", metavar="NAME|URL", help=ASKED["teacher"])
    parser.add_argument("--teacher-model", metavar="NAME", help=ASKED["teacher_model"])
    parser.add_argument("--api-key-env", metavar="VAR", help="the environment variable of its key (default: the usual)")
    options.add_field(parser, "--price-in", PriceSection, "input_usd_per_mtok", default="its known price")
    options.add_field(parser, "--price-out", PriceSection, "output_usd_per_mtok", default="its known price")
    parser.add_argument(
        "--student", metavar="MODEL", help="hf:org/name@revision or a folder (default: the demo's, which needs no hub)"
    )
    parser.add_argument("--license", metavar="NAME", help="of the student, for the model card")
    parser.add_argument("--benchmark", metavar="NAME|FILE", help=ASKED["benchmark"])
    parser.add_argument(
        "--samples",
        metavar="N",
        type=options.up_to(options.COUNT_MAX),
        help="traces to train on (default: 0.8 of the questions)",
    )
    parser.add_argument("--budget-usd", metavar="X", help=ASKED["budget_usd"])


def main(args: argparse.Namespace) -> None:
    """Ask for what is missing, write the recipe, and say what it means and what to do next."""
    wanted = FirstRecipeOptions(**_completed({name: getattr(args, name) for name in FirstRecipeOptions._fields}))
    if args.samples is not None and args.samples < 1:
        raise TennerError(f"--samples {args.samples} is less than 1")
    out = args.out or Path(f"{first_recipe.run_name(wanted)}.toml")
    if os.path.exists(out):
        raise TennerError(f"{out} is there already", hint="choose another --out")
    made = first_recipe.compose(wanted, out)
    with disk_errors(out):
        try:
            out.write_text(made.text, "utf-8")
        except OSError as e:
            raise TennerError(f"{out} cannot be written: {e.strerror}", hint="choose another --out") from e
    _print_summary(made, out)
    say(str(out))


def _completed(given: dict[str, Any]) -> dict[str, Any]:
    """What is given, with what is asked on the terminal. Raises TennerError where something is missing without one."""
    asks = sys.stdin.isatty()
    if asks and given["file"] is None:
        given["file"] = _ask("file")
    if given["file"] is not None:  # a file that is of no use is refused before anything else is asked
        given["file"] = Path(given["file"])
        if asks:
            _ask_columns(given)
        first_recipe.columns_of(given["file"], question=given["question"], answer=given["answer"], id=given["id"])
    missing = [name for name in ASKED if given[name] is None]
    if missing and not asks:
        raise _missing(missing)
    given |= {name: _ask(name) for name in missing}
    given["budget_usd"] = parse_cap(str(given["budget_usd"]))
    return given


def _ask_columns(given: dict[str, Any]) -> None:
    """Ask which columns of the file hold questions and answers, where their names do not tell."""
    there = first_recipe.column_names(given["file"])
    for what, usual in (("question", first_recipe.QUESTION_COLUMNS), ("answer", first_recipe.ANSWER_COLUMNS)):
        if given[what] is not None or not set(usual).isdisjoint(there):
            continue
        may_lack = ", or empty if there are none" if what == "answer" else ""
        asked = f"the column of the {what}s (there are {', '.join(there)}{may_lack}): "
        while (said := _typed(asked, f"--{what}")) not in there and not (may_lack and not said):
            if said:
                say(f"there is no column {said}", file=sys.stderr)
        given[what] = said or None


def _ask(name: str) -> str:
    """An answer on the terminal. Raises TennerError where there is none."""
    while not (said := _typed(f"{ASKED[name]}: ", _option(name))):
        pass
    return said


def _typed(prompt: str, option: str) -> str:
    """A line, possibly empty. Raises TennerError at the end of what is typed."""
    try:
        return input(prompt).strip()
    except EOFError:
        raise TennerError(f"{option} is missing") from None


def _option(name: str) -> str:
    return "QUESTIONS" if name == "file" else f"--{name.replace('_', '-')}"


def _missing(names: Sequence[str]) -> TennerError:
    """All of them in one line, so that nobody is sent back once for each."""
    *others, last = map(_option, names)
    if not others:
        return TennerError(f"{last} is missing", hint=ASKED[names[0]])
    example = (EXAMPLES[name] if name == "file" else f"{_option(name)} {EXAMPLES[name]}" for name in names)
    return TennerError(f"{', '.join(others)} and {last} are missing", hint=f"for example {' '.join(example)}")


def _cut(text: str, chars: int) -> str:
    return text if len(text) <= chars else f"{text[: chars - 1]}…"


def _print_summary(made: FirstRecipe, out: Path) -> None:
    """On standard error: the first questions, the price, the key, and the next commands."""
    lines = [f"{made.questions:,} questions, {made.without_answer:,} of them without an answer; the first ones:"]
    for q in made.shown:
        begin, end = f"  {q.id}: ", f" -> {q.answer or 'no answer, so no verdict on its traces'}"
        room = max(QUESTION_CHARS_MIN, shutil.get_terminal_size().columns - len(begin) - len(end))
        lines.append(f"{begin}{_cut(' '.join(q.question.split()), room)}{end}")
    if made.without_answer == made.questions:
        lines.append(f"if one of the columns {', '.join(made.columns)} holds the answers, name it with --answer")
    lines.append(made.price)
    if made.key is not None:
        is_set = bool(os.environ.get(made.key, "").strip())
        lines.append(f"the key in {made.key} is {'set' if is_set else f'not set: export {made.key}=… before the run'}")
    lines.append(f"next: tenner plan {out}; tenner run {out}")
    for line in lines:
        say(line, file=sys.stderr)
