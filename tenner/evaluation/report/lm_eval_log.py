"""Completions as the sample log of the LM Evaluation Harness: one JSON object a question, in its fields and hashes.

Source: EleutherAI/lm-evaluation-harness 0.4.13, `lm_eval/result_schema.py:SampleResult` and where `samples_*.jsonl` is
written in `lm_eval/evaluator.py` and `lm_eval/loggers/evaluation_tracker.py`.
"""

import hashlib
import json
import re
from collections.abc import Sequence

from tenner.core.formats import ThinkFormat
from tenner.core.records import Completion, Policy, Question
from tenner.evaluation.report.tables import ways_to_stop

FILTER = "tenner"
INVALID = "[invalid]"  # what the harness's filters put where they find no answer


def row(
    doc_id: int, question: Question, prompt: str, completions: Sequence[Completion], fmt: ThinkFormat,
    *, answer_tokens_max: int,
) -> dict[str, object]:  # fmt: skip
    """One line of the log: all answers to one question under one policy, by sample index.

    `doc_id` is the question's place in the benchmark, from 0, and `prompt` the rendered chat up to the
    student's turn. `resps` hold the whole completion, with delimiters and forced tokens; `filtered_resps` the graded
    answers.
    With one answer it is a list of texts, with several a list of lists, as the harness has it.
    """
    doc, target = question.model_dump(), question.answer or ""
    stated = [c.grade.extracted or INVALID for c in completions]
    metrics = {
        "exact_match": _mean([c.grade.verdict == "correct" for c in completions]),
        "unparsed": _mean([c.grade.verdict == "unparsed" for c in completions]),
        "truncated": _mean([c.truncated for c in completions]),
    }
    thinking_tokens = [c.thinking_tokens for c in completions if c.thinking_tokens is not None]
    if len(thinking_tokens) == len(completions):  # an API may not report them
        metrics["thinking_tokens"] = _mean(thinking_tokens)
    settings = {"until": [], **completions[0].policy.model_dump(), "answer_tokens_max": answer_tokens_max}
    return {
        "doc_id": doc_id,
        "doc": doc,
        "target": target,
        "arguments": {"gen_args_0": {"arg_0": prompt, "arg_1": settings}},
        "resps": [[f"{fmt.open}{c.thinking}{fmt.close}{c.answer}" for c in completions]],
        "filtered_resps": stated if len(stated) == 1 else [stated],
        "filter": FILTER,
        "metrics": list(metrics),
        "doc_hash": _hash(json.dumps(doc, indent=2, ensure_ascii=False)),
        "prompt_hash": _hash(prompt),
        "target_hash": _hash(target),
        **metrics,
    }


def file_name(task: str, prompt: str, policy: Policy, moment: str) -> str:
    """`samples_TASK_MOMENT.jsonl`; the task is the benchmark with its prompt and policy."""
    limit = "none" if policy.thinking_tokens_max is None else policy.thinking_tokens_max
    least = f" least {policy.thinking_tokens_min}" if policy.thinking_tokens_min else ""
    waits = f" waits {policy.waits}" if policy.waits else ""
    early = "".join(f" {way}" for way in ways_to_stop(policy))
    name = re.sub(r"\W+", "-", f"{task} {prompt} thinking {limit}{least}{waits}{early}")
    return f"samples_{name}_{moment.replace(':', '-')}.jsonl"


def folder_name(model: str) -> str:
    """A model's name as the harness makes a folder of it; one of dots alone would be a folder above."""
    name = re.sub(r"[\"<>:/|\\?*\[\]\0]+", "__", model)
    return name if name.strip(".") else "__"


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
