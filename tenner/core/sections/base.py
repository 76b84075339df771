"""What all sections are made of: the base class, and the types of settings that several have."""

import json
import re
from enum import Enum, auto
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator

from tenner.core.formats import AUTO, FORMATS
from tenner.core.records import NamedPrecision
from tenner.core.secrets import KEY, KeyInSettings, key_in, refuse_key_in_parameters, refuse_key_in_url
from tenner.core.terminal import HALF_A_CHARACTER

Positive = Annotated[int, Field(gt=0, lt=2**63)]
NotNegative = Annotated[int, Field(ge=0, lt=2**63)]
NUMBER_MAX = 1e9
"""Above every number of a recipe that has no bound of its own: learning rates, norms, temperatures, TFLOP/s."""
NotNegativeNumber = Annotated[float, Field(ge=0, le=NUMBER_MAX)]
PositiveNumber = Annotated[float, Field(gt=0, le=NUMBER_MAX)]
DOLLARS_MAX = 1e9
Dollars = Annotated[float, Field(ge=0, le=DOLLARS_MAX)]
"""An amount that the ledger can count in integer micro-dollars."""
UnitPrice = Annotated[float, Field(ge=0, le=1e6)]
"""Dollars per million tokens, or per hour; more would overflow the ledger's integers."""
Seconds = Annotated[float, Field(gt=0, le=1e7)]
"""A time limit; more is beyond what clocks and calendars count with."""
TokenLimit = Annotated[int, Field(gt=0, le=10**9)]
EngineName = Literal["hf", "vllm", "api"]
"""`hf` is the embedded engine, `vllm` a vLLM engine in this process, `api` a completions server (see `Endpoint`)."""
LocalEngineName = Literal["hf", "vllm"]
Speaks = Literal["ids", "text"]
Precision = Literal["auto", "bf16", "fp32"]
"""`auto` is bfloat16 where the device has it natively, and float32 elsewhere (see `hardware.py`)."""
TrainPrecision = Literal["auto"] | NamedPrecision
Device = Literal["auto", "cpu", "cuda", "mps"]
"""`auto` is CUDA where available, else Apple's MPS, else the CPU."""
BelowOne = Annotated[float, Field(ge=0, lt=1)]
Similarity = Annotated[float, Field(gt=0, le=1)]


def _known_format(name: str) -> str:
    if name not in FORMATS and name != AUTO:
        raise ValueError(f"no think format is called {name!r}; there are {', '.join(FORMATS)} and {AUTO}")
    return name


def _http_url(url: str) -> str:
    try:
        parts = urlsplit(url)
        is_server = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # an impossible port or IPv6 address
        is_server = False
    if not is_server:
        raise ValueError("not a URL such as https://host:8000/v1")
    refuse_key_in_url(url)
    if parts.query or parts.fragment:
        raise ValueError("a base URL has no query and no fragment: the path of each request is put behind it")
    return url


def _variable(name: str) -> str:
    if KEY.search(name):
        raise key_in("api_key_env")
    if not re.fullmatch(r"[A-Za-z_]\w*", name):
        raise KeyInSettings("not the name of an environment variable")
    return name


def _parameters(given: dict[str, Any]) -> dict[str, Any]:
    refuse_key_in_parameters(given)
    return _json(given)


def _json(given: dict[str, Any]) -> dict[str, Any]:
    """Dates, infinity and NaN are values of TOML, and of no request and no chat template."""
    try:
        json.dumps(given, allow_nan=False)
    except (ValueError, TypeError, RecursionError) as e:
        raise ValueError(f"not JSON, as which they are sent and saved: {e}") from None
    return given


def _has_half_a_character(value: Any) -> bool:
    """Whether a text has one, or one of those in lists and tables."""
    if isinstance(value, str):
        return HALF_A_CHARACTER.search(value) is not None
    inside: Any = [*value, *value.values()] if isinstance(value, dict) else value if isinstance(value, list) else ()
    return any(map(_has_half_a_character, inside))


FormatName = Annotated[str, AfterValidator(_known_format)]
BaseURL = Annotated[str, AfterValidator(_http_url)]
KeyVariable = Annotated[str, AfterValidator(_variable)]
Parameters = Annotated[dict[str, Any], AfterValidator(_parameters)]
TemplateArguments = Annotated[dict[str, Any], AfterValidator(_json)]


class Resume(Enum):
    """Whether a resumed run may change a setting. A setting without this mark must stay the same."""

    FREE = auto()
    """It may change: it affects how, how fast or at what cost something is computed, but not the result."""


class Section(BaseModel):
    """Base of all sections: immutable, no unknown keys, no implicit type conversion, no infinity and no NaN."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )

    @field_validator("*")
    @classmethod
    def _can_be_written(cls, value: Any) -> Any:
        """Raise ValueError for halves of characters: files' names and arguments have them that are not UTF-8."""
        if _has_half_a_character(value):
            raise ValueError("not UTF-8, and cannot be written down")
        return value

    @classmethod
    def free_on_resume(cls) -> set[str]:
        """Names of the fields that are marked `Resume.FREE`."""
        return {name for name, field in cls.model_fields.items() if Resume.FREE in field.metadata}
