import pytest

from tenner.core.records import FailedCall, Question, Trace, Usage
from tenner.distill.verification import verify
from tenner.evaluation.grading.grader import grade_trace


def graded(answer, reference):
    return grade_trace(answer, Question(id="q", question="2+2?", answer=reference, source="test"))


def trace(question_id, sample_index=0, *, answer="4", reference="4", outcome="complete", output_tokens=10):
    return Trace(
        id=f"{question_id}-{sample_index}", question_id=question_id, sample_index=sample_index, teacher="p/m",
        question="2+2?", domain=None, thinking="Two and two.", answer=answer, messages=(), outcome=outcome,
        reasoning_is_summary=False, grade=graded(answer, reference) if reference and answer else None,
        usage=Usage(output_tokens=output_tokens), cost_usd=0.0, metered=True,
    )  # fmt: skip


def kept(traces, *, keep="first-correct", truncated="drop"):
    return [s.id for s in verify(traces, [], keep=keep, truncated=truncated).kept]


SAMPLES = [
    trace("a", 0, answer="5"),
    trace("a", 1, output_tokens=30),
    trace("a", 2, output_tokens=20),
    trace("b", 0, output_tokens=7),
]


@pytest.mark.parametrize(
    ("keep", "ids"),
    [
        ("first-correct", ["a-1", "b-0"]),
        ("shortest-correct", ["a-2", "b-0"]),
        ("all-correct", ["a-1", "a-2", "b-0"]),
    ],
)
def test_of_several_samples_those_that_the_recipe_wants(keep, ids):
    assert kept(SAMPLES, keep=keep) == ids
    assert kept(SAMPLES[::-1], keep=keep) == ids


def test_every_trace_is_a_sample_or_a_drop_with_its_reason():
    traces = [
        trace("a", answer="5"),
        trace("b", answer="It is hard.\nI do not know."),
        trace("c", outcome="truncated", answer=""),
        trace("d", outcome="no_reasoning"),
        trace("e", answer=""),
        trace("f"),
        trace("f", 1),
    ]
    failed = [FailedCall(question_id="g", sample_index=0, kind="refused", attempts=1, evidence="flagged")]
    sorted_out = verify(traces, failed, keep="first-correct", truncated="drop")
    assert [s.id for s in sorted_out.kept] == ["f-0"]
    assert {(d.id, d.reason) for d in sorted_out.dropped} == {
        ("a-0", "wrong answer"),
        ("b-0", "no final answer"),
        ("c-0", "truncated"),
        ("d-0", "no reasoning"),
        ("e-0", "no final answer"),
        ("f-1", "good, but not wanted"),
        ("g-0", "refused"),
    }


def test_a_truncated_trace_is_kept_only_on_request_and_only_with_the_right_answer():
    traces = [
        trace("a", outcome="truncated"),
        trace("b", outcome="truncated", answer="5"),
        trace("c", outcome="truncated", answer=""),
    ]
    assert kept(traces) == []
    assert kept(traces, truncated="keep") == ["a-0"]


def test_without_a_reference_the_teacher_is_taken_at_its_word():
    assert kept([trace("a", reference=None)]) == ["a-0"]


def test_first_asks_for_no_right_answer():
    traces = [trace("a", answer="5"), trace("a", 1), trace("b", outcome="no_reasoning"), trace("b", 1, answer="7")]
    assert [s.id for s in verify(traces, [], keep="first", truncated="drop").kept] == ["a-0", "b-1"]


@pytest.mark.parametrize("outcome", ["interrupted", "unknown_finish", "damaged", "content_filter", "empty"])
@pytest.mark.parametrize("keep", ["first", "all-correct"])
def test_what_did_not_end_well_is_never_trained_on(outcome, keep):
    one = trace("a", outcome=outcome, reference=None).model_copy(update={"evidence": "finish_reason is paused"})
    verified = verify([one], [], keep=keep, truncated="keep")
    assert verified.kept == []
    assert [(d.reason, d.evidence) for d in verified.dropped] == [
        (outcome.replace("_", " "), "finish_reason is paused, 10 output tokens")
    ]
