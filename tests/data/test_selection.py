import hashlib
import os
import subprocess
import sys
from collections import Counter
from itertools import pairwise
from typing import Any

import pytest

from tenner.core.records import Difficulty, Question
from tenner.core.sections import Select
from tenner.data import puzzles
from tenner.data.selection import TraceFacts, select


def pool(sizes, source="test"):
    return [
        Question(id=f"{domain}{i}", question=f"{domain} {i}", domain=domain, source=source)
        for domain, size in sizes.items()
        for i in range(size)
    ]


def difficulty(question_id, correct, tokens=10.0, tries=2):
    return Difficulty(question_id=question_id, tries=tries, correct=correct, thinking_tokens_mean=tokens)


def hardest(questions, measured, *, count, seed=0):
    return select(questions, measured, rules=Select(samples=count), seed=seed)


def test_domains_are_balanced():
    counts = Counter(q.domain for q in hardest(pool({"a": 500, "b": 100, "c": 100}), [], count=240).picked)
    assert all(50 < counts[domain] < 110 for domain in "abc")  # 80 each, within four standard deviations


def test_what_is_always_solved_is_dropped_with_its_evidence():
    chosen = hardest(pool({"a": 3}), [difficulty("a1", correct=2)], count=3)
    assert {q.id for q in chosen.picked} == {"a0", "a2"}
    assert [(d.id, d.reason, d.evidence) for d in chosen.dropped] == [("a1", "too easy", "solved in 2 of 2 tries")]
    assert [(s.name, s.items_in, s.items_out) for s in chosen.steps] == [("too easy", 3, 2), ("not drawn", 2, 2)]


def test_the_hard_come_first():
    measured = [difficulty("a0", 1), difficulty("a1", 0, tokens=5), difficulty("a2", 0, tokens=50)]
    first = Counter(hardest(pool({"a": 8}), measured, count=1, seed=s).picked[0].id for s in range(400))
    assert first["a2"] > first["a1"] > first["a0"] > max(first[f"a{i}"] for i in range(3, 8))


def test_everything_is_picked_once_or_explained_once():
    questions = pool({"a": 40, "b": 10})
    chosen = hardest(questions, [difficulty("a3", 2)], count=30, seed=1)
    ids = [p.question_id for p in chosen.picks] + [d.id for d in chosen.dropped]
    assert sorted(ids) == sorted(q.id for q in questions)
    assert [q.id for q in chosen.picked] == [p.question_id for p in chosen.picks]
    assert len(chosen.picked) == 30


def test_an_empty_pool_ends_the_draw():
    assert len(hardest(pool({"a": 2}), [], count=5).picked) == 2
    assert hardest([], [], count=5).picked == []


def test_the_seed_decides_and_the_order_of_the_pool_does_not():
    questions = pool({"a": 50, "b": 50})
    picked = hardest(questions, [], count=20, seed=1).picked
    assert picked == hardest(questions[::-1], [], count=20, seed=1).picked
    assert picked != hardest(questions, [], count=20, seed=2).picked


# `hardest` as it was when the first demo ran: nobody's selection changes by an update.
GOLDEN = {"hardest": "89ee24be5d37c54c", "s1-paper": "72e4fa1c7d9b02e3", "s1-notebook": "ab37da749ec5f2c4"}


def demo_like(sampler):
    """The ids that are picked, as one hash."""
    questions = list(puzzles.generate(3200, families=list(puzzles.FAMILIES), split="train", seed=0))
    measured = [difficulty(q.id, i % 3, tokens=i % 7) for i, q in enumerate(questions[:80])]
    traced = {q.id: TraceFacts(100 + i % 997, i % 9 == 0) for i, q in enumerate(questions)}
    roles: dict[str, Any] = {"aime": ["puzzles:sorting"], "gpqa": ["puzzles:bills"]}
    rules = Select(samples=1000, sampler=sampler, **(roles if sampler != "hardest" else {}))
    picked = select(questions, measured, rules=rules, seed=0, traced=traced).picked
    assert len(picked) == 1000
    return hashlib.sha256("".join(q.id for q in picked).encode()).hexdigest()[:16]


@pytest.mark.parametrize("hash_seed", ["1", pytest.param("2", marks=pytest.mark.slow)])
def test_the_same_ids_on_every_machine_and_hash_seed(hash_seed):
    code = "from test_selection import GOLDEN, demo_like; print(*map(demo_like, GOLDEN))"
    env = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": os.path.dirname(__file__)}
    said = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True).stdout
    assert dict(zip(GOLDEN, said.split(), strict=True)) == GOLDEN


SOURCES: dict[str, Any] = {"aime": ["aime"], "gpqa": ["gpqa"], "math": ["math"]}
SAMPLERS = [("hardest", {}), ("s1-paper", SOURCES), ("s1-notebook", SOURCES)]


