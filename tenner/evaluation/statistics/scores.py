"""From completions to numbers that never travel alone: accuracies with intervals, differences with a paired test."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from math import inf
from statistics import fmean
from typing import NamedTuple

from tenner.core.records import Completion, Policy, Question, Score, Share
from tenner.evaluation.statistics import paired, pass_at_k
from tenner.evaluation.statistics.intervals import clustered


class _Group(NamedTuple):
    """What is scored together."""

    task: str
    student: str
    prompt: str
    policy: Policy
    domain: str | None


def score_benchmarks(
    completions: Sequence[Completion], benchmarks: Mapping[str, Sequence[Question]], *, samples: int = 1
) -> list[Score]:
    """The scores of each benchmark, one after the other; `benchmarks` are the questions that were asked, by name."""
    found = []
    for name, questions in benchmarks.items():
        found += score([c for c in completions if c.task == name], {q.id: q.domain for q in questions}, samples=samples)
    return found


def score(completions: Iterable[Completion], domains: Mapping[str, str | None], *, samples: int = 1) -> list[Score]:
    """Score each (student, prompt, policy) on one benchmark, as a whole and by domain.

    `domains` maps the id of each of its questions to their domain, and `samples` is the number of answers requested for
    each: an absent answer is missing, not wrong. Unparsed is not correct, and counted apart. Completions of another
    benchmark are an error. The order of the scores does not depend on that of the completions: base first, the whole
    before domains, budgets upwards.
    """
    groups: defaultdict[_Group, list[Completion]] = defaultdict(list)
    for completion in completions:
        whole = _Group(completion.task, completion.student, completion.prompt, completion.policy, None)
        groups[whole].append(completion)
        if (domain := domains[completion.question_id]) is not None:
            groups[whole._replace(domain=domain)].append(completion)
    asked = Counter(domains.values())
    asked[None] = len(domains)
    assert len({group.task for group in groups}) <= 1, "benchmarks are scored one by one"
    return [_score(group, groups[group], asked[group.domain], samples) for group in sorted(groups, key=_order)]


def before_and_after(scores: Iterable[Score]) -> tuple[Score, Score]:
    """The two scores of a task that the headline compares, by a rule that cannot flatter the distilled student.

    Before is the base student's best over all its prompts and policies. After is the distilled student at its largest
    budget without waits or an early end, whether or not that is its best.
    """
    known = {s.student: s for s in measured(scores)}
    return known["base"], known["distilled"]


def measured(scores: Iterable[Score]) -> list[Score]:
    """The score by which each student of a task is known, by the headline's rule: the untrained one at its best, all
    others at their largest budget without waits or an early end. The distilled student first, the untrained one behind
    it.
    """
    by_student: defaultdict[str, list[Score]] = defaultdict(list)
    for s in scores:
        if s.domain is None and (s.student == "base" or not (s.policy.waits or s.policy.stops_early)):
            by_student[s.student].append(s)
    base = by_student.pop("base", [])
    found = [max(whole, key=lambda s: policy_order(s.policy)) for whole in by_student.values()]
    if base:
        found.append(max(base, key=lambda s: s.accuracy))
    parts = ("distilled", "base")
    return sorted(found, key=lambda s: parts.index(s.student) if s.student in parts else len(parts))


def compare(completions: Iterable[Completion], before: Score, after: Score) -> paired.Comparison:
    """The paired test of two scores, over the questions that both have answered."""
    groups: dict[tuple[object, ...], list[Completion]] = {_run(before): [], _run(after): []}
    for completion in completions:
        if (group := groups.get(_run(completion))) is not None:
            group.append(completion)
    return paired.compare(verdicts(groups[_run(before)]), verdicts(groups[_run(after)]))


def verdicts(completions: Iterable[Completion]) -> dict[str, list[bool]]:
    """Which answers of one student under one policy are right, by question; the order is that of the ids."""
    return {
        question_id: [c.grade.verdict == "correct" for c in answers]
        for question_id, answers in by_question(completions).items()
    }


def by_question(completions: Iterable[Completion]) -> dict[str, list[Completion]]:
    """The answers of one student under one policy, in one order whatever the order of the completions."""
    found: dict[str, list[Completion]] = {}
    for c in sorted(completions, key=lambda c: (c.question_id, c.sample_index)):
        found.setdefault(c.question_id, []).append(c)
    for answers in found.values():
        indices = [c.sample_index for c in answers]
        assert len(set(indices)) == len(indices), f"question {answers[0].question_id} was answered twice"
    return found


def by_policy(completions: Iterable[Completion]) -> dict[Policy, list[Completion]]:
    """Completions by policy, in the order of a sweep."""
    groups: defaultdict[Policy, list[Completion]] = defaultdict(list)
    for completion in completions:
        groups[completion.policy].append(completion)
    return {policy: groups[policy] for policy in sorted(groups, key=policy_order)}


def policy_order(policy: Policy) -> tuple[float, ...]:
    """The sort key of a sweep: without waits before with, smaller budgets before larger, no limit last; those that stop
    early are behind all others.
    """
    limit = inf if policy.thinking_tokens_max is None else policy.thinking_tokens_max
    return policy.early_exit is not None, policy.grace is not None, policy.waits, limit, policy.thinking_tokens_min


def _score(group: _Group, completions: Sequence[Completion], asked: int, samples: int) -> Score:
    answers = by_question(completions)
    shares = [sum(right) / len(right) for right in verdicts(completions).values()]
    interval = clustered(shares)
    whole = [pass_at_k.votes(c.grade for c in given) for given in answers.values() if len(given) == samples > 1]
    thinking_tokens = [c.thinking_tokens for c in completions]
    return Score(
        **group._asdict(),
        n=len(answers),
        samples=samples,
        missing=asked * samples - len(completions),
        accuracy=fmean(shares),
        ci_low=interval.low,
        ci_high=interval.high,
        majority=_share([pass_at_k.majority_at(samples, votes, pass_at_k.RIGHT) for votes in whole]),
        solved=_share([pass_at_k.pass_at(samples, correct=votes.count(pass_at_k.RIGHT), n=samples) for votes in whole]),
        thinking_tokens_mean=None if None in thinking_tokens else fmean(t or 0 for t in thinking_tokens),
        trial_tokens_mean=fmean(c.trial_tokens for c in completions),
        truncated=sum(c.truncated for c in completions),
        thinking_cut=sum(any(i.kind == "cut" for i in c.interventions) for c in completions),
        unparsed=sum(c.grade.verdict == "unparsed" for c in completions),
        completed=_completed(completions),
    )


def _completed(completions: Sequence[Completion]) -> Share | None:
    """The accuracy over the questions that have a completed answer; None where all are completed, or none is."""
    completed = [c for c in completions if not c.truncated]
    if len(completed) == len(completions):
        return None
    return _share([sum(right) / len(right) for right in verdicts(completed).values()])


def _share(shares: Sequence[float]) -> Share | None:
    if not shares:
        return None
    interval = clustered(shares)
    return Share(n=len(shares), mean=fmean(shares), ci_low=interval.low, ci_high=interval.high)


def _run(scored: Score | Completion) -> tuple[object, ...]:
    return scored.task, scored.student, scored.prompt, scored.policy


def _order(group: _Group) -> tuple[object, ...]:
    return group.task, group.student, group.prompt, policy_order(group.policy), group.domain or ""
