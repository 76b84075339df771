"""Hints for misspelt names: the nearest right one, or what there is."""

from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import get_args

from pydantic import BaseModel


def did_you_mean(name: str, known: Iterable[str], otherwise: str | None = None, *, cutoff: float = 0.6) -> str:
    """A hint for a name that is none of `known`; `otherwise` is the hint where nothing is near it."""
    names = list(known)
    near = get_close_matches(name, names, n=1, cutoff=cutoff)
    if near:
        return f"did you mean {near[0]}?"
    return f"there are {', '.join(names)}" if otherwise is None else otherwise


def fields_at(path: Sequence[str | int], root: type[BaseModel]) -> list[str]:
    """The field names that are possible where `path`, the location of a validation error, ends."""
    model = root
    for key in path[:-1]:
        if key in model.model_fields:
            model = _model_in(model.model_fields[str(key)].annotation) or model
    return list(model.model_fields)


def _model_in(annotation: object) -> type[BaseModel] | None:
    """The model that an annotation such as `PriceSection | None` or `list[PromptForm]` is about."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for part in get_args(annotation) if (found := _model_in(part))), None)
