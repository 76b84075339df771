"""The card of the dataset that a run's traces become on the Hugging Face hub."""

from collections.abc import Mapping, Sequence

import yaml

from tenner.core.recipe import Recipe
from tenner.evaluation.report.markdown import inline
from tenner.publish.licenses import Withheld

FEW, SOME, MANY = 1_000, 10_000, 100_000


def dataset_card(
    recipe: Recipe, sources: Mapping[str, tuple[str | None, int]], teachers: set[str | None],
    withheld: Sequence[Withheld],
) -> str:  # fmt: skip
    """`README.md` of the dataset. `sources` are the licence and the number of samples of each source."""
    licenses = {license_id for license_id, _ in sources.values()}
    only = next(iter(licenses)) if len(licenses) == 1 else None
    samples = sum(count for _, count in sources.values())
    front = {
        "license": only or "other",
        "task_categories": ["text-generation"],
        "size_categories": [_size(samples)],
        "tags": ["tenner", "reasoning", "distillation"],
        "configs": [{"config_name": "default", "data_files": [{"split": "train", "path": "data/train.jsonl"}]}],
    }
    named = ", ".join(sorted(inline(t) for t in teachers if t)) or "unknown"
    rows = [
        f"| {inline(name)} | {inline(license_id or 'stated by its owner')} | {count:,} |"
        for name, (license_id, count) in sources.items()
    ]
    left_out = [f"Not in here: {inline(str(w))}." for w in withheld]
    parts = [
        "---\n" + yaml.safe_dump(front, sort_keys=False) + "---",
        f"# Reasoning traces of {inline(recipe.name)}, by tenner",
        f"{samples:,} questions with thinking and answer by {named}, on which a student of "
        f"{inline(recipe.student.base_model)} was trained. `messages` has the thinking inside `content`, as it was "
        "trained on; `thinking` and `answer` have it apart.",
        "| source | licence | samples |\n| --- | --- | ---: |\n" + "\n".join(rows),
        *left_out,
        "The questions are under the licences of their sources. The terms of the teacher's provider may limit what its "
        "output may be used for.",
    ]
    return "\n\n".join(parts) + "\n"


def _size(samples: int) -> str:
    """The hub's name of a range of sizes."""
    if samples < FEW:
        return "n<1K"
    return "1K<n<10K" if samples < SOME else "10K<n<100K" if samples < MANY else "100K<n<1M"
