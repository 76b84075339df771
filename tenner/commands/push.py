"""`tenner push RUN`: its student, report and traces on the Hugging Face hub."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from tenner.core.errors import TennerError
from tenner.core.terminal import say
from tenner.publish.contents import Contents

KB = 1_000


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of the verb."""
    parser.add_argument("run", metavar="RUN", type=Path, help="a finished run's folder")
    parser.add_argument("--model", metavar="ORG/NAME", required=True, help="the repository of student and report")
    parser.add_argument("--dataset", metavar="ORG/NAME", help="that of the traces (default: they are not uploaded)")
    visible = parser.add_mutually_exclusive_group()
    visible.add_argument("--private", action="store_true", help="only you and your organization see it (default)")
    visible.add_argument("--public", action="store_true", help="everybody sees it")
    parser.add_argument(
        "--include", metavar="SOURCE", action="append", default=[],
        help="publish the questions of a source or benchmark whose licence does not say that one may; you know better",
    )  # fmt: skip
    parser.add_argument("--yes", action="store_true", help="do not ask before the upload")
    parser.add_argument("--dry-run", action="store_true", help="show what would be uploaded, and end")
    parser.add_argument("--json", action="store_true", help="one JSON object")


def main(args: argparse.Namespace) -> None:
    """Show what goes where, ask, and upload; print the addresses."""
    from tenner.publish import contents, hub

    hub.check_repository(args.model, "--model")
    if args.dataset is not None:
        hub.check_repository(args.dataset, "--dataset")
        if args.dataset == args.model:
            raise TennerError("--model and --dataset are the same name", hint="give the dataset a name of its own")
    key = "" if args.dry_run else hub.token()
    folder, recipe = contents.finished_run(args.run)
    contents.check_include(folder, args.include)
    planned: dict[hub.Kind, tuple[str, Contents]] = {
        "model": (args.model, contents.model_contents(folder, recipe, args.model, args.include))
    }
    if args.dataset is not None:
        planned["dataset"] = args.dataset, contents.dataset_contents(folder, recipe, args.include)
    if args.json and args.dry_run:
        say(json.dumps({kind: _facts(*what) for kind, what in planned.items()}, ensure_ascii=False))
        return
    for kind, (name, found) in planned.items():
        say(shown(kind, name, found, public=args.public), file=sys.stdout if args.dry_run else sys.stderr)
    if args.dry_run:
        return
    if not args.yes:
        _ask()
    addresses = {
        kind: hub.upload(name, kind, found.files, public=args.public, title=f"{recipe.name}, by tenner", key=key)
        for kind, (name, found) in planned.items()
    }
    say(json.dumps(addresses) if args.json else "\n".join(addresses.values()))


def shown(kind: str, name: str, found: Contents, *, public: bool) -> str:
    """The files of a repository with their sizes, and what is held back."""
    lines = [f"{kind} {name}, {'public' if public else 'private'}, {found.size_bytes / KB:,.0f} kB:"]
    lines += [f"  {path}  {size / KB:,.0f} kB" for path, size in _facts(name, found)["files"].items()]
    lines += [f"  held back: {w}" for w in found.withheld]
    if kind == "model" and found.withheld:
        lines.append("  and so the report, which shows some of them (--include NAME, if you have the right)")
    return "\n".join(lines)


def _facts(name: str, found: Contents) -> dict[str, Any]:
    sizes = {path: len(f) if isinstance(f, bytes) else f.stat().st_size for path, f in found.files.items()}
    return {"name": name, "files": sizes, "withheld": {w.name: w.questions for w in found.withheld}}


def _ask() -> None:
    """Raise TennerError unless the person at the terminal says yes."""
    if not sys.stdin.isatty():
        raise TennerError("nothing was uploaded: there is no terminal to ask on", hint="say --yes")
    say("upload this? [y/N]", file=sys.stderr)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise TennerError("nothing was uploaded", hint="answer y, or say --yes")
