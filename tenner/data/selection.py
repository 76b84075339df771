"""Selects questions to train on: not too easy, balanced over domains, the hard ones first.

A seed gives the same selection on every machine. Every step records its counts, every question why it is in or out.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import NamedTuple

from tenner.core.records import Completion, Difficulty, Drop, Pick, Question, SelectStep
from tenner.core.sections import Select
from tenner.core.seeds import digest, rng
from tenner.data import samplers
from tenner.data.quality_filters import s1_patterns

SEED_THINKING_TOKENS_MIN = 5600  # above it, a solved question of MATH is in the seed set of s1's selection


NOT_DRAWN = "not drawn"
"""Why a question was dropped that could have been selected."""


class TraceFacts(NamedTuple):
    """What s1's samplers use of the trace of a question."""

    thinking_tokens: int
    is_correct: bool


class Selection(NamedTuple):
    """The picked questions in the order of the draw, and why the others were not picked."""

    picked: list[Question]
    dropped: list[Drop]
    picks: list[Pick]
    steps: list[SelectStep]


Reason = Callable[[Question], str | None]
"""Returns the evidence against a question, None if it may stay."""


def select(
    questions: Sequence[Question], difficulties: Sequence[Difficulty], *, rules: Select, seed: int,
    count: int | None = None, traced: Mapping[str, TraceFacts] | None = None,
) -> Selection:  # fmt: skip
    """Draw `count` questions (by default `rules.samples`); fewer only where the pool is empty.

    A larger `count` continues the same draw, so what was picked before is picked again, in the same places.
    s1's samplers need `traced`, the facts of the traces by question id; they drop questions without a trace.
    """
    count = rules.samples if count is None else count
    steps = _Steps(questions)
    if rules.sampler == "hardest":
        measured = {d.question_id: d for d in difficulties}
        left = steps.drop("too easy", lambda q: _too_easy(measured.get(q.id), rules))
        pools = samplers.ranked(left, lambda q: _hardness(q, measured.get(q.id), seed))
        draws = samplers.uniform(pools, rng(seed, "select"))
    else:
        assert traced is not None, "validated in the recipe: these samplers need trace-first"
        draws = _as_s1(steps, {d.question_id: d for d in difficulties}, traced, rules, seed)
    drawn = list(islice(draws, count))
    taken = {d.question.id for d in drawn}
    steps.drop(NOT_DRAWN, lambda q: None if q.id in taken else f"domain {q.domain}")
    return Selection([d.question for d in drawn], steps.dropped, samplers.picks(drawn), steps.steps)


def not_too_easy(questions: Sequence[Question], difficulties: Sequence[Difficulty], rules: Select) -> list[Question]:
    """The questions that the untrained student did not solve too often, by the rule of the sampler."""
    measured = {d.question_id: d for d in difficulties}
    return _Steps(questions).drop("too easy", lambda q: _too_easy(measured.get(q.id), rules))


def difficulties_of(completions: Iterable[Completion]) -> list[Difficulty]:
    """The difficulty of each attempted question: tries, correct ones, and mean thinking tokens."""
    tries: dict[str, list[Completion]] = {}
    for c in completions:
        tries.setdefault(c.question_id, []).append(c)
    return [
        Difficulty(
            question_id=question_id,
            tries=len(made),
            correct=sum(c.grade.verdict == "correct" for c in made),
            thinking_tokens_mean=sum(c.thinking_tokens or 0 for c in made) / len(made),
        )
        for question_id, made in tries.items()
    ]


class _Steps:
    """Applies one reason to drop questions after the other, and records the counts and the drops of each step."""

    def __init__(self, questions: Sequence[Question]) -> None:
        self.left = list(questions)
        self.dropped: list[Drop] = []
        self.steps: list[SelectStep] = []

    def drop(self, name: str, reason: Reason) -> list[Question]:
        """Drop the questions for which `reason` returns evidence. Returns those that are left."""
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
    steps: _Steps, measured: Mapping[str, Difficulty], traced: Mapping[str, TraceFacts], rules: Select, seed: int
) -> Iterator[samplers.Draw]:
    """The draws of s1's samplers: drop, find the seed set, rank each domain by the length of thinking, draw."""

    def is_missing(q: Question) -> str | None:
        missing = [name for name, there in (("trace", q.id in traced), ("domain", q.domain)) if not there]
        return f"no {' and no '.join(missing)}" if missing else None

    steps.drop("not featurised", is_missing)
    of_benchmarks = Counter((q.source, q.domain or "") for q in steps.left)
    steps.drop("patterns", s1_patterns)
    left = steps.drop("too easy", lambda q: _too_easy(measured.get(q.id), rules))
    seeds = [q for q in left if _is_seed(q, traced[q.id], rules)]
    steps.steps.append(SelectStep(name="seed set", items_in=len(left), items_out=len(seeds)))
    pools = samplers.ranked(left, lambda q: -traced[q.id].thinking_tokens)
    r = rng(seed, f"select/{rules.sampler}")
    if rules.sampler == "s1-paper":
        return samplers.paper(pools, seeds, r)
    aime, gpqa = (_by_domain(of_benchmarks, names) for names in (rules.aime, rules.gpqa))
    weights = samplers.benchmark_weights(aime, gpqa)
    return samplers.notebook(pools, seeds, weights, r, target=rules.samples)


def _is_seed(q: Question, trace: TraceFacts, rules: Select) -> bool:
    """Solved by the teacher, and from a hard source, or from MATH with long thinking."""
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
    """The evidence that a question is too easy: solved once, for s1's samplers; else solved in every try."""
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
