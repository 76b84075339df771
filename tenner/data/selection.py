"""Which questions are worth training on: not too easy, balanced over domains, towards the hard; the same for a seed
everywhere. Each step says how many it left, each question why it is in or out.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import NamedTuple

from tenner.core.records import Difficulty, Drop, Pick, Question, SelectStep
from tenner.core.sections import Select
from tenner.core.seeds import digest, rng
from tenner.data import samplers
from tenner.data.quality_filters import s1_patterns

SEED_THINKING_TOKENS_MIN = 5600  # of a question of MATH, to be in the seed set of s1's selection


class Taught(NamedTuple):
    """What the teacher's trace of a question says about it."""

    thinking_tokens: int
    is_correct: bool


class Selection(NamedTuple):
    """The picked questions in the order of the draw, and why the others were not picked."""

    picked: list[Question]
    dropped: list[Drop]
    picks: list[Pick]
    steps: list[SelectStep]


Reason = Callable[[Question], str | None]
"""The evidence against a question, None for one that may stay."""


def select(
    questions: Sequence[Question], difficulties: Sequence[Difficulty], *, rules: Select, seed: int,
    count: int | None = None, taught: Mapping[str, Taught] | None = None,
) -> Selection:  # fmt: skip
    """Draw `count` questions (by default `rules.samples`); fewer only where the pool is empty.

    A larger `count` continues the same draw, so that what was picked before is picked again, in the same places.
    `taught` is what s1's samplers need besides: the questions without a trace fall out.
    """
    count = rules.samples if count is None else count
    sifter = _Sifter(questions)
    if rules.sampler == "hardest":
        measured = {d.question_id: d for d in difficulties}
        left = sifter.sift("too easy", lambda q: _too_easy(measured.get(q.id), rules))
        pools = samplers.ranked(left, lambda q: _hardness(q, measured.get(q.id), seed))
        draws = samplers.uniform(pools, rng(seed, "select"))
    else:
        assert taught is not None, "the recipe has seen to it: these samplers come after the traces"
        draws = _as_s1(sifter, {d.question_id: d for d in difficulties}, taught, rules, seed)
    drawn = list(islice(draws, count))
    taken = {d.question.id for d in drawn}
    sifter.sift("not drawn", lambda q: None if q.id in taken else f"domain {q.domain}")
    return Selection([d.question for d in drawn], sifter.dropped, samplers.picks(drawn), sifter.steps)


def not_too_easy(questions: Sequence[Question], difficulties: Sequence[Difficulty], rules: Select) -> list[Question]:
    """What the untrained student's attempts leave of a pool, by the rule of the sampler."""
    measured = {d.question_id: d for d in difficulties}
    return _Sifter(questions).sift("too easy", lambda q: _too_easy(measured.get(q.id), rules))


class _Sifter:
    """What is left of a pool, step by step."""

    def __init__(self, questions: Sequence[Question]) -> None:
        self.left = list(questions)
        self.dropped: list[Drop] = []
        self.steps: list[SelectStep] = []

    def sift(self, name: str, reason: Reason) -> list[Question]:
        """Drop the questions against which there is evidence; the name of the step is their reason."""
        left, size = [], len(self.left)
        for q in self.left:
            if (evidence := reason(q)) is None:
                left.append(q)
            else:
                self.dropped.append(Drop(id=q.id, reason=name, evidence=evidence))
        self.steps.append(SelectStep(name=name, items_in=size, items_out=len(left)))
        self.left = left
        return left


def _as_s1(
    sifter: _Sifter, measured: Mapping[str, Difficulty], taught: Mapping[str, Taught], rules: Select, seed: int
) -> Iterator[samplers.Draw]:
    def is_missing(q: Question) -> str | None:
        missing = [name for name, there in (("trace", q.id in taught), ("domain", q.domain)) if not there]
        return f"no {' and no '.join(missing)}" if missing else None

    sifter.sift("not featurised", is_missing)
    of_benchmarks = Counter((q.source, q.domain or "") for q in sifter.left)
    sifter.sift("patterns", s1_patterns)
    left = sifter.sift("too easy", lambda q: _too_easy(measured.get(q.id), rules))
    seeds = [q for q in left if _is_seed(q, taught[q.id], rules)]
    sifter.steps.append(SelectStep(name="seed set", items_in=len(left), items_out=len(seeds)))
    pools = samplers.ranked(left, lambda q: -taught[q.id].thinking_tokens)
    r = rng(seed, f"select/{rules.sampler}")
    if rules.sampler == "s1-paper":
        return samplers.paper(pools, seeds, r)
    aime, gpqa = (_by_domain(of_benchmarks, names) for names in (rules.aime, rules.gpqa))
    weights = samplers.benchmark_weights(aime, gpqa)
    return samplers.notebook(pools, seeds, weights, r, target=rules.samples)


def _is_seed(q: Question, trace: Taught, rules: Select) -> bool:
    """Right, and of a source that is hard; or of MATH, and thought about for long."""
    if not trace.is_correct:
        return False
    is_long = trace.thinking_tokens > SEED_THINKING_TOKENS_MIN
    return q.source in rules.gpqa or q.source in rules.aime or (q.source in rules.math and is_long)


def _by_domain(counts: Mapping[tuple[str, str], int], sources: Sequence[str]) -> Counter[str]:
    found: Counter[str] = Counter()
    for (source, domain), count in counts.items():
        if source in sources:
            found[domain] += count
    return found


def _too_easy(d: Difficulty | None, rules: Select) -> str | None:
    """For s1 what was solved once is too easy, else what was solved every time."""
    enough = 1 if rules.sampler != "hardest" else d.tries if d else 0
    return f"solved in {d.correct} of {d.tries} tries" if d and d.correct >= enough else None


def _hardness(question: Question, measured: Difficulty | None, seed: int) -> tuple[float, float, str]:
    """Sort key, hardest first: by pass rate, then by the tokens the attempt took (more is harder).

    Unmeasured questions come after all measured ones that failed at least once, in the order of a seeded hash.
    """
    order = digest(seed, "select/order", question.id)
    if measured is None:
        return (2.0, 0.0, order)
    return (measured.pass_rate, -measured.thinking_tokens_mean, order)
