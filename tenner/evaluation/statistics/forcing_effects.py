"""What forcing does to accuracy: cutting, thinking on and stopping early, each against what it changes."""

from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import Literal, NamedTuple

from tenner.core.records import Completion, Policy
from tenner.evaluation.report.tables import (
    DASH,
    NBSP,
    Table,
    between,
    p_value,
    percent,
    points,
    setting,
    ways_to_stop,
)
from tenner.evaluation.statistics import paired
from tenner.evaluation.statistics.intervals import Interval, clustered
from tenner.evaluation.statistics.scores import by_policy, verdicts
from tenner.evaluation.statistics.test_time_compute import VOTERS_MIN, Vote, generated

Direction = Literal["scaling down", "scaling up", "stopping early"]
"""Thinking is cut at a smaller budget; or forced on, by waits; or ended by a rule before its budget."""
ORDER: tuple[Direction, ...] = ("scaling up", "scaling down", "stopping early")
NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


class Effect(NamedTuple):
    """One policy of the distilled student beside the policy that it changes, on the same questions."""

    direction: Direction
    policy: Policy
    against: Policy
    """The largest budget without waits; for a policy that stops early, the same policy without that."""
    tokens: float
    """Mean of one answer, its thinking, trial answers and what follows."""
    against_tokens: float
    accuracy: float
    ci: Interval
    difference: paired.Difference
    """The policy minus what it changes."""
    vote: Vote | None
    """Of a policy with waits: the majority of shorter answers that take as many tokens together; None: none fits."""

    @property
    def outcome(self) -> Literal["cost", "gain", "none"]:
        """Whether the interval of the difference lies below or above 0, or holds it."""
        low, high = self.difference.ci
        return "cost" if high < 0 else "gain" if low > 0 else "none"


def effects(completions: Iterable[Completion], votes: Sequence[Vote]) -> list[Effect]:
    """The effects on one benchmark, of every policy of the distilled student that changes another one of it.

    Beside waits stands, of the `votes` that take no more tokens, the one that takes most of them: its accuracy has no
    part in the choice.
    """
    groups = by_policy(c for c in completions if c.student == "distilled")
    right = {policy: verdicts(given) for policy, given in groups.items()}
    tokens = {policy: fmean(map(generated, given)) for policy, given in groups.items()}
    plain = [policy for policy in right if not policy.waits and not policy.stops_early]
    found = []
    for policy in right:
        if plain and (changed := _changed(policy, plain[-1])) is not None and changed[1] in right:
            direction, against = changed
            fitting = [v for v in votes if v.longer == policy and not v.shorter.stops_early] if policy.waits else []
            shares = [sum(given) / len(given) for given in right[policy].values()]
            found.append(Effect(
                direction, policy, against, tokens[policy], tokens[against], fmean(shares), clustered(shares),
                paired.difference(right[against], right[policy]),
                max(fitting, key=lambda v: v.vote_tokens, default=None),
            ))  # fmt: skip
    return sorted(found, key=lambda e: ORDER.index(e.direction))


def _changed(policy: Policy, largest: Policy) -> tuple[Direction, Policy] | None:
    """What a policy does, and to which one; None for the largest budget itself."""
    if policy.stops_early:
        return "stopping early", policy.model_copy(update={"early_exit": None, "grace": None})
    if policy.waits:
        return "scaling up", policy.model_copy(update={"waits": 0})
    return None if policy == largest else ("scaling down", largest)


def note(effects: Sequence[Effect], *, samples: int) -> str:
    """What forcing came to, in words, and what a vote beside the waits would need where there is none."""
    parts = [
        f"{_title(d)}: {'; '.join(_clauses(own))}." for d in ORDER if (own := [e for e in effects if e.direction == d])
    ]
    waited = [e for e in effects if e.direction == "scaling up"]
    if any(e.outcome == "cost" for e in waited):
        parts.insert(0, "Waits cost accuracy here: this student is better left to end its thinking itself.")
    if waited and not all(e.vote for e in waited):
        parts.append(_vote_needed(samples))
    return " ".join(parts)


