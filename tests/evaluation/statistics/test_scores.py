import random
from itertools import product

import pytest
from example_run import completion, evaluation

from tenner.core.records import Completion, Grade, Intervention, Policy, Score
from tenner.evaluation.statistics.intervals import clustered, wilson
from tenner.evaluation.statistics.paired import mcnemar
from tenner.evaluation.statistics.scores import before_and_after, compare, score

FREE, SHORT, LONG = Policy(), Policy(thinking_tokens_max=8), Policy(thinking_tokens_max=64)

CUT = tuple(Intervention(kind=kind, position=8, tokens=0) for kind in ("cut", "close"))


def test_a_score_counts_what_was_answered() -> None:
    done = [
        completion("a", "correct", thinking_tokens=10),
        completion("b", "wrong", thinking_tokens=20, truncated=True),
        completion("c", "unparsed", thinking_tokens=60).model_copy(update={"interventions": CUT}),
    ]
    domains = {"a": "sums", "b": "sums", "c": None, "never answered": "sums"}
    whole, sums = score(done, domains)
    assert (whole.domain, whole.n) == (None, 3)
    assert whole.accuracy == pytest.approx(1 / 3)
    assert (whole.unparsed, whole.truncated, whole.thinking_tokens_mean) == (1, 1, 30)
    assert whole.thinking_cut == 1
    assert whole.completed is not None
    assert (whole.completed.n, whole.completed.mean) == (2, 0.5), "the wrong answer was cut"
    assert (whole.ci_low, whole.ci_high) == pytest.approx(wilson(1, 3))
    assert (whole.samples, whole.missing, whole.majority, whole.solved) == (1, 1, None, None)
    assert (sums.domain, sums.n, sums.accuracy, sums.unparsed, sums.missing) == ("sums", 2, 0.5, 0, 1)


def test_several_answers_to_a_question_are_one_cluster_and_what_is_missing_is_not_wrong() -> None:
    done = [
        *_repeated("a", "cccc", "1111"),
        *_repeated("b", "cwwu", "1223"),
        *_repeated("c", "cw", "12"),  # two of four never came
    ]
    (whole,) = score(done, dict.fromkeys("abcd"), samples=4)  # nothing came of d
    assert (whole.n, whole.samples, whole.missing) == (3, 4, 2 + 4)
    assert whole.accuracy == pytest.approx((1 + 1 / 4 + 1 / 2) / 3)
    assert (whole.ci_low, whole.ci_high) == clustered([1, 1 / 4, 1 / 2])
    # Of a and b, the whole ones: a by all, b by the two equal wrong ones against one right; both have a right one.
    assert whole.majority is not None
    assert whole.solved is not None
    assert (whole.majority.n, whole.majority.mean, whole.solved.mean) == (2, 0.5, 1.0)
    assert (whole.majority.ci_low, whole.majority.ci_high) == clustered([1, 0])
    assert (whole.unparsed, whole.thinking_tokens_mean) == (1, 10)


def test_the_answers_of_a_run_from_before_there_were_several_are_single_ones() -> None:
    done = completion("a", "correct")
    old = {name: value for name, value in done.model_dump().items() if name != "sample_index"}
    assert Completion.model_validate(old) == done
    (found,) = score([done], {"a": None})
    new = ("samples", "missing", "majority", "solved")
    assert Score.model_validate({n: v for n, v in found.model_dump().items() if n not in new}) == found


def test_scores_come_in_one_order_whatever_the_order_of_the_completions() -> None:
    done, domains = evaluation(24)
    scores = score(done, domains)
    random.Random(1).shuffle(done)
    assert score(done, domains) == scores
    whole = [(s.student, s.policy.waits, s.policy.thinking_tokens_max) for s in scores if s.domain is None]
    budgets = [(0, 0), (0, 8), (0, 16), (0, 32), (0, 64), (0, 128), (1, 128), (2, 128)]
    assert whole == [(student, *policy) for student, policy in product(("base", "distilled"), budgets)]


def test_no_limit_is_the_largest_budget_and_a_repeated_answer_is_refused() -> None:
    done = [completion("a", "wrong", policy=p) for p in (FREE, LONG, SHORT)]
    assert [s.policy for s in score(done, {"a": None})] == [SHORT, LONG, FREE]
    with pytest.raises(AssertionError, match="answered twice"):
        score([*done, done[0]], {"a": None})


def test_the_headline_takes_the_best_before_and_the_largest_budget_after() -> None:
    done = [
        *_answers("base", "plain", LONG, "cwww"),
        *_answers("base", "s1", SHORT, "ccww"),
        *_answers("distilled", "s1", SHORT, "cccc"),
        *_answers("distilled", "s1", LONG, "cccw"),
        *_answers("distilled", "s1", Policy(thinking_tokens_max=64, waits=1), "cccc"),
    ]
    before, after = before_and_after(score(done, dict.fromkeys("0123", "any")))
    assert (before.prompt, before.policy, before.domain) == ("s1", SHORT, None)
    assert (after.policy, after.accuracy) == (LONG, 0.75)


def test_a_comparison_pairs_the_questions_that_both_answered() -> None:
    done = [
        *_answers("base", "s1", LONG, "ccwwu"),
        *_answers("base", "s1", SHORT, "ccccc"),  # another run: not compared
        *_answers("distilled", "s1", LONG, "cwccww")[1:],  # question 0 is missing there, question 5 here
    ]
    before, after = before_and_after(s for s in score(done, dict.fromkeys("012345")) if s.policy == LONG)
    found = compare(done, before, after)
    assert (found.test, found.both, found.more_before, found.more_after, found.neither) == ("McNemar", 0, 1, 2, 1)
    assert (found.n, found.difference, found.p_value) == (4, 0.25, mcnemar(1, 2))
    assert (found.missing_before, found.missing_after) == (["5"], ["0"])


def _repeated(question_id: str, verdicts: str, extracted: str) -> list[Completion]:
    """Answers to one question: their verdicts, and what each of them states."""
    names = {"c": "correct", "w": "wrong", "u": "unparsed"}
    return [
        completion(question_id, names[v]).model_copy(
            update={"sample_index": i, "grade": Grade.model_validate({"verdict": names[v], "extracted": said})}
        )
        for i, (v, said) in enumerate(zip(verdicts, extracted, strict=True))
    ]


def _answers(student: str, prompt: str, policy: Policy, verdicts: str) -> list[Completion]:
    names = {"c": "correct", "w": "wrong", "u": "unparsed"}
    return [
        completion(str(i), names[v], student=student, prompt=prompt, policy=policy)  # type: ignore[arg-type]
        for i, v in enumerate(verdicts)
    ]
