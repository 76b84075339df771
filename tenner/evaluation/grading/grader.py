"""The grader: compares the answer that a response states with the reference answer.

Maths has two verifiers. The exact verifier (`maths/exact.py`) reads an answer whole or not at all, and computes
exactly; where it decides, its result stands. math-verify (`maths/symbolic.py`) is consulted unless the exact verifier
is certain; it decides only what the exact verifier cannot, and its "same" counts only if both answers were parsed
whole. Where the two disagree, the reason of the grade gives both results.
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
from tenner.evaluation.grading.maths.exact import Verification, read, verify
from tenner.evaluation.grading.maths.shapes import Listing, Words
from tenner.evaluation.grading.sandboxed_workers import Failure, SandboxedWorkers
from tenner.evaluation.grading.text import bare, first_line, same_answer

MATH_VERIFY_SECONDS = 2.5
MATH_VERIFY_BYTES = 2 * 1024**3
BARE_WORDS_MAX = 2
UNPARSED = Grade(verdict="unparsed", extracted=None, reason="no answer is stated")


Canonical = Callable[[str], str | None]
"""The canonical form of the answer in a text, or None."""


class GradingRequest(NamedTuple):
    """A response to grade against a reference answer."""

    response: str
    reference: str
    kind: AnswerKind


class _Case(NamedTuple):
    """A maths answer that math-verify should compare too."""

    stated: str
    reference: str
    exact: Verification


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
    """Grade a teacher's response with the exact verifier alone, which starts no process."""
    assert question.answer is not None, "without a reference there is nothing to grade"
    prepared = _prepare(GradingRequest(response, question.answer, question.kind or "maths"))
    return prepared if isinstance(prepared, Grade) else _settle(prepared, None)


def check_reference(reference: str, kind: AnswerKind) -> None:
    """Raise TennerError for a reference answer that is not of its kind: nothing could be graded against it."""
    if kind == "integer" and canonical_integer(unboxed(reference)) is None:
        raise TennerError(f"the answer {reference!r} is no integer", hint='grade it with kind = "maths"')
    if kind == "choice" and canonical_choice(unboxed(reference)) is None:
        raise TennerError(f"the answer {reference!r} is no letter of a choice", hint='grade it with kind = "text"')
    if not reference.strip():
        raise TennerError("the answer is empty")


class Grader:
    """Grades responses; maths also with math-verify, in separate processes, where it is installed."""

    def __init__(self, *, processes: int | None = None) -> None:
        self._math_verify: SandboxedWorkers[tuple[str, str], Verification] | None = None
        if symbolic.is_available():
            self._math_verify = SandboxedWorkers(
                symbolic.verify_pair,
                prepare=symbolic.prepare,
                processes=processes or cores(),
                deadline_seconds=MATH_VERIFY_SECONDS,
                memory_bytes=MATH_VERIFY_BYTES,
            )

    def __enter__(self) -> "Grader":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._math_verify is not None:
            self._math_verify.close()

    def grade(self, response: str, reference: str, kind: AnswerKind) -> Grade:
        """Grade one response. Unparsed: no answer is stated, or it breaks off."""
        return self.grade_all([GradingRequest(response, reference, kind)])[0]

    def grade_all(self, requests: Iterable[GradingRequest]) -> list[Grade]:
        """Grade many, in their order. math-verify compares each distinct pair of answers once."""
        prepared = [_prepare(request) for request in requests]
        pairs: dict[tuple[str, str], None] = {}
        for case in prepared:
            if isinstance(case, _Case) and self._math_verify is not None and _is_safe(case):
                pairs[case.stated, case.reference] = None
        results: dict[tuple[str, str], Verification | Failure] = {}
        if self._math_verify is not None and pairs:
            order = list(pairs)
            results = {order[number]: result for number, result in self._math_verify.map(order)}
        return [
            case if isinstance(case, Grade) else _settle(case, results.get((case.stated, case.reference)))
            for case in prepared
        ]


def _is_safe(case: _Case) -> bool:
    return symbolic.refusal(case.stated) is None and symbolic.refusal(case.reference) is None


def _prepare(request: GradingRequest) -> Grade | _Case:
    """The grade, or the case that needs math-verify."""
    found = stated_answers(request.response)
    if not found:
        return UNPARSED
    stated, reference = found[0], unboxed(request.reference)
    if request.kind == "integer":
        return _grade_canonical(found, canonical_integer(reference), canonical_integer, "integer")
    if request.kind == "choice":
        return _grade_canonical(found, canonical_choice(reference), canonical_choice, "choice")
    if request.kind == "text":
        same = same_answer(stated.text, reference)
        return Grade(verdict="correct" if same else "wrong", extracted=stated.text, reason="by text")
    return _maths(stated, reference)


def _grade_canonical(found: list[Stated], reference: str | None, canonical: Canonical, noun: str) -> Grade:
    """Grade the first of the stated answers that is of the kind."""
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
        return Grade(verdict="correct", extracted=stated.text, reason="exact verifier: the same text")
    exact = verify(text, reference)
    case = _Case(text, reference, exact)
    return _settle(case, None) if exact.certain else case


def _is_bare_answer(text: str) -> bool:
    """Whether a response of one line is an answer, and not a sentence about it."""
    shape = read(text).shape
    if shape is None:
        return len(text.split()) <= BARE_WORDS_MAX
    if isinstance(shape, Listing):
        return not any(isinstance(item, Words) for item in shape.items)
    return not isinstance(shape, Words) or len(shape.text.split()) <= BARE_WORDS_MAX


def _settle(case: _Case, symbolic_result: Verification | Failure | None) -> Grade:
    """The verdict of both verifiers, and its reason. None: math-verify was not consulted."""
    exact, other = case.exact, symbolic_result
    decided = other if isinstance(other, Verification) and other.agreement != "undecided" else None
    if exact.agreement != "undecided":
        same, reason = exact.agreement == "same", f"exact verifier: {exact.reason}"
        if decided is not None and decided.agreement != exact.agreement:
            results = f"exact {exact.agreement} ({exact.reason}), math-verify {decided.agreement} ({decided.reason})"
            reason = f"the verifiers disagree: {results}"
    elif decided is not None:
        same = decided.agreement == "same" and decided.certain
        reason = f"exact verifier: undecided ({exact.reason}); math-verify: {decided.agreement} ({decided.reason})"
    else:
        same = False
        why = f"no result ({other.reason})" if other is not None else "not consulted"
        reason = f"exact verifier: undecided ({exact.reason}); math-verify: {why}"
    return Grade(verdict="correct" if same else "wrong", extracted=case.stated, reason=reason)
