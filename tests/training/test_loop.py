"""A training: what is computed, that a broken-off one goes on to the same bits, and what stops it."""

import json
import os
import signal
import subprocess
import sys
import time
import warnings
from typing import Any

import forked
import pytest
import torch
from paths import SUPPORT
from tiny_training import SETTINGS, run, samples
from torch.nn import functional
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PhiConfig,
    PhiForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from tenner.core.errors import BudgetReached, TennerError
from tenner.core.seeds import rng
from tenner.training import attention, cross_entropy, loop, lora, model_loading, packing, student
from tenner.training import optimizer as optimizers_room
from tenner.training.activation_checkpointing import offloaded
from tenner.training.cross_entropy import summed_cross_entropy
from tenner.training.distributed import here
from tenner.training.documents import SHORT_LENGTH_MAX
from tenner.training.optimizer import optimizer_of
from tenner.training.packed_loss import packed_loss
from tenner.training.signals import interrupts_held

STEPS = 14


def resumes_at(workdir):
    """The step of the newest checkpoint; 0 where there is none."""
    return max((int(path.name.removeprefix("step-")) for path in workdir.glob("step-*")), default=0)


def weights(result):
    return {name: p.detach().clone() for name, p in result.model.named_parameters()}


def same(a, b):
    return all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Threads gain nothing on a tiny model, and wait for each other long on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def unbroken(tiny_model_dir, tmp_path_factory):
    """(losses of all steps, final weights) of a training that nothing disturbed."""
    losses = []
    result = run(tiny_model_dir, tmp_path_factory.mktemp("unbroken"), on_step=lambda r: losses.append(r.loss))
    return losses, weights(result)


# what is computed


@pytest.mark.slow
def test_the_loss_of_held_out_samples_is_measured_and_changes_nothing(tiny_model_dir, tmp_path, unbroken):
    held_out, reports = samples(30)[24:], list[Any]()
    result = run(tiny_model_dir, tmp_path, on_step=reports.append, validation=held_out)
    assert [r.loss for r in reports] == unbroken[0]
    assert same(weights(result), unbroken[1])
    measured = [r.validation_loss for r in reports]
    assert None not in (measured[0], measured[-1])
    model = student.load(tiny_model_dir, torch.float32, attention.NAME)
    row = packing.pack(held_out)
    own = packed_loss(model, row).item() / len(row.targets)
    assert measured[0] == pytest.approx(own, rel=1e-2)  # measured in bfloat16 where the machine has it


@pytest.mark.parametrize("longest", [80, 600], ids=["short", "blocks"])
def test_packed_is_unpacked(tiny_model_dir, longest):
    """Loss and every gradient of a packed row against transformers' own attention, sample by sample, in float32."""
    encoded = samples(5, longest)
    model = student.load(tiny_model_dir, torch.float32, attention.NAME)
    packed = packed_loss(model, packing.pack(encoded))
    packed.backward()
    assert (max(len(e.ids) for e in encoded) > SHORT_LENGTH_MAX) == (longest == 600)
    plain = AutoModelForCausalLM.from_pretrained(tiny_model_dir, dtype=torch.float32, attn_implementation="eager")
    alone = torch.zeros(())
    for e in encoded:
        row = packing.pack([e])
        logits_TV = plain(input_ids=torch.tensor([e.ids])).logits[0]
        targets_P = torch.tensor(row.targets)
        alone = alone + functional.cross_entropy(logits_TV[list(row.predictors)], targets_P, reduction="sum")
    alone.backward()
    assert packed.item() == pytest.approx(alone.item(), rel=1e-5)
    for mine, theirs in zip(model.parameters(), plain.parameters(), strict=True):
        assert mine.grad is not None
        assert theirs.grad is not None
        assert functional.mse_loss(mine.grad, theirs.grad).sqrt() <= 1e-5 * theirs.grad.norm()


@pytest.mark.parametrize("method", ["full", pytest.param("lora", marks=pytest.mark.slow)])
def test_a_loaded_model_trains_like_its_folder(tiny_model_dir, tmp_path, method):
    losses: dict[str, list[float]] = {}
    loaded = AutoModelForCausalLM.from_pretrained(tiny_model_dir, dtype=torch.float32)
    for name, base in (("folder", tiny_model_dir), ("loaded", loaded)):
        reports = losses[name] = []
        run(base, tmp_path / name, on_step=lambda r, reports=reports: reports.append(r.loss), epochs=1, method=method)
    assert losses["loaded"] == losses["folder"]


