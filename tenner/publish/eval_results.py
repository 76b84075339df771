"""A run's results as the Hugging Face hub's leaderboards read them: https://huggingface.co/docs/hub/eval-results."""

import re

import yaml
from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml

from tenner.core.recipe import Recipe
from tenner.core.records import Score
from tenner.core.sections import Benchmark
from tenner.evaluation.benchmarks import leaderboard_task, resolve
from tenner.evaluation.report.tables import interval
from tenner.evaluation.statistics.scores import before_and_after

FILE = ".eval_results/tenner.yaml"
COMMIT = re.compile(r"[0-9a-f]{40}")


def eval_results(recipe: Recipe, scores: list[Score]) -> bytes | None:
    """The file `.eval_results/tenner.yaml`; None where no benchmark of the run has a leaderboard on the hub.

    The value is the distilled student's accuracy in percent, that of the headline; the notes say how it was measured.
    """
    entries = [
        _entry(recipe, benchmark, task_id, before_and_after(own)[1])
        for benchmark in recipe.evaluate.benchmarks
        if (task_id := leaderboard_task(benchmark)) is not None
        and (own := [s for s in scores if s.task == resolve(benchmark).name])
    ]
    if not entries:
        return None
    text: str = yaml.safe_dump(eval_result_entries_to_yaml(entries), sort_keys=False, allow_unicode=True)
    return text.encode()


def _entry(recipe: Recipe, benchmark: Benchmark, task_id: str, score: Score) -> EvalResultEntry:
    table, sampling = resolve(benchmark), recipe.evaluate.sampling
    assert table.dataset is not None, "a leaderboard's task has a dataset"
    drawn = f"temperature {sampling.temperature:g}" if sampling.temperature else "greedy"
    answers = "1 answer" if score.samples == 1 else f"{score.samples} answers"
    thinking = score.policy.thinking_tokens_max
    notes = [
        f"{score.n} questions, 95 % interval {interval(score)}",
        "thinking without limit" if thinking is None else f"at most {thinking} tokens of thinking",
        f"{answers} each, {drawn}",
    ]
    return EvalResultEntry(
        dataset_id=table.dataset,
        task_id=task_id,
        value=round(100 * score.accuracy, 1),
        dataset_revision=table.revision if COMMIT.fullmatch(table.revision or "") else None,
        notes="; ".join(notes),
    )
