"""The run folder: what the stages hand to each other, appended and never half-written, with one writer at a time.

recipe.toml         the resolved recipe; or measurement.toml, or trace.toml (see `recipe.py`)
run.json            schema number of the folder, and the cap that the recipe names
provenance.json     versions, commit and machine of the first run
hardware.jsonl      device and precision of every stage that computes
stages/NAME.json    a stage's marker, written last: the stage is done, and its files have these hashes
*.jsonl             records, one a line
run.db              money and calls (see `budget/ledger.py`)
chat_template.jinja  what the student is asked with in the run; the one in student/ says all of it by itself
student/            the distilled model
control/            the same of the control arm: records, and its student
report.html, …      for people
"""

import errno
import hashlib
import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, TypeVar

from pydantic import ValidationError

from tenner.core import disk, file_hashes, file_lock
from tenner.core.disk import disk_errors
from tenner.core.errors import TennerError
from tenner.core.file_hashes import FileHash, Later
from tenner.core.records import Question, Record
from tenner.core.seeds import digest
from tenner.core.stage_markers import StageDone, StageMarkers

R = TypeVar("R", bound=Record)
CANNOT_WRITE = (NotADirectoryError, FileExistsError, FileNotFoundError, PermissionError)
SCHEMA = 2
"""The layout of a run folder. Raised by a change after which an older tenner cannot read a newer folder."""
READABLE = (1, 2)
"""The layouts that can be read and continued. 1 has no hashes: its files are taken as they are."""
LARGE_BYTES = 64 << 20
"""Of a larger file, a model's weights, `show` compares the size alone; whoever loads it compares the contents."""
OWN_FILES = ("run.json", "lock", "errors.log")
"""Files of the folder that are no stage's, besides those in `FolderState.start_files`."""
MODEL_CARD = "README.md"
"""In a model's folder: for people to edit."""


class FolderState(NamedTuple):
    """What run.json holds."""

    schema: int = SCHEMA
    recipe_budget_usd: float | None = None
    """The cap that the recipe named when the folder was last opened; the cap in force is in the stored recipe."""
    start_files: Mapping[str, Sequence[str]] = MappingProxyType({})
    """SHA-256 of the files that the folder was started with, by name: as it is, or was before the last change."""


