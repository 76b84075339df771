"""tenner: make a reasoning model on a budget. The functions here do from Python what the command line does."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tenner.api import (
        RunResult,
        Server,
        grade,
        load_recipe,
        measure,
        result,
        run,
        serve,
        trace,
        tune,
    )
    from tenner.core.errors import BudgetReached, Incomplete, OutOfMoney, TennerError
    from tenner.core.recipe import Recipe
    from tenner.core.records import Completion, Grade, Policy, Question, Sample, Score, Trace
    from tenner.measurement import MeasureOptions
    from tenner.stages.resolve_student import StudentOptions
    from tenner.tracing import TraceResult
    from tenner.tuning import Tuned, TuneOptions

__version__ = "0.1.0"
__all__ = [
    "BudgetReached", "Completion", "Grade", "Incomplete", "MeasureOptions", "OutOfMoney", "Policy", "Question",
    "Recipe", "RunResult",
    "Sample", "Score", "Server", "StudentOptions", "TennerError", "Trace", "TraceResult", "TuneOptions", "Tuned",
    "__version__", "grade", "load_recipe", "measure", "result", "run", "serve", "trace", "tune",
]  # fmt: skip

_HOMES = {
    "tenner.api": (
        "RunResult", "Server", "grade", "load_recipe", "measure", "result", "run", "serve", "trace", "tune",
    ),
    "tenner.core.errors": ("BudgetReached", "Incomplete", "OutOfMoney", "TennerError"),
    "tenner.core.recipe": ("Recipe",),
    "tenner.core.records": ("Completion", "Grade", "Policy", "Question", "Sample", "Score", "Trace"),
    "tenner.measurement": ("MeasureOptions",),
    "tenner.stages.resolve_student": ("StudentOptions",),
    "tenner.tracing": ("TraceResult",),
    "tenner.tuning": ("TuneOptions", "Tuned"),
}  # fmt: skip


def __getattr__(name: str) -> object:
    """Import a name of the API when it is asked for: `tenner --help` waits for none of them (PEP 562)."""
    for module, names in _HOMES.items():
        if name in names:
            return getattr(import_module(module), name)
    raise AttributeError(f"module 'tenner' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
