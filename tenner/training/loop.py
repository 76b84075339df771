"""The training loop: packed samples, step by step, exact to the bit on a CPU however often it is broken off.

Nothing here draws a random number, so weights, moments and step are the whole state. On a GPU the order of some sums
differs from run to run, and so do the last bits, unless the recipe is `deterministic`. Every process of a training runs
this loop over the same plan, each with its own rows of every step.
"""

import math
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, cast, get_args

import torch
from transformers import PreTrainedModel

from tenner.core import hardware, turn_end
from tenner.core.errors import Preempted, TennerError
from tenner.core.records import NamedPrecision
from tenner.core.sections import Train
from tenner.core.seeds import digest
from tenner.training import checkpoint, fused, held_out, lora, model_loading, packing, rank_balance, student
from tenner.training.activation_checkpointing import offloaded
from tenner.training.allocator import freed_memory_kept, give_back_freed_memory
from tenner.training.background_checkpoint import CheckpointWriter, interval_seconds
from tenner.training.checkpoint import Part
from tenner.training.determinism import deterministic_kernels
from tenner.training.distributed import World, here
from tenner.training.flops import Work, peak_tflops
from tenner.training.layer_trace import expert_weights
from tenner.training.loss_mask import Encoded
from tenner.training.model_loading import Learner, compute_dtype
from tenner.training.optimizer import ROWS, Optimizer, optimizer_of
from tenner.training.packed_loss import Batch
from tenner.training.packing_check import choose_packing
from tenner.training.signals import Termination, interrupts_held, termination_noted

GIVE_BACK_STEPS = 8


class StepReport(NamedTuple):
    """One optimizer step. `loss` is in nats per trained token, before the step; `step` counts from 0."""

    step: int
    steps: int
    loss: float
    grad_norm: float
    lr: float
    tokens: int
    trained_tokens: int
    tokens_left: int
    """Of all the steps to come."""
    tokens_per_second: float
    mfu_causal: float | None
    """The share of the machine's best, attention counted as causal; None where its best is not known."""
    mfu_non_causal: float | None
    """The same with attention counted over all pairs of tokens, as many do."""
    memory_bytes: int
    """The most that was in use so far: of the device, or of this process where the device is the CPU."""
    seconds: float
    """Machine time since the last report of this process (the first one: since `train` began)."""
    validation_loss: float | None = None
    """Of the held-out samples, before the step, as `loss`; None where it was not measured."""


class TrainResult(NamedTuple):
    """The trained model, not yet saved. `first_step` is where this process took over, `loss` that of the last step."""

    model: PreTrainedModel | None
    """In the first process only. LoRA: with the adapters still in it."""
    adapters: lora.Adapters | None
    steps: int
    first_step: int
    loss: float | None
    """None when the checkpoint already held the last step."""


class _Step(NamedTuple):
    """A step of the plan as one process sees it."""

    rows: list[list[tuple[int, ...]]]
    """Of every rank, or of those that share rows: sample indices; an empty row is gone through without weight, to keep
    in step.
    """
    tokens: int
    trained: int
    work: Work


@freed_memory_kept()
def train(
    base: Path | PreTrainedModel,
    encoded: Sequence[Encoded],
    settings: Train,
    *,
    seed: int,
    workdir: Path,
    validation: Sequence[Encoded] = (),
    on_step: Callable[[StepReport], None],
    on_begin: Callable[[checkpoint.Found], None] = lambda _: None,
    say: Callable[[str], None] = lambda _: None,
    world: World | None = None,
    device_tflops: float | None = None,
) -> TrainResult:
    """Train the student in the folder `base`, or go on where the newest checkpoint in `workdir` left off.

    A process alone may also hand over a loaded model, on any device; it is changed in place. The loss of `validation`
    is measured at intervals (`held_out.is_due`). `on_begin` is told where it begins, before the first step; `say` gets
    a line about what is done otherwise than people expect; `on_step` is called after every step. When it raises
    TennerError (the budget's cap) in any process, on Ctrl-C and on SIGTERM, a checkpoint is written, so that nothing is
    lost; what came after the last one of a killed run is done again. `device_tflops` is the best of one device, for
    MFU; None: what is known of it. `finish` saves the result.

    Raises TennerError on a loss or gradient that is not finite (before the step, with the sample ids), on a model
    whose loss is not what transformers computes, on a checkpoint that does not fit, and where a GPU's memory is full;
    Preempted on SIGTERM.
    """
    assert 0 < max((len(e.ids) for e in encoded), default=0) <= settings.tokens_max
    world = world or here()
    settings = settings.model_copy(update={"precision": _agreed_precision(settings, world)})
    try:
        with deterministic_kernels(settings, world.device):
            return _train(
                base, encoded, settings, world, seed=seed, workdir=workdir, validation=validation, on_step=on_step,
                on_begin=on_begin, say=say, device_tflops=device_tflops,
            )  # fmt: skip
    except torch.OutOfMemoryError as e:
        raise TennerError(
            f"the memory of {world.device} is full: {' '.join(str(e).split())[:200]}",
            hint='lower train.tokens_per_row, or set train.activations = "inputs"; it goes on from the last checkpoint',
        ) from e


