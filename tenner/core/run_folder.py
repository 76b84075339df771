"""The run folder: what the stages hand to each other, appended and never half-written, with one writer at a time.

recipe.toml         the resolved recipe; or measurement.toml, or trace.toml (see `recipe.py`)
run.json            schema number of the folder, and the cap that the recipe names
provenance.json     versions, commit and machine of the first run
hardware.jsonl      device and precision of every stage that computes
stages/NAME.json    a stage's marker, written last: its existence means that the stage is done
*.jsonl             records, one a line
run.db              money and calls (see `budget/ledger.py`)
chat_template.jinja  what the student is asked with in the run; the one in student/ says all of it by itself
student/            the distilled model
report.html, …      for people
"""

import errno
import json
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, TypeVar

from pydantic import ValidationError

from tenner.core import file_lock
from tenner.core.errors import StorageFull, TennerError
from tenner.core.records import Record

R = TypeVar("R", bound=Record)
CANNOT_WRITE = (NotADirectoryError, FileExistsError, FileNotFoundError, PermissionError)
SCHEMA = 1
"""The layout of a run folder: a change after which an older folder cannot be continued raises it."""


class FolderState(NamedTuple):
    """What run.json holds."""

    schema: int = SCHEMA
    recipe_budget_usd: float | None = None
    """The cap that the recipe named when the folder was last opened; the cap in force is in the stored recipe."""


