"""What happens to an exception that nobody expected: one line for the user, and the traceback in a log file."""

import os
import tempfile
import time
import traceback
from pathlib import Path

from tenner.core import disk
from tenner.core.errors import StorageFull, TennerError, Unexpected

LOG = "errors.log"
SHOWN_CHARACTERS = 300


def explain(error: Exception, folder: Path | None) -> TennerError:
    """The one line for an exception; `folder` is the run folder that the command was about.

    Errors of the disk say which file; anything else is logged in the folder, or in a temporary file.
    """
    reason = one_line(error)
    place = "".join(f" {note}" for note in getattr(error, "__notes__", ())[:1])
    if isinstance(error, OSError) and error.errno is not None and (error.errno in (*disk.FULL, *disk.REFUSED)):
        where = error.filename or folder or "a file"
        hint = "nothing written so far is lost: give the same command again when that is mended"
        if error.errno in disk.FULL:
            return StorageFull(
                f"the disk is full: {where} could not be written{place}", hint=f"free some space; {hint}"
            )
        return TennerError(f"{where} cannot be used{place}: {error.strerror}", hint=hint)
    if isinstance(error, MemoryError):
        return TennerError(f"memory ran out{place}", hint="close other programs, or use a machine with more")
    log = _record(error, folder)
    hint = "the same command goes on from here once that is mended; what was bought is kept"
    if log is not None:
        hint = f"the traceback is in {log}: please report it with that; {hint}"
    return Unexpected(f"{type(error).__name__}{place}: {reason}", hint=hint)


def one_line(error: BaseException) -> str:
    """The message of an exception on one line, shortened."""
    words = " ".join(str(error).split()) or "no message"
    return words if len(words) <= SHOWN_CHARACTERS else f"{words[:SHOWN_CHARACTERS]}…"


def _record(error: Exception, folder: Path | None) -> Path | None:
    """Append the traceback to a log and return its path; None where nothing can be written."""
    said = f"{time.strftime('%Y-%m-%d %H:%M:%S')}\n{''.join(traceback.format_exception(error))}\n"
    data = said.encode("utf-8", "backslashreplace")
    try:
        if folder is not None and os.path.isfile(folder / "run.json"):
            disk.append(folder / LOG, data)
            return folder / LOG
    except (TennerError, OSError):
        pass  # then elsewhere
    try:
        descriptor, name = tempfile.mkstemp(prefix="tenner-error-", suffix=".log")
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
    except OSError:
        return None
    return Path(name)
