"""The grader: is the answer that a response states the reference answer?

Maths is judged twice. The first judge (`exact`) reads all of an answer or nothing of it, and computes exactly; where it
decides, its word stands. The second (`algebra`: math-verify) is heard unless the first is beyond doubt; it decides
only what the first cannot read, and its "same" counts only if both answers were parsed whole. Where the two disagree,
the reason of the verdict says what each of them said.
"""

from collections.abc import Callable, Iterable
from types import TracebackType
from typing import NamedTuple

from tenner.core.errors import TennerError
from tenner.core.formats import answer_text
from tenner.core.hardware import cores
from tenner.core.records import AnswerKind, Grade, Question
from tenner.evaluation.grading.choice import canonical_choice
from tenner.evaluation.grading.extraction import Stated, shortened, stated_answers, unboxed
from tenner.evaluation.grading.integer import canonical_integer
from tenner.evaluation.grading.maths import symbolic
from tenner.evaluation.grading.maths.exact import Opinion, judge, read
from tenner.evaluation.grading.maths.shapes import Listing, Words
from tenner.evaluation.grading.sandboxed_workers import Failure, SandboxedWorkers
from tenner.evaluation.grading.text import bare, first_line, same_answer

SECOND_JUDGE_SECONDS = 2.5
SECOND_JUDGE_BYTES = 2 * 1024**3
BARE_WORDS_MAX = 2
UNPARSED = Grade(verdict="unparsed", extracted=None, reason="no answer is stated")


Canonical = Callable[[str], str | None]
"""Reads the canonical form of an answer out of a text; None if there is none."""


class Asked(NamedTuple):
    """A response to be graded."""

    response: str
    reference: str
    kind: AnswerKind


class _Case(NamedTuple):
    """A maths answer about which the second judge is to be heard."""

    stated: str
    reference: str
    first: Opinion


def grade_after_cue(response: str, reference: str, *, cue: str) -> Grade:
    """Grade the text that `response` states after its last `cue` against `reference`; never raises on any text.

    Only the first line after the cue counts. No cue, or nothing after it, is unparsed: a different thing from wrong.
    """
    if cue.strip() not in response:
        return Grade(verdict="unparsed", extracted=None)
    stated = first_line(answer_text(response, cue))
    if not bare(stated):
        return Grade(verdict="unparsed", extracted=None)
    return Grade(verdict="correct" if same_answer(stated, reference) else "wrong", extracted=stated)


def grade_trace(response: str, question: Question) -> Grade:
    """Grade a teacher's response by the first judge alone: it neither waits nor starts a process."""
    assert question.answer is not None, "without a reference there is nothing to grade"
    prepared = _prepare(Asked(response, question.answer, question.kind or "maths"))
    return prepared if isinstance(prepared, Grade) else _settle(prepared, None)


def check_reference(reference: str, kind: AnswerKind) -> None:
    """Raises TennerError for a reference answer that is none of its kind: nothing could be graded by it."""
    if kind == "integer" and canonical_integer(unboxed(reference)) is None:
        raise TennerError(f"the answer {reference!r} is no integer", hint='grade it with kind = "maths"')
    if kind == "choice" and canonical_choice(unboxed(reference)) is None:
        raise TennerError(f"the answer {reference!r} is no letter of a choice", hint='grade it with kind = "text"')
    if not reference.strip():
        raise TennerError("the answer is empty")


class Grader:
    """Grades responses, with a second judge for maths in processes of its own where math-verify is installed."""

    def __init__(self, *, processes: int | None = None) -> None:
        self._second: SandboxedWorkers[tuple[str, str], Opinion] | None = None
        if symbolic.is_available():
            self._second = SandboxedWorkers(
                symbolic.opinion,
                prepare=symbolic.prepare,
                processes=processes or cores(),
                deadline_seconds=SECOND_JUDGE_SECONDS,
                memory_bytes=SECOND_JUDGE_BYTES,
            )

    def __enter__(self) -> "Grader":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._second is not None:
            self._second.close()

    def grade(self, response: str, reference: str, kind: AnswerKind) -> Grade:
        """Grade one response. Unparsed: no answer is stated, or it breaks off."""
        return self.grade_all([Asked(response, reference, kind)])[0]

    def grade_all(self, asked: Iterable[Asked]) -> list[Grade]:
        """Grade many, in their order. The second judge hears each pair of answers once."""
        prepared = [_prepare(a) for a in asked]
        pairs: dict[tuple[str, str], None] = {}
        for case in prepared:
            if isinstance(case, _Case) and self._second is not None and _is_hearable(case):
                pairs[case.stated, case.reference] = None
        said: dict[tuple[str, str], Opinion | Failure] = {}
        if self._second is not None and pairs:
            order = list(pairs)
            said = {order[number]: opinion for number, opinion in self._second.map(order)}
        return [
            case if isinstance(case, Grade) else _settle(case, said.get((case.stated, case.reference)))
            for case in prepared
        ]


