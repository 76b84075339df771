"""Which questions are worth a trace: balanced over domains, towards the hard, the same for a seed everywhere.

The draw is s1's (paper, Algorithm 1) with tenner's ranking: a trace's length is not known before it is bought, so
questions are ranked by the measured difficulty for the untrained student instead.
"""

from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

from tenner.records import Difficulty, Drop, Question
from tenner.seeds import digest, rng


class Selection(NamedTuple):
    """The picked questions in the order of the draw, and why the others were not picked."""

    picked: list[Question]
    dropped: list[Drop]


def select(questions: Sequence[Question], difficulties: Sequence[Difficulty], *, count: int, seed: int) -> Selection:
    """Draw `count` questions: a domain uniformly, in it a question of rank r with weight 2^-r.

    Rank 0 is the hardest: measured ones by pass rate, then by the tokens the attempt took (more is harder); those
    that were not attempted follow in the order of a seeded hash. What was solved in every try is too easy and dropped.
    Domains that run empty leave the draw. Fewer than `count` are picked only where the pool is empty.
    """
    measured = {d.question_id: d for d in difficulties}
    dropped, pools = [], defaultdict(list)
    for q in questions:
        d = measured.get(q.id)
        if d and d.correct == d.tries:
            evidence = f"solved in {d.correct} of {d.tries} tries"
            dropped.append(Drop(id=q.id, reason="too easy", evidence=evidence))
        else:
            pools[q.domain or ""].append(q)
    for pool in pools.values():
        pool.sort(key=lambda q: _hardness(q, measured.get(q.id), seed))
    r = rng(seed, "select")
    picked: list[Question] = []
    domains = sorted(pools)
    while domains and len(picked) < count:
        domain = r.choice(domains)
        rank = _geometric(r.random(), len(pools[domain]))
        picked.append(pools[domain].pop(rank))
        if not pools[domain]:
            domains.remove(domain)
    left = (q for domain in domains for q in pools[domain])
    dropped += [Drop(id=q.id, reason="not drawn", evidence=f"domain {q.domain}") for q in left]
    return Selection(picked, dropped)


def _hardness(question: Question, measured: Difficulty | None, seed: int) -> tuple[float, float, str]:
    """Sort key, hardest first. Unmeasured questions come after all measured ones that failed at least once."""
    order = digest(seed, "select/order", question.id)
    if measured is None:
        return (2.0, 0.0, order)
    return (measured.pass_rate, -measured.thinking_tokens_mean, order)


def _geometric(u: float, size: int) -> int:
    """The rank r in [0, size) that a uniform u in [0, 1) falls on when r has weight 2^-r."""
    total = 2.0 - 2.0 ** (1 - size)
    mass, rank = 1.0, 0
    u *= total
    while rank < size - 1 and u >= mass:
        u -= mass
        mass /= 2
        rank += 1
    return rank
