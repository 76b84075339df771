import pytest
from example_run import completion

from tenner.core.records import Completion, EarlyExit, Policy
from tenner.evaluation.statistics.forcing_effects import Effect, effects, note, table
from tenner.evaluation.statistics.test_time_compute import votes_at_equal_compute

SHORT, FULL = Policy(thinking_tokens_max=8), Policy(thinking_tokens_max=64)
TWO_WAITS = Policy(thinking_tokens_max=64, waits=2)
EXIT = Policy(thinking_tokens_max=64, waits=2, early_exit=EarlyExit(at="wait", agree=1, probability=0.9))


def answers(policy: Policy, right: int, *, tokens: int, n: int = 100, samples: int = 1) -> list[Completion]:
    """The answers to n questions, of which the first are right."""
    return [
        completion(
            f"q{i:03}", "correct" if i < right else "wrong", student="distilled", policy=policy, thinking_tokens=tokens
        ).model_copy(update={"sample_index": k})
        for i in range(n)
        for k in range(samples)
    ]  # fmt: skip


def found(*groups: list[Completion]) -> dict[Policy, Effect]:
    done = [c for group in groups for c in group]
    return {e.policy: e for e in effects(done, votes_at_equal_compute(done))}


def test_each_policy_stands_against_what_it_changes_and_is_told_in_words() -> None:
    by_policy = found(
        answers(SHORT, 30, tokens=8), answers(FULL, 90, tokens=38), answers(TWO_WAITS, 76, tokens=58),
        answers(EXIT, 76, tokens=40),
    )  # fmt: skip
    assert {p: (e.direction, e.against) for p, e in by_policy.items()} == {
        TWO_WAITS: ("scaling up", FULL), SHORT: ("scaling down", FULL), EXIT: ("stopping early", TWO_WAITS),
    }  # fmt: skip
    assert [e.outcome for e in by_policy.values()] == ["cost", "cost", "none"]
    said = note(list(by_policy.values()), samples=1)
    low, high = (abs(100 * bound) for bound in by_policy[TWO_WAITS].difference.ci)
    assert said.startswith("Waits cost accuracy here")
    assert f"two waits cost 14.0 points ({high:.1f} to {low:.1f}) for 1.50 times the tokens" in said
    assert "Scaling down (thinking cut): a limit of 8 cost 60.0 points" in said
    assert "no effect within the interval: early exit at ≤ 64, 2 waits (-" in said
    assert "evaluate.samples to at least 3" in said
    assert [row[6] for row in table(list(by_policy.values())).rows][:2] == ["a loss", "a loss"]


def test_waits_without_effect_are_no_warning_and_a_gain_is_one() -> None:
    same = found(answers(FULL, 50, tokens=38), answers(TWO_WAITS, 51, tokens=58))
    assert "Waits cost" not in note(list(same.values()), samples=1)
    assert "no effect within the interval: two waits" in note(list(same.values()), samples=1)
    better = found(answers(FULL, 50, tokens=38), answers(TWO_WAITS, 80, tokens=58))
    assert "two waits gained 30.0 points" in note(list(better.values()), samples=1)


def test_beside_waits_stands_the_vote_that_takes_most_of_their_tokens() -> None:
    """At 60 tokens an answer there is room for six of 10 tokens, or for three of 20: equal, and the first is taken."""
    by_policy = found(
        answers(Policy(thinking_tokens_max=4), 10, tokens=3, samples=5),
        answers(SHORT, 40, tokens=16, samples=5),
        answers(FULL, 90, tokens=38, samples=5), answers(TWO_WAITS, 80, tokens=58, samples=5),
    )  # fmt: skip
    vote = by_policy[TWO_WAITS].vote
    assert vote is not None
    assert (vote.shorter, vote.answers, vote.vote_tokens) == (SHORT, 3, 54)
    assert vote.vote_accuracy == pytest.approx(0.4)
    assert "vote" not in note(list(by_policy.values()), samples=5)
    of, accuracy = table(list(by_policy.values())).rows[0][-2:]
    assert of == "3\u00a0at\u00a0≤ 8, 54.0 tokens"
    assert accuracy.startswith("40.0")


def test_where_no_vote_fits_it_is_said_what_would() -> None:
    by_policy = found(answers(FULL, 90, tokens=38, samples=3), answers(TWO_WAITS, 80, tokens=58, samples=3))
    assert "a smaller limit" in note(list(by_policy.values()), samples=3)


def test_a_single_policy_has_no_effect() -> None:
    assert effects(answers(FULL, 3, tokens=8), []) == []
