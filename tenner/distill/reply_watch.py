"""Watches what the replies of a teacher come to: stops when the first few are of no use, tells why others are not."""

from collections import Counter

from tenner.core.errors import TennerError
from tenner.core.records import Trace, TraceOutcome

UNUSABLE_REPLIES_MAX = 5
"""So many replies of no use, such as those without thinking, and none of use beside them, stop a run."""
UNUSABLE: dict[TraceOutcome, tuple[str, str]] = {
    "no_reasoning": (
        "hold no thinking",
        "ask for it in trace.parameters (reasoning_effort, enable_thinking, …), or choose a model that shows it",
    ),
    "unknown_finish": ("ended in a way that is not known", "ask the provider what it means, or choose another"),
    "empty": ("hold no answer", "look at a stored response in run.db, or at the server's log"),
    "unreadable": ("are no chat completions", "check the base URL, or look at a stored response in run.db"),
    "damaged": ("hold control tokens", "start the server with the model's own reasoning parser and end tokens"),
}
"""What a teacher of whose replies none is of use does, and what to do about it, by outcome."""
TOLD: tuple[TraceOutcome, ...] = ("unknown_finish", "damaged", "interrupted")


class ReplyWatch:
    """Counts the traces of one session; traces that are there already show that the teacher can be of use."""

    def __init__(self) -> None:
        self._is_useful = False
        self._unusable: list[Trace] = []
        self._told: Counter[str] = Counter()

    def known(self, trace: Trace) -> None:
        """Count a trace of an earlier session."""
        self._is_useful |= trace.outcome == "complete"

    def add(self, trace: Trace) -> None:
        """Count a new trace."""
        self._is_useful |= trace.outcome in ("complete", "truncated") and bool(trace.thinking)
        if trace.outcome in UNUSABLE and not self._is_useful:
            self._unusable.append(trace)
        if trace.outcome in TOLD:
            self._told[f"{trace.outcome.replace('_', ' ')} ({trace.evidence})"] += 1

    @property
    def is_hopeless(self) -> bool:
        """Whether no further reply should be bought."""
        return not self._is_useful and len(self._unusable) >= UNUSABLE_REPLIES_MAX

    @property
    def summary(self) -> str | None:
        """The traces that will not be trained on because of how they ended or what is in them; None without any."""
        by_count = sorted(self._told.items(), key=lambda told: (-told[1], told[0]))
        counts = ", ".join(f"{why} {count}" for why, count in by_count)
        return f"traces that are not trained on: {counts}" if counts else None

    def check(self) -> None:
        """Raise TennerError where no further reply should be bought."""
        if self.is_hopeless:
            first = self._unusable[0]
            fault, hint = UNUSABLE[first.outcome]
            evidence = f" ({first.evidence})" if first.evidence else ""
            raise TennerError(
                f"the first {len(self._unusable)} replies of {first.teacher} are of no use: they {fault}{evidence}",
                hint=f"{hint}; what was bought is kept, and the same command goes on with the next questions",
            )