def _train(
    base: Path | PreTrainedModel, encoded: Sequence[Encoded], settings: Train, world: World, *, seed: int,
    workdir: Path, validation: Sequence[Encoded], on_step: Callable[[StepReport], None],
    on_begin: Callable[[checkpoint.Found], None], say: Callable[[str], None], device_tflops: float | None,
) -> TrainResult:  # fmt: skip
    reported = time.monotonic()
    learner = _load(base, encoded, settings, world, seed=seed, say=say)
    optimizer = optimizer_of(learner.weights.moved, settings)
    lengths = [len(e.ids) for e in encoded]
    plan = packing.plan(lengths, settings.tokens_per_step, epochs=settings.epochs, seed=seed)
    fingerprint = _fingerprint(learner.model, encoded, settings, seed)
    found = checkpoint.read(workdir, _state(learner, optimizer), fingerprint=fingerprint, world=world)
    step = first_step = saved_step = found.step
    optimizer.continue_at(step)
    on_begin(found)
    saved = time.monotonic()
    tokens_left = sum(lengths[i] for indices in plan[step:] for i in indices)
    best_tflops = device_tflops or peak_tflops(world.device)
    loss = None

    writer = CheckpointWriter(workdir, fingerprint=fingerprint, world=world)
    with termination_noted(ctrl_c=world.size > 1) as termination:
        try:
            while step < len(plan):
                doing = _plan_step(plan[step], encoded, lengths, learner, settings, world)
                measures = validation and held_out.is_due(step, len(plan))
                validation_loss = _mean_loss(validation, learner, settings, world) if measures else None
                began = time.monotonic()
                with learner.weights.in_model():
                    loss = _forward_backward(doing, encoded, lengths, learner, settings, world)
                norm = _collect_gradients(doing, encoded, learner, world, say if step == first_step else None)
                lr = learning_rate(step, len(plan), settings)
                with interrupts_held():  # a step that is done is reported: the checkpoint will not do it again
                    optimizer.step(lr=lr, divisor=max(1.0, norm / settings.grad_clip_norm))
                    learner.weights.clear()
                    step += 1
                    now = time.monotonic()
                    tokens_left -= doing.tokens
                    used, non_causal = _utilisation(doing.work, now - began, best_tflops, world)
                    report = StepReport(
                        step - 1, len(plan), loss, norm, lr, doing.tokens, doing.trained, tokens_left,
                        doing.tokens / (now - began), used, non_causal, _memory_bytes(world), now - reported,
                        validation_loss,
                    )  # fmt: skip
                    reported = now
                    wants_save = world.rank == 0 and now - saved >= _save_interval_seconds(settings, writer, world)
                    saves, written = _report_and_sync(
                        on_step, report, world, termination, wants_save=wants_save, is_written=writer.is_written
                    )
                if written:
                    writer.end()
                if saves:
                    writer.save(_state(learner, optimizer), step=step)
                    saved, saved_step = time.monotonic(), step
                if step % GIVE_BACK_STEPS == 0:
                    give_back_freed_memory()
        except (TennerError, KeyboardInterrupt, SystemExit):
            writer.end()
            if step > saved_step:
                writer.save(_state(learner, optimizer), step=step, wait=True)
            raise
    writer.end()
    whole = model_loading.unsharded(learner, base, settings, world)
    return TrainResult(whole.model, whole.adapters, len(plan), first_step, loss)


def _load(
    base: Path | PreTrainedModel, encoded: Sequence[Encoded], settings: Train, world: World, *, seed: int,
    say: Callable[[str], None],
) -> Learner:  # fmt: skip
    """The student, with rows of several samples where their isolation is proved."""
    learner = model_loading.load(base, settings, world, seed=seed)
    if world.device.type == "cuda" and (why := fused.failure(world.device)) is not None:
        say(f"norms, gates and the optimizer take several kernels each, which is slower: {why}")
    dtype = compute_dtype(settings)
    why = choose_packing(
        learner.loss, encoded, device=world.device, dtype=dtype, alone=world.size == 1, context=world.context
    )
    if why is not None:
        say(f"each sample has a row of its own, which takes longer: {why}")
    if settings.method == "lora" and (experts := sum(w.numel() for w in expert_weights(learner.model))):
        unquantized = " and are not in 4 bits" if settings.quantization else ""
        say(f"the {experts:,} weights of the experts have no adapters{unquantized}: they stay as they are")
    if settings.method == "lora" and (others := lora.unadapted(learner.model)):
        say(f"{len(others)} linear layers have no adapters, such as {others[0]}: peft takes their names for experts'")
    give_back_freed_memory()  # rows of the check leave holes that those of the training do not fit
    return learner


