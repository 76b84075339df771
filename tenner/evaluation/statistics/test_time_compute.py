"""Test-time compute: s1's three numbers of a sweep, the price of a right answer, and votes at equal compute."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from statistics import fmean
from typing import NamedTuple

from tenner.core.records import Completion, Policy, Score
from tenner.evaluation.report.tables import (
    DASH,
    NBSP,
    Table,
    between,
    interval,
    limit,
    name_of,
    p_value,
    percent,
    points,
    setting,
)
from tenner.evaluation.statistics import pass_at_k, scaling
from tenner.evaluation.statistics.intervals import Interval, clustered
from tenner.evaluation.statistics.paired import bootstrap
from tenner.evaluation.statistics.scores import by_policy, by_question

SPREAD_MIN = 1.25
"""The largest mean of thinking tokens over the smallest, below which no slope is told: noise would be most of it. At
this spread a point of accuracy is three of slope."""
VOTERS_MIN = 3  # of two answers that differ each gets half a vote: that is no vote


class Sweep(NamedTuple):
    """One student's sweep over budgets and waits, in s1's three numbers (see `scaling.py`)."""

    student: str
    prompt: str
    settings: int
    control: float
    """Of 1."""
    scaling: float | None
    """None: see `no_scaling`."""
    best: Score
    """Its accuracy is the Performance."""
    no_scaling: str = ""
    """Why there is no slope: "not defined", as two settings came to the same tokens, or fewer than two to any; or
    "cannot be told", as they hardly differ in tokens (see `SPREAD_MIN`)."""


class AnswerPrice(NamedTuple):
    """The tokens and dollars for each right answer under one policy; None where no answer was right."""

    score: Score
    correct: int
    tokens_per_correct: float | None
    usd_per_correct: float | None
    usd_per_answer: float | None
    """None where nothing was answered."""


class Vote(NamedTuple):
    """Thinking longer once against the majority of several shorter answers that take no more tokens together."""

    longer: Policy
    longer_tokens: float
    """Mean of one answer, its thinking and what follows."""
    longer_accuracy: float
    longer_ci: Interval
    shorter: Policy
    answers: int
    vote_tokens: float
    vote_accuracy: float
    vote_ci: Interval
    n: int
    difference: float
    """Vote minus longer, of 1, on the same questions."""
    ci: Interval
    p_value: float


def sweeps(scores: Iterable[Score]) -> list[Sweep]:
    """A sweep for every student and prompt on one benchmark; a single policy without limits is no sweep.

    Settings without thinking tokens have no logarithm, and are in no slope.
    """
    groups: defaultdict[tuple[str, str], list[Score]] = defaultdict(list)
    for s in scores:
        if s.domain is None and not s.policy.stops_early:  # the student's answers would set its tokens, not the limit
            groups[s.student, s.prompt].append(s)
    return [
        Sweep(
            student, prompt, len(settings),
            control=scaling.control([_bounded(s) for s in settings]),
            scaling=slope if isinstance(slope := _slope(settings), float) else None,
            best=max(settings, key=lambda s: s.accuracy),
            no_scaling=slope if isinstance(slope, str) else "",
        )
        for (student, prompt), settings in groups.items()
        if len(settings) > 1 or settings[0].policy != Policy()
    ]  # fmt: skip


def usd_per_token(completions: Iterable[Completion], machine_usd: float) -> float:
    """The cost of the evaluation's machine time for each token generated in it."""
    tokens = sum(generated(c) for c in completions if c.cost_usd is None)
    return machine_usd / tokens if tokens else 0.0


def spent_usd(completions: Iterable[Completion], usd_per_token: float) -> float:
    """The cost of these answers: the price of those that were bought, and a share of machine time for the others."""
    return sum(generated(c) * usd_per_token if c.cost_usd is None else c.cost_usd for c in completions)


def answer_prices(completions: Sequence[Completion], scores: Iterable[Score], machine_usd: float) -> list[AnswerPrice]:
    """The price of a right answer by every whole score; machine time is shared out by generated tokens."""
    groups: defaultdict[tuple[object, ...], list[Completion]] = defaultdict(list)
    for c in completions:
        groups[c.task, c.student, c.prompt, c.policy].append(c)
    per_token = usd_per_token(completions, machine_usd)
    prices = []
    for s in scores:
        if s.domain is None:
            given = groups[s.task, s.student, s.prompt, s.policy]
            tokens, correct = sum(map(generated, given)), sum(c.grade.verdict == "correct" for c in given)
            usd = spent_usd(given, per_token)
            prices.append(AnswerPrice(
                score=s,
                correct=correct,
                tokens_per_correct=tokens / correct if correct else None,
                usd_per_correct=usd / correct if correct else None,
                usd_per_answer=usd / len(given) if given else None,
            ))  # fmt: skip
    return prices


def votes_at_equal_compute(completions: Iterable[Completion]) -> list[Vote]:
    """Every policy of the distilled student against the vote of those that took so much less that several fit.

    The vote is over as many answers as fit and were given, any of them (see `pass_at_k.majority_at`). Empty where each
    question was answered once.
    """
    groups = by_policy(c for c in completions if c.student == "distilled")
    answered = {policy: by_question(given) for policy, given in groups.items()}
    tokens = {policy: fmean(map(generated, given)) for policy, given in groups.items()}
    votes = []
    for longer in answered:
        for shorter in answered:
            given = min(map(len, answered[shorter].values()))
            answers = min(given, int(tokens[longer] / tokens[shorter])) if tokens[shorter] else given
            if shorter != longer and answers >= VOTERS_MIN:
                votes.append(_vote(longer, shorter, answers, answered, tokens))
    return votes


