"""The calls of a run folder that failed for good: recorded by stage, and an error at the end of the command."""

from collections import Counter
from collections.abc import Iterable

from tenner.core.errors import Incomplete
from tenner.core.records import FailedCall
from tenner.core.run_folder import RunFolder
from tenner.core.stage_names import CONTROL

FILES = {"trace": "failed", "select": "failed-select", CONTROL: f"{CONTROL}/failed", "evaluate": "failed-evaluate"}
"""The file of each stage that makes paid calls. Those of the control arm are traces, in a folder of its own."""


def record(folder: RunFolder, stage: str, failures: Iterable[FailedCall]) -> None:
    """Write the failures of a stage in place of those of an earlier session."""
    folder.write(FILES[stage], failures)


def check(folder: RunFolder, stages: Iterable[str] = FILES) -> None:
    """Raise Incomplete, with the number of calls by fault, if calls of one of these stages failed for good.

    Verification may buy more traces: its calls are those of the stage `trace`.
    """
    for stage in stages:
        file = FILES.get("trace" if stage == "verify" else stage)
        if file is None:
            continue
        failed = Counter(f.kind for f in folder.stream(file, FailedCall))
        if failed:
            kinds = ", ".join(f"{kind} {count}" for kind, count in failed.most_common())
            calls = "call" if failed.total() == 1 else "calls"
            raise Incomplete(
                f"{failed.total():,} {calls} of {stage} failed for good: {kinds}",
                hint=f"what was bought is kept; the errors are in {folder.path / file}.jsonl",
            )
