"""The training loop: full fine-tuning on packed samples, exact to the bit however often it is broken off.

Weights are held twice: float32 masters that AdamW moves, and the model's own in the compute dtype, refreshed after
every step. Nothing here draws a random number, so masters, moments and step are the whole state.
"""

import contextlib
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel

from tenner.errors import TennerError
from tenner.learn import attention, checkpoint, packing, student
from tenner.learn.loss import summed_cross_entropy
from tenner.learn.mask import Encoded
from tenner.learn.memory import freed_memory_kept, give_back_freed_memory
from tenner.recipe import Train
from tenner.seeds import digest

ROW_TOKENS_MAX = 1024
"""Tokens that go through the model at once (a longer sample goes alone); more costs memory and saves little time."""
GIVE_BACK_STEPS = 8
CHECKED_SAMPLES = 3
PACKING_TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2}
"""Largest relative difference of packed and unpacked loss that rounding explains."""


class StepReport(NamedTuple):
    """One optimizer step. `loss` is in nats per trained token, before the step; `step` counts from 0."""

    step: int
    steps: int
    loss: float
    grad_norm: float
    lr: float
    tokens: int
    trained_tokens: int
    tokens_per_second: float
    seconds: float
    """Machine time since the last report of this process (the first one: since `train` began)."""


class TrainResult(NamedTuple):
    """The trained model, not yet saved. `first_step` is where this process took over, `loss` that of the last step."""

    model: PreTrainedModel
    steps: int
    first_step: int
    loss: float | None
    """None when the checkpoint already held the last step."""


class _State:
    """The model, its float32 masters and AdamW: what a step changes."""

    def __init__(self, model: PreTrainedModel, settings: Train, dtype: torch.dtype) -> None:
        """`model` comes in float32; it leaves in `dtype`."""
        self.masters = {name: p.detach().requires_grad_() for name, p in model.named_parameters()}
        if dtype == torch.float32:  # then `to` below would leave both the same memory
            self.masters = {name: p.detach().clone().requires_grad_() for name, p in self.masters.items()}
        torch.nn.Module.to(model, dtype)
        self.model = model
        self.weights = dict(model.named_parameters())
        # As usual, norms and biases (vectors) are not decayed.
        matrices = [p for p in self.masters.values() if p.ndim > 1]
        vectors = [p for p in self.masters.values() if p.ndim <= 1]
        self.optimizer = torch.optim.AdamW(
            [{"params": matrices, "weight_decay": settings.weight_decay}, {"params": vectors, "weight_decay": 0.0}],
            lr=0.0,  # set at every step
            betas=(settings.beta1, settings.beta2),
            fused=True,
        )
        for p in self.masters.values():
            self.optimizer.state[p] = {
                "step": torch.tensor(0.0, device=p.device),
                "exp_avg": torch.zeros_like(p, requires_grad=False),
                "exp_avg_sq": torch.zeros_like(p, requires_grad=False),
            }
        for p in self.masters.values():
            p.grad = torch.empty_like(p)
        self.collected: set[Tensor] = set()
        """Masters whose gradient belongs to the step at hand."""
        self.hooks = []
        for name, weight in self.weights.items():
            hook = weight.register_post_accumulate_grad_hook(self._collector(self.masters[name]))  # type: ignore[no-untyped-call]
            self.hooks.append(hook)

    def _collector(self, master: Tensor) -> Callable[[Tensor], None]:
        """Adds a weight's gradient to its master's as soon as it is made, in float32, and lets go of it."""

        def collect(weight: Tensor) -> None:
            assert weight.grad is not None
            assert master.grad is not None
            if master in self.collected:
                master.grad.add_(weight.grad)
            else:
                master.grad.copy_(weight.grad)
                self.collected.add(master)
            weight.grad = None

        return collect

    def release(self) -> PreTrainedModel:
        """The model alone: its weights' hooks, which would keep masters and gradients alive, are taken off."""
        for hook in self.hooks:
            hook.remove()
        return self.model

    def tensors(self) -> dict[str, Tensor]:
        """All that a checkpoint has to hold, by name, sharing memory."""
        found = {}
        for name, master in self.masters.items():
            found[f"master.{name}"] = master.detach()
            for moment in ("exp_avg", "exp_avg_sq"):
                found[f"{moment}.{name}"] = self.optimizer.state[master][moment]
        return found

    def continue_at(self, step: int) -> None:
        """Take over the masters that a checkpoint has filled in."""
        for p in self.masters.values():
            self.optimizer.state[p]["step"].fill_(step)
        self.refresh()

    @torch.no_grad()
    def refresh(self) -> None:
        """Copy the masters into the model."""
        torch._foreach_copy_(list(self.weights.values()), list(self.masters.values()))

    def update(self, *, lr: float, grad_norm: float, clip_norm: float) -> None:
        """One AdamW step with the collected gradients, scaled down where their norm exceeds `clip_norm`."""
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        # The fused kernel divides by `grad_scale` as it goes: clipping costs no pass of its own over the gradients.
        self.optimizer.grad_scale = torch.tensor(max(1.0, grad_norm / clip_norm), device=self.model.device)  # type: ignore[attr-defined]
        self.optimizer.step()
        self.collected.clear()
        self.refresh()