def _title(direction: Direction) -> str:
    what = {"scaling up": "thinking forced on", "scaling down": "thinking cut", "stopping early": "ended by a rule"}
    return f"{direction.capitalize()} ({what[direction]})"


def _clauses(effects: Sequence[Effect]) -> list[str]:
    """The effects of one direction; those that cannot be told from none come last, together."""
    told = [_clause(e) for e in effects if e.outcome != "none"]
    unseen = [f"{_name(e)} ({points(e.difference.ci.low)} to {points(e.difference.ci.high)})"
              for e in effects if e.outcome == "none"]  # fmt: skip
    return [*told, *([f"no effect within the interval: {', '.join(unseen)}"] if unseen else [])]


def _clause(effect: Effect) -> str:
    """ "two waits cost 14.0 points (9.1 to 19.0)", with what they took in tokens."""
    sizes = sorted(abs(100 * bound) for bound in effect.difference.ci)
    verb = "cost" if effect.outcome == "cost" else "gained"
    ratio = f" for {effect.tokens / effect.against_tokens:.2f} times the tokens" if effect.against_tokens else ""
    amount = abs(100 * effect.difference.mean)
    return f"{_name(effect)} {verb} {amount:.1f} points ({sizes[0]:.1f} to {sizes[1]:.1f}){ratio}"


def _name(effect: Effect) -> str:
    policy = effect.policy
    if effect.direction == "stopping early":
        return f"{' and '.join(ways_to_stop(policy))} at {setting(effect.against)}"
    if effect.direction == "scaling up":
        number = NUMBERS[policy.waits] if policy.waits < len(NUMBERS) else str(policy.waits)
        return f"{number} {'wait' if policy.waits == 1 else 'waits'}"
    return f"a limit of {policy.thinking_tokens_max}"


def _vote_needed(samples: int) -> str:
    if samples == 1:
        return (
            "No vote stands beside waits: each question was answered once. For one, set evaluate.samples to at least "
            f"{VOTERS_MIN} and evaluate.sampling.temperature above 0."
        )
    return (
        f"Where no vote stands beside waits, no {VOTERS_MIN} answers fit into as many tokens: add a smaller limit to "
        f"evaluate.thinking_tokens_max, or samples where there are fewer than {VOTERS_MIN}."
    )


def table(effects: Sequence[Effect]) -> Table:
    """A row for each effect; votes have columns where there are any."""
    with_votes = any(e.vote for e in effects)
    rows = [
        (
            e.direction, setting(e.policy), f"{e.tokens:,.1f}",
            f"{percent(e.accuracy)} of {e.difference.n:,} ({between(*e.ci)})",
            f"{points(e.difference.mean)} ({points(e.difference.ci.low)} to {points(e.difference.ci.high)})",
            p_value(e.difference.p_value), OUTCOMES[e.outcome],
            *(_vote_cells(e.vote) if with_votes else ()),
        )
        for e in effects
    ]  # fmt: skip
    header = (
        "way", "setting", "tokens", "accuracy (95 % interval)", "points (95 % interval)", "p", "effect",
        *(("vote for as many tokens", "its accuracy (95 % interval)") if with_votes else ()),
    )  # fmt: skip
    align = "llrllrl" + ("ll" if with_votes else "")
    return Table("What forcing did, against the largest limit without waits", align, header, rows)


OUTCOMES: Mapping[str, str] = {
    "cost": "a loss", "gain": "a gain", "none": "none seen",
}  # fmt: skip


def _vote_cells(vote: Vote | None) -> tuple[str, str]:
    if vote is None:
        return DASH, DASH
    of = f"{vote.answers}{NBSP}at{NBSP}{setting(vote.shorter)}, {vote.vote_tokens:,.1f} tokens"
    return of, f"{percent(vote.vote_accuracy)} ({between(*vote.vote_ci)})"
