"""Which questions of a run may be published: those under a licence that lets anybody pass them on."""

from collections.abc import Collection
from typing import NamedTuple

from tenner.core.licenses import is_open

ASKED_FOR = {"GPQA Diamond": "its authors ask that no question of it is shown in public"}
"""Benchmarks whose questions stay private whatever their licence says."""


class Withheld(NamedTuple):
    """A source or benchmark whose questions are not published."""

    name: str
    questions: int
    reason: str

    def __str__(self) -> str:
        return f"{self.name}: {self.questions:,} questions, {self.reason}"


def reason_to_withhold(name: str, license_id: str | None, include: Collection[str] = ()) -> str | None:
    """Why the questions of a source or benchmark are held back; None where they may be published.

    `include` are the names that the user has the right to publish.
    """
    if name in include:
        return None
    if reason := ASKED_FOR.get(name):
        return reason
    if license_id is None:
        return "whose licence is not known"
    if is_open(license_id):
        return None
    return f"under {license_id}"
