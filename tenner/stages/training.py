"""The train stage, in the process that keeps the run and in those that only train beside it."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from datetime import date
from pathlib import Path
from typing import NamedTuple

from tenner.core import turn_end
from tenner.core.chat_template import ChatTemplate, source_of
from tenner.core.errors import TennerError
from tenner.core.formats import FORMATS, ThinkFormat
from tenner.core.recipe import Recipe
from tenner.core.records import Drop, Sample, TrainStep
from tenner.core.run import RUN_TEMPLATE, Run, chat_template_of, stored_recipe, template_to_ask_with
from tenner.core.run_folder import RunFolder
from tenner.core.saved_template import trained_template
from tenner.core.sections import Device, Train
from tenner.core.template_date import with_date
from tenner.training import (
    allocator,
    distributed,
    held_out,
    loop,
    loss_mask,
    optional_libraries,
    packing,
    plan,
    student,
    student_address,
)
from tenner.training.checkpoint import Found
from tenner.training.loss_mask import Encoded
from tenner.training.memory_plan import row_lengths
from tenner.training.trackers import tracker_of

FOLDER = "checkpoint"
STEPS_FEW, STEPS_ENOUGH = 40, 100
"""s1 took 315 for 1,000 samples. The demo takes about 200; with 148 its student had 84 % right instead of 94.5 %."""


def learn(run: Run) -> tuple[int, int]:
    """Fine-tune the student on the samples; machine time is charged step by step."""
    recipe, folder = run.recipe, run.folder
    optional_libraries.check(recipe.train)
    base, encoded, dropped, validation = prepare(run)
    workdir = folder.path / FOLDER
    label = run.label("train")
    precision = run.hardware(label, recipe.train.precision).precision
    settings = recipe.train.model_copy(update={"precision": precision})
    with (
        _joined(recipe, recipe.machine.device) as world,
        run.machine_time(label) as meter,
        run.screen.bar(label, 0, expected_seconds=run.expected_seconds(label)) as bar,
        tracker_of(recipe) as track,
    ):
        if (idle := distributed.idle_gpus(world)) and run.part_of is None:
            run.screen.say(f"{idle} more GPUs are here: tenner train {folder.path} uses all, and so does tenner launch")

        def on_begin(found: Found) -> None:
            for line in found.refused:
                run.screen.say(f"{line}: going on from step {found.step}")
            # Steps after the checkpoint are done again, and so are their rows of the curve.
            rows = folder.read("training", TrainStep)
            folder.write("training", [row for row in rows if row.step < found.step])

        def on_step(done: loop.StepReport) -> None:
            meter.tick()
            row = {name: value for name, value in done._asdict().items() if name != "seconds"}
            step = TrainStep(**row, cost_usd=run.ledger.spent_usd())
            folder.append("training", [step])
            track(step)
            bar.update(done.step + 1, _note(step, recipe) + run.spent(), total=done.steps)
            meter.check()

        result = loop.train(
            base, encoded, settings, seed=recipe.seed, workdir=workdir, validation=validation, on_step=on_step,
            on_begin=on_begin, say=run.screen.say, world=world, device_tflops=recipe.machine.peak_tflops,
        )  # fmt: skip
        loop.finish(
            result, base, folder.path / "student", workdir, base_model=recipe.student.base_model,
            chat_template=recipe.student.chat_template, saved_template=_saved_template(run, base),
        )  # fmt: skip
        for name in ("student", "adapter"):
            folder.wrote_folder(name)
    return len(encoded) + len(dropped), len(encoded)


class Prepared(NamedTuple):
    """What a training is given."""

    base: Path
    """The folder of the untrained student."""
    encoded: list[Encoded]
    """The samples that it is trained on, as it reads them."""
    dropped: list[Drop]
    """Why each of the others is not among them."""
    validation: list[Encoded]
    """Of the others, those that are held out."""


def prepare(run: Run) -> Prepared:
    """The untrained student and the samples; those that are not trained on are reported."""
    _fix_date(run)
    found = _prepared(run.folder, run.recipe)
    run.folder.write("dropped-train", found.dropped)
    if too_long := len(found.dropped) - len(found.validation):
        run.screen.say(f"{too_long:,} samples are longer than train.tokens_max and left out")
    if found.validation:
        run.screen.say(
            f"{len(found.validation):,} samples are held out: their loss is measured as the training goes on"
        )
    if (advice := _few_steps([len(e.ids) for e in found.encoded], run.recipe.train)) is not None:
        run.screen.say(advice)
    return found


def _few_steps(lengths: Sequence[int], train: Train) -> str | None:
    """What is said of a training of few steps where smaller ones would make more of the same samples."""
    steps = len(packing.plan(lengths, train.tokens_per_step, epochs=train.epochs, seed=0))
    smaller = train.epochs * sum(lengths) // STEPS_ENOUGH
    if steps > STEPS_FEW or smaller < max(lengths):
        return None
    return (
        f"{steps} steps are few to learn from: with train.tokens_per_step = {smaller:,} the same samples make about "
        f"{STEPS_ENOUGH}"
    )


def _fix_date(run: Run) -> None:
    """Where the chat template writes today's date, keep one in the run that writes this day: else a training that goes
    on tomorrow would have other samples, and the student would be measured with other prompts.
    """
    if (run.folder.path / RUN_TEMPLATE).is_file():
        return
    base, section = student_address.resolve(run.recipe.student.model), run.recipe.student
    dated = with_date(source_of(student.load_tokenizer(base, section.chat_template)), date.today())
    if dated is not None:
        run.folder.write_text(RUN_TEMPLATE, dated)


def follow(path: Path, *, device: Device | None = None) -> None:
    """Train beside the process that keeps the run in `path`: it takes the lock, the ledger and the screen."""
    folder = RunFolder.existing(path)
    recipe = stored_recipe(folder)
    assert recipe is not None, "the folder is a run's"
    if folder.done("train"):
        return
    plan.check_trains_here(recipe.train)
    allocator.ask_for_expandable_segments()
    base, encoded, _dropped, validation = _prepared(folder, recipe)
    with _joined(recipe, device or recipe.machine.device) as world:
        loop.train(
            base, encoded, recipe.train, seed=recipe.seed, workdir=folder.path / FOLDER, validation=validation,
            on_step=lambda _: None, world=world,
        )  # fmt: skip


def foresee(path: Path, *, device: Device | None = None, processes: int = 1) -> plan.Plan:
    """What training the run in `path` takes of this machine, by the real lengths of its samples; writes nothing there.

    `processes` are those that would be started, where torchrun has not started some. Raises TennerError for a run that
    is not yet so far.
    """
    folder = RunFolder.existing(path)
    recipe = stored_recipe(folder)
    assert recipe is not None, "the folder is a run's"
    plan.check_trains_here(recipe.train)
    before = recipe.stages[recipe.stages.index("train") - 1]
    if not folder.done(before):
        raise TennerError(f"train needs {before}, which is not done", hint=f"tenner {before} {path}")
    base, encoded, _dropped, validation = _prepared(folder, recipe)
    own = distributed.here(device or recipe.machine.device).device
    machine = plan.Machine(
        max(processes, distributed.launched_size()),
        on_gpu=own.type != "cpu",
        memory_gb=distributed.device_bytes(own, processes=processes) / plan.GB,
    )
    lengths = [len(e.ids) for e in encoded]
    longest_tokens = max(len(e.ids) for e in (*encoded, *validation))
    return plan.plan(
        plan.read_config(base / "config.json"), recipe.train, machine, longest_tokens=longest_tokens, run_exists=True,
        lengths=lengths, seed=recipe.seed,
        row_lengths=row_lengths(
            recipe.train, samples=len(lengths), mean_tokens=sum(lengths) / len(lengths), longest_tokens=longest_tokens
        ),
    )  # fmt: skip


def _joined(recipe: Recipe, device: Device) -> AbstractContextManager[distributed.World]:
    """The processes that train together, as the recipe has them share weights and rows."""
    train = recipe.train
    return distributed.join(device=device, shard_over=train.shard_over, context_parallel=train.context_parallel)


class _Asked(NamedTuple):
    """How the student is asked in training."""

    template: ChatTemplate
    fmt: ThinkFormat
    end_id: int
    """The token that ends its turn."""


def _asked(folder: RunFolder, base: Path, recipe: Recipe) -> _Asked:
    tokenizer = student.load_tokenizer(base, template_to_ask_with(folder, recipe.student))
    fmt = FORMATS[recipe.student.format]
    template = chat_template_of(tokenizer, recipe)
    template.check(fmt)
    return _Asked(template, fmt, template.turn_end_id(turn_end.end_ids(base, tokenizer)))


def _saved_template(run: Run, base: Path) -> str | None:
    """The chat template of the saved student. The run goes on with that of the training, which it keeps beside it."""
    asked = _asked(run.folder, base, run.recipe)
    run.folder.write_text(RUN_TEMPLATE, source_of(asked.template.tokenizer))
    saved = trained_template(*asked)
    if saved is None:
        run.screen.say(
            "train: the student is saved with its own chat template, as this one cannot say what was trained; the "
            "model card shows how it is asked"
        )
    return saved


def _prepared(folder: RunFolder, recipe: Recipe) -> Prepared:
    """Raises TennerError where a sample is too long for the recipe, or none is left to train on."""
    base = student_address.resolve(recipe.student.model)
    template, fmt, end_id = _asked(folder, base, recipe)
    samples = folder.read("samples", Sample)
    encoded, tokens_max = [loss_mask.encode(template, s, fmt, end_id=end_id) for s in samples], recipe.train.tokens_max
    if recipe.train.longer == "stop":
        loss_mask.refuse_longer(encoded, tokens_max=tokens_max)
    kept = [e for e in encoded if len(e.ids) <= tokens_max]
    if not kept:
        raise TennerError(f"no sample has at most train.tokens_max = {tokens_max} tokens", hint="raise it")
    drops = [
        Drop(id=e.sample_id, reason="too_long", evidence=f"{len(e.ids)} tokens, and train.tokens_max is {tokens_max}")
        for e in encoded
        if len(e.ids) > tokens_max
    ]
    if (count := recipe.train.validation_samples) is None:
        return Prepared(base, kept, drops, [])
    fitting = {e.sample_id for e in kept}
    chosen = held_out.choose([s for s in samples if s.id in fitting], count, seed=recipe.seed)
    validation = [e for e in kept if e.sample_id in chosen]
    drops += [Drop(id=e.sample_id, reason="held_out", evidence="its loss is measured instead") for e in validation]
    return Prepared(base, [e for e in kept if e.sample_id not in chosen], drops, validation)


def _note(step: TrainStep, recipe: Recipe) -> str:
    """What the bar says beside the loss: speed, MFU where it is known, memory, and the price of what is left."""
    assert step.tokens_per_second is not None, "it was made here"
    hours_left = (step.tokens_left or 0) / step.tokens_per_second / 3600
    usd_left = hours_left * recipe.machine.price_usd_per_hour
    mfu = f"{step.mfu_causal:.0%} MFU  " if step.mfu_causal is not None else ""
    return (
        f"loss {step.loss:.3f}  {step.tokens_per_second:,.0f} tokens/s  {mfu}"
        f"{(step.memory_bytes or 0) / 1e9:.1f} GB  " + (f"${usd_left:.4f} to go  " if usd_left else "")
    )
