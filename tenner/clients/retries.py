"""The retry rule of calls: which failed attempts are made again, how often, and after how long."""

import random
from typing import NamedTuple

from tenner.clients.faults import RETRY_AFTER_MAX_SECONDS, Fault

BACKOFF_MAX_SECONDS = 60.0


class RetryRule(NamedTuple):
    """How often a call is attempted, and how long is waited between two attempts.

    Which faults may be retried at all is in the table of `faults.py`.
    """

    attempts_max: int
    backoff_seconds: float = 1.0
    """The longest wait before the second attempt; it doubles with every further one."""

    def gives_up(self, fault: Fault, attempt: int) -> bool:
        """Whether the call has failed for good with this attempt, the first of which is 1."""
        asked_seconds = fault.retry_after_seconds
        too_long = asked_seconds is not None and asked_seconds > RETRY_AFTER_MAX_SECONDS
        return not fault.rule.retried or attempt >= self.attempts_max or too_long

    def wait_seconds(self, fault: Fault, attempt: int, draw: random.Random) -> float:
        """How long to wait after an attempt: what the provider asked for, and a drawn time that grows."""
        asked_seconds = min(fault.retry_after_seconds or 0.0, RETRY_AFTER_MAX_SECONDS)
        return asked_seconds + self.backoff(attempt, draw)

    def backoff(self, attempt: int, draw: random.Random) -> float:
        """Between half and all of the longest wait after this attempt, in seconds."""
        doublings = min(attempt - 1, 30)  # an endless wait must not overflow
        longest = min(BACKOFF_MAX_SECONDS, self.backoff_seconds * 2**doublings)
        return draw.uniform(longest / 2, longest)