def _is_hearable(case: _Case) -> bool:
    return symbolic.refusal(case.stated) is None and symbolic.refusal(case.reference) is None


def _prepare(asked: Asked) -> Grade | _Case:
    """The grade, or the case that is left for the second judge."""
    found = stated_answers(asked.response)
    if not found:
        return UNPARSED
    stated, reference = found[0], unboxed(asked.reference)
    if asked.kind == "integer":
        return _grade_canonical(found, canonical_integer(reference), canonical_integer, "integer")
    if asked.kind == "choice":
        return _grade_canonical(found, canonical_choice(reference), canonical_choice, "choice")
    if asked.kind == "text":
        same = same_answer(stated.text, reference)
        return Grade(verdict="correct" if same else "wrong", extracted=stated.text, reason="by text")
    return _maths(stated, reference)


def _grade_canonical(found: list[Stated], reference: str | None, canonical: Canonical, noun: str) -> Grade:
    """By the first of the stated answers that is of the kind."""
    for stated in found:
        for text in (stated.text, shortened(stated.text)):
            if (answer := canonical(text)) is not None:
                verdict = "correct" if answer == reference else "wrong"
                return Grade(verdict=verdict, extracted=answer, reason=f"by {noun}")
    first = found[0]
    if noun == "integer" and (first.place == "box" or any(character.isdigit() for character in first.text)):
        return Grade(verdict="wrong", extracted=first.text, reason="no integer")  # an answer, but something else
    return Grade(verdict="unparsed", extracted=None, reason=f"no {noun} is stated")


def _maths(stated: Stated, reference: str) -> Grade | _Case:
    text = stated.text if stated.place == "box" else shortened(stated.text)
    if stated.place == "bare" and not _is_bare_answer(text):
        return UNPARSED
    if stated.place != "box" and stated.text.rstrip(". ") == reference.rstrip(". "):
        return Grade(verdict="correct", extracted=stated.text, reason="first judge: the same text")
    opinion = judge(text, reference)
    case = _Case(text, reference, opinion)
    return _settle(case, None) if opinion.certain else case


def _is_bare_answer(text: str) -> bool:
    """Whether a response of one line is an answer, and not a sentence about it."""
    shape = read(text).shape
    if shape is None:
        return len(text.split()) <= BARE_WORDS_MAX
    if isinstance(shape, Listing):
        return not any(isinstance(item, Words) for item in shape.items)
    return not isinstance(shape, Words) or len(shape.text.split()) <= BARE_WORDS_MAX


def _settle(case: _Case, second: Opinion | Failure | None) -> Grade:
    """The verdict by both judges, and the reason for it."""
    first = case.first
    heard = second if isinstance(second, Opinion) and second.agreement != "undecided" else None
    if first.agreement != "undecided":
        same, reason = first.agreement == "same", f"first judge: {first.reason}"
        if heard is not None and heard.agreement != first.agreement:
            said = f"first {first.agreement} ({first.reason}), second {heard.agreement} ({heard.reason})"
            reason = f"the judges disagree: {said}"
    elif heard is not None:
        same = heard.agreement == "same" and heard.certain
        reason = f"first judge: undecided ({first.reason}); second: {heard.agreement} ({heard.reason})"
    else:
        same = False
        why = f"no verdict ({second.reason})" if second is not None else "not heard"
        reason = f"first judge: undecided ({first.reason}); second: {why}"
    return Grade(verdict="correct" if same else "wrong", extracted=case.stated, reason=reason)