class RunFolder:
    """One run on disk. Reading needs no lock; `writing()` takes it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._markers = StageMarkers(path)
        self._touched: dict[str, Later | Literal["read"]] = {}
        """What the stage at work has done to which file."""
        self._verified: dict[str, tuple[int, int, int]] = {}
        """Size, time and inode of the files that were found as they were written."""

    @classmethod
    def existing(cls, path: Path) -> "RunFolder":
        """The run, the measurement or the trace job at `path`. Raises TennerError where there is none to be read."""
        if not any(os.path.isfile(path / name) for name in ("recipe.toml", "measurement.toml", "trace.toml")):
            raise TennerError(f"{path} is not a run folder", hint="tenner run RECIPE --run-dir DIR makes one")
        folder = cls(path)
        folder.check_schema()
        return folder

    def check_schema(self) -> None:
        """Raise TennerError for a folder that a tenner with another layout of the folder has written."""
        schema = self.state().schema
        if schema not in READABLE:
            writer = "an older tenner" if schema < SCHEMA else "a newer tenner"
            raise TennerError(
                f"{self.path} was written by {writer} (schema {schema}; this one reads {READABLE[0]} to {SCHEMA})",
                hint="finish it with that version, or start a new run folder",
            )

    def state(self) -> FolderState:
        """What run.json holds; schema 0 where there is none. Raises TennerError for a damaged one."""
        path = self.path / "run.json"
        try:
            return _parse_state(json.loads(path.read_text("utf-8")))
        except FileNotFoundError:
            return FolderState(schema=0)
        except (OSError, ValueError, TypeError, RecursionError) as e:
            raise TennerError(f"{path} is damaged", hint="restore it from a copy, or start a new run folder") from e

    def write_state(self, state: FolderState) -> None:
        """Write run.json."""
        fields = state._asdict() | {"start_files": {name: list(hashes) for name, hashes in state.start_files.items()}}
        self.write_text("run.json", json.dumps(fields | {"own_hash": digest(json.dumps(fields))}))

    def read_start_file(self, name: str) -> str:
        """The text of a file that the folder was started with. Raises TennerError where it is not as written."""
        path = self.path / name
        try:
            data = path.read_bytes()
        except OSError as e:
            raise TennerError(f"{path} cannot be read: {e.strerror}", hint="restore it from a copy") from e
        known = self.state().start_files.get(name)
        if known is not None and hashlib.sha256(data).hexdigest() not in known:
            raise TennerError(
                f"{path} is not as tenner wrote it: it was changed or damaged since",
                hint="restore it, or undo the change: settings are changed in your own recipe, or by --set",
            )
        try:
            return data.decode("utf-8")
        except UnicodeDecodeError as e:
            raise TennerError(f"{path} cannot be read: it is not UTF-8 text", hint="restore it from a copy") from e

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Hold the folder's lock. The system frees it when the process ends, however it ends.

        Both the file `lock`, which names the process, and the folder itself, from which no one can delete the lock.
        """
        try:
            with disk_errors(self.path):
                self.path.mkdir(parents=True, exist_ok=True)
                lock = open(self.path / "lock", "a+")  # noqa: SIM115  closed below, after the block
        except OSError as e:
            if not isinstance(e, CANNOT_WRITE) and e.errno != errno.EROFS:
                raise
            raise TennerError(f"{self.path} cannot be written: {e.strerror}", hint="choose another --run-dir") from e
        with lock, ExitStack() as held:
            try:
                file_lock.lock(lock, wait=False)
                held.enter_context(file_lock.folder_locked(self.path))
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

    def questions_by_id(self, name: str) -> dict[str, Question]:
        """The questions of `name`.jsonl; to look up one that is not there is a TennerError. Raises as `stream` does."""
        found = QuestionsById(self.path / f"{name}.jsonl")
        found.update({q.id: q for q in self.stream(name, Question)})
        return found

    def stream(self, name: str, kind: type[R]) -> Iterator[R]:
        """The records of `name`.jsonl, one after the other; none where there is no file.

        Raises:
            TennerError: the file is not as a finished stage left it; or a line is not such a record, with its place.
                A last line without its newline is what a kill leaves behind: it was never acknowledged and is
                passed over.
        """
        file = f"{name}.jsonl"
        path = self.path / file
        self.verify(file)
        self._touched.setdefault(file, "read")
        if not path.exists():
            return
        try:
            with open(path, "rb") as lines:
                for number, line in enumerate(lines, 1):
                    if not line.endswith(b"\n"):
                        return
                    yield _record(line, kind, f"{path}, line {number}")
        except OSError as e:
            raise TennerError(f"{path} cannot be read: {e.strerror}") from e

    def append(self, name: str, records: Iterable[Record]) -> None:
        """Add lines to `name`.jsonl, durable on return; on a full disk the file is as it was before."""
        data = "".join(record.model_dump_json() + "\n" for record in records).encode()
        self._release(f"{name}.jsonl", "appended")
        disk.append(self.path / f"{name}.jsonl", data)

    def write(self, name: str, records: Iterable[Record]) -> None:
        """Write the whole of `name`.jsonl at once."""
        text = "".join(record.model_dump_json() + "\n" for record in records)
        self._release(f"{name}.jsonl", "replaced")
        disk.replace_text(self.path / f"{name}.jsonl", text, mode=disk.PRIVATE)

    def write_text(self, name: str, text: str) -> None:
        """Write a file atomically: the old one or the new one is there, never a half."""
        if name not in OWN_FILES:
            self._release(name, "replaced")
        disk.replace_text(self.path / name, text)

    def wrote_folder(self, name: str) -> None:
        """Say that the stage at work has written a folder of its own, a model's."""
        for path in self._model_files(name):
            self._release(path, "replaced")

    # -- damage --------------------------------------------------------------------------------------------------

    def verify(self, name: str, *, contents_max_bytes: int | None = None) -> None:
        """Raise TennerError where a file is not as the stage left it that wrote it; each is read once.

        A file that no finished stage vouches for is not looked at. Of one larger than `contents_max_bytes` only the
        size is compared.
        """
        try:
            found = (self.path / name).stat()
            seen = found.st_size, found.st_mtime_ns, found.st_ino
        except OSError:
            seen = None
        if seen is not None and self._verified.get(name) == seen:
            return
        if error := self._markers.damaged(name, contents_max_bytes=contents_max_bytes):
            raise error
        if seen is not None and (contents_max_bytes is None or seen[0] <= contents_max_bytes):
            self._verified[name] = seen

    def verify_folder(self, name: str) -> None:
        """The same for all files of a folder, as a model's."""
        for done in self._markers.read_all():
            for file in done.files:
                if file.startswith(f"{name}/"):
                    self.verify(file)

    def verify_stages(self, *stages: str, contents_max_bytes: int | None = None) -> None:
        """The same for all files of some stages; none named: of all that are finished."""
        for done in self._markers.read_all():
            for file in done.files if not stages or done.name in stages else ():
                self.verify(file, contents_max_bytes=contents_max_bytes)

    def _release(self, name: str, later: Later) -> None:
        """Note that a file is about to be changed by the stage at work."""
        if self._touched.get(name) != later:
            self._markers.release(name, later)
            self._touched[name] = later
        self._verified.pop(name, None)

    def _model_files(self, name: str) -> list[str]:
        paths = sorted(path for path in (self.path / name).rglob("*") if path.is_file() and path.name != MODEL_CARD)
        return [str(path.relative_to(self.path)) for path in paths]

    def _hashes(self, stage: str) -> dict[str, FileHash]:
        """The files that a stage which has ended vouches for: those it changed, and those that nobody else does."""
        others = [done for done in self._markers.read_all() if done.name != stage]
        known = {name for done in others for name, file in done.files.items() if file.later is None}
        # In a folder of an older tenner what was only read may be any earlier stage's.
        found = [name for name, how in self._touched.items() if how != "read" or all(done.number for done in others)]
        paths = {name: self.path / name for name in found if name not in known}
        files = {name: path for name, path in paths.items() if path.is_file() and path.name != MODEL_CARD}
        return {name: file_hashes.describe(path) for name, path in files.items()}

    # -- stages --------------------------------------------------------------------------------------------------

    def done(self, stage: str) -> StageDone | None:
        """The stage's marker, or None while it is not finished."""
        return self._markers.read(stage)

    def adopt(self, done: StageDone) -> None:
        """Write the marker of another folder's stage, with the hashes of those of its files that were copied here."""
        found = {name: self.path / name for name in done.files if (self.path / name).is_file()}
        self._markers.write(done._replace(files={name: file_hashes.describe(path) for name, path in found.items()}))

    def begun_seconds(self, stage: str) -> float | None:
        """The time spent so far on a stage that is not done; None for one that was not begun or cut off hard."""
        path = self.path / "stages" / f"{stage}.seconds"
        try:
            return float(path.read_text("utf-8"))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as e:
            raise TennerError(f"{path} is damaged", hint="delete it: only the time spent so far is lost") from e

    @contextmanager
    def stage(self, name: str) -> Iterator["StageClock"]:
        """Work on a stage: its time is kept over interruptions, and its marker written when the block has ended."""
        clock = StageClock(self, name)
        self._touched.clear()
        try:
            yield clock
        except BaseException as e:
            e.add_note(f"in the stage {name} of {self.path}")
            clock.keep()
            raise
        number = 1 + max((done.number for done in self._markers.read_all()), default=0)
        seconds = round(clock.seconds, 3)
        done = StageDone(name, seconds, clock.items_in, clock.items_out, number, self._hashes(name))
        self._markers.write(done)
        with suppress(OSError):
            (self.path / "stages" / f"{name}.seconds").unlink(missing_ok=True)

    def _mend_tails(self) -> None:
        """Cut what a killed writer left after the last newline of a JSONL file, here or in a folder below."""
        for path in [*self.path.glob("*.jsonl"), *self.path.glob("*/*.jsonl")]:
            data = path.read_bytes()
            if data and not data.endswith(b"\n"):
                os.truncate(path, data.rfind(b"\n") + 1)