def _fingerprint(model: PreTrainedModel, encoded: Sequence[Encoded], settings: Train, seed: int) -> str:
    """What a checkpoint must share with the training that goes on from it."""
    shapes = [(name, tuple(p.shape)) for name, p in model.named_parameters()]
    fixed = settings.model_dump_json(exclude=Train.free_on_resume(), exclude_none=True)
    return digest(fixed, seed, shapes, *encoded)


def _utilisation(
    work: Work, seconds: float, device_tflops: float | None, world: World
) -> tuple[float | None, float | None]:
    """The share of the devices' best arithmetic (MFU), with causal and with full attention; None where unknown."""
    if device_tflops is None:
        return None, None
    peak_flops = device_tflops * 1e12 * world.size * seconds
    return work.causal / peak_flops, work.non_causal / peak_flops


def _agreed_precision(settings: Train, world: World) -> NamedPrecision:
    """The first process', which may know what an earlier session computed in."""
    known: tuple[NamedPrecision, ...] = get_args(NamedPrecision)
    own = 0
    if world.rank == 0:
        device = cast(hardware.DeviceKind, world.device.type)
        own = known.index(hardware.choose(device, settings.precision).precision)
    (agreed,) = world.sum(own)
    return known[int(agreed)]


def finish(
    result: TrainResult, model_dir: Path, student_dir: Path, workdir: Path, *, base_model: str,
    chat_template: str | None = None, saved_template: str | None = None,
) -> None:  # fmt: skip
    """Save the trained student as a Hugging Face folder, in its compute dtype, and then remove the checkpoints.

    `saved_template` is the text of the chat template in that folder; left out: that of the training.
    LoRA's adapters are saved beside it, in `adapter`, and merged into the student. Only the first process has to.
    """
    model, adapters = result.model, result.adapters
    if model is None:
        return
    dtype = model.dtype
    if adapters is not None:
        adapters.save(student_dir.with_name("adapter"), base_model=base_model)
        model = adapters.merge()
    tokenizer = student.load_tokenizer(model_dir, chat_template)
    if saved_template is not None:
        tokenizer.chat_template = saved_template
    student.save(model, tokenizer, student_dir, dtype, end_ids=turn_end.end_ids(model_dir, tokenizer))
    checkpoint.delete(workdir)


def learning_rate(step: int, steps: int, settings: Train) -> float:
    """Linear warm-up, then a cosine down to 0 (reached after the last step); `step` counts from 0."""
    warmup = math.ceil(settings.warmup_fraction * steps)
    if step < warmup:
        return settings.lr * (step + 1) / warmup
    return settings.lr * 0.5 * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup)))


def _state(learner: Learner, optimizer: Optimizer) -> dict[str, Part]:
    """All that a checkpoint has to hold, by name, sharing memory."""
    first_rows = learner.weights.first_rows
    parts = {f"weight.{name}": Part(tensor, first_rows[name]) for name, tensor in learner.weights.moved.items()}
    for kind, tensors in optimizer.state().items():
        for name, tensor in tensors.items():
            parts[f"{kind}.{name}"] = Part(tensor, first_rows[name], divisible=kind in ROWS)
    return parts


def _plan_step(
    indices: Sequence[int], encoded: Sequence[Encoded], lengths: Sequence[int], learner: Learner, settings: Train,
    world: World,
) -> _Step:  # fmt: skip
    trained = sum(sum(encoded[i].loss_mask[1:]) for i in indices)
    return _Step(
        rows=_dealt(indices, lengths, learner, settings, world),
        tokens=sum(lengths[i] for i in indices),
        trained=trained,
        work=learner.arithmetic.work((lengths[i] for i in indices), trained),
    )


def _dealt(
    indices: Sequence[int], lengths: Sequence[int], learner: Learner, settings: Train, world: World
) -> list[list[tuple[int, ...]]]:
    """The rows of each rank, or of those that share them. Several GPUs, whose kernel needs no padding, get rows of like
    work.
    """
    row_tokens, ranks = settings.tokens_per_row * world.context_parallel, world.data_parallel
    if learner.loss.packed and world.size > 1 and world.device.type == "cuda":
        work = [learner.arithmetic.work([tokens], tokens).causal for tokens in lengths]
        return rank_balance.even_turns(indices, lengths, row_tokens, ranks, work=work)
    if not learner.loss.packed:
        row_tokens = 1  # a longer sample has a row to itself
    return packing.deal(packing.split_rows(indices, lengths, row_tokens, ranks=ranks), lengths, ranks)


