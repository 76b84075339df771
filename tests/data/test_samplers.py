import random
from collections import Counter

import pytest

from tenner.core.records import Question
from tenner.data.samplers import benchmark_weights, geometric_rank, notebook, paper, ranked, uniform, weighted

DRAWS = 10_000
CHI_SQUARE_99 = {1: 6.635, 2: 9.210, 3: 11.345, 4: 13.277, 5: 15.086, 6: 16.812, 7: 18.475, 8: 20.090, 9: 21.666}
"""The 99th percentiles of the distribution, by degrees of freedom."""


def pool(sizes):
    return [
        Question(id=f"{domain}{i}", question=f"{domain} {i}", domain=domain, source="test")
        for domain, size in sizes.items()
        for i in range(size)
    ]


def pools(**sizes):
    return ranked(pool(sizes), lambda _: 0)


def fits(counts, shares):
    """Pearson's chi-square test at p > 0.01."""
    total = sum(counts.values())
    statistic = sum((counts[k] - total * share) ** 2 / (total * share) for k, share in shares.items())
    assert abs(sum(shares.values()) - 1) < 1e-9
    return statistic < CHI_SQUARE_99[len(shares) - 1]


def first_draws(sampler, **sizes):
    """The first draw of each of 10,000 seeds."""
    made = pools(**sizes)
    return [next(sampler({d: list(p) for d, p in made.items()}, random.Random(seed))) for seed in range(DRAWS)]


SHARES = {rank: 2**-rank / (2 - 2**-7) for rank in range(8)}  # of the eight questions of a domain


def test_ranks_follow_two_to_the_minus_rank_and_domains_are_uniform():
    drawn = first_draws(uniform, a=8, b=8, c=8, d=8)
    assert fits(Counter(d.rank for d in drawn), SHARES)
    assert fits(Counter(d.domain for d in drawn), dict.fromkeys("abcd", 1 / 4))


def test_the_size_of_a_domain_is_no_matter():
    assert fits(Counter(d.domain for d in first_draws(uniform, a=3, b=30, c=3000)), dict.fromkeys("abc", 1 / 3))


def test_the_same_check_finds_a_planted_bias(monkeypatch):
    def rank_of(base):
        def draw(u, size):
            masses = [base**-rank for rank in range(size)]
            return random.Random(u).choices(range(size), masses)[0]

        return draw

    monkeypatch.setattr("tenner.data.samplers.geometric_rank", rank_of(2.0))
    assert fits(Counter(d.rank for d in first_draws(uniform, a=8)), SHARES)
    monkeypatch.setattr("tenner.data.samplers.geometric_rank", rank_of(1.9))
    assert not fits(Counter(d.rank for d in first_draws(uniform, a=8)), SHARES)
    favoured = first_draws(lambda p, r: weighted(p, {"a": 1.1, "b": 1, "c": 1, "d": 1}, r), a=8, b=8, c=8, d=8)
    assert not fits(Counter(d.domain for d in favoured), dict.fromkeys("abcd", 1 / 4))


def test_every_rank_has_exactly_its_share():
    assert Counter(geometric_rank((i + 0.5) / 7000, 3) for i in range(7000)) == {0: 4000, 1: 2000, 2: 1000}


@pytest.mark.parametrize("size", [1, 2, 60, 5000])
def test_the_rank_is_always_in_the_pool(size):
    assert {geometric_rank(u, size) < size for u in (0.0, 0.5, 0.999999999999, 1 - 2**-53)} == {True}


def test_all_is_drawn_once():
    drawn = list(uniform(pools(a=40, b=10), random.Random(0)))
    assert len({d.question.id for d in drawn}) == 50
    assert [d.domain_size for d in drawn if d.domain == "b"] == list(range(10, 0, -1))


def test_weights_decide_until_their_domains_are_empty():
    drawn = list(weighted(pools(a=400, b=400, c=400), {"a": 3, "b": 1, "x": 5}, random.Random(0)))
    assert len(drawn) == 800
    first = Counter(d.domain for d in drawn[:300])
    assert fits(first, {"a": 3 / 4, "b": 1 / 4})


def test_gpqa_weighs_half_of_aime_cut_to_whole_numbers():
    weights = benchmark_weights({"number theory": 60, "geometry": 30}, {"chemistry": 100, "physics": 97, "geometry": 1})
    # 0.5 * 90 / 198 = 0.227: 22.7, 22.04 and 0.2
    assert weights == {"number theory": 60, "geometry": 30, "chemistry": 22, "physics": 22}
    assert benchmark_weights({}, {"chemistry": 3}) == {"chemistry": 0}


def test_the_paper_takes_the_seed_set_first_and_draws_the_others():
    seeds = pool({"a": 5})
    drawn = list(paper(pools(a=20, b=20), seeds, random.Random(0)))
    assert [d.question for d in drawn[:5]] == seeds
    assert {(d.step, d.rank) for d in drawn[:5]} == {("seed set", None)}
    assert len({d.question.id for d in drawn}) == len(drawn) == 40


def test_the_notebook_draws_uniformly_to_seventy_percent_and_then_by_the_benchmarks():
    seeds = pool({"a": 5})
    drawn = list(notebook(pools(a=100, b=100, c=100), seeds, {"c": 1.0}, random.Random(0), target=100))
    steps = Counter(d.step for d in drawn[:100])
    assert steps == {"seed set": 5, "uniform draw": 65, "benchmark draw": 30}
    assert {d.domain for d in drawn[70:100]} == {"c"}
    assert len({d.question.id for d in drawn}) == len(drawn) == 300


def test_in_the_notebook_a_drawn_seed_takes_a_turn_and_adds_nothing():
    seeds = pool({"a": 5})  # the whole domain
    with_them = list(notebook(pools(a=5, b=50), seeds, {}, random.Random(0), target=40))
    others = [d.question.id for d in with_them[5:]]
    twice = list(uniform(pools(a=5, b=50), random.Random(0)))
    assert others == [d.question.id for d in twice if d.domain == "b"]
