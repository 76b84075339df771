import re

from tenner.evaluation.benchmarks import TASKS
from tenner.evaluation.release_dates import MODELS, month_of, note

MONTH = re.compile(r"20\d\d-(0[1-9]|1[0-2])")


def test_every_month_is_one() -> None:
    assert all(MONTH.fullmatch(month) for month in [*MODELS.values(), *(task.released for task in TASKS.values())])


def test_a_benchmark_that_is_older_than_the_model_is_marked() -> None:
    said = note(["AIME24", "AIME25", "MATH500", "my own"], "Qwen/Qwen2.5-32B-Instruct", None)
    assert said.startswith("AIME24 (2024-02), MATH500 (2021-03) are older than Qwen2.5-32B-Instruct (2024-09)")
    assert note(["AIME25"], "Qwen/Qwen2.5-32B-Instruct", None) == ""
    assert "AIME25 (2025-02) is older than Qwen3-8B (2025-04): its questions" in note(["AIME25"], "Qwen/Qwen3-8B", None)


def test_the_recipe_names_the_month_of_a_model_that_is_not_known() -> None:
    assert note(["AIME24"], "me/mine-1B", None) == ""
    assert "older than mine-1B (2025-01)" in note(["AIME24"], "me/mine-1B", "2025-01")
    assert note(["AIME24"], "Qwen/Qwen3-8B", "2024-01") == "", "what is stated goes before what is known"


def test_a_family_is_known_by_address_too_and_no_other_by_half_its_name() -> None:
    assert month_of("hf:Qwen/Qwen3-8B@b968826d9c46dd6066d109eabc6255188de91218") == "2025-04"
    assert month_of("Qwen/Qwen3.5-9B") is None
