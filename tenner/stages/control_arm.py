"""The control arm: a second student, trained like the first on as many questions, which are drawn at random."""

from collections.abc import Sequence
from dataclasses import replace

from tenner.core import teacher
from tenner.core.errors import TennerError
from tenner.core.records import Question, Sample, StageHardware
from tenner.core.run import Run
from tenner.core.run_folder import RunFolder
from tenner.core.stage_names import CONTROL
from tenner.stages import selection, training


def learn(run: Run) -> tuple[int, int]:
    """Get samples of random questions, and train the second student on them; all of it is booked as `control`.

    Returns the number of questions that were drawn and of samples.
    """
    arm, order = _arm(run), selection.random_order(run)
    wanted = selection.count_questions(run.folder.read("samples", Sample))
    all_bought = run.recipe.order == "trace-first"
    samples = _verified(run, arm, order[:wanted]) if all_bought else _bought(arm, order, wanted)
    if not samples:
        raise TennerError("no trace of the control arm survived verification", hint=f"see {arm.folder.path}")
    if (found := selection.count_questions(samples)) < wanted:
        run.screen.say(f"control: only {found:,} random questions have a verified trace, of {wanted:,} wanted")
    arm.folder.write("samples", samples)
    training.learn(arm)
    run.folder.wrote_folder(CONTROL)
    return len(arm.folder.read("selected", Question)), len(samples)


def _arm(run: Run) -> Run:
    """The run of the second student: its records are in a folder of the first one's run, and it shares the ledger.

    It has the teacher of the first student, and trains in its precision.
    """
    recipe = run.recipe
    precisions = [row.precision for row in run.folder.read("hardware", StageHardware) if row.stage == "train"]
    train = recipe.train.model_copy(update={"precision": precisions[-1]} if precisions else {})
    own = recipe.model_copy(
        update={
            "name": f"{recipe.name}-{CONTROL}", "train": train, "trace": teacher.chosen(run.folder, recipe.trace),
        }
    )  # fmt: skip
    return replace(run, folder=RunFolder(run.folder.path / CONTROL), recipe=own, part_of=CONTROL)


def _verified(run: Run, arm: Run, drawn: Sequence[Question]) -> list[Sample]:
    """The samples of questions whose traces were bought before the selection."""
    arm.folder.write("selected", drawn)
    ids = {q.id for q in drawn}
    return [s for s in run.folder.stream("verified", Sample) if s.question_id in ids]


def _bought(arm: Run, order: Sequence[Question], wanted: int) -> list[Sample]:
    """Buy the traces of the first questions of the order, and of more where the run tops up its selection as well.

    A question that is selected, too, is not paid again. Each round begins anew with all of its questions, so that what
    an interrupted one has bought changes nothing.
    """
    rules = arm.recipe.select
    count = wanted if rules.top_up else rules.samples
    while True:
        drawn = order[:count]
        arm.folder.write("selected", drawn)
        selection.buy_traces(arm, drawn)
        verified, ids = selection.verify_traces(arm), {q.id for q in drawn}
        arm.folder.write("dropped-verify", verified.dropped)
        kept = [s for s in verified.kept if s.question_id in ids]
        missing = wanted - selection.count_questions(kept)
        if missing <= 0 or not rules.top_up or len(drawn) == len(order):
            return _first(kept, drawn, wanted)
        arm.screen.say(f"control: samples that are missing: {missing:,}")
        count += missing


def _first(samples: Sequence[Sample], order: Sequence[Question], wanted: int) -> list[Sample]:
    """The samples of the first so many questions that have any; without top-up there may be more than are wanted."""
    with_samples = {s.question_id for s in samples}
    taken = set([q.id for q in order if q.id in with_samples][:wanted])
    return [s for s in samples if s.question_id in taken]
