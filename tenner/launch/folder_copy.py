"""A copy of a run folder on storage that outlives the machine, such as a mounted bucket, which has no locks."""

import shutil
import sqlite3
import time
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

from tenner.core.disk import disk_errors

NOT_COPIED = {"lock", "run.db", "run.db-wal", "run.db-shm"}
"""Of the database a consistent copy is made by SQLite."""


class FolderCopy:
    """Keeps `copy` like `original`."""

    def __init__(self, original: Path, copy: Path) -> None:
        self._original, self._copy = original, copy
        self._updated = time.monotonic()
        self._thread = ThreadPoolExecutor(1)
        self._updating: Future[None] | None = None

    def restore(self) -> bool:
        """Make the original from the copy where only that is there; whether it did."""
        if self._original.exists() or not (self._copy / "run.db").exists():
            return False
        partial = self._original.with_name(self._original.name + ".partial")
        shutil.rmtree(partial, ignore_errors=True)
        with disk_errors(partial):
            shutil.copytree(self._copy, partial)
        partial.rename(self._original)
        return True

    def update_beside(self, *, every_seconds: float) -> None:
        """Update in a thread, unless that is under way or was done so recently. Raises what the last update raised."""
        if self._updating is not None:
            if not self._updating.done():
                return
            ended, self._updating = self._updating, None
            self._updated = time.monotonic()
            ended.result()
        if time.monotonic() - self._updated >= every_seconds:
            self._updating = self._thread.submit(self._update)

    def finish(self) -> None:
        """Update a last time."""
        self._thread.submit(self._update).result()  # after one that is under way: there is one thread
        self._thread.shutdown()

    def _update(self) -> None:
        """Copy what has changed, and remove what is gone.

        The database comes last: what was paid for a record that is in the copy is then in the copy, too.
        """
        if not (self._original / "run.db").exists():
            return
        with disk_errors(self._copy):
            files = {
                path.relative_to(self._original): path
                for path in self._original.rglob("*")
                if path.is_file() and path.name not in NOT_COPIED and not path.name.endswith(".partial")
            }
            for name, path in files.items():
                _copy_changed(path, self._copy / name)
            _copy_database(self._original / "run.db", self._copy / "run.db")
            for path in sorted(self._copy.rglob("*"), reverse=True):
                if path.is_file() and path.relative_to(self._copy) not in files and path.name != "run.db":
                    path.unlink()


def _copy_changed(path: Path, copy: Path) -> None:
    """By size and time. A file that vanishes meanwhile (an old checkpoint) is none to copy."""
    try:
        now = path.stat()
        if copy.exists() and (before := copy.stat()).st_size == now.st_size and before.st_mtime >= now.st_mtime:
            return
        copy.parent.mkdir(parents=True, exist_ok=True)
        partial = copy.with_name(copy.name + ".partial")
        shutil.copyfile(path, partial)
        partial.replace(copy)
    except FileNotFoundError:
        return


def _copy_database(path: Path, copy: Path) -> None:
    """Through a file beside the original: SQLite needs locks, and the copy's file system may have none."""
    beside = path.with_name("run.db.partial")
    beside.unlink(missing_ok=True)
    with closing(sqlite3.connect(path, timeout=30)) as source, closing(sqlite3.connect(beside)) as target:
        source.backup(target)
    partial = copy.with_name("run.db.partial")
    shutil.copyfile(beside, partial)
    partial.replace(copy)
    beside.unlink()
