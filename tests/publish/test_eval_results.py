"""The file that the hub's leaderboards read, checked by the hub's own library."""

import yaml
from huggingface_hub import parse_eval_result_entries

from tenner.core import recipe
from tenner.core.records import Policy, Score
from tenner.publish.eval_results import eval_results

BENCHMARKS = (
    'evaluate.benchmarks=[{task = "GSM8K"}, {task = "AIME24"}, {task = "HMMT Feb 2026", sample = 5}, '
    '{task = "GPQA Diamond", file = "gpqa.csv"}]'
)


def score(task, student, accuracy):
    return Score(
        task=task, student=student, prompt="s1", policy=Policy(thinking_tokens_max=256), n=1319, accuracy=accuracy,
        ci_low=accuracy - 0.025, ci_high=accuracy + 0.025, thinking_tokens_mean=80.0, truncated=0, unparsed=0,
    )  # fmt: skip


def test_whole_benchmarks_with_a_leaderboard_are_in_the_file_and_the_hub_s_library_reads_it(tiny_recipe):
    described = recipe.load(str(tiny_recipe), overrides=[BENCHMARKS])
    tasks = ("GSM8K", "AIME24", "HMMT Feb 2026", "GPQA Diamond")
    scores = [score(t, s, a) for t in tasks for s, a in (("base", 0.25), ("distilled", 0.41239))]
    written = eval_results(described, scores)
    assert written is not None
    (entry,) = parse_eval_result_entries(yaml.safe_load(written))
    assert (entry.dataset_id, entry.task_id, entry.value) == ("openai/gsm8k", "gsm8k", 41.2)
    assert entry.dataset_revision == "740312add88f781978c0658806c59bc2815b9866"
    assert entry.notes is not None
    assert "1319 questions, 95 % interval 38.7" in entry.notes
    assert entry.notes.endswith("at most 256 tokens of thinking; 1 answer each, greedy")


def test_a_run_without_such_a_benchmark_has_no_file(tiny_recipe):
    described = recipe.load(str(tiny_recipe))
    assert eval_results(described, [score("heldout", s, 0.5) for s in ("base", "distilled")]) is None
