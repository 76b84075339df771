"""Domain labels bought from a model: the prompt, the parser of its answers, and the subjects to choose from."""

import re
import tomllib
from collections.abc import Sequence
from functools import cache
from importlib import resources
from typing import NamedTuple

from tenner.clients import replies
from tenner.clients.registry import CallContext
from tenner.core.records import FailedCall, Label, Question
from tenner.core.sections import Labeller

CODE = re.compile(r"(?<!\d)(\d\d)\W*\Z")


@cache
def subjects() -> dict[str, str]:
    """The 61 top-level subjects of the Mathematics Subject Classification, by their two digits."""
    return dict(tomllib.loads((resources.files("tenner.distill") / "msc.toml").read_text("utf-8")))


def system_prompt() -> str:
    """The system prompt of the labelling model."""
    listed = "\n".join(f"{code} {title}" for code, title in subjects().items())
    return (
        "You sort questions by subject. Name the one subject of the list below that a course would have to teach for "
        "its students to solve the question; physics, chemistry and biology have their places in it too. Give your "
        f"reason in one sentence, and then, on a last line of its own, the two digits of the subject.\n\n{listed}"
    )


def parse(answer: str) -> str | None:
    """The subject whose two digits end the last line of an answer; None if it names none."""
    lines = answer.strip().splitlines()
    found = CODE.search(lines[-1]) if lines else None
    return subjects().get(found[1]) if found else None


class BoughtLabels(NamedTuple):
    """A label for each question that got an answer, and the calls that failed for good."""

    labels: list[Label]
    failures: list[FailedCall]


def buy_labels(labeller: Labeller, questions: Sequence[Question], context: CallContext) -> BoughtLabels:
    """Have the questions labelled. Raises as `replies.buy_replies` does."""
    section = labeller.model_copy(update={"system_prompt": system_prompt()})
    answers = replies.buy_answers(section, questions, context)
    labels = [Label(question_id=id_, domain=parse(text), evidence=text) for id_, text in answers.by_id.items()]
    return BoughtLabels(labels, answers.failures)
