"""Read `tenner show RUN --json` from stdin and hold the demo to its promises; exit 1 with what was not kept."""

import json
import sys

facts = json.load(sys.stdin)
whole = [s for s in facts["scores"] if s["domain"] is None]
base = max((s for s in whole if s["student"] == "base"), key=lambda s: s["accuracy"])
distilled = [s for s in whole if s["student"] == "distilled" and s["policy"]["waits"] == 0]
budgets = {s["policy"]["thinking_tokens_max"]: s for s in distilled}
largest = max(budgets)
families = [
    s
    for s in facts["scores"]
    if s["domain"] and s["student"] == "distilled" and s["policy"] == budgets[largest]["policy"]
]
weakest = min(families, key=lambda s: s["accuracy"])
rise = budgets[largest]["accuracy"] - budgets[0]["accuracy"]
minutes = sum(s["seconds"] for s in facts["stages"]) / 60

promises = [
    (base["accuracy"] <= 0.20, f"untrained student at its best: {base['accuracy']:.1%} of {base['n']} (at most 20 %)"),
    (budgets[largest]["accuracy"] >= 0.85, f"distilled: {budgets[largest]['accuracy']:.1%} (at least 85 %)"),
    (weakest["accuracy"] >= 0.60, f"weakest family, {weakest['domain']}: {weakest['accuracy']:.1%} (at least 60 %)"),
    (rise >= 0.50, f"rise from no thinking to {largest} tokens: {100 * rise:.1f} points (at least 50)"),
    (budgets[largest]["n"] >= 200, f"held-out questions: {budgets[largest]['n']} (at least 200)"),
]
for kept, promise in promises:
    print("kept  " if kept else "BROKEN", promise)
print(f"all stages took {minutes:.1f} minutes")  # not a promise about a machine that others may share
sys.exit(not all(kept for kept, _ in promises))