def test_a_neighbour_changes_nothing(tiny_model_dir):
    model = student.load(tiny_model_dir, torch.float32, attention.NAME)
    a, b, c = samples(3)
    silent_b, silent_c = (e._replace(loss_mask=(False,) * len(e.ids)) for e in (b, c))
    losses = [packed_loss(model, packing.pack(row)).item() for row in ([a], [silent_b, a], [a, silent_c], [c, a, b])]
    assert losses[1:3] == pytest.approx([losses[0]] * 2, rel=1e-6)
    assert losses[3] > 1.5 * losses[0]


def test_the_loss_in_chunks_is_the_loss():
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(23, 8, generator=generator, requires_grad=True)
    head = torch.randn(50, 8, generator=generator, requires_grad=True)
    targets = torch.randint(50, (23,), generator=generator)
    wanted = functional.cross_entropy(hidden @ head.T, targets, reduction="sum")
    wanted_grads = torch.autograd.grad(wanted / 7, (hidden, head))
    for chunk_logits in (1, 50 * 5, 50 * 1000):
        loss = summed_cross_entropy(hidden, head, targets, chunk_logits=chunk_logits)
        assert loss.item() == pytest.approx(wanted.item(), rel=1e-6)
        for mine, theirs in zip(torch.autograd.grad(loss / 7, (hidden, head)), wanted_grads, strict=True):
            torch.testing.assert_close(mine, theirs)


def test_chunks_are_added_up_in_float32_within_the_products(monkeypatch):
    """As on CUDA, whose operators have stand-ins here that compute the same."""

    def product(a, b, out_dtype):
        return a.to(out_dtype) @ b.to(out_dtype)

    def added(total, a, b, out_dtype, *, out, **_factors):
        assert (out.dtype, out.data_ptr()) == (torch.float32, total.data_ptr()), "in place"
        return out.copy_(total + product(a, b, out_dtype))

    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(23, 8, generator=generator).bfloat16().requires_grad_()
    head = torch.randn(50, 8, generator=generator).bfloat16().requires_grad_()
    targets = torch.randint(50, (23,), generator=generator)
    grads: dict[bool, torch.Tensor] = {}
    seen: list[Any] = []
    for within in (False, True):

        def adds(*given: Any, within: bool = within) -> bool:
            seen.append(given)
            return within

        monkeypatch.setattr(cross_entropy, "adds_in_float32", adds)
        with torch.library._scoped_library("aten", "IMPL") as operators:
            operators.impl("mm.dtype", product, "CPU")
            operators.impl("addmm.dtype_out", added, "CPU")
            loss = summed_cross_entropy(hidden, head, targets, chunk_logits=50 * 5)
        (grads[within],) = torch.autograd.grad(loss, [head])
    assert set(seen) == {(hidden.device, torch.bfloat16)}
    wide = hidden.detach().float(), head.detach().float().requires_grad_()
    (wanted,) = torch.autograd.grad(functional.cross_entropy(wide[0] @ wide[1].T, targets, reduction="sum"), [wide[1]])
    assert (grads[True] - wanted).abs().mean() < (grads[False] - wanted).abs().mean() < 0.02


def test_a_frozen_head_has_no_gradient_and_changes_none():
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(23, 8, generator=generator, requires_grad=True)
    head = torch.randn(50, 8, generator=generator)
    targets = torch.randint(50, (23,), generator=generator)
    grads: list[torch.Tensor] = []
    for trained in (True, False):
        loss = summed_cross_entropy(hidden, head.clone().requires_grad_(trained), targets, chunk_logits=50 * 5)
        grads += torch.autograd.grad(loss / 7, [hidden])
    assert torch.equal(*grads)


def test_a_heads_bias_that_begins_as_noughts_is_trained(tmp_path):
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1}
    model = PhiForCausalLM(PhiConfig(vocab_size=300, num_attention_heads=2, **sizes))
    assert not model.lm_head.bias.any()
    said: list[str] = []
    run(model, tmp_path, say=said.append, precision="fp32", epochs=1)
    assert said == []
    assert model.lm_head.bias.all()


