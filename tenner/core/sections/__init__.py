"""The sections of a recipe: every setting with its type, its default and its meaning."""

from tenner.core.sections.base import (
    DOLLARS_MAX,
    Device,
    Dollars,
    EngineName,
    LocalEngineName,
    Precision,
    Resume,
    Section,
    Speaks,
    TrainPrecision,
)
from tenner.core.sections.evaluation import Draws, Endpoint, Evaluate
from tenner.core.sections.machine import Machine
from tenner.core.sections.paid_models import (
    ApiModel,
    Domains,
    Labeller,
    PaidModel,
    PriceSection,
    Referee,
    TeacherCandidate,
    TraceSection,
)
from tenner.core.sections.selection import Attempt, Clean, Gather, PromptForm, Select
from tenner.core.sections.student import Model, Student
from tenner.core.sections.tables import Benchmark, Columns, Condition, Source, Table
from tenner.core.sections.train import DECIDED_BY_SERVICE, Train, TrainingService

__all__ = [
    "DECIDED_BY_SERVICE",
    "DOLLARS_MAX",
    "ApiModel",
    "Attempt",
    "Benchmark",
    "Clean",
    "Columns",
    "Condition",
    "Device",
    "Dollars",
    "Domains",
    "Draws",
    "Endpoint",
    "EngineName",
    "Evaluate",
    "Gather",
    "Labeller",
    "LocalEngineName",
    "Machine",
    "Model",
    "PaidModel",
    "Precision",
    "PriceSection",
    "PromptForm",
    "Referee",
    "Resume",
    "Section",
    "Select",
    "Source",
    "Speaks",
    "Student",
    "Table",
    "TeacherCandidate",
    "TraceSection",
    "Train",
    "TrainPrecision",
    "TrainingService",
]
