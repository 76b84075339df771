"""`tenner recipes`: the recipes that come with tenner, one of them as a file, and every key that a recipe may have."""

import argparse
import json
from collections.abc import Iterator
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, get_args, get_origin

from tenner.core.errors import TennerError
from tenner.core.terminal import say

if TYPE_CHECKING:
    from tenner.core.suggest import Place

WORDS = {int: "integer", float: "number", bool: "true or false", str: "text"}
ALL = ""


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of the verb."""
    parser.add_argument("name", metavar="NAME", nargs="?", help="print this recipe, as --show does")
    parser.add_argument("--show", metavar="NAME", help="print a recipe, to be saved as a file and changed")
    parser.add_argument("--keys", metavar="SECTION", nargs="?", const=ALL, help="all keys of a recipe, or of a section")
    parser.add_argument("--json", action="store_true", help="one JSON object")


def main(args: argparse.Namespace) -> None:
    """Print what is asked for; without a question the recipes' names and what they do."""
    if sum(asked is not None for asked in (args.name, args.show, args.keys)) > 1:
        raise TennerError("NAME, --show and --keys are separate questions", hint="ask one of them at a time")
    name = args.name or args.show
    if name is not None and args.json:
        raise TennerError("--json has no effect on the text of a recipe", hint="leave it out")
    if name is not None:
        say(shown(name).rstrip("\n"))
    elif args.keys is not None:
        say(keys(args.keys, as_json=args.json))
    else:
        say(listed(as_json=args.json))


def listed(*, as_json: bool) -> str:
    """A line each, or one JSON object of name to description."""
    from tenner.core import recipe

    found = [recipe.load(name) for name in recipe.built_in()]
    if as_json:
        return json.dumps({r.name: r.description for r in found}, ensure_ascii=False)
    return "\n".join(f"{r.name}: {r.description} (cap ${r.budget_usd:g})" for r in found)


def shown(name: str) -> str:
    """The text of a recipe that comes with tenner, comments and all. Raises TennerError where there is none."""
    from tenner.core import recipe
    from tenner.core.suggest import did_you_mean

    found = recipe.built_in()
    if name not in found:
        raise TennerError(f"no recipe is called {name}", hint=did_you_mean(name, found))
    return found[name]


def keys(section: str, *, as_json: bool) -> str:
    """The keys of a recipe, with type, default and meaning: those of one section (`train`), or all.

    Raises TennerError where there is no such section.
    """
    from tenner.core.recipe import Recipe
    from tenner.core.suggest import did_you_mean, model_in, places

    found = list(places(Recipe))
    if section != ALL:
        sections = [p.dotted for p in found if model_in(p.field.annotation) is not None]
        if section not in sections:
            raise TennerError(f"a recipe has no section {section}", hint=did_you_mean(section, sections))
        found = [p for p in found if p.dotted.startswith(f"{section}.")]
    if as_json:
        return json.dumps({p.dotted: _facts(p) for p in found}, ensure_ascii=False)
    return "\n".join(line for place in found for line in _lines(place))


def _lines(place: "Place") -> Iterator[str]:
    """A key and what it means, as TOML has its comments."""
    facts = _facts(place)
    parts = [facts["type"], "required" if facts["required"] else f"default {facts['default']}"]
    parts += ["may change when a run goes on"] if facts["may_change"] else []
    yield f"{place.dotted}: {', '.join(parts)}"
    if facts["meaning"]:
        yield f"    {facts['meaning']}"


def _facts(place: "Place") -> dict[str, Any]:
    from tenner.core.sections import Resume

    field = place.field
    default = field.get_default(call_default_factory=True)
    if hasattr(default, "model_dump"):
        default = "that of its keys"
    return {
        "type": _words(field.annotation),
        "required": field.is_required(),
        "default": None if field.is_required() else "none" if default is None else _as_toml(default),
        "may_change": Resume.FREE in field.metadata,
        "meaning": " ".join((field.description or "").split()),
    }


def _as_toml(value: object) -> str:
    return value if value == "that of its keys" else json.dumps(value, default=str, ensure_ascii=False)


def _words(annotation: Any) -> str:
    """A type as a person says it."""
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _words(parts[0])
    if origin is Literal:
        return " | ".join(json.dumps(part) for part in parts)
    if origin in (Union, UnionType):
        return " or ".join(_words(part) for part in parts if part is not NoneType)
    if origin is list:
        inner = _words(parts[0])
        return "tables [[…]]" if inner == "table" else f"list of {inner}"
    if origin is dict or annotation is dict:
        return "table"
    return WORDS.get(annotation, "table" if isinstance(annotation, type) else str(annotation))