def test_frozen_layers_stay_and_the_others_learn_as_if_nothing_were(tiny_model_dir, tmp_path):
    losses: dict[int, list[float]] = {0: [], 1: []}
    before = student.load(tiny_model_dir, torch.float32, attention.NAME).state_dict()
    for frozen in losses:
        reports = losses[frozen]
        result = run(
            tiny_model_dir, tmp_path / str(frozen), frozen_layers=frozen, precision="fp32",
            on_step=lambda r, reports=reports: reports.append(r.loss),
        )  # fmt: skip
    moved = {name for name, p in result.model.state_dict().items() if not torch.equal(p, before[name])}
    assert moved == {name for name in before if ".layers.1." in name or name == "model.norm.weight"}
    assert losses[1][0] == losses[0][0]
    assert losses[1][-1] < losses[1][0]


def test_gradients_above_frozen_layers_are_the_same_bits(tiny_model_dir):
    row, models = packing.pack(samples(4)), []
    for frozen in (0, 1):
        model = student.load(tiny_model_dir, torch.float32, attention.NAME)
        model_loading.freeze(model, list(model.model.layers), frozen)
        packed_loss(model, row).backward()
        models.append(dict(model.named_parameters()))
    whole, part = models
    with_gradient = {name: p.grad for name, p in part.items() if p.grad is not None}
    assert set(with_gradient) == {name for name in part if ".layers.1." in name or name == "model.norm.weight"}
    in_whole = {name: p.grad for name, p in whole.items() if p.grad is not None}
    assert all(torch.equal(grad, in_whole[name]) for name, grad in with_gradient.items())


def test_not_all_layers_can_be_frozen(tiny_model_dir, tmp_path):
    with pytest.raises(TennerError, match=r"frozen_layers = 2 leaves none of the 2 layers"):
        run(tiny_model_dir, tmp_path, frozen_layers=2)


def test_kahan_moves_the_same_block_by_block(monkeypatch):
    moved = []
    for block in (1 << 24, 7):
        monkeypatch.setattr(optimizers_room, "BLOCK_NUMBERS", block)
        generator = torch.Generator().manual_seed(0)
        weight = torch.randn(5, 6, generator=generator).bfloat16()
        adamw = optimizers_room.KahanAdamW({"w": weight}, SETTINGS.model_copy(update={"weight_decay": 0.1}))
        for _ in range(3):
            weight.grad = torch.randn(5, 6, generator=generator).bfloat16()
            adamw.step(lr=1e-2, divisor=2.0)
        moved.append([weight, *(state["w"] for state in adamw.state().values())])
    assert all(torch.equal(a, b) for a, b in zip(*moved, strict=True))


def test_offloading_keeps_the_weights_where_they_are(tiny_model_dir, monkeypatch):
    copied = []

    class Watched(torch.autograd.graph.save_on_cpu):
        def __init__(self, pin_memory):
            super().__init__(pin_memory)
            pack = self.pack_hook

            def watched(kept):
                copied.append(kept.untyped_storage().data_ptr())
                return pack(kept)

            self.pack_hook = watched

    monkeypatch.setattr(torch.autograd.graph, "save_on_cpu", Watched)
    model, row = student.load(tiny_model_dir, torch.float32, attention.NAME), packing.pack(samples(3))
    grads = []
    for settings in (SETTINGS, SETTINGS.model_copy(update={"offload_activations": True})):
        with offloaded(settings):  # without one, no memory is pinned
            loss = packed_loss(model, row)
        grads.append(torch.autograd.grad(loss, list(model.parameters())))
    assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))
    assert len(copied) > 10
    assert not {p.untyped_storage().data_ptr() for p in model.parameters()} & set(copied)


