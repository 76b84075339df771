"""The markers of finished stages: what went in and out, and the hash of every file that the stage wrote.

A marker is `stages/NAME.json`, written last. A file that a later stage appends to or replaces is flagged so in the
earlier marker before it is touched, and belongs to the later one when that stage has ended.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from tenner.core import disk, file_hashes
from tenner.core.errors import TennerError
from tenner.core.file_hashes import FileHash, Later
from tenner.core.seeds import digest

NO_FILES: Mapping[str, FileHash] = MappingProxyType({})


class StageDone(NamedTuple):
    """A finished stage. `seconds` is the time of all the sessions that worked on it."""

    name: str
    seconds: float
    items_in: int
    items_out: int
    number: int = 0
    """In the order of finishing, from 1; 0: an older tenner wrote the marker, without hashes."""
    files: Mapping[str, FileHash] = NO_FILES
    """What the stage wrote, by its path in the run folder."""


class StageMarkers:
    """The markers in a run folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def read(self, stage: str) -> StageDone | None:
        """A stage's marker, None where it is not finished. Raises TennerError where the marker is damaged."""
        path = self._path(stage)
        try:
            return _parse(json.loads(path.read_text("utf-8")), stage)
        except FileNotFoundError:
            return None
        except (ValueError, TypeError, RecursionError) as e:
            raise TennerError(f"{path} is damaged", hint="delete it: the stage is then finished again") from e
        except OSError as e:
            raise TennerError(f"{path} cannot be read: {e.strerror}") from e

    def read_all(self) -> list[StageDone]:
        """All of them, in the order of finishing."""
        stages = [path.stem for path in (self._folder / "stages").glob("*.json")]
        return sorted(filter(None, map(self.read, stages)), key=lambda done: (done.number, done.name))

    def write(self, done: StageDone) -> None:
        """Write a marker."""
        fields = done._asdict()
        fields["files"] = {name: list(file) for name, file in sorted(done.files.items())}
        disk.replace_text(self._path(done.name), json.dumps(fields | {"own_hash": digest(json.dumps(fields))}))

    def expected(self, name: str) -> FileHash | None:
        """How a file must be; None where no finished stage vouches for it.

        That is as the stage wrote it that worked on it last; while one is at work on it, its beginning.
        """
        known = [done.files[name] for done in self.read_all() if name in done.files]
        whole = [file for file in known if file.later is None]
        appended = [file for file in known if file.later == "appended"]
        return next(reversed(whole or appended or known), None)

    def release(self, name: str, later: Later) -> None:
        """Flag a file that is about to be changed: from now on finished stages vouch for less of it, or nothing."""
        for done in self.read_all():
            if (file := done.files.get(name)) and file.later not in ("replaced", later):
                self.write(done._replace(files={**done.files, name: file._replace(later=later)}))

    def damaged(self, name: str, *, contents_max_bytes: int | None = None) -> TennerError | None:
        """The error for a file that is not as it was written, None for one that is."""
        while (expected := self.expected(name)) is not None:
            how = file_hashes.damage(self._folder / name, expected, contents_max_bytes=contents_max_bytes)
            if how is None:
                return None
            if self.expected(name) == expected:  # else a stage at work has changed it meanwhile
                return self._error(name, how)
        return None

    def _error(self, name: str, how: str) -> TennerError:
        done = self.read_all()
        first = next(place for place, one in enumerate(done) if name in one.files)
        markers = ", ".join(f"{one.name}.json" for one in done[first:])
        top = name.partition("/")[0]
        return TennerError(
            f"{self._folder / name} is damaged: {how} since the stage {done[first].name} wrote it",
            hint=f"restore it from a copy; or delete {top} and, in stages/, {markers}: the same command then does the "
            "stage again, and buys nothing that run.db holds",
        )

    def _path(self, stage: str) -> Path:
        return self._folder / "stages" / f"{stage}.json"


def _parse(fields: Any, stage: str) -> StageDone:
    """A marker as JSON holds it. Raises ValueError or TypeError for anything else."""
    if not isinstance(fields, dict):
        raise TypeError("it is no object")
    own_hash = fields.pop("own_hash", None)
    if own_hash is not None and own_hash != digest(json.dumps(fields)):
        raise ValueError("its contents have changed")
    files = {name: file_hashes.parse(file) for name, file in fields.pop("files", {}).items()}
    done = StageDone(**fields, files=files)
    if done.name != stage or not isinstance(done.seconds, int | float):
        raise ValueError("it is another stage's")
    if not all(isinstance(count, int) for count in (done.items_in, done.items_out, done.number)):
        raise ValueError("its counts are no numbers")
    if done.number and own_hash is None:
        raise ValueError("it has no hash of its own")
    return done