def note(votes: Sequence[Vote]) -> str:
    """What the three numbers mean, and how the evaluation's spend is shared out."""
    text = (
        "Control is the share of the settings that kept within their limits; scaling is the mean slope between all "
        "pairs of settings, in percentage points per doubling of the thinking tokens (what thinks nothing is in no "
        "pair, a pair that hardly differs in tokens weighs as much as any, and settings that all hardly differ tell "
        "nothing); performance is the best accuracy of "
        "the sweep, picked after the fact. The dollars of a right answer are its price where it was bought, and else "
        "what evaluation cost in machine time, shared out by generated tokens, although a sweep thinks once for all of "
        "its limits."
    )
    if votes:
        text += " A vote is the majority of several answers that together take no more than the longer one."
    return text


def tables(sweeps: Sequence[Sweep], prices: Sequence[AnswerPrice], votes: Sequence[Vote]) -> list[Table]:
    """s1's three numbers, the price of a right answer, and votes where there are several answers to vote."""
    found = [_sweep_table(sweeps), _price_table(prices)]
    return [*found, _vote_table(votes)] if votes else found


def _sweep_table(sweeps: Sequence[Sweep]) -> Table:
    rows = [
        (
            name_of(s.student), s.prompt, f"{100 * s.control:.0f}{NBSP}% of {s.settings}",
            s.no_scaling if s.scaling is None else f"{s.scaling:+.1f}",
            percent(s.best.accuracy), interval(s.best), str(s.best.n),
        )
        for s in sweeps
    ]  # fmt: skip
    header = ("student", "prompt", "control", "scaling", "performance", "95 % interval", "n")
    return Table("Control, scaling and performance of the sweep", "llrrrrr", header, rows)


def _price_table(prices: Sequence[AnswerPrice]) -> Table:
    rows = [
        (
            name_of(p.score.student), limit(p.score.policy), str(p.score.policy.waits), f"{p.correct:,}",
            DASH if p.tokens_per_correct is None else f"{p.tokens_per_correct:,.1f}",
            DASH if p.usd_per_correct is None else f"${p.usd_per_correct:.6f}",
        )
        for p in prices
    ]  # fmt: skip
    header = ("student", "limit", "waits", "right answers", "tokens for each", "dollars for each")
    return Table("What a right answer took", "llrrrr", header, rows)


def _vote_table(votes: Sequence[Vote]) -> Table:
    rows = [
        (
            setting(v.longer), f"{v.longer_tokens:,.1f}", f"{percent(v.longer_accuracy)} ({between(*v.longer_ci)})",
            f"{v.answers}{NBSP}at{NBSP}{setting(v.shorter)}", f"{v.vote_tokens:,.1f}",
            f"{percent(v.vote_accuracy)} ({between(*v.vote_ci)})", str(v.n),
            f"{points(v.difference)} ({points(v.ci.low)} to {points(v.ci.high)}), {p_value(v.p_value)}",
        )
        for v in votes
    ]  # fmt: skip
    header = (
        "longer", "tokens", "accuracy (95 % interval)", "vote of", "tokens", "accuracy (95 % interval)", "n",
        "vote minus longer (95 % interval)",
    )  # fmt: skip
    return Table("Thinking longer, or voting for as many tokens", "lrllrlrl", header, rows)


def _vote(
    longer: Policy, shorter: Policy, answers: int,
    answered: dict[Policy, dict[str, list[Completion]]], tokens: dict[Policy, float],
) -> Vote:  # fmt: skip
    common = sorted(answered[longer].keys() & answered[shorter].keys())
    alone = [fmean(c.grade.verdict == "correct" for c in answered[longer][q]) for q in common]
    voted = [
        pass_at_k.majority_at(answers, pass_at_k.votes(c.grade for c in answered[shorter][q]), pass_at_k.RIGHT)
        for q in common
    ]
    p_value, ci, _ = bootstrap([v - a for v, a in zip(voted, alone, strict=True)], seed=0)
    return Vote(
        longer, tokens[longer], fmean(alone), clustered(alone),
        shorter, answers, answers * tokens[shorter], fmean(voted), clustered(voted),
        len(common), fmean(voted) - fmean(alone), ci, p_value,
    )  # fmt: skip


def _slope(settings: Sequence[Score]) -> float | str:
    """The slope of the settings that came to any tokens, or why there is none; equal outcomes are one point."""
    points = {scaling.Point(s.thinking_tokens_mean, s.accuracy) for s in settings if s.thinking_tokens_mean}
    if len(points) < 2 or len({p.thinking_tokens for p in points}) < len(points):
        return "not defined"
    tokens = [p.thinking_tokens for p in points]
    return scaling.scaling(list(points)) if max(tokens) >= SPREAD_MIN * min(tokens) else "cannot be told"


def _bounded(score: Score) -> scaling.Bounded:
    most = score.policy.thinking_tokens_max
    least = float(score.policy.thinking_tokens_min)
    assert score.thinking_tokens_mean is not None, "an engine counts"
    return scaling.Bounded(score.thinking_tokens_mean, least=least, **({} if most is None else {"most": float(most)}))


def generated(c: Completion) -> int:
    """The tokens generated for an answer, thinking and trial answers included."""
    return (c.thinking_tokens or 0) + c.trial_tokens + c.answer_tokens
