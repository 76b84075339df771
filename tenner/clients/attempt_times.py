"""Judges by the time that passed whether the server had worked, and so charged, before it answered with an error."""

from typing import NamedTuple

from tenner.clients.faults import Fault

LATE_SECONDS = 30.0
"""A server that fails so long after a request was probably generating."""
LATE_WITHOUT_REPLIES_SECONDS = 1.0
"""The same where the run ends without a reply that would have shown how long one takes."""
LIKE_A_REPLY = 0.8
"""An error that took so much of the time of the quickest reply took as long as one: times vary."""
WORK_SECONDS_MIN = 0.05
"""What takes less was refused before any work."""
REFUSALS = ("rate_limited", "overloaded")
"""Faults that say that there was no work: they are believed up to half the time that a reply takes on average."""
LATE_KINDS = {
    "server_error": "gateway_timeout", "overloaded": "gateway_timeout", "rate_limited": "late_refusal",
    "bad_request": "late_rejection", "refused": "late_rejection",
}  # fmt: skip
"""Faults that cost nothing when they come at once, and what they count as when they come late."""
RETRIED = ("server_error", *REFUSALS)


class HeldAttempt(NamedTuple):
    """An attempt of which it is not known yet whether it was charged: its reservation stays until it is."""

    reservation: int
    kind: str
    seconds: float


class AttemptTimes:
    """How long the replies of one model took so far."""

    def __init__(self) -> None:
        self._replies = 0
        self._shortest_seconds, self._mean_seconds = LATE_SECONDS, LATE_SECONDS

    def replied(self, seconds: float) -> None:
        """Count a reply that has text."""
        self._replies += 1
        self._shortest_seconds = min(self._shortest_seconds, seconds)
        self._mean_seconds += (seconds - self._mean_seconds) / self._replies

    def judged(self, fault: Fault, seconds: float) -> Fault:
        """The fault as it counts when it comes so long after the request."""
        if fault.kind not in LATE_KINDS or not self._is_late(fault.kind, seconds):
            return fault
        evidence = f"{fault.evidence} (after {seconds:.1f} s)"
        return Fault(LATE_KINDS[fault.kind], evidence, retry_after_seconds=fault.retry_after_seconds)

    def is_undecided(self, fault: Fault, seconds: float) -> bool:
        """Whether only a reply will show if there was time for work."""
        return not self._replies and fault.kind in RETRIED and seconds >= WORK_SECONDS_MIN

    def was_charged(self, held: HeldAttempt) -> bool:
        """Whether a held attempt was probably charged, by what is known now."""
        if not self._replies:
            return held.seconds >= LATE_WITHOUT_REPLIES_SECONDS
        return self._is_late(held.kind, held.seconds)

    def _is_late(self, kind: str, seconds: float) -> bool:
        if not self._replies:
            return seconds >= LATE_SECONDS
        usual_seconds = self._mean_seconds / 2 if kind in REFUSALS else LIKE_A_REPLY * self._shortest_seconds
        return seconds >= min(LATE_SECONDS, max(WORK_SECONDS_MIN, usual_seconds))
