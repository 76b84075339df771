"""Samplers that draw questions: a random domain, and in it the hard questions first.

`hardest` and `s1-paper` are the paper's Algorithm 1 (arXiv 2501.19393, section 2.2): a domain uniformly, in it the
question of rank r with weight 2^-r. `s1-notebook` is what s1's published notebook did instead.
"""

import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice, zip_longest
from typing import NamedTuple

from tenner.core.records import Pick, Question
from tenner.core.seeds import digest

Pools = dict[str, list[Question]]
"""By domain, the questions that may be drawn, in rank order. A draw removes its question."""
UNIFORM_SHARE = 0.7  # of the notebook's target, 700 of 1,000, is drawn uniformly; the rest by the domains of benchmarks
GPQA_SHARE = 0.5  # the total weight of GPQA in these, relative to AIME


class Draw(NamedTuple):
    """A drawn question, and how it was drawn."""

    question: Question
    step: str
    domain: str
    rank: int | None
    domain_size: int


def stratified(questions: Sequence[Question], count: int, seed: int) -> list[Question]:
    """The first `count` questions by seeded hash, taken from the domains in turn."""
    by_domain: dict[str, list[Question]] = {}
    for q in sorted(questions, key=lambda q: digest(seed, "attempt", q.id)):
        by_domain.setdefault(q.domain or "", []).append(q)
    rounds = zip_longest(*(by_domain[domain] for domain in sorted(by_domain)))
    return list(islice((q for in_turn in rounds for q in in_turn if q), count))


def random_order(questions: Sequence[Question], seed: int) -> list[Question]:
    """The questions in an order by seeded hash that has nothing to do with domains, ranks and any other draw."""
    return sorted(questions, key=lambda q: digest(seed, "select/control", q.id))


def seeded(seeds: Sequence[Question]) -> Iterator[Draw]:
    """The seed set, which is taken without a draw."""
    sizes = Counter(q.domain or "" for q in seeds)
    return (Draw(q, "seed set", q.domain or "", None, sizes[q.domain or ""]) for q in seeds)


def uniform(pools: Pools, r: random.Random) -> Iterator[Draw]:
    """Draw domains uniformly, until all are empty."""
    domains = sorted(domain for domain, pool in pools.items() if pool)
    while domains:
        domain = r.choice(domains)
        yield _draw(pools[domain], domain, "uniform draw", r)
        if not pools[domain]:
            domains.remove(domain)


def weighted(pools: Pools, weights: Mapping[str, float], r: random.Random) -> Iterator[Draw]:
    """Draw domains by weight, until all of positive weight are empty."""
    domains = sorted(domain for domain, weight in weights.items() if weight > 0 and pools.get(domain))
    while domains:
        (domain,) = r.choices(domains, [weights[domain] for domain in domains])
        yield _draw(pools[domain], domain, "benchmark draw", r)
        if not pools[domain]:
            domains.remove(domain)


def paper(pools: Pools, seeds: Sequence[Question], r: random.Random) -> Iterator[Draw]:
    """The seed set, then uniform draws of the other questions."""
    taken = {q.id for q in seeds}
    for domain, pool in pools.items():
        pools[domain] = [q for q in pool if q.id not in taken]
    yield from seeded(seeds)
    yield from uniform(pools, r)


def notebook(
    pools: Pools, seeds: Sequence[Question], weights: Mapping[str, float], r: random.Random, *, target: int
) -> Iterator[Draw]:
    """The seed set, uniform draws up to 70 % of the target, then draws by the benchmarks' domains, then the rest.

    Seeds stay in their pools: drawing one adds nothing, but uses up a draw of the random generator.
    """
    taken: set[str] = set()

    def new(draws: Iterator[Draw]) -> Iterator[Draw]:
        for draw in draws:
            if draw.question.id not in taken:
                taken.add(draw.question.id)
                yield draw

    yield from new(seeded(seeds))
    yield from islice(new(uniform(pools, r)), max(0, round(UNIFORM_SHARE * target) - len(taken)))
    yield from new(weighted(pools, weights, r))
    yield from new(uniform(pools, r))


def benchmark_weights(aime: Mapping[str, int], gpqa: Mapping[str, int]) -> dict[str, float]:
    """The notebook's weight of each domain, from the two benchmarks' counts of questions by domain.

    GPQA's counts are scaled to half of AIME's total and truncated to integers.
    """
    scale = GPQA_SHARE * sum(aime.values()) / max(1, sum(gpqa.values()))
    weights = Counter(aime)
    for domain, count in gpqa.items():
        weights[domain] += int(count * scale)
    return dict(weights)


def geometric_rank(u: float, size: int) -> int:
    """Inverse transform sampling: the rank r in [0, size), with weight 2^-r, that a uniform u in [0, 1) selects."""
    total = 2.0 - 2.0 ** (1 - size)
    mass, rank = 1.0, 0
    u *= total
    while rank < size - 1 and u >= mass:
        u -= mass
        mass /= 2
        rank += 1
    return rank


def ranked(questions: Sequence[Question], key: Callable[[Question], object]) -> Pools:
    """The questions by domain, each domain sorted by `key`; the sort is stable."""
    pools: Pools = {}
    for q in questions:
        pools.setdefault(q.domain or "", []).append(q)
    for pool in pools.values():
        pool.sort(key=key)  # type: ignore[arg-type]
    return pools


def picks(draws: Sequence[Draw]) -> list[Pick]:
    """The draws as records."""
    return [
        Pick(question_id=q.id, place=place, step=step, domain=domain, rank=rank, domain_size=size)
        for place, (q, step, domain, rank, size) in enumerate(draws)
    ]


def _draw(pool: list[Question], domain: str, step: str, r: random.Random) -> Draw:
    size = len(pool)
    rank = geometric_rank(r.random(), size)
    return Draw(pool.pop(rank), step, domain, rank, size)
