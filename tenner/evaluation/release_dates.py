"""Which benchmarks are older than a model: their questions may be among what it was trained on."""

from collections.abc import Iterable, Mapping

from tenner.evaluation.benchmarks import TASKS

MODELS: Mapping[str, str] = {
    "HuggingFaceTB/SmolLM2-": "2024-11",
    "HuggingFaceTB/SmolLM3-": "2025-07",
    "Qwen/Qwen2.5-": "2024-09",
    "Qwen/Qwen3-": "2025-04",
    "deepseek-ai/DeepSeek-R1-Distill-": "2025-01",
    "google/gemma-3-": "2025-03",
    "meta-llama/Llama-3.1-": "2024-07",
    "meta-llama/Llama-3.2-": "2024-09",
    "openai/gpt-oss-": "2025-08",
}
"""The month in which the weights of a family came out, by how its names on the hub begin."""


def month_of(model: str) -> str | None:
    """The month of a model, by its name on the hub or its address; None where its family is not known here."""
    name = model.removeprefix("hf:").partition("@")[0]
    return next((month for prefix, month in MODELS.items() if name.startswith(prefix)), None)


def note(benchmarks: Iterable[str], model: str, released: str | None) -> str:
    """A sentence on the benchmarks that are older than the model; empty where none is, or where that is not known.

    `benchmarks` are names of tasks; those of others are passed over. `released` is the month that the recipe states.
    """
    month = released or month_of(model)
    if month is None:
        return ""
    tasks = {name: TASKS[name] for name in benchmarks if name in TASKS}
    older = [f"{name} ({task.released})" for name, task in tasks.items() if task.released < month]
    if not older:
        return ""
    verb, whose = ("is", "its") if len(older) == 1 else ("are", "their")
    name = model.rpartition("/")[2].partition("@")[0]
    return (
        f"{', '.join(older)} {verb} older than {name} ({month}): {whose} questions may be among what it was trained on."
    )