class StageDone(NamedTuple):
    """A finished stage. `seconds` is the time of all the sessions that worked on it."""

    name: str
    seconds: float
    items_in: int
    items_out: int


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn "the disk is full" into the one line that a user can act on."""
    try:
        yield
    except OSError as e:
        if e.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageFull(
                f"the disk is full: {path} could not be written",
                hint="free some space and give the same command again; nothing written so far is lost",
            ) from e
        raise


class RunFolder:
    """One run on disk. Reading needs no lock; `writing()` takes it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def existing(cls, path: Path) -> "RunFolder":
        """The run, the measurement or the trace job at `path`. Raises TennerError where there is none to be read."""
        if not any((path / name).is_file() for name in ("recipe.toml", "measurement.toml", "trace.toml")):
            raise TennerError(f"{path} is not a run folder", hint="tenner run RECIPE --run-dir DIR makes one")
        folder = cls(path)
        folder.check_schema()
        return folder

    def check_schema(self) -> None:
        """Raise TennerError for a folder that a tenner with another layout of the folder has written."""
        schema = self.state().schema
        if schema != SCHEMA:
            writer = "an older tenner" if schema < SCHEMA else "a newer tenner"
            raise TennerError(
                f"{self.path} was written by {writer} (schema {schema}; this one reads {SCHEMA})",
                hint="finish it with that version, or start a new run folder",
            )

    def state(self) -> "FolderState":
        """What run.json holds; schema 0 where there is none. Raises TennerError for a damaged one."""
        path = self.path / "run.json"
        try:
            state = FolderState(**json.loads(path.read_text("utf-8")))
        except FileNotFoundError:
            return FolderState(schema=0)
        except (ValueError, TypeError) as e:
            raise TennerError(f"{path} is damaged", hint="restore it from a copy, or start a new run folder") from e
        if not isinstance(state.schema, int) or not isinstance(state.recipe_budget_usd, int | float | None):
            raise TennerError(f"{path} is damaged", hint="restore it from a copy, or start a new run folder")
        return state

    def write_state(self, state: "FolderState") -> None:
        """Write run.json."""
        self.write_text("run.json", json.dumps(state._asdict()))

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Hold the folder's lock. The system frees it when the process ends, however it ends."""
        try:
            with disk_errors(self.path):
                self.path.mkdir(parents=True, exist_ok=True)
                lock = open(self.path / "lock", "a+")  # noqa: SIM115  closed below, after the block
        except OSError as e:
            if not isinstance(e, CANNOT_WRITE) and e.errno != errno.EROFS:
                raise
            raise TennerError(f"{self.path} cannot be written: {e.strerror}", hint="choose another --run-dir") from e
        with lock:
            try:
                file_lock.lock(lock, wait=False)
            except BlockingIOError as e:
                lock.seek(0)
                raise TennerError(
                    f"another tenner (process {lock.read().strip() or 'unknown'}) is writing to {self.path}",
                    hint="wait for it, or choose another --run-dir",
                ) from e
            with disk_errors(self.path):
                lock.truncate(0)
                lock.write(str(os.getpid()))
                lock.flush()
            self._mend_tails()
            yield

    # -- records -------------------------------------------------------------------------------------------------

    def read(self, name: str, kind: type[R]) -> list[R]:
        """All records of `name`.jsonl; empty where there is no file. Raises as `stream` does."""
        return list(self.stream(name, kind))

    def stream(self, name: str, kind: type[R]) -> Iterator[R]:
        """The records of `name`.jsonl, one after the other; none where there is no file.

        Raises:
            TennerError: a line that is not such a record, with its place. A last line without its newline is what
                a kill leaves behind: it was never acknowledged and is passed over.
        """
        path = self.path / f"{name}.jsonl"
        if not path.exists():
            return
        with open(path, "rb") as lines:
            for number, line in enumerate(lines, 1):
                if not line.endswith(b"\n"):
                    return
                try:
                    yield kind.model_validate_json(line)
                except ValidationError as e:
                    raise TennerError(
                        f"{path}, line {number} is not a {kind.__name__}: {e.errors()[0]['msg']}",
                        hint=f"mend or delete the line; or delete {name}.jsonl and what came after it in stages/",
                    ) from e

    def append(self, name: str, records: Iterable[Record]) -> None:
        """Add lines to `name`.jsonl, durable on return; on a full disk the file is as it was before."""
        data = "".join(record.model_dump_json() + "\n" for record in records).encode()
        path = self.path / f"{name}.jsonl"
        with disk_errors(path), open(path, "ab") as f:
            size = f.tell()
            try:
                f.write(data)
                f.flush()
                os.fsync(f.fileno())
            except OSError:
                os.truncate(path, size)
                raise

    def write(self, name: str, records: Iterable[Record]) -> None:
        """Write the whole of `name`.jsonl at once."""
        self.write_text(f"{name}.jsonl", "".join(record.model_dump_json() + "\n" for record in records))

    def write_text(self, name: str, text: str) -> None:
        """Write a file atomically: the old one or the new one is there, never a half."""
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(path.name + ".partial")
        with disk_errors(path):
            try:
                with open(partial, "w", encoding="utf-8") as f:
                    f.write(text)
                    f.flush()
                    os.fsync(f.fileno())
                partial.replace(path)
            except OSError:
                partial.unlink(missing_ok=True)
                raise

    # -- stages --------------------------------------------------------------------------------------------------

    def done(self, stage: str) -> StageDone | None:
        """The stage's marker, or None while it is not finished."""
        path = self.path / "stages" / f"{stage}.json"
        try:
            return StageDone(**json.loads(path.read_text("utf-8")))
        except FileNotFoundError:
            return None
        except (json.JSONDecodeError, TypeError) as e:
            raise TennerError(f"{path} is damaged", hint="delete it: the stage is then finished again") from e

    def begun_seconds(self, stage: str) -> float | None:
        """The time spent so far on a stage that is not done; None for one that was not begun or cut off hard."""
        path = self.path / "stages" / f"{stage}.seconds"
        return float(path.read_text()) if path.exists() else None

    @contextmanager
    def stage(self, name: str) -> Iterator["StageClock"]:
        """Work on a stage: its time is kept over interruptions, and its marker written when the block has ended."""
        clock = StageClock(self, name)
        try:
            yield clock
        except BaseException:
            clock.keep()
            raise
        clock.finish()

    def _mend_tails(self) -> None:
        """Cut what a killed writer left after the last newline of a JSONL file."""
        for path in self.path.glob("*.jsonl"):
            data = path.read_bytes()
            if data and not data.endswith(b"\n"):
                os.truncate(path, data.rfind(b"\n") + 1)


class StageClock:
    """Times one stage and knows what went in and came out."""

    def __init__(self, folder: RunFolder, name: str) -> None:
        self.folder, self.name = folder, name
        self.items_in = self.items_out = 0
        self._started = time.monotonic()
        self._before_seconds = folder.begun_seconds(name) or 0.0

    @property
    def seconds(self) -> float:
        """Time spent on the stage, in this session and in those that were cut off in good order."""
        return self._before_seconds + time.monotonic() - self._started

    def keep(self) -> None:
        """Remember the time of a session that did not finish the stage."""
        try:
            self.folder.write_text(f"stages/{self.name}.seconds", str(self.seconds))
        except (StorageFull, FileNotFoundError):
            return  # the reason for stopping is the news; a clock that is behind is not

    def finish(self) -> None:
        """Write the marker."""
        done = StageDone(self.name, round(self.seconds, 3), self.items_in, self.items_out)
        self.folder.write_text(f"stages/{self.name}.json", json.dumps(done._asdict()))
        (self.folder.path / "stages" / f"{self.name}.seconds").unlink(missing_ok=True)
