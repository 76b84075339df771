from collections import Counter

import pytest

from tenner.ask.selection import _geometric, select
from tenner.records import Difficulty, Question


def pool(sizes):
    return [
        Question(id=f"{domain}{i}", question=f"{domain} {i}", domain=domain, source="test")
        for domain, size in sizes.items()
        for i in range(size)
    ]


def difficulty(question_id, correct, tokens=10.0, tries=2):
    return Difficulty(question_id=question_id, tries=tries, correct=correct, thinking_tokens_mean=tokens)


def test_domains_are_balanced():
    picked = select(pool({"a": 500, "b": 100, "c": 100}), [], count=240, seed=0).picked
    counts = Counter(q.domain for q in picked)
    assert all(50 < counts[domain] < 110 for domain in "abc")  # 80 each, within four standard deviations


def test_what_is_always_solved_is_dropped_with_its_evidence():
    chosen = select(pool({"a": 3}), [difficulty("a1", correct=2)], count=3, seed=0)
    assert {q.id for q in chosen.picked} == {"a0", "a2"}
    assert [(d.id, d.reason, d.evidence) for d in chosen.dropped] == [("a1", "too easy", "solved in 2 of 2 tries")]


def test_the_hard_come_first():
    measured = [difficulty("a0", 1), difficulty("a1", 0, tokens=5), difficulty("a2", 0, tokens=50)]
    first = Counter(select(pool({"a": 8}), measured, count=1, seed=s).picked[0].id for s in range(400))
    assert first["a2"] > first["a1"] > first["a0"] > max(first[f"a{i}"] for i in range(3, 8))


def test_the_rank_follows_two_to_the_minus_rank():
    drawn = Counter(_geometric((i + 0.5) / 7000, 3) for i in range(7000))
    assert drawn == {0: 4000, 1: 2000, 2: 1000}


@pytest.mark.parametrize("size", [1, 2, 60, 5000])
def test_the_rank_is_always_in_the_pool(size):
    assert {_geometric(u, size) < size for u in (0.0, 0.5, 0.999999999999, 1 - 2**-53)} == {True}


def test_everything_is_picked_once_or_explained_once():
    questions = pool({"a": 40, "b": 10})
    chosen = select(questions, [difficulty("a3", 2)], count=30, seed=1)
    ids = [q.id for q in chosen.picked] + [d.id for d in chosen.dropped]
    assert sorted(ids) == sorted(q.id for q in questions)
    assert len(chosen.picked) == 30


def test_an_empty_pool_ends_the_draw():
    assert len(select(pool({"a": 2}), [], count=5, seed=0).picked) == 2


def test_the_seed_decides():
    questions = pool({"a": 50, "b": 50})
    assert select(questions, [], count=20, seed=1) == select(questions, [], count=20, seed=1)
    assert select(questions, [], count=20, seed=1).picked != select(questions, [], count=20, seed=2).picked
