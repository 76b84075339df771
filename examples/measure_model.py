"""Ask a file of questions of a model under three thinking budgets.

python examples/measure_model.py MODEL_FOLDER QUESTIONS.jsonl RUN_DIR
"""

import sys
from pathlib import Path

import tenner

model, questions, run_dir = sys.argv[1:]
options = tenner.MeasureOptions(
    data=Path(questions), format="think", thinking_tokens_max=[0, 8, 16], answer_tokens_max=8
)
done = tenner.measure(model, options, run_dir=run_dir)
for score in done.scores:
    print(
        f"{score.task}, at most {score.policy.thinking_tokens_max} thinking tokens: {score.accuracy:.1%} "
        f"({score.ci_low:.1%} to {score.ci_high:.1%}) of {score.n} questions"
    )
print(f"${done.spent_usd:.4f}, {done.report}")