@freed_memory_kept()
def train(
    model_dir: Path,
    encoded: Sequence[Encoded],
    settings: Train,
    *,
    seed: int,
    workdir: Path,
    on_step: Callable[[StepReport], None],
    dtype: torch.dtype = torch.bfloat16,
    device: torch.device | None = None,
) -> TrainResult:
    """Train the student in `model_dir`, or go on where the checkpoint in `workdir` left off.

    `on_step` is called after every step. When it raises TennerError (the budget's cap), or on Ctrl-C, a checkpoint is
    written before the exception goes on, so that nothing is lost. Steps after the last checkpoint of a killed run are
    done, and reported, again; `checkpoint.resumes_at(workdir)` says beforehand from which one.
    `finish` saves the result and removes the checkpoint.

    Raises TennerError on a loss or gradient that is not finite (before the step, with the sample ids), on a model
    whose packed loss is not its unpacked loss, and on a checkpoint that does not fit.
    """
    assert encoded
    assert all(len(e.ids) <= settings.tokens_max for e in encoded)  # mask.encode_all refuses them
    reported = time.monotonic()
    model = student.load(model_dir, torch.float32, attention.NAME)
    torch.nn.Module.to(model, device or torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    state = _State(model, settings, dtype)
    check_packing(state.model, encoded)

    lengths = [len(e.ids) for e in encoded]
    steps = packing.plan(lengths, settings.tokens_per_step, epochs=settings.epochs, seed=seed)
    fingerprint = digest(settings.model_dump_json(exclude={"checkpoint_seconds"}), seed, dtype, *encoded)
    step = first_step = saved_step = checkpoint.read(workdir, state.tensors(), fingerprint=fingerprint)
    state.continue_at(step)
    saved = time.monotonic()
    loss = None
    try:
        while step < len(steps):
            rows = [
                packing.pack([encoded[i] for i in row])
                for row in packing.split_rows(steps[step], lengths, ROW_TOKENS_MAX)
            ]
            began = time.monotonic()
            loss, trained = _gradients(state.model, rows)
            norm = _grad_norm(state, rows)
            lr = learning_rate(step, len(steps), settings)
            with _interrupts_held():
                state.update(lr=lr, grad_norm=norm, clip_norm=settings.grad_clip_norm)
                step += 1
            now = time.monotonic()
            tokens = sum(len(row.ids) for row in rows)
            report = StepReport(
                step - 1, len(steps), loss, norm, lr, tokens, trained, tokens / (now - began), now - reported
            )
            reported = now
            on_step(report)
            if step % GIVE_BACK_STEPS == 0:
                give_back_freed_memory()
            if now - saved >= settings.checkpoint_seconds:
                checkpoint.write(workdir, state.tensors(), step=step, fingerprint=fingerprint)
                saved, saved_step = time.monotonic(), step
    except (TennerError, KeyboardInterrupt, SystemExit):
        if step > saved_step:
            checkpoint.write(workdir, state.tensors(), step=step, fingerprint=fingerprint)
        raise
    return TrainResult(state.release(), len(steps), first_step, loss)


def finish(result: TrainResult, model_dir: Path, student_dir: Path, workdir: Path) -> None:
    """Save the trained student as a Hugging Face folder, in its compute dtype, and then remove the checkpoint."""
    student.save(result.model, student.load_tokenizer(model_dir), student_dir, result.model.dtype)
    checkpoint.delete(workdir)


def learning_rate(step: int, steps: int, settings: Train) -> float:
    """Linear warm-up, then a cosine down to 0 (reached after the last step); `step` counts from 0."""
    warmup = math.ceil(settings.warmup_fraction * steps)
    if step < warmup:
        return settings.lr * (step + 1) / warmup
    return settings.lr * 0.5 * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup)))


