"""`tenner fork RUN --set KEY=VALUE`: another run that takes over from this one all that the change leaves as it is."""

import argparse
import sys
from pathlib import Path

from tenner.commands import options
from tenner.core.terminal import say


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of the verb."""
    parser.add_argument("run", metavar="RUN", type=Path, help="a run's folder; it is not changed")
    parser.add_argument("--recipe", metavar="FILE", help="an edited recipe, instead of the run's own")
    parser.add_argument("--run-dir", metavar="DIR", type=Path, help="the new run's folder (default: RUN-2, RUN-3, …)")
    options.add_overrides(parser)


def main(args: argparse.Namespace) -> None:
    """Make the folder, say what it takes over, and print its path."""
    from tenner import pipeline
    from tenner.core import recipe as recipes
    from tenner.core.fork import fork
    from tenner.core.run_folder import RunFolder
    from tenner.stages import resolve_student

    RunFolder.existing(args.run)
    recipe = recipes.load(args.recipe or str(args.run / "recipe.toml"), overrides=args.overrides)
    pipeline.check(recipe)
    done = fork(args.run, resolve_student.with_format(recipe), args.run_dir or _free(args.run))
    kept, redone = (", ".join(stages) or "nothing" for stages in (done.kept, done.redone))
    say(f"taken over: {kept}, with ${done.spent_usd:.4f} that was spent; what was bought is not bought again",
          file=sys.stderr)  # fmt: skip
    say(f"still to do: {redone}: tenner run {done.path}", file=sys.stderr)
    say(str(done.path))


def _free(run: Path) -> Path:
    """The first of RUN-2, RUN-3, … that is not there."""
    number = 2
    while (path := run.with_name(f"{run.name}-{number}")).exists():
        number += 1
    return path
