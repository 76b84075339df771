"""From completions to numbers that never travel alone: accuracies with intervals, differences with a paired test."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from math import comb, inf, sqrt
from typing import NamedTuple

from tenner.records import Completion, Policy, Score, StudentName

Z_95 = 1.959963984540054  # the 97.5 % point of the standard normal distribution


class Interval(NamedTuple):
    low: float
    high: float


class Comparison(NamedTuple):
    """Two runs over the same questions: in how many each was right, and how likely such a split is by chance."""

    both: int
    only_before: int
    only_after: int
    neither: int
    p_value: float

    @property
    def n(self) -> int:
        return self.both + self.only_before + self.only_after + self.neither


class _Group(NamedTuple):
    """What is scored together."""

    task: str
    student: StudentName
    prompt: str
    policy: Policy
    domain: str | None


def wilson(correct: int, n: int) -> Interval:
    """The 95 % score interval of a proportion; unlike the normal one it holds for few questions and near 0 and 1.

    Source: E. B. Wilson, Probable inference, the law of succession, and statistical inference, JASA 22 (1927), 209-212:
    (p + z²/2n ± z √(p(1-p)/n + z²/4n²)) / (1 + z²/n). Raises ValueError when there is nothing to estimate from.
    """
    if not 0 <= correct <= n or n == 0:
        raise ValueError(f"no interval for {correct} correct of {n}")
    p, z2 = correct / n, Z_95**2
    centre = (p + z2 / (2 * n)) / (1 + z2 / n)
    half_width = Z_95 * sqrt(p * (1 - p) / n + z2 / (4 * n * n)) / (1 + z2 / n)
    # At 0 and 1 the bound is exactly the proportion; rounding must not push it past.
    return Interval(min(p, max(0.0, centre - half_width)), max(p, min(1.0, centre + half_width)))


def score(completions: Iterable[Completion], domains: Mapping[str, str | None]) -> list[Score]:
    """Score each (task, student, prompt, policy), whole and by domain; `domains` maps a question's id to its domain.

    n is what was answered: a missing question is missing, not wrong. Unparsed is not correct, and counted apart.
    The order does not depend on the order of the completions: base first, whole before domains, budgets upwards.
    """
    groups: defaultdict[_Group, list[Completion]] = defaultdict(list)
    for completion in completions:
        whole = _Group(completion.task, completion.student, completion.prompt, completion.policy, None)
        groups[whole].append(completion)
        if (domain := domains[completion.question_id]) is not None:
            groups[whole._replace(domain=domain)].append(completion)
    return [_score(group, groups[group]) for group in sorted(groups, key=_order)]


def before_and_after(scores: Iterable[Score]) -> tuple[Score, Score]:
    """The two scores of a task that the headline compares, by a rule that cannot flatter the distilled student.

    Before is the base student's best over all its prompts and policies. After is the distilled student at its largest
    budget without waits, whether or not that is its best.
    """
    whole = [s for s in scores if s.domain is None]
    before = max((s for s in whole if s.student == "base"), key=lambda s: s.accuracy)
    plain = (s for s in whole if s.student == "distilled" and not s.policy.waits)
    return before, max(plain, key=lambda s: policy_order(s.policy))


def compare(completions: Iterable[Completion], before: Score, after: Score) -> Comparison:
    """The paired test of two scores, over the questions that both have answered."""
    groups: dict[tuple[object, ...], dict[str, bool]] = {_run(before): {}, _run(after): {}}
    for completion in completions:
        if (verdicts := groups.get(_run(completion))) is not None:
            verdicts[completion.question_id] = completion.grade.verdict == "correct"
    a, b = groups[_run(before)], groups[_run(after)]
    pairs = [(a[question_id], b[question_id]) for question_id in a.keys() & b.keys()]
    only_before, only_after = pairs.count((True, False)), pairs.count((False, True))
    return Comparison(
        both=pairs.count((True, True)),
        only_before=only_before,
        only_after=only_after,
        neither=pairs.count((False, False)),
        p_value=mcnemar(only_before, only_after),
    )


def mcnemar(only_a: int, only_b: int) -> float:
    """The exact two-sided p-value that two runs are equally good, from the questions that only one of them got right.

    Source: Q. McNemar, Note on the sampling error of the difference between correlated proportions, Psychometrika 12
    (1947), 153-157, with the binomial distribution in place of its normal approximation.
    """
    discordant = only_a + only_b
    tail = sum(comb(discordant, k) for k in range(min(only_a, only_b) + 1))
    return min(1.0, 2 * tail / (1 << discordant))


def policy_order(policy: Policy) -> tuple[float, ...]:
    """The sort key of a sweep: without waits before with, smaller budgets before larger, no limit last."""
    limit = inf if policy.thinking_tokens_max is None else policy.thinking_tokens_max
    return policy.waits, limit, policy.thinking_tokens_min


def _score(group: _Group, completions: Sequence[Completion]) -> Score:
    n = len(completions)
    assert len({c.question_id for c in completions}) == n, f"a question was answered twice in {group}"
    correct = sum(c.grade.verdict == "correct" for c in completions)
    interval = wilson(correct, n)
    return Score(
        **group._asdict(),
        n=n,
        accuracy=correct / n,
        ci_low=interval.low,
        ci_high=interval.high,
        thinking_tokens_mean=sum(c.thinking_tokens for c in completions) / n,
        truncated=sum(c.truncated for c in completions),
        unparsed=sum(c.grade.verdict == "unparsed" for c in completions),
    )


def _run(scored: Score | Completion) -> tuple[object, ...]:
    return scored.task, scored.student, scored.prompt, scored.policy


def _order(group: _Group) -> tuple[object, ...]:
    return group.task, group.student, group.prompt, policy_order(group.policy), group.domain or ""