@pytest.mark.parametrize(("sampler", "roles"), SAMPLERS)
def test_a_larger_count_continues_the_same_draw(sampler, roles):
    questions = pool({"a": 60, "b": 30}, "aime") + pool({"c": 60}, "gpqa")
    traced = {q.id: TraceFacts(100 + i % 17, i % 9 == 0) for i, q in enumerate(questions)}
    rules = Select(samples=40, sampler=sampler, **roles)
    picks = [select(questions, [], rules=rules, seed=3, count=n, traced=traced).picks for n in (40, 41, 90, 150)]
    for fewer, more in pairwise(picks):
        assert more[: len(fewer)] == fewer
    assert len(picks[-1]) == 150


# -- s1's own selection, on a pool of its size ---------------------------------------------------------------------

NOTEBOOK = {"": 59_029, "not featurised": 54_116, "patterns": 51_607, "too easy": 24_517, "seed set": 393}
PAPER = {"": 59_029, "not featurised": 54_116, "patterns": 51_581, "too easy": 24_496, "seed set": 384}
PATTERNS = ("[asy]draw();[/asy]", "see ![Image](a.png)", "p12. Solve", "the **3rd** one")
DOMAINS = [f"msc{i:02}" for i in range(50)]


def featurised(counts):
    """A pool with so many planted defects at each step that the counts come out."""
    left, sizes = dict(zip(counts, list(counts.values())[1:], strict=False)), list(counts.values())
    missing, patterned, easy = (sizes[i] - sizes[i + 1] for i in range(3))
    seeds = left["too easy"]
    questions, measured, traced = [], [], {}
    for i in range(sizes[0]):
        fate = "missing" if (at := i) < missing else "patterned" if (at := at - missing) < patterned else "easy"
        fate = "rest" if fate == "easy" and (at := at - patterned) >= easy else fate
        place = at - easy if fate == "rest" else -1
        is_seed = 0 <= place < seeds
        source = ("aime", "gpqa", "math")[place % 3] if is_seed else ("numina", "aime", "math", "gpqa")[i % 4]
        domain = DOMAINS[i % 5] if source in ("aime", "gpqa") else DOMAINS[i // 4 % 50]
        text = f"{PATTERNS[i % 4]} {i}" if fate == "patterned" else f"Question {i}?"
        if "[asy]" in text:
            source = "numina"  # of AIME it may stay
        questions.append(Question(id=f"q{i}", question=text, domain=domain, source=source))
        measured.append(difficulty(f"q{i}", correct=int(fate == "easy")))
        if fate == "missing":
            continue
        traced[f"q{i}"] = TraceFacts(5601 if is_seed else 5600 - i % 5000, is_seed or source in ("numina", "math"))
    return questions, measured, traced


@pytest.mark.parametrize(
    ("sampler", "counts"), [pytest.param("s1-paper", PAPER, marks=pytest.mark.slow), ("s1-notebook", NOTEBOOK)]
)
def test_the_steps_of_s1_leave_what_they_should(sampler, counts):
    questions, measured, traced = featurised(counts)
    rules = Select(samples=1000, sampler=sampler, **SOURCES)
    chosen = select(questions, measured, rules=rules, seed=0, traced=traced)
    left = {s.name: s.items_out for s in chosen.steps}
    assert left == {**{name: count for name, count in counts.items() if name}, "not drawn": 1000}
    assert len({p.question_id for p in chosen.picks}) == 1000
    reasons = Counter(d.reason for d in chosen.dropped)
    sizes = list(counts.values())
    assert [reasons[name] for name in ("not featurised", "patterns", "too easy")] == [
        a - b for a, b in pairwise(sizes[:4])
    ]
    assert {d.evidence for d in chosen.dropped if d.reason == "patterns"} == {"[asy]", "![Image]", "p12.", "**3rd**"}


@pytest.mark.slow
def test_the_variants_of_s1_differ_as_its_paper_and_notebook_do():
    questions, measured, traced = featurised(PAPER)
    by_id = {q.id: q for q in questions}
    steps, of_benchmarks = {}, {}
    for sampler in ("s1-paper", "s1-notebook"):
        rules = Select(samples=1000, sampler=sampler, **SOURCES)
        picks = select(questions, measured, rules=rules, seed=0, traced=traced).picks
        steps[sampler] = Counter(p.step for p in picks)
        drawn = [p for p in picks if p.step != "seed set"]
        of_benchmarks[sampler] = sum(by_id[p.question_id].domain in DOMAINS[:5] for p in drawn) / len(drawn)
    assert steps == {
        "s1-paper": {"seed set": 384, "uniform draw": 616},
        "s1-notebook": {"seed set": 384, "uniform draw": 316, "benchmark draw": 300},
    }
    # The last 300 of the notebook come from the five domains of AIME and GPQA; of fifty, uniform draws hit a tenth.
    assert of_benchmarks["s1-paper"] < 0.15
    assert of_benchmarks["s1-notebook"] > 0.45
