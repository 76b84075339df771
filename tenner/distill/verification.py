"""Turns traces into samples: complete ones with the right answer, and of several per question those that are wanted."""

from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Literal, NamedTuple

from tenner.core.records import Drop, FailedCall, Sample, Trace

Keep = Literal["first-correct", "shortest-correct", "all-correct", "first"]


class Verified(NamedTuple):
    """The samples to train on, and the traces that were dropped, with reasons."""

    kept: list[Sample]
    dropped: list[Drop]


def verify(
    traces: Sequence[Trace], failed: Iterable[FailedCall], *, keep: Keep, truncated: Literal["drop", "keep"]
) -> Verified:
    """Sort traces into samples and drops. Without a reference answer the teacher's answer counts as right.

    "Shortest" is by output tokens if the teacher reports them, else by characters; of equals the first is taken.
    """
    kept: list[Sample] = []
    dropped = [_failure(f) for f in failed]
    ordered = sorted(traces, key=lambda t: (t.question_id, t.sample_index))
    for _, of_question in groupby(ordered, key=lambda t: t.question_id):
        right: list[Trace] = []
        for t in of_question:
            if reason := _fault_of(t, truncated, wrong_may_stay=keep == "first"):
                dropped.append(reason)
            else:
                right.append(t)
        best = _wanted(right, keep)
        kept += map(_sample, best)
        dropped += [_spare(t, keep) for t in right if t not in best]
    return Verified(kept, dropped)


def _fault_of(t: Trace, truncated: Literal["drop", "keep"], *, wrong_may_stay: bool) -> Drop | None:
    """Why a trace cannot be trained on; None if it can."""
    if t.outcome != "complete" and not (t.outcome == "truncated" and truncated == "keep"):
        reason = t.outcome.replace("_", " ")
        evidence = f"{t.usage.output_tokens or 'unknown'} output tokens"
        return Drop(id=t.id, reason=reason, evidence=f"{t.evidence}, {evidence}" if t.evidence else evidence)
    if not t.answer:
        return Drop(id=t.id, reason="no final answer", evidence="the reply ends with its thinking")
    if t.grade is not None and t.grade.verdict != "correct" and not wrong_may_stay:
        reason = "wrong answer" if t.grade.verdict == "wrong" else "no final answer"
        return Drop(id=t.id, reason=reason, evidence=repr(t.grade.extracted or t.answer[-80:]))
    return None


def _wanted(right: list[Trace], keep: Keep) -> list[Trace]:
    if keep == "all-correct" or not right:
        return right
    return [min(right, key=_length)] if keep == "shortest-correct" else right[:1]


def _length(t: Trace) -> int:
    return t.usage.output_tokens or len(t.thinking) + len(t.answer)


def _sample(t: Trace) -> Sample:
    fields = {"question_id": t.question_id, "question": t.question, "domain": t.domain}
    return Sample(id=t.id, thinking=t.thinking, answer=t.answer, **fields)


def _spare(t: Trace, keep: Keep) -> Drop:
    return Drop(id=t.id, reason="good, but not wanted", evidence=f"keep = {keep}")


def _failure(f: FailedCall) -> Drop:
    return Drop(id=f"{f.question_id}-{f.sample_index}", reason=f.kind.replace("_", " "), evidence=f.evidence)
