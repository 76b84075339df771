"""A task of inspect_ai over a server that speaks OpenAI's protocol; run by the environment that has inspect_ai.

python inspect_task.py QUESTIONS.jsonl BASE_URL MODEL LOG_DIR CHOICES
"""

import json
import os
import sys

from inspect_ai import Task, eval
from inspect_ai.dataset import Sample
from inspect_ai.model import GenerateConfig
from inspect_ai.scorer import includes
from inspect_ai.solver import generate


def main() -> None:
    questions, base_url, model, log_dir, choices = sys.argv[1:]
    os.environ |= {"TENNER_BASE_URL": base_url, "TENNER_API_KEY": "none"}
    with open(questions, encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    config = GenerateConfig(
        max_tokens=300, temperature=0.7, seed=1, stop_seqs=["Question:", "</s>"], num_choices=int(choices)
    )
    task = Task(
        dataset=[Sample(input=row["question"], target=row["answer"], id=row["id"]) for row in rows],
        solver=generate(),
        scorer=includes(),
        config=config,
    )
    (log,) = eval(task, model=f"openai-api/tenner/{model}", log_dir=log_dir, display="none", max_connections=4)
    samples = log.samples or []
    print(
        json.dumps(
            {
                "status": log.status,
                "answered": sum(bool(s.output and not s.error) for s in samples),
                "choices": sorted({len(s.output.choices) for s in samples}),
                "stop_reasons": sorted({str(s.output.stop_reason) for s in samples}),
                "error": log.error.message if log.error else None,
            }
        )
    )


main()
