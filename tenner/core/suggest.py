"""Hints for misspelt names: the nearest right one, or what there is."""

from collections.abc import Iterable, Iterator, Sequence
from difflib import get_close_matches
from typing import NamedTuple, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo

CLEARLY = 0.8
"""How alike a misspelling and the right name are (see difflib) that leave no doubt."""
PLACES_SHOWN = 3
ALIASES: dict[str, tuple[str, ...]] = {
    "learning_rate": ("lr",),
    "max_lr": ("lr",),
    "num_train_epochs": ("epochs",),
    "num_epochs": ("epochs",),
    "n_epochs": ("epochs",),
    "warmup_ratio": ("warmup_fraction",),
    "batch_size": ("tokens_per_step", "rows"),
    "per_device_train_batch_size": ("tokens_per_step",),
    "gradient_accumulation_steps": ("tokens_per_step",),
    "max_length": ("tokens_max",),
    "max_seq_length": ("tokens_max",),
    "max_grad_norm": ("grad_clip_norm",),
    "adam_beta1": ("beta1",),
    "adam_beta2": ("beta2",),
    "lora_r": ("lora_rank",),
    "r": ("lora_rank",),
    "optim": ("optimizer",),
    "load_in_4bit": ("quantization",),
    "gradient_checkpointing": ("activations",),
    "context_parallel_size": ("context_parallel",),
    "sequence_parallel_size": ("context_parallel",),
    "dtype": ("precision",),
    "report_to": ("tracker",),
    "path": ("file", "dataset", "model"),
    "filename": ("file",),
    "data": ("file",),
    "data_files": ("file",),
    "repo": ("dataset",),
    "hub_id": ("dataset",),
    "split": ("splits",),
    "config": ("configs",),
    "columns_map": ("columns",),
    "prompt": ("question", "prompts"),
    "problem": ("question",),
    "url": ("base_url", "file"),
    "endpoint": ("base_url", "api"),
    "api_base": ("base_url",),
    "api_key": ("api_key_env",),
    "key": ("api_key_env",),
    "provider": ("preset", "client"),
    "teacher": ("trace.model", "trace.client"),
    "model_name": ("model", "student.model"),
    "max_tokens": ("output_tokens_max", "answer_tokens_max"),
    "max_new_tokens": ("answer_tokens_max", "output_tokens_max"),
    "max_output_tokens": ("output_tokens_max",),
    "max_completion_tokens": ("output_tokens_max",),
    "thinking_budget": ("thinking_tokens_max",),
    "budget": ("budget_usd",),
    "cap": ("budget_usd",),
    "cap_usd": ("budget_usd",),
    "max_usd": ("budget_usd",),
    "input_price": ("input_usd_per_mtok",),
    "price_in": ("input_usd_per_mtok",),
    "output_price": ("output_usd_per_mtok",),
    "price_out": ("output_usd_per_mtok",),
    "timeout": ("deadline_seconds",),
    "max_retries": ("attempts_max",),
    "retries": ("attempts_max",),
    "rpm": ("requests_per_minute",),
    "tpm": ("tokens_per_minute",),
    "n": ("samples", "samples_per_question"),
    "num_samples": ("samples",),
    "size": ("samples",),
    "benchmark": ("benchmarks", "evaluate.benchmarks"),
    "source": ("sources", "gather.sources"),
    "tasks": ("benchmarks", "evaluate.benchmarks"),
}
"""Names that other trainers, clients and libraries use -> those of a recipe, the likeliest first."""


class Place(NamedTuple):
    """A field of a section, and where it stands."""

    dotted: str
    """As `gather.sources.file`; lists of sections are not numbered."""
    section: type[BaseModel]
    field: FieldInfo


def did_you_mean(name: str, known: Iterable[str], otherwise: str | None = None, *, cutoff: float = 0.6) -> str:
    """A hint for a name that is none of `known`; `otherwise` is the hint where nothing is near it."""
    names = list(known)
    near = get_close_matches(name, names, n=1, cutoff=cutoff)
    if near:
        return f"did you mean {near[0]}?"
    return f"there are {', '.join(names)}" if otherwise is None else otherwise


def right_key(path: Sequence[str | int], root: type[BaseModel]) -> str:
    """A hint for a key that no section has where `path`, the location of a validation error, ends.

    It is the nearest name there, or the name that another library's stands for, or the place that has such a key.
    """
    wrong, here = str(path[-1]), fields_at(path, root)
    if near := get_close_matches(wrong, here, n=1, cutoff=CLEARLY):
        return f"did you mean {near[0]}?"
    meant = ALIASES.get(wrong.casefold().replace("-", "_"), ())
    if found := next((name for name in meant if name in here), None):
        return f"did you mean {found}?"
    everywhere = {place.dotted for place in places(root)}
    wanted = (wrong, *meant)
    elsewhere = sorted(
        (dotted for dotted in everywhere if dotted in wanted or dotted.rpartition(".")[2] in wanted),
        key=lambda dotted: ([*wanted, dotted.rpartition(".")[2]].index(dotted.rpartition(".")[2]), dotted.count(".")),
    )
    if elsewhere:
        return f"did you mean {' or '.join(elsewhere[:PLACES_SHOWN])}?"
    return did_you_mean(wrong, here)


def places(root: type[BaseModel], prefix: str = "") -> Iterator[Place]:
    """All fields of a section and of those in it, in their order."""
    for name, field in root.model_fields.items():
        yield Place(prefix + name, root, field)
        if (inner := model_in(field.annotation)) is not None:
            yield from places(inner, f"{prefix}{name}.")


def fields_at(path: Sequence[str | int], root: type[BaseModel]) -> list[str]:
    """The field names that are possible where `path`, the location of a validation error, ends."""
    model = root
    for key in path[:-1]:
        if key in model.model_fields:
            model = model_in(model.model_fields[str(key)].annotation) or model
    return list(model.model_fields)


def model_in(annotation: object) -> type[BaseModel] | None:
    """The model that an annotation such as `PriceSection | None` or `list[PromptForm]` is about."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for part in get_args(annotation) if (found := model_in(part))), None)
