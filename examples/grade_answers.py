"""Grade a file of answers: `python examples/grade_answers.py ANSWERS.jsonl` (rows with id, response and answer)."""

import json
import sys
from collections import Counter
from pathlib import Path

import tenner

verdicts: Counter[str] = Counter()
for line in Path(sys.argv[1]).read_text("utf-8").splitlines():
    row = json.loads(line)
    grade = tenner.grade(row["response"], row["answer"])
    verdicts[grade.verdict] += 1
    print(f"{row['id']}: {grade.verdict}, read as {grade.extracted!r}")
print(dict(verdicts))