def packed_loss(model: PreTrainedModel, row: packing.Row, *, weight: float = 1.0) -> Tensor:
    """`weight` times the sum of the cross entropy at the row's trained positions, in nats."""
    device, config = model.device, model.config
    docs = attention.documents(
        row.lengths,
        heads=config.num_attention_heads,
        key_heads=config.num_key_value_heads,
        dtype=model.dtype,
        device=device,
    )
    hidden_TD = model.base_model(
        input_ids=torch.tensor([row.ids], device=device),
        position_ids=torch.tensor([row.positions], device=device),
        use_cache=False,
        documents=docs,
    ).last_hidden_state[0]
    head = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    predictors_P = torch.tensor(row.predictors, device=device)
    targets_P = torch.tensor(row.targets, device=device)
    return summed_cross_entropy(hidden_TD[predictors_P], head.weight, targets_P, weight=weight)


@torch.no_grad()
def check_packing(model: PreTrainedModel, encoded: Sequence[Encoded]) -> None:
    """Compare the packed loss of some samples with the loss that transformers' own code gives each of them alone.

    Raises TennerError where they differ by more than rounding: the model then does something (another mask, a scaled
    head) that training on packed rows would leave out.
    """
    samples = sorted(encoded, key=lambda e: len(e.ids))[:CHECKED_SAMPLES]
    packed = packed_loss(model, packing.pack(samples)).item()
    model.set_attn_implementation("eager")
    alone = 0.0
    for sample in samples:
        row = packing.pack([sample])
        logits_TV = model(input_ids=torch.tensor([sample.ids], device=model.device), use_cache=False).logits[0]
        targets_P = torch.tensor(row.targets, device=model.device)
        alone += functional.cross_entropy(logits_TV[list(row.predictors)].float(), targets_P, reduction="sum").item()
    model.set_attn_implementation(attention.NAME)
    if not math.isclose(packed, alone, rel_tol=PACKING_TOLERANCE[model.dtype]):
        raise TennerError(
            f"the packed loss of {len(samples)} samples is {packed:.6g} but {alone:.6g} one by one: "
            f"{type(model).__name__} cannot be trained on packed rows",
            hint="choose another student (Llama and Qwen2.5 models are known to work)",
        )


def _gradients(model: PreTrainedModel, rows: Sequence[packing.Row]) -> tuple[float, int]:
    """Collect the gradients of the step's mean loss; returns that loss and over how many trained tokens it is."""
    trained = sum(len(row.targets) for row in rows)
    total = 0.0
    for row in rows:
        loss = packed_loss(model, row, weight=1 / trained)
        total += loss.item()
        if not math.isfinite(total):
            raise _not_finite("loss", [row])
        loss.backward()  # type: ignore[no-untyped-call]
    return total, trained


def _grad_norm(state: _State, rows: Sequence[packing.Row]) -> float:
    assert len(state.collected) == len(state.masters)  # every weight takes part in every step
    grads = [p.grad for p in state.masters.values() if p.grad is not None]
    norm = torch.nn.utils.get_total_norm(grads).item()
    if not math.isfinite(norm):
        raise _not_finite("gradient", rows)
    return norm


def _not_finite(what: str, rows: Sequence[packing.Row]) -> TennerError:
    ids = ", ".join(sample_id for row in rows for sample_id in row.sample_ids)
    return TennerError(
        f"the {what} is not finite: training stopped before the step",
        hint=f"lower train.lr, or look at these samples: {ids}",
    )


@contextlib.contextmanager
def _interrupts_held() -> Iterator[None]:
    """Ctrl-C waits until the block is done: a half-made update must never become a checkpoint."""
    if threading.current_thread() is not threading.main_thread():  # only the main thread is ever interrupted
        yield
        return
    held: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _frame: held.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if held:
        raise KeyboardInterrupt
