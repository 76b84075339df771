from math import log2

import pytest
from example_run import POLICIES, completion, evaluation

from tenner.core.records import Completion, Grade, Policy
from tenner.evaluation.statistics.scaling import Point, scaling
from tenner.evaluation.statistics.scores import score
from tenner.evaluation.statistics.test_time_compute import answer_prices, note, sweeps, tables, votes_at_equal_compute

SHORT, LONG = Policy(thinking_tokens_max=10), Policy(thinking_tokens_max=50)


def test_a_sweep_is_in_s1s_three_numbers() -> None:
    done, domains = evaluation(60)
    scores = score(done, domains)
    distilled = next(s for s in sweeps(scores) if s.student == "distilled")
    whole = [s for s in scores if s.student == "distilled" and s.domain is None]
    tokens = [s.thinking_tokens_mean for s in whole if s.thinking_tokens_mean is not None]
    assert distilled.settings == len(POLICIES) == 8
    assert distilled.best.accuracy == max(s.accuracy for s in whole)
    # The limit of 0 thinks nothing: it has no doubling. Waits stay within the limit only where they fit.
    assert distilled.scaling == scaling([Point(t, s.accuracy) for t, s in zip(tokens[1:], whole[1:], strict=True)])
    within = [t <= (s.policy.thinking_tokens_max or 0) for t, s in zip(tokens, whole, strict=True)]
    assert distilled.control == sum(within) / 8


def test_two_settings_that_came_to_one_outcome_are_one_point_and_to_two_have_no_slope() -> None:
    def sweep(*outcomes: tuple[int, str]) -> float | None:
        done = [
            completion("a", verdict, policy=Policy(thinking_tokens_max=100 + i), thinking_tokens=tokens)
            for i, (tokens, verdict) in enumerate(outcomes)
        ]
        (found,) = sweeps(score(done, {"a": None}))
        return found.scaling

    assert sweep((10, "wrong"), (20, "correct"), (20, "correct")) == pytest.approx(100)
    assert sweep((10, "wrong"), (20, "correct"), (20, "wrong")) is None
    assert sweep((0, "wrong"), (20, "correct")) is None
    assert sweep((20, "wrong"), (24, "correct")) is None  # +380 points a doubling, which nobody has seen
    assert sweep((20, "wrong"), (25, "correct")) == pytest.approx(100 / log2(1.25))
    assert (
        "not defined" in tables(sweeps(score([completion("a", "wrong", policy=SHORT)], {"a": None})), [], [])[0].rows[0]
    )


def test_settings_that_hardly_differ_are_said_to_tell_nothing() -> None:
    close = [(Policy(thinking_tokens_max=100), 30, "wrong"), (Policy(thinking_tokens_max=200), 31, "correct")]
    done = [completion("a", verdict, policy=policy, thinking_tokens=tokens) for policy, tokens, verdict in close]
    (table, _) = tables(sweeps(score(done, {"a": None})), [], [])
    assert table.rows[0][3] == "cannot be told"


def test_right_answers_share_what_evaluation_cost_by_tokens() -> None:
    done = [
        completion("a", "correct", policy=SHORT, thinking_tokens=8),  # and two tokens of answer each
        completion("b", "wrong", policy=SHORT, thinking_tokens=8),
        completion("a", "correct", policy=LONG, thinking_tokens=38),
        completion("b", "correct", policy=LONG, thinking_tokens=38),
        completion("a", "wrong", student="distilled", policy=LONG, thinking_tokens=98),
    ]
    short, long, none = answer_prices(done, score(done, dict.fromkeys("ab")), machine_usd=2.0)
    assert (short.correct, short.tokens_per_correct) == (1, 20)
    assert short.usd_per_correct == pytest.approx(2 * 20 / 200)
    assert (long.correct, long.tokens_per_correct) == (2, 40)
    assert long.usd_per_correct == pytest.approx(2 * 80 / 200 / 2)
    assert (none.correct, none.tokens_per_correct, none.usd_per_correct) == (0, None, None)
    assert [p.usd_per_answer for p in (short, long, none)] == pytest.approx([2 * 10 / 200, 2 * 40 / 200, 2 * 100 / 200])


def test_single_answers_cannot_vote() -> None:
    done, _ = evaluation(24)
    assert votes_at_equal_compute(done) == []
    assert "vote" not in note([])


def test_a_vote_takes_as_many_answers_as_fit_into_the_longer_one() -> None:
    """Question a is right in two of five short answers and the wrong ones differ; b always; c never."""
    short = {"a": "ccwww", "b": "ccccc", "c": "wwwww"}
    stated = {"a": "11234", "b": "11111", "c": "22222"}
    done = [answer(q, short[q][i], stated[q][i], i, SHORT, tokens=8) for q in short for i in range(5)]
    done += [answer(q, v, "1", 0, LONG, tokens=38) for q, v in {"a": "c", "b": "c", "c": "w"}.items()]
    (vote,) = votes_at_equal_compute(done)
    assert (vote.longer, vote.shorter) == (LONG, SHORT)
    # An answer of 40 tokens makes room for four of 10. Of the five choices of a, two have one right answer and three
    # different wrong ones, which is a quarter of the vote; the other three have two right ones, which win.
    assert (vote.answers, vote.vote_tokens, vote.longer_tokens, vote.n) == (4, 40, 40, 3)
    of_a = (2 * (1 / 4) + 3 * 1) / 5
    assert vote.vote_accuracy == pytest.approx((of_a + 1 + 0) / 3)
    assert vote.longer_accuracy == pytest.approx(2 / 3)
    assert vote.difference == pytest.approx((of_a - 1) / 3)
    assert vote.ci.low < vote.difference < vote.ci.high
    (row,) = tables([], [], [vote])[2].rows
    assert row[3] == "4\u00a0at\u00a0≤ 10"
    assert f"{100 * vote.vote_accuracy:.1f}" in row[5]
    assert "vote" in note([vote])


def answer(question_id: str, v: str, said: str, index: int, policy: Policy, *, tokens: int) -> Completion:
    verdict = {"c": "correct", "w": "wrong"}[v]
    done = completion(question_id, verdict, student="distilled", policy=policy, thinking_tokens=tokens)
    grade = Grade.model_validate({"verdict": verdict, "extracted": said})
    return done.model_copy(update={"sample_index": index, "grade": grade})
