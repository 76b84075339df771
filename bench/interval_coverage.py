"""Whether the statistics keep their promise: coverage of the intervals, false positives of the paired tests.

    python bench/interval_coverage.py > bench/results/interval_coverage.txt

A simulated benchmark has 30 questions whose difficulties are Beta distributed about its true accuracy: `spread` 0.3 is
nearly all or nothing, 3 is questions that are alike. Each is answered k times. tenner's interval stands beside the
plain clustered t interval, tenner's bootstrap beside the bootstrap by percentiles, on the same benchmarks.
"""

import json
import random
from collections.abc import Callable
from math import sqrt
from statistics import fmean, stdev

import numpy as np
from evidence import machine, versions

from tenner.evaluation.statistics.intervals import Interval, clustered
from tenner.evaluation.statistics.paired import bootstrap, mcnemar

QUESTIONS, BENCHMARKS, PAIRS = 30, 2000, 1000
ANSWERS = (1, 4, 16)
ACCURACIES = (0.02, 0.05, 0.1, 0.3, 0.5, 0.7, 0.9, 0.95, 0.98)
SPREADS = (0.3, 0.6, 1.0, 3.0)
STUDENT_975 = 2.045229642132703  # of 29 degrees of freedom


def main() -> None:
    """Print the tables, and all of it as one JSON object on the last line."""
    coverage = {k: covered(k) for k in ANSWERS}
    edges = {k: covered_at(k) for k in ANSWERS}
    false = {k: false_positives(k) for k in ANSWERS}
    found_on = {"machine": machine(), "versions": versions("numpy", "tenner")}
    for name, facts in found_on.items():
        print(f"{name}: {facts}")
    print(f"\ncoverage of 95 % intervals, {BENCHMARKS:,} benchmarks of {QUESTIONS} questions, of 2 to 98 % accuracy")
    print("answers  tenner  clustered t")
    for k, (ours, plain) in coverage.items():
        print(f"{k:7}  {ours:5.1%}  {plain:11.1%}")
    print(f"\nthe same at one accuracy ({BENCHMARKS // 2:,} benchmarks for each of the spreads {SPREADS}): tenner / t")
    print("answers  " + "  ".join(f"{a:11.0%}" for a in ACCURACIES))
    for k, row in edges.items():
        print(f"{k:7}  " + "  ".join(f"{ours:.3f}/{plain:.3f}" for ours, plain in row))
    print(f"\nequal runs called different at 5 %, {PAIRS:,} pairs: the same model twice, and two equally good ones")
    print("answers  tenner (same, other)  percentiles (same, other)")
    for k, (rates, plain_rates) in false.items():
        print(f"{k:7}  {rates[0]:13.1%} {rates[1]:6.1%}  {plain_rates[0]:18.1%} {plain_rates[1]:6.1%}")
    print(json.dumps({
        "coverage": {k: ours for k, (ours, _) in coverage.items()},
        "coverage_clustered_t": {k: plain for k, (_, plain) in coverage.items()},
        "coverage_at_accuracy": {k: dict(zip(map(str, ACCURACIES), row, strict=True)) for k, row in edges.items()},
        "false_positives": {k: ours for k, (ours, _) in false.items()},
        "false_positives_percentiles": {k: plain for k, (_, plain) in false.items()},
        **found_on,
    }))  # fmt: skip


def difficulties(r: random.Random, accuracy: float, spread: float) -> list[float]:
    """The chances that the questions of one benchmark are answered right."""
    return [r.betavariate(accuracy * spread, (1 - accuracy) * spread) for _ in range(QUESTIONS)]


def answered(r: random.Random, chances: list[float], k: int) -> list[float]:
    """The share of k answers to each question that is right."""
    return [sum(r.random() < chance for _ in range(k)) / k for chance in chances]


def covered(k: int) -> tuple[float, float]:
    """How often either interval holds the truth, over benchmarks of all accuracies."""
    r = random.Random(k)
    held = [held_by_both(r, r.uniform(0.02, 0.98), r.choice(SPREADS), k) for _ in range(BENCHMARKS)]
    return fmean(ours for ours, _ in held), fmean(plain for _, plain in held)


def covered_at(k: int) -> list[tuple[float, float]]:
    """The same at each accuracy, over all spreads."""
    r = random.Random(k)
    rows = []
    for accuracy in ACCURACIES:
        held = [held_by_both(r, accuracy, spread, k) for spread in SPREADS for _ in range(BENCHMARKS // 2)]
        rows.append((fmean(ours for ours, _ in held), fmean(plain for _, plain in held)))
    return rows


def held_by_both(r: random.Random, accuracy: float, spread: float, k: int) -> tuple[bool, bool]:
    """Whether tenner's interval and the plain one hold the true accuracy of one simulated benchmark."""
    shares = answered(r, difficulties(r, accuracy, spread), k)

    def holds(interval: Callable[[list[float]], Interval]) -> bool:
        low, high = interval(shares)
        return low <= accuracy <= high

    return holds(clustered), holds(plain_t)


def plain_t(shares: list[float]) -> Interval:
    """Mean and t times the standard error over questions."""
    half_width = STUDENT_975 * stdev(shares) / sqrt(len(shares))
    return Interval(fmean(shares) - half_width, fmean(shares) + half_width)


def false_positives(k: int) -> tuple[list[float], list[float]]:
    """How often tenner's test and the bootstrap by percentiles call equal runs different: same model, other model."""
    r, ours, plain = random.Random(k), [], []
    for alike in (True, False):
        called: list[tuple[bool, bool]] = []
        for _ in range(PAIRS):
            accuracy, spread = r.uniform(0.05, 0.95), r.choice(SPREADS)
            first = difficulties(r, accuracy, spread)
            second = first if alike else difficulties(r, accuracy, spread)
            pairs = zip(answered(r, first, k), answered(r, second, k), strict=True)
            called.append(called_different([b - a for a, b in pairs], k))
        ours.append(fmean(mine for mine, _ in called))
        plain.append(fmean(other for _, other in called))
    return ours, plain


def called_different(differences: list[float], k: int) -> tuple[bool, bool]:
    """By tenner's test, and by whether the middle 95 % of the resampled means leave 0 out."""
    if k == 1:
        p_value = mcnemar(differences.count(-1), differences.count(1))
    else:
        p_value, _, _ = bootstrap(differences, seed=0)
    rows = np.random.default_rng(0).integers(0, QUESTIONS, (1000, QUESTIONS))
    low, high = np.quantile(np.asarray(differences)[rows].mean(axis=1), [0.025, 0.975])
    return p_value <= 0.05, bool(low > 0 or high < 0)


if __name__ == "__main__":
    main()
