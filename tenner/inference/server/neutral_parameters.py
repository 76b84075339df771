"""Request parameters that the server does not have: a value that changes nothing is accepted, any other refused.

Clients of OpenAI, vLLM, OpenRouter and others send many parameters at their defaults.
"""

from collections.abc import Mapping
from typing import ClassVar

from pydantic import BaseModel, ConfigDict, model_validator
from pydantic_core import PydanticCustomError

UNSUPPORTED = "unsupported_parameter"
"""The type of the validation error; its context has the parameter's `name`."""
SHOWN_CHARACTERS = 60


class RequestPart(BaseModel):
    """An object of a request: strict about its fields, and about parameters that it does not have."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    NO_EFFECT: ClassVar[frozenset[str]] = frozenset()
    """Parameters that never change the answer."""
    NEUTRAL: ClassVar[Mapping[str, tuple[object, ...]]] = {}
    """Parameters of other servers, and the values with which they change nothing; null and empty ones never do."""

    @model_validator(mode="before")
    @classmethod
    def _without_neutral_parameters(cls, given: object) -> object:
        if not isinstance(given, dict):
            return given
        return {name: value for name, value in given.items() if not cls._changes_nothing(name, value)}

    @classmethod
    def _changes_nothing(cls, name: str, value: object) -> bool:
        if name in cls.model_fields:
            return False
        if name in cls.NO_EFFECT or value is None or value in ("", [], {}):
            return True
        if name not in cls.NEUTRAL:
            return False  # unknown: refused by name, with the one that may have been meant
        if not any(value == neutral and type(value) in _alike(neutral) for neutral in cls.NEUTRAL[name]):
            raise PydanticCustomError(
                UNSUPPORTED,
                "{value} is not supported, only {neutral}",
                {
                    "name": name,
                    "value": repr(value)[:SHOWN_CHARACTERS],
                    "neutral": " or ".join(map(repr, cls.NEUTRAL[name])) or "null",
                },
            )
        return True


def _alike(value: object) -> tuple[type, ...]:
    """The types of equal values that count: true is not 1."""
    return (int, float) if type(value) is int else (type(value),)
