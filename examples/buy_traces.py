"""Buy reasoning traces from any server with chat completions, under a cap.

python examples/buy_traces.py BASE_URL MODEL OUT
"""

import sys

import tenner

base_url, model, out = sys.argv[1:]
questions = [
    {"id": "sum", "question": "What is 17 + 25?", "answer": "42"},
    {"id": "product", "question": "What is 6 * 7?", "answer": "42"},
]
bought = tenner.trace(
    questions, out=out, budget_usd=0.10, base_url=base_url, model=model, output_tokens_max=2000,
    price={"input_usd_per_mtok": 0.5, "output_usd_per_mtok": 2.0},
)  # fmt: skip
print(bought.as_text())
