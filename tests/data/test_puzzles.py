import re

import pytest

from tenner.core.errors import TennerError
from tenner.data.puzzles import DAYS, FAMILIES, generate, split_of


def many(family, count=300, seed=0, split="train"):
    return list(generate(count, families=[family], split=split, seed=seed))


def first_group(pattern, text):
    found = re.search(pattern, text)
    assert found
    return found[1]


def solve_running_sum(q):
    return str(sum(map(int, re.findall(r"\d+", q))))


def solve_sorting(q):
    numbers = sorted(map(int, re.findall(r"\d+", q)))
    return str(numbers[["first", "second", "third"].index(q.split()[-1].rstrip("?"))])


def solve_coin_flips(q):
    flips = q.count("flips it")
    side = first_group(r"shows (heads|tails)", q)
    other = {"heads": "tails", "tails": "heads"}[side]
    return f"{flips} {other if flips % 2 else side}"


def solve_last_letters(q):
    names = first_group(r"letters of (.*?)(?:, in order\.|\?)$", q).split(", ")
    return " ".join(name[-1] for name in names)


def solve_shopping(q):
    sign = {"finds": 1, "gets": 1, "loses": -1, "sells": -1}
    start = int(first_group(r"has (\d+)", q))
    return str(start + sum(sign[verb] * int(n) for verb, n in re.findall(r"(finds|gets|loses|sells) (\d+)", q)))


def solve_bills(q):
    listed, rest = q.removeprefix("Prices: ").split(". ", 1)
    prices = {thing: int(price) for thing, price in (item.split() for item in listed.split(", "))}
    basket = first_group(r"takes (.*?)\.", rest).replace(" and ", ", ").split(", ")
    return str(sum(prices[thing] for thing in basket))


def solve_weekdays(q):
    today, ahead = first_group(r"Today is (\w+)", q), int(first_group(r"in (\d+) days", q))
    return DAYS[(DAYS.index(today) + ahead) % 7]


def solve_sequences(q):
    start, step, place = map(int, re.findall(r"\d+", q))
    return str(start + step * (place - 1))


SOLVERS = {name.removeprefix("solve_"): f for name, f in globals().items() if name.startswith("solve_")}


def test_every_family_has_an_independent_solver_here():
    assert SOLVERS.keys() == FAMILIES.keys()


@pytest.mark.parametrize("family", FAMILIES)
def test_answers_are_right_and_follow_from_the_thinking(family):
    for q in many(family):
        assert SOLVERS[family](q.question) == q.answer
        assert q.domain == family
        steps = q.solution.split("\nWait")[0]
        assert q.answer in steps


@pytest.mark.parametrize("family", FAMILIES)
def test_some_solutions_check_themselves_and_some_do_not(family):
    checked = sum("Wait, check:" in q.solution for q in many(family))
    assert 40 < checked < 120  # a quarter of 300, within four standard deviations


def test_no_question_can_be_on_both_sides_whatever_the_seeds():
    train = {q.question for seed in range(3) for q in generate(800, families=list(FAMILIES), split="train", seed=seed)}
    heldout = {q.question for q in generate(800, families=list(FAMILIES), split="heldout", seed=9)}
    assert not train & heldout
    assert {split_of(q) for q in heldout} == {"heldout"}


def test_the_same_seed_gives_the_same_questions_and_another_seed_others():
    assert many("bills", 50, seed=1) == many("bills", 50, seed=1)
    assert not {q.id for q in many("bills", 50, seed=1)} & {q.id for q in many("bills", 50, seed=2)}


def test_distinct_questions_do_not_repeat():
    drawn = list(generate(400, families=list(FAMILIES), split="heldout", seed=0, distinct=True))
    assert len({q.question for q in drawn}) == 400


def test_a_family_that_runs_out_of_questions_says_so():
    with pytest.raises(TennerError, match="the family weekdays has no"):
        list(generate(2000, families=["weekdays"], split="heldout", seed=0, distinct=True))


def test_a_family_that_runs_out_may_be_passed_over():
    def drawn(count, *families):
        found = generate(count, families=families, split="heldout", seed=0, distinct=True, passes_over=True)
        return [(q.domain, q.question) for q in found]

    most = len(drawn(2000, "weekdays"))
    assert most == len(set(drawn(2000, "weekdays"))) < 2000
    both = drawn(1000, "weekdays", "bills")
    assert len(set(both)) == 1000
    assert sum(domain == "weekdays" for domain, _ in both) == most
    assert drawn(100, "weekdays", "bills") == [
        (q.domain, q.question)
        for q in generate(100, families=["weekdays", "bills"], split="heldout", seed=0, distinct=True)
    ]
