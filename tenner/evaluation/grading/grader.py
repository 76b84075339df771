"""The grader: compares the answer that a response states with the reference answer.

Maths has two verifiers. The exact verifier (`maths/exact.py`) reads an answer whole or not at all, and computes
exactly; where it decides, its result stands. math-verify (`maths/symbolic.py`) is consulted unless the exact verifier
is certain; it decides only what the exact verifier cannot, and its "same" counts only if both answers were parsed
whole. Where the two disagree, the reason of the grade gives both results.

A box is an answer whatever it holds: what no verifier can read in it is wrong. A statement outside of a box that cannot
be read is unparsed.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import NamedTuple

from tenner.core.errors import TennerError
from tenner.core.formats import answer_text
from tenner.core.hardware import cores
from tenner.core.records import DISPUTED, AnswerKind, Grade, Question
from tenner.evaluation.grading.characters import as_ascii
from tenner.evaluation.grading.choice import canonical_choice, same_letters
from tenner.evaluation.grading.decoration import as_text, undecorated, unquoted
from tenner.evaluation.grading.extraction import Stated, shortened, stated_answers, unboxed
from tenner.evaluation.grading.integer import canonical_integer
from tenner.evaluation.grading.maths import symbolic
from tenner.evaluation.grading.maths.exact import Verification, read, verify
from tenner.evaluation.grading.maths.shapes import Listing, Words
from tenner.evaluation.grading.sandboxed_workers import Failure, SandboxedWorkers
from tenner.evaluation.grading.sentences import complement, without_qualifier
from tenner.evaluation.grading.text import bare, first_line, same_answer

MATH_VERIFY_SECONDS = 2.5
MATH_VERIFY_BYTES = 2 * 1024**3
BARE_WORDS_MAX = 2
UNPARSED = Grade(verdict="unparsed", extracted=None, reason="no answer is stated")
UNREADABLE = Grade(verdict="unparsed", extracted=None, reason="what is stated cannot be read")

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
    is_certainly_an_answer: bool = True
    """False for a statement that the exact verifier cannot read: it is unparsed unless math-verify reads it whole."""


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
    normalized = normalized_reference(reference)
    if kind == "integer" and canonical_integer(normalized) is None:
        raise TennerError(f"the answer {reference!r} is no integer", hint='grade it with kind = "maths"')
    if kind == "choice" and canonical_choice(normalized) is None:
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
    found = [s._replace(text=undecorated(s.text) or s.text) for s in stated_answers(request.response)]
    if not found:
        return UNPARSED
    reference = normalized_reference(request.reference)
    if request.kind == "integer":
        return _grade_canonical(found, canonical_integer(reference), canonical_integer, "integer")
    if request.kind == "choice":
        return _grade_canonical(found, canonical_choice(reference), canonical_choice, "choice")
    if request.kind == "text":
        return _grade_text(found[0], reference)
    return _grade_maths(found[0], reference)


def normalized_reference(reference: str) -> str:
    """The reference answer as it is compared: without a box around it, without decoration, in ASCII where possible."""
    reference = unboxed(as_ascii(reference))
    return undecorated(reference) or reference


def _forms(stated: Stated) -> Iterator[str]:
    """The text of an answer, and what it says without the sentence around it. None changes what is said."""
    short = shortened(stated.text)
    yield from (stated.text, short, without_qualifier(short))
    if stated.place == "statement" and (said := complement(short) or complement(stated.text)) is not None:
        yield from (said, without_qualifier(shortened(said)))


def _grade_canonical(found: list[Stated], reference: str | None, canonical: Canonical, noun: str) -> Grade:
    """Grade the first of the stated answers that is of the kind."""
    for stated in found:
        for text in _forms(stated):
            if (answer := canonical(text)) is not None:
                verdict = "correct" if answer == reference else "wrong"
                return Grade(verdict=verdict, extracted=answer, reason=f"by {noun}")
    first = found[0]
    is_number = any(character.isdigit() for character in first.text) and _is_readable(shortened(first.text))
    if noun == "integer" and (first.place == "box" or is_number):
        return Grade(verdict="wrong", extracted=first.text, reason="no integer")  # an answer, but something else
    return Grade(verdict="unparsed", extracted=None, reason=f"no {noun} is stated")


def _grade_text(stated: Stated, reference: str) -> Grade:
    wanted = as_text(reference)
    same = any(same_answer(as_text(form), wanted) or same_letters(form, reference) for form in _forms(stated))
    return Grade(verdict="correct" if same else "wrong", extracted=as_text(stated.text), reason="by text")


def _grade_maths(stated: Stated, reference: str) -> Grade | _Case:
    text = stated.text if stated.place == "box" else shortened(stated.text)
    if stated.place != "box" and stated.text.rstrip(". ") == reference.rstrip(". "):
        return Grade(verdict="correct", extracted=stated.text, reason="exact verifier: the same text")
    if LETTER.fullmatch(as_text(reference)) and canonical_choice(text) == canonical_choice(reference):
        return Grade(verdict="correct", extracted=text, reason="by choice")
    if unquoted(text) == unquoted(reference):
        return Grade(verdict="correct", extracted=text, reason="exact verifier: the same text")
    if same_letters(text, reference):
        return Grade(verdict="correct", extracted=text, reason="by the letters of a choice")
    text, reference = (CHOICE_LABEL.sub("", without_qualifier(side)) for side in (text, reference))
    if stated.place == "statement" and not _is_readable(text):
        said = complement(text) or complement(stated.text)
        text = text if said is None else without_qualifier(shortened(said))
    if stated.place == "bare" and not _is_bare_answer(text):
        return UNPARSED
    is_answer = stated.place == "box" or NEGATED.match(text) is not None or _is_readable(text, reference)
    exact = verify(text, reference)
    if not is_answer and read(text).shape is not None and exact.agreement == "different":
        return UNREADABLE  # prose
    case = _Case(text, reference, exact, is_answer)
    return _settle(case, None) if exact.certain else case


LETTER = re.compile(r"\(?[A-J]\)?")
CHOICE_LABEL = re.compile(
    r"^\\(?:text|textbf|mathrm|mathbf)\s*\{\s*(?:option\s+|choice\s+)?(?:\(\s*[A-J]\s*\)|[A-J]\s*[).:])\s*\}"
    r"(?:\\[ ,;]|~|\s)*(?=[^\s,;.])|^\(\s*[A-J]\s*\)(?:\\[ ,;]|~|\s)+(?=[-$\\0-9])",
    re.IGNORECASE,
)
"""The letter before the answer, as in \\textbf{(C)}\\ 12, and in (C) 12."""
NEGATED = re.compile(r"\W*not\s+[-$\\0-9]")
"""An answer that only says what it is not: it is wrong, whatever the reference."""
CJK = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7a3]")
CJK_PER_WORD = 2


def _is_readable(text: str, reference: str | None = None) -> bool:
    """Whether the exact verifier can read a text to its end; prose only where the reference is prose, too."""
    shape = read(text).shape
    if isinstance(shape, Words) and _count_words(shape.text) > BARE_WORDS_MAX:
        return reference is not None and isinstance(read(reference).shape, Words | Listing)
    return shape is not None


def _count_words(text: str) -> int:
    return len(text.split()) + len(CJK.findall(text)) // CJK_PER_WORD


def _is_bare_answer(text: str) -> bool:
    """Whether a response of one line is an answer, and not a sentence about it."""
    shape = read(text).shape
    if shape is None:
        return _count_words(text) <= BARE_WORDS_MAX
    if isinstance(shape, Listing):
        return not any(isinstance(item, Words) for item in shape.items)
    return not isinstance(shape, Words) or _count_words(shape.text) <= BARE_WORDS_MAX


def _settle(case: _Case, symbolic_result: Verification | Failure | None) -> Grade:
    """The verdict of both verifiers, and its reason. None: math-verify was not consulted."""
    exact, other = case.exact, symbolic_result
    decided = other if isinstance(other, Verification) and other.agreement != "undecided" else None
    if exact.agreement != "undecided":
        same, reason = exact.agreement == "same", f"exact verifier: {exact.reason}"
        if decided is not None and decided.agreement != exact.agreement:
            results = f"exact {exact.agreement} ({exact.reason}), math-verify {decided.agreement} ({decided.reason})"
            reason = f"{DISPUTED}: {results}"
    elif decided is not None:
        same = decided.agreement == "same" and decided.certain
        if not case.is_certainly_an_answer and not decided.certain:
            return UNREADABLE
        reason = f"exact verifier: undecided ({exact.reason}); math-verify: {decided.agreement} ({decided.reason})"
    elif not case.is_certainly_an_answer:
        return UNREADABLE
    else:
        same = False
        why = f"no result ({other.reason})" if other is not None else "not consulted"
        reason = f"exact verifier: undecided ({exact.reason}); math-verify: {why}"
    return Grade(verdict="correct" if same else "wrong", extracted=case.stated, reason=reason)
