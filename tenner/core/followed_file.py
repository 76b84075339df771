"""A JSONL file that another process appends to, read as it grows."""

import json
from collections import deque
from collections.abc import Iterable
from pathlib import Path
from typing import Any


class FollowedFile:
    """Counts the lines of a file and keeps its last objects; each `update` reads only what is new."""

    def __init__(self, path: Path, *, keep: int) -> None:
        self.path = path
        self.count = 0
        """Whole lines so far."""
        self.last: deque[dict[str, Any]] = deque(maxlen=keep)
        """The last objects; a line that is none is passed over, since this is a look and no reading of results."""
        self._bytes_read = 0

    def update(self) -> None:
        """Read what was added since; all of it, where the file has become shorter or is another one."""
        try:
            with self.path.open("rb") as file:
                if file.seek(0, 2) < self._bytes_read:
                    self._restart()
                file.seek(self._bytes_read)
                added = file.read()
        except FileNotFoundError:
            self._restart()
            return
        whole = added[: added.rfind(b"\n") + 1]  # the rest is being written
        self._bytes_read += len(whole)
        lines = whole.splitlines()
        self.count += len(lines)
        self.last.extend(_objects(lines[-(self.last.maxlen or 0) :]))

    def _restart(self) -> None:
        self.count = self._bytes_read = 0
        self.last.clear()


def _objects(lines: Iterable[bytes]) -> Iterable[dict[str, Any]]:
    for line in lines:
        try:
            found = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(found, dict):
            yield found
