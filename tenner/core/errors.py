"""What can go wrong, as a tree. Every class is one exit code and one line for the user.

TennerError          exit 2   the input, the recipe or the run folder is not usable as given
├── BudgetReached    exit 3   the cap would be crossed: nothing is lost, a higher cap resumes
├── Incomplete       exit 4   some calls failed: all else is done, and what was bought is kept
├── OutOfMoney       exit 5   a provider's account is empty or its quota used up: nothing more can be bought there
├── Preempted        exit 75  the system took the machine away: the same command goes on elsewhere
├── Unexpected       exit 1   a fault of tenner or of a library: the traceback is in a log file
├── NoRoom           exit 2   a prompt and its answer do not fit into the context
└── StorageFull      exit 2   the disk refused a write: nothing written before is lost
"""


class TennerError(ValueError):
    """A problem that the user can mend: one line, and a hint how."""

    exit_code = 2

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


class BudgetReached(TennerError):
    """The next spend would cross the cap of the run."""

    exit_code = 3


class Incomplete(TennerError):
    """Some calls to a model failed. Those that may succeed later are made again by the same command."""

    exit_code = 4


class OutOfMoney(TennerError):
    """A provider sells nothing more to this account: no money, no credit, or the quota of the day is used up."""

    exit_code = 5


class Preempted(TennerError):
    """SIGTERM: everything is saved. 75 is EX_TEMPFAIL, by which a scheduler knows to start the job again."""

    exit_code = 75


class Unexpected(TennerError):
    """An exception that nobody expected; see `error_log.py`."""

    exit_code = 1


class NoRoom(TennerError):
    """A prompt is too long for the model's context and the answer that is to follow."""


class StorageFull(TennerError):
    """The disk is full (or the quota used up)."""