class QuestionsById(dict[str, Question]):
    """Questions of which another file of the run names some."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path

    def __missing__(self, id_: str) -> Question:
        raise TennerError(
            f"{self._path} has no question {id_}, which another file of the run names", hint="restore it from a copy"
        )


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
        except (TennerError, OSError):
            return  # the reason for stopping is the news; a clock that is behind is not


def text_hash(text: str) -> str:
    """The SHA-256 of a text as it is written."""
    return hashlib.sha256(text.encode()).hexdigest()


def _record(line: bytes, kind: type[R], where: str) -> R:
    try:
        return kind.model_validate_json(line)
    except ValidationError as e:
        name = where.partition(", line ")[0].rpartition("/")[2]
        raise TennerError(
            f"{where} is not a {kind.__name__}: {e.errors()[0]['msg']}",
            hint=f"mend or delete the line; or delete {name} and what came after it in stages/",
        ) from e


def _parse_state(fields: Any) -> FolderState:
    """run.json as JSON holds it. Raises ValueError or TypeError for anything else."""
    if isinstance(fields, dict) and isinstance(schema := fields.get("schema"), int) and schema not in READABLE:
        return FolderState(schema)  # its other fields are that version's
    if not isinstance(fields, dict):
        raise TypeError("it is no object")
    own_hash = fields.pop("own_hash", None)
    state = FolderState(**fields)
    if not isinstance(state.start_files, Mapping):
        raise TypeError("it names no files")
    state = state._replace(start_files={name: tuple(hashes) for name, hashes in state.start_files.items()})
    if (state.schema > 1) != (own_hash is not None) or own_hash not in (None, digest(json.dumps(fields))):
        raise ValueError("its contents have changed")
    if not isinstance(state.schema, int) or not isinstance(state.recipe_budget_usd, int | float | None):
        raise ValueError("its values have other types")
    return state
