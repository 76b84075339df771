"""The speed of grading: 10,000 different pairs, half of them right; and the time of answers that hang computer algebra.

    python bench/grading.py > bench/results/grading.txt

Answers are made from templates, so that few rows are alike. math-verify compares all pairs of which the exact
verifier is not certain. The last line is one JSON object.
"""

import json
import os
import random
import time
from collections import Counter

import evidence

from tenner.evaluation.grading.extraction import stated_answers
from tenner.evaluation.grading.grader import Grader, GradingRequest
from tenner.evaluation.grading.maths.exact import verify

ROWS = 10_000
HOSTILE = [
    r"\dfrac{5^{\left(5^{\left(5^{\left(5^5\right)}\right)} - 4\right)} - 5}{16}",
    r"10^{(5^{5^{5^{5^{5}}} \cdot \log_{10}(5)} - 4)}",
    r"((9^{9})^{9999})^{9999}",
    r"(10^{6})!",
]


def rows(count: int) -> list[tuple[GradingRequest, bool]]:
    """As benchmarks mix them: two thirds integers, the rest fractions, radicals, tuples, intervals, polynomials, logs.

    Every form is right in half of its rows. Only the logarithms need both verifiers.
    """
    r, made = random.Random(0), []
    for i in range(count):
        a, b, c = r.randint(2, 9999), r.randint(2, 99), r.choice((2, 3, 5, 7, 11, 13))
        right = i % 2 == 0
        off = 0 if right else 1
        forms = [
            (f"{a}", f"{a + off:,}"),
            (rf"\frac{{{a}}}{{{b}}}", f"{a + off}/{b}"),
            (rf"{b}\sqrt{{{c}}}", rf"\sqrt{{{b * b * c + off}}}"),
            (f"({a}, -{b})", rf"\left({a}, -{b + off}\right)"),
            (rf"[{b}, {a + 100})", rf"{b} \le x < {a + 100 + off}"),
            (f"{b}x^2-{a}", f"-{a + off}+{b}x^2"),
            (rf"{b}\pi", rf"{b + off} * pi"),
            (rf"\ln {a} + {b}", rf"{b + off}+\ln({a})"),
        ]
        reference, answer = forms[0] if i % 3 else forms[1 + i // 6 % 7]
        made.append((GradingRequest(rf"Thus the answer is $\boxed{{{answer}}}$.", reference, "maths"), right))
    return made


def main() -> None:
    asked = rows(ROWS)
    cores = len(os.sched_getaffinity(0))
    with Grader() as grader:
        began = time.perf_counter()
        grades = grader.grade_all(a for a, _ in asked)
        seconds = time.perf_counter() - began
        slowest = 0.0
        for hostile in HOSTILE:
            began = time.perf_counter()
            assert grader.grade(rf"\boxed{{{hostile}}}", "7", "maths").verdict == "wrong"
            slowest = max(slowest, time.perf_counter() - began)
    wrong = sum((grade.verdict == "correct") != right for grade, (_, right) in zip(grades, asked, strict=True))
    verdicts = Counter(grade.verdict for grade in grades)
    by_both = sum(not verify(a.reference, stated_answers(a.response)[0].text).certain for a, _ in asked)
    disputed = sum("disagree" in (grade.reason or "") for grade in grades)
    print(
        f"{ROWS:,} verdicts on {cores} cores: {seconds:.1f} s, {ROWS / seconds:,.0f} a second; "
        f"{by_both:,} by both verifiers"
    )
    print(f"{verdicts['correct']:,} correct, {verdicts['wrong']:,} wrong; {wrong} not as made; {disputed:,} disputed")
    print(f"power towers and factorials that hang computer algebra: at most {slowest:.2f} s each")
    result = {
        "rows": ROWS,
        "cores": cores,
        "by_both": by_both,
        "seconds": round(seconds, 1),
        "misgraded": wrong,
        "disputed": disputed,
    }
    ran_on = {"machine": evidence.machine(), "versions": evidence.versions("tenner", "sympy", "math-verify")}
    print(json.dumps(result | {"slowest_hostile_seconds": round(slowest, 2)} | ran_on))


if __name__ == "__main__":
    main()
