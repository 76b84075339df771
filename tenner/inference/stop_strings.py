"""Stop strings: where the answer, which comes piece by piece, has completed one of some strings."""

from collections.abc import Sequence


class StopStrings:
    """Passes text on up to that of `strings` which is complete first; holds back what may be the beginning of one.

    The texts that `feed` and `flush` return, joined, are the text before the stop string, or all of it.
    """

    def __init__(self, strings: Sequence[str]) -> None:
        assert all(strings), "an empty string would stop everything"
        self._strings = strings
        self._held = ""
        self.found = False

    def feed(self, text: str) -> str:
        """The part of the text so far that is new and cannot belong to a stop string. Nothing after one was found."""
        if self.found:
            return ""
        held = self._held + text
        places = [(place + len(string), place) for string in self._strings if (place := held.find(string)) >= 0]
        if places:
            self.found, self._held = True, ""
            return held[: min(places)[1]]
        kept = max((_overlap(held, string) for string in self._strings), default=0)
        self._held = held[len(held) - kept :]
        return held[: len(held) - kept]

    def flush(self) -> str:
        """What was held back, once the text has ended or goes on where no stop string may begin before."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, string: str) -> int:
    """The length of the longest end of `text` that `string`, longer than it, begins with."""
    return next((n for n in range(min(len(text), len(string) - 1), 0, -1) if text.endswith(string[:n])), 0)
