"""The referee: a model behind an API decides maths answers on which the two verifiers disagree."""

import re
from collections.abc import Mapping
from typing import NamedTuple

from tenner.clients import replies
from tenner.clients.registry import CallContext
from tenner.core.records import Completion, FailedCall, Grade, Question
from tenner.core.run import AnyRun
from tenner.core.sections import Referee
from tenner.core.seeds import digest

SYSTEM_PROMPT = (
    "You compare two answers to a question of mathematics: the reference answer, which is right, and a stated one. "
    "They are the same if they have the same value or meaning, however they are written; a part that is missing, "
    "another condition or another unit makes them different. Do not solve the question. Give your reason in one "
    "sentence, and then, on a last line of its own, SAME or DIFFERENT."
)
RULING = re.compile(r"\b(SAME|DIFFERENT)\W*\Z")
MARK = "; referee "
"""What a settled grade's reason goes on with."""


class Dispute(NamedTuple):
    """A question with a stated answer, which several completions may have."""

    question_id: str
    stated: str

    def asked(self, question: Question) -> Question:
        """What the referee is asked."""
        text = f"Question:\n{question.question}\n\nReference answer: {question.answer}\n\nStated answer: {self.stated}"
        return Question(id=digest("referee", *self)[:16], question=text, source="referee")


def settle(run: AnyRun, section: Referee, file: str, questions: Mapping[str, Question]) -> list[FailedCall]:
    """Replace the verdicts of `FILE.jsonl` that are in dispute by the referee's, and return the calls that failed.

    Each dispute is bought once. Where the referee names no verdict, that of the exact verifier stays, and the reason
    says so. Raises as `replies.buy_replies` does.
    """
    completions = run.folder.read(file, Completion)
    disputes = {d: d.asked(questions[d.question_id]) for c in completions if (d := _dispute(c)) is not None}
    if not disputes:
        return []
    context = CallContext(run.ledger, run.screen, stage="evaluate")
    asked = section.model_copy(update={"system_prompt": SYSTEM_PROMPT})
    answers = replies.buy_answers(asked, list(disputes.values()), context)
    rulings = {d: answers.by_id.get(q.id) for d, q in disputes.items()}
    run.folder.write(file, [_settled(c, rulings, section) for c in completions])
    count = sum(_ruling(answer) is not None for answer in rulings.values())
    run.screen.say(f"the referee decided {count:,} of {len(disputes):,} answers on which the verifiers disagree")
    return answers.failures


def _dispute(completion: Completion) -> Dispute | None:
    """The dispute over a completion's answer; None where there is none, or it was settled."""
    grade = completion.grade
    if not grade.is_disputed or grade.extracted is None or MARK in (grade.reason or ""):
        return None
    return Dispute(completion.question_id, grade.extracted)


def _settled(completion: Completion, rulings: Mapping[Dispute, str | None], section: Referee) -> Completion:
    dispute = _dispute(completion)
    if dispute is None or (answer := rulings[dispute]) is None:
        return completion
    ruling = _ruling(answer)
    grade = completion.grade
    said = f"{grade.reason}{MARK}{section.model}: {ruling or 'no verdict'}"
    verdict = {"same": "correct", "different": "wrong", None: grade.verdict}[ruling]
    return completion.model_copy(update={"grade": Grade(verdict=verdict, extracted=grade.extracted, reason=said)})


def _ruling(answer: str | None) -> str | None:
    """ "same" or "different", as the last line of an answer has it; None where it has neither."""
    lines = (answer or "").strip().splitlines()
    found = RULING.search(lines[-1]) if lines else None
    return found[1].lower() if found else None