@pytest.mark.slow
def test_rows_do_not_change_the_step(tiny_model_dir, tmp_path):
    """The loss is per trained token of the whole step, into however many rows it is split."""
    reports: dict[str, list[Any]] = {}
    for rows in ("one", "many"):
        reports[rows] = []
        in_rows = {"tokens_per_row": 10**6 if rows == "one" else 100, "precision": "fp32"}
        run(tiny_model_dir, tmp_path / rows, on_step=reports[rows].append, **in_rows)
    for one, many in zip(reports["one"], reports["many"], strict=True):
        assert many.loss == pytest.approx(one.loss, rel=1e-4)
        assert many.grad_norm == pytest.approx(one.grad_norm, rel=1e-3)


def test_one_step_is_adamw_with_clipping(tiny_model_dir, tmp_path):
    """Against PyTorch's plain loop: mean loss, clip_grad_norm_, AdamW without decay on vectors."""
    encoded = samples(4)
    settings = SETTINGS.model_copy(
        update={
            "epochs": 1, "tokens_per_step": 10**6, "grad_clip_norm": 0.1, "weight_decay": 0.1, "warmup_fraction": 0,
            "precision": "fp32",
        }
    )  # fmt: skip
    done = loop.train(tiny_model_dir, encoded, settings, seed=0, workdir=tmp_path, on_step=lambda _: None)
    plain = student.load(tiny_model_dir, torch.float32, attention.NAME)
    groups = [
        {"params": [p for p in plain.parameters() if p.ndim > 1], "weight_decay": 0.1},
        {"params": [p for p in plain.parameters() if p.ndim == 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=settings.lr, betas=(settings.beta1, settings.beta2))
    row = packing.pack(encoded)
    (packed_loss(plain, row) / len(row.targets)).backward()
    assert torch.nn.utils.clip_grad_norm_(plain.parameters(), 0.1) > 0.2  # so that clipping is seen
    optimizer.step()
    assert done.model is not None
    for mine, theirs in zip(done.model.parameters(), plain.parameters(), strict=True):
        # The first step divides a gradient by itself: one near epsilon (1e-8) is all rounding.
        assert theirs.grad is not None
        clear = (theirs.grad.abs() > 1e-6) | (theirs.grad == 0)
        assert clear.float().mean() > 0.6
        torch.testing.assert_close(mine[clear], theirs[clear], atol=1e-5, rtol=1e-4)


def test_the_rate_warms_up_and_falls_to_nought():
    settings = SETTINGS.model_copy(update={"warmup_fraction": 0.1, "lr": 1.0})
    rates = [loop.learning_rate(step, 100, settings) for step in range(101)]
    assert rates[:10] == pytest.approx([0.1 * (i + 1) for i in range(10)])
    assert rates[10] == 1.0
    assert rates[55] == pytest.approx(0.5)
    assert rates[100] == pytest.approx(0)
    assert sorted(rates[10:], reverse=True) == rates[10:]


def test_training_learns_and_reports(tiny_model_dir, tmp_path):
    reports: list[Any] = []
    run(tiny_model_dir, tmp_path, encoded=samples(6) * 4, epochs=6, on_step=reports.append)
    assert reports[-1].loss < 0.7 * reports[0].loss
    assert [r.step for r in reports] == list(range(reports[0].steps))
    assert all(r.trained_tokens < r.tokens and r.seconds > 0 and r.tokens_per_second > 0 for r in reports)


# what is refused


def test_a_loss_that_is_not_finite_stops_before_the_step(tiny_model_dir, tmp_path):
    reports: list[Any] = []
    with pytest.raises(TennerError, match="loss is not finite") as caught:
        run(tiny_model_dir, tmp_path, lr=1e38, warmup_fraction=0, on_step=reports.append)
    assert len(reports) == 1
    second = packing.plan([len(e.ids) for e in samples()], SETTINGS.tokens_per_step, epochs=2, seed=0)[1]
    assert {samples()[i].sample_id for i in second} == set((caught.value.hint or "").split(": ")[1].split(", "))


# what survives


@pytest.mark.parametrize(
    "error",
    [
        pytest.param(BudgetReached("cap"), marks=pytest.mark.slow, id="budget"),
        pytest.param(KeyboardInterrupt(), id="ctrl-c"),
    ],
)
def test_breaking_off_loses_no_step(tiny_model_dir, tmp_path, unbroken, error):
    losses = []

    def stop(report):
        losses.append(report.loss)
        if report.step == 4:
            raise error

    with pytest.raises(type(error)):
        run(tiny_model_dir, tmp_path, on_step=stop)
    assert resumes_at(tmp_path) == 5
    result = run(tiny_model_dir, tmp_path, on_step=lambda r: losses.append(r.loss))
    assert result.first_step == 5
    assert losses == unbroken[0]
    assert same(weights(result), unbroken[1])


def test_ctrl_c_loses_no_row(tiny_model_dir, tmp_path):
    steps = []

    def interrupted(report):
        if report.step == 2:
            os.kill(os.getpid(), signal.SIGINT)  # while the step is reported, which is not yet the end of it
        steps.append(report.step)

    with pytest.raises(KeyboardInterrupt):
        run(tiny_model_dir, tmp_path, on_step=interrupted)
    assert (steps, resumes_at(tmp_path)) == ([0, 1, 2], 3)


def test_ctrl_c_waits_for_the_update():
    done = []

    def update():
        with interrupts_held():
            os.kill(os.getpid(), signal.SIGINT)
            done.append(True)

    with pytest.raises(KeyboardInterrupt):
        update()
    assert done
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.slow
def test_finished_but_not_saved_still_saves(tiny_model_dir, tmp_path, unbroken):
    def stop(report):
        if report.step == STEPS - 1:
            raise BudgetReached("cap")

    with pytest.raises(BudgetReached):
        run(tiny_model_dir, tmp_path / "work", on_step=stop)
    result = run(tiny_model_dir, tmp_path / "work")
    assert (result.first_step, result.steps, result.loss) == (STEPS, STEPS, None)
    loop.finish(result, tiny_model_dir, tmp_path / "student", tmp_path / "work", base_model="tiny")
    assert resumes_at(tmp_path / "work") == 0
    saved = AutoModelForCausalLM.from_pretrained(tmp_path / "student")
    assert same(dict(saved.named_parameters()), unbroken[1])


@pytest.mark.slow
def test_another_training_does_not_go_on_from_this_checkpoint(tiny_model_dir, tmp_path):
    def stop(_):
        raise BudgetReached("cap")

    with pytest.raises(BudgetReached):
        run(tiny_model_dir, tmp_path, on_step=stop)
    with pytest.raises(TennerError, match="with other samples, seed or settings"):
        run(tiny_model_dir, tmp_path, lr=1e-3)
    smaller = tmp_path / "smaller"
    sizes: dict[str, Any] = {
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    LlamaForCausalLM(LlamaConfig(vocab_size=300, **sizes)).save_pretrained(smaller)
    with pytest.raises(TennerError, match="of another model"):
        run(smaller, tmp_path)


def stopped_at(step, losses):
    """Collects losses, and stops after this step as the budget's cap would."""

    def on_step(report):
        losses.append(report.loss)
        if report.step == step:
            raise BudgetReached("cap")

    return on_step


def broken_off(model_dir, workdir, step, **changed):
    losses: list[float] = []
    with pytest.raises(BudgetReached):
        run(model_dir, workdir, on_step=stopped_at(step, losses), **changed)
    return losses


CUT = pytest.param(lambda data: data[:-100], id="cut", marks=pytest.mark.slow)
ALTERED = pytest.param(lambda data: data[:-100] + bytes([data[-100] ^ 1]) + data[-99:], id="altered")


@pytest.mark.slow
@pytest.mark.parametrize("damage", [CUT, ALTERED])
def test_from_a_damaged_checkpoint_it_goes_back_to_the_one_before(tiny_model_dir, tmp_path, unbroken, damage):
    broken_off(tiny_model_dir, tmp_path, 3)
    broken_off(tiny_model_dir, tmp_path, 6)
    (newest,) = (tmp_path / "step-00000007").iterdir()
    newest.write_bytes(damage(newest.read_bytes()))
    found: list[Any] = []
    result = loop.train(
        tiny_model_dir, samples(), SETTINGS, seed=0, workdir=tmp_path, on_step=lambda _: None, on_begin=found.append
    )
    assert (result.first_step, found[0].step) == (4, 4)
    assert found[0].refused == (f"the checkpoint {newest} is damaged",)
    assert same(weights(result), unbroken[1])


JOB = SUPPORT / "train_job.py"


def job(model_dir, workdir, settings, pause=0.0):
    """The words of a training as a process of its own."""
    return [str(model_dir), str(workdir), json.dumps(settings), "--pause", str(pause)]


@pytest.mark.slow
def test_sigterm_loses_no_step(tiny_model_dir, tmp_path, unbroken):
    command = [sys.executable, JOB, *job(tiny_model_dir, tmp_path, {}, pause=0.1)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    rows = [process.stdout.readline() for _ in range(5)]
    process.send_signal(signal.SIGTERM)
    rest, said = process.communicate(timeout=60)
    assert process.returncode == 75, said
    assert "the system asked to stop after step" in said
    losses = [json.loads(row)["loss"] for row in (*rows, *rest.splitlines())]
    assert 5 <= len(losses) < STEPS
    result = run(tiny_model_dir, tmp_path, on_step=lambda r: losses.append(r.loss))
    assert losses == unbroken[0]
    assert same(weights(result), unbroken[1])


@pytest.mark.slow
def test_killed_at_ten_moments_it_ends_at_the_same_bits(tiny_model_dir, tmp_path):
    """A second apart are the checkpoints, and the moments anywhere in between and in loading and writing."""
    settings, draw = {"checkpoint_seconds": 1, "epochs": 12}, rng(0, "moments of kill -9")
    whole = run(tiny_model_dir, tmp_path / "whole", **settings)
    words = job(tiny_model_dir, tmp_path / "work", settings, pause=0.05)
    for i in range(10):
        process = forked.program(said := tmp_path / f"said-{i}", JOB, *words)
        while not (said.exists() and said.stat().st_size):  # so that there is something to lose
            assert process.exitcode is None, said.read_text()
            time.sleep(0.005)
        time.sleep(draw.uniform(0, 1.8))
        assert forked.kill(process) == -signal.SIGKILL, said.read_text()
    result = run(tiny_model_dir, tmp_path / "work", **settings)
    assert 5 < result.first_step < whole.steps
    assert same(weights(result), weights(whole))


# what it costs: other precisions, moments, activations and adapters


def test_positions_stay_in_float32(tiny_model_dir):
    """At position 1,000 a table of angles in bfloat16 would be wrong by whole turns."""
    settings = SETTINGS.model_copy(update={"precision": "bf16"})
    model = model_loading.load(tiny_model_dir, settings, here(), seed=0).model
    assert model.dtype == torch.bfloat16
    plain = AutoModelForCausalLM.from_pretrained(tiny_model_dir, dtype=torch.float32)
    positions_1T = torch.arange(1000)[None]
    for mine, theirs in zip(
        *(m.model.rotary_emb(torch.zeros(1, dtype=torch.float32), positions_1T) for m in (model, plain)), strict=True
    ):
        assert torch.equal(mine, theirs)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_kept_or_computed_again_the_bits_are_the_same(tiny_model_dir, tmp_path, precision):
    encoded = [*samples(12), *samples(2, 700)]  # short documents, and such as go through attention in blocks
    assert max(len(e.ids) for e in encoded) > SHORT_LENGTH_MAX
    done = {}
    for activations in ("all", "products", "inputs"):
        reports: list[Any] = []
        result = run(
            tiny_model_dir, tmp_path / activations, encoded, on_step=reports.append, precision=precision, epochs=1,
            activations=activations, tokens_max=1000,
        )  # fmt: skip
        done[activations] = ([(r.loss, r.grad_norm) for r in reports], weights(result))
    for other in ("products", "inputs"):
        assert done[other][0] == done["all"][0]
        assert same(done[other][1], done["all"][1])


@pytest.mark.slow
def test_pure_bfloat16_follows_float32_masters(tiny_model_dir, tmp_path):
    curves: dict[str, list[float]] = {}
    for precision in ("bf16", "pure-bf16"):
        curves[precision] = []
        result = run(
            tiny_model_dir, tmp_path / precision, encoded=samples(6) * 4, epochs=4, lr=3e-3, precision=precision,
            on_step=lambda r, losses=curves[precision]: losses.append(r.loss),
        )  # fmt: skip
    assert {p.dtype for p in result.model.parameters()} == {torch.bfloat16}
    assert curves["bf16"][-1] < 0.9 * curves["bf16"][0]
    assert curves["pure-bf16"] == pytest.approx(curves["bf16"], rel=0.02)


def test_kahan_keeps_what_bfloat16_would_lose():
    """At a rate of 1e-4 no weight near 1 would ever move by rounding; with the correction it goes as float32 does."""
    settings = SETTINGS.model_copy(update={"precision": "pure-bf16", "weight_decay": 0.1})
    draw = torch.Generator().manual_seed(0)
    start = (1 + torch.rand(8, 8, generator=draw)).bfloat16()
    moved = {"pure-bf16": {"w": start.clone()}, "bf16": {"w": start.float()}}
    optimizers = {
        precision: optimizer_of(weights, settings.model_copy(update={"precision": precision}))
        for precision, weights in moved.items()
    }
    assert torch.equal(start - torch.tensor(1e-4, dtype=torch.bfloat16), start)
    for _ in range(300):
        grad = 1 + 0.1 * torch.randn(8, 8, generator=draw)
        for precision, optimizer in optimizers.items():
            weight = moved[precision]["w"]
            weight.grad = grad.to(weight.dtype)
            optimizer.step(lr=1e-4, divisor=1.0)
    by_masters = start.float() - moved["bf16"]["w"]
    by_correction = start.float() - moved["pure-bf16"]["w"].float()
    assert by_masters.min() > 0.02
    torch.testing.assert_close(by_correction, by_masters, atol=2**-7, rtol=0.02)  # half a step of bfloat16 below 2


@pytest.mark.parametrize("precision", ["bf16", pytest.param("pure-bf16", marks=pytest.mark.slow)])
def test_steps_smaller_than_bfloat16_holds_are_learned_from(tiny_model_dir, tmp_path, precision):
    """A hundredth of the gap between two numbers at a time, from weights that came in bfloat16, as students do."""
    gained = {}
    for name in ("fp32", precision):
        losses: list[float] = []
        base = AutoModelForCausalLM.from_pretrained(tiny_model_dir, dtype=torch.bfloat16)
        run(
            base, tmp_path / name, encoded=samples(6) * 4, epochs=3, lr=1e-6, warmup_fraction=0,
            precision=name, on_step=lambda r, losses=losses: losses.append(r.loss),
        )  # fmt: skip
        gained[name] = losses[0] - losses[-1]
    assert gained["fp32"] > 0
    assert gained[precision] == pytest.approx(gained["fp32"], rel=0.2)


WAYS = [
    {"optimizer": "adamw-8bit"},
    {"precision": "pure-bf16"},
    pytest.param({"method": "lora"}, marks=pytest.mark.slow),
]


@pytest.mark.slow
@pytest.mark.parametrize("changed", WAYS, ids=["8bit", "pure-bf16", "lora"])
def test_every_way_goes_on_to_the_same_bits(tiny_model_dir, tmp_path, changed):
    losses = []
    changed = {**changed, "epochs": 1}
    whole = run(tiny_model_dir, tmp_path / "whole", on_step=lambda r: losses.append(r.loss), **changed)
    resumed = broken_off(tiny_model_dir, tmp_path / "work", 2, **changed)
    result = run(tiny_model_dir, tmp_path / "work", on_step=lambda r: resumed.append(r.loss), **changed)
    assert result.first_step == 3
    assert resumed == losses
    assert same(weights(result), weights(whole))


@pytest.mark.slow
def test_moments_in_eight_bits_learn(tiny_model_dir, tmp_path):
    curves: dict[str, list[float]] = {}
    for optimizer in ("adamw", "adamw-8bit"):
        curves[optimizer] = []
        run(
            tiny_model_dir, tmp_path / optimizer, encoded=samples(6) * 4, epochs=6, optimizer=optimizer,
            on_step=lambda r, losses=curves[optimizer]: losses.append(r.loss),
        )  # fmt: skip
    assert curves["adamw-8bit"] == pytest.approx(curves["adamw"], rel=0.05)
    assert curves["adamw-8bit"][-1] < 0.8 * curves["adamw-8bit"][0]


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_adapters_leave_the_base_alone_and_load_with_peft(tiny_model_dir, tmp_path, precision):
    from peft import PeftModel

    reports: list[Any] = []
    ids = torch.tensor([samples()[0].ids])
    changed = {"method": "lora", "lora_rank": 4, "precision": precision}
    result = run(tiny_model_dir, tmp_path / "work", on_step=reports.append, encoded=samples(6) * 4, epochs=6, **changed)
    dtype = result.model.dtype
    assert reports[-1].loss < reports[0].loss - 0.1
    base = AutoModelForCausalLM.from_pretrained(tiny_model_dir, dtype=dtype)
    names = {lora.stored_name(name): p for name, p in result.model.named_parameters() if ".lora_" not in name}
    assert same(dict(base.named_parameters()), names)
    result.model.set_attn_implementation("sdpa")
    with torch.no_grad():
        trained = result.model(ids).logits
        loop.finish(result, tiny_model_dir, tmp_path / "student", tmp_path / "work", base_model=str(tiny_model_dir))
        merged = AutoModelForCausalLM.from_pretrained(tmp_path / "student")
        assert merged.dtype == dtype
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # peft asks transformers by an older name
            beside = PeftModel.from_pretrained(base, tmp_path / "adapter")
        assert beside.peft_config["default"].base_model_name_or_path == str(tiny_model_dir)
        tolerance = 1e-5 if precision == "fp32" else 5e-2  # melting rounds each weight once
        for other in (merged, beside):
            assert (other(ids).logits - trained).abs().max() < tolerance * trained.abs().max()


def test_a_gradient_that_is_not_finite_stops_before_the_step(tmp_path):
    """A vast head behind a minute norm: the loss is fine, the norm's own gradient overflows."""
    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    model = LlamaForCausalLM(LlamaConfig(vocab_size=300, tie_word_embeddings=False, **sizes))
    with torch.no_grad():
        model.lm_head.weight.normal_().mul_(1e37)
        model.model.norm.weight.mul_(1e-37)
    model.save_pretrained(tmp_path / "model")
    encoded = samples()
    reports: list[Any] = []
    with pytest.raises(TennerError, match="gradient is not finite") as caught:
        run(tmp_path / "model", tmp_path / "work", encoded, on_step=reports.append, precision="fp32")
    stopped = packing.plan([len(e.ids) for e in encoded], SETTINGS.tokens_per_step, epochs=2, seed=0)[0]
    assert {encoded[i].sample_id for i in stopped} == set((caught.value.hint or "").split(": ")[1].split(", "))
    assert (reports, resumes_at(tmp_path / "work")) == ([], 0)


def test_a_gpu_that_is_full_is_one_line(tiny_model_dir, tmp_path):
    def full(_report):
        raise torch.OutOfMemoryError("CUDA out of memory.\n Tried to allocate 2.00 GiB.")

    with pytest.raises(TennerError, match=r"full: CUDA out of memory\. Tried to allocate") as caught:
        run(tiny_model_dir, tmp_path, on_step=full)
    assert "train.tokens_per_row" in (caught.value.hint or "")


@pytest.mark.parametrize("name", ["offload_activations", "deterministic"])
def test_what_only_cuda_has_is_refused_on_a_cpu(name, tiny_model_dir, tmp_path):
    with pytest.raises(TennerError, match=f"{name} is for CUDA"):
        run(tiny_model_dir, tmp_path, on_step=pytest.fail, **{name: True})


@pytest.mark.slow
def test_a_sample_of_32768_tokens_fits_in_4_gb_above_the_model(tmp_path):
    """A quarter of it, in little more than a quarter of the memory, since not all of it grows with the sample; all of
    it by TENNER_CAMPAIGN.
    """
    share, limit_bytes = (1, 4e9) if "TENNER_CAMPAIGN" in os.environ else (4, 1.2e9)
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=152_064, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=32_768, tie_word_embeddings=False,
    )  # fmt: skip
    Qwen2ForCausalLM(config).save_pretrained(tmp_path / "model")
    long_job = str(SUPPORT / "long_sample_job.py")
    done = subprocess.run(
        [sys.executable, long_job, tmp_path / "model", tmp_path / "work", str(32_768 // share)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    print(f"{told['above_bytes'] / 1e9:.2f} GB above the model")
    assert told["tokens"] == 32_768 // share
    assert told["above_bytes"] < limit_bytes