def _forward_backward(
    doing: _Step, encoded: Sequence[Encoded], lengths: Sequence[int], learner: Learner, settings: Train, world: World
) -> float:
    """Make the gradients of the step's mean loss, over the trained tokens of all processes; returns that loss."""
    idle = min((i for rows in doing.rows for row in rows for i in row), key=lambda i: lengths[i])
    compute = compute_dtype(settings)
    losses = []
    for row in doing.rows[world.data_rank]:
        packed = packing.pack([encoded[i] for i in row or (idle,)])
        weight = 1 / doing.trained if row else 0.0
        batch = Batch.of(packed, device=world.device, dtype=compute, weight=weight, context=world.context)
        with offloaded(settings):
            loss = learner.loss(batch)
        loss.backward()
        losses.append(loss.detach())
    of_all = [0.0] * (world.data_parallel * len(losses))
    of_all[world.data_rank * len(losses) : (world.data_rank + 1) * len(losses)] = torch.stack(losses).tolist()
    of_all = world.sum(*of_all)
    if not math.isfinite(total := sum(of_all)):
        flat = [row for rows in doing.rows for row in rows]
        bad = [row for row, value in zip(flat, of_all, strict=True) if not math.isfinite(value)]
        raise _not_finite("loss", bad, encoded)
    return total


@torch.no_grad()
def _mean_loss(samples: Sequence[Encoded], learner: Learner, settings: Train, world: World) -> float:
    """The mean loss over the trained tokens of samples that are not trained on; all processes measure it together."""
    lengths = [len(e.ids) for e in samples]
    doing = _plan_step(range(len(samples)), samples, lengths, learner, settings, world)
    idle = min(range(len(samples)), key=lambda i: lengths[i])
    total = 0.0
    with learner.weights.in_model():
        for row in doing.rows[world.data_rank]:
            packed = packing.pack([samples[i] for i in row or (idle,)])
            weight = 1 / doing.trained if row else 0.0
            batch = Batch.of(
                packed, device=world.device, dtype=compute_dtype(settings), weight=weight, context=world.context
            )
            total += float(learner.loss(batch))
        world.forget_gathered(learner.loss)
    return world.sum(total)[0]


def _collect_gradients(
    doing: _Step, encoded: Sequence[Encoded], learner: Learner, world: World, say: Callable[[str], None] | None
) -> float:
    """Make the gradients of the step those of the weights that are moved; returns their norm. `say` is told, if given,
    that some weights have none.
    """
    without = learner.weights.collect()
    if without and say is not None:
        say(f"{len(without)} weights have no gradient and stay as they are, such as {without[0]}")
    grads = [tensor.grad for tensor in learner.weights.moved.values() if tensor.grad is not None and tensor.numel()]
    own = float(torch.nn.utils.get_total_norm(grads).item())
    norm = own if world.size == 1 else math.sqrt(world.sum(own**2)[0] / world.replicas)
    if not math.isfinite(norm):
        raise _not_finite("gradient", [row for rows in doing.rows for row in rows], encoded)
    return norm


def _not_finite(what: str, rows: Sequence[tuple[int, ...]], encoded: Sequence[Encoded]) -> TennerError:
    ids = ", ".join(encoded[i].sample_id for row in rows for i in row)
    return TennerError(
        f"the {what} is not finite: training stopped before the step",
        hint=f"lower train.lr, or look at these samples: {ids}",
    )


def _report_and_sync(
    on_step: Callable[[StepReport], None], report: StepReport, world: World, termination: Termination, *,
    wants_save: bool, is_written: bool,
) -> tuple[bool, bool]:  # fmt: skip
    """Report the step, and agree with the other processes whether to save now, and whether all of them have written
    what was saved before. Raises in all of them to stop.
    """
    error: TennerError | None = None
    try:
        on_step(report)
    except TennerError as e:
        error = e
    if world.size == 1 and error is not None:
        raise error
    asked, failed, save, written = world.sum(termination.asked, error is not None, wants_save, is_written)
    if error is not None:
        raise error
    if failed:
        sys.exit(0)  # the process that was stopped says why
    if asked:
        raise Preempted(
            f"the system asked to stop after step {report.step + 1} of {report.steps}: everything is saved",
            hint="the same command goes on from here",
        )
    return bool(save), written == world.size


def _save_interval_seconds(settings: Train, writer: CheckpointWriter, world: World) -> float:
    """Of checkpoints: as the recipe says; on GPUs longer, where stopping for them costs more than a failure would."""
    if world.device.type != "cuda":
        return settings.checkpoint_seconds
    return interval_seconds(settings.checkpoint_seconds, writer.stopped_seconds, world.size)


def _memory_bytes(world: World) -> int:
    if world.device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(world.device))
    if world.device.type == "mps":
        return int(torch.mps.driver_allocated_memory())
    return hardware.peak_memory_bytes()
