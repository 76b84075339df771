import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from torch.nn import functional
from transformers import AutoModelForCausalLM, GraniteConfig, GraniteForCausalLM, MistralConfig, MistralForCausalLM

from tenner.errors import BudgetReached, TennerError
from tenner.learn import activations, attention, optimizer, packing, student, train
from tenner.learn.loss import summed_cross_entropy
from tenner.learn.mask import Encoded
from tenner.learn.packed import packed_loss
from tenner.learn.signals import interrupts_held
from tenner.recipe import Train
from tenner.seeds import rng

SETTINGS = Train(epochs=2, lr=1e-2, tokens_per_step=200, tokens_max=400)
STEPS = 14


def samples(count=24, longest=80):
    draw = rng(0, "test samples")
    encoded = []
    for i in range(count):
        length = draw.randint(20, longest)
        ids = tuple(draw.randrange(3, 250) for _ in range(length))
        encoded.append(Encoded(f"s{i}", ids, tuple(at >= length // 3 for at in range(length))))
    return encoded


def run(model_dir, workdir, encoded=None, on_step=lambda _: None, **changed):
    settings = SETTINGS.model_copy(update=changed)
    return train.train(model_dir, encoded or samples(), settings, seed=0, workdir=workdir, on_step=on_step)


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


@pytest.mark.parametrize("longest", [80, 600], ids=["short", "blocks"])
def test_packed_is_unpacked(tiny_model_dir, longest):
    """Loss and every gradient of a packed row against transformers' own attention, sample by sample, in float32."""
    encoded = samples(5, longest)
    model = student.load(tiny_model_dir, torch.float32, attention.NAME)
    packed = packed_loss(model, packing.pack(encoded))
    packed.backward()
    assert (max(len(e.ids) for e in encoded) > attention.SHORT_LENGTH_MAX) == (longest == 600)
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
        assert functional.mse_loss(mine.grad, theirs.grad).sqrt() <= 1e-5 * theirs.grad.norm()


@pytest.mark.parametrize("method", ["full", "lora"])
def test_a_loaded_model_trains_like_its_folder(tiny_model_dir, tmp_path, method):
    losses = {}
    loaded = AutoModelForCausalLM.from_pretrained(tiny_model_dir, dtype=torch.float32)
    for name, base in (("folder", tiny_model_dir), ("loaded", loaded)):
        reports = losses[name] = []
        run(base, tmp_path / name, on_step=lambda r, reports=reports: reports.append(r.loss), epochs=1, method=method)
    assert losses["loaded"] == losses["folder"]


def test_a_neighbour_changes_nothing(tiny_model_dir):
    model = student.load(tiny_model_dir, torch.float32, attention.NAME)
    a, b, c = samples(3)
    silent_b, silent_c = (e._replace(trained=(False,) * len(e.ids)) for e in (b, c))
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


def test_a_frozen_head_has_no_gradient_and_changes_none():
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(23, 8, generator=generator, requires_grad=True)
    head = torch.randn(50, 8, generator=generator)
    targets = torch.randint(50, (23,), generator=generator)
    grads = []
    for trained in (True, False):
        loss = summed_cross_entropy(hidden, head.clone().requires_grad_(trained), targets, chunk_logits=50 * 5)
        grads += torch.autograd.grad(loss / 7, [hidden])
    assert torch.equal(*grads)


def test_kahan_moves_the_same_block_by_block(monkeypatch):
    moved = []
    for block in (1 << 24, 7):
        monkeypatch.setattr(optimizer, "BLOCK_NUMBERS", block)
        generator = torch.Generator().manual_seed(0)
        weight = torch.randn(5, 6, generator=generator).bfloat16()
        adamw = optimizer.KahanAdamW({"w": weight}, SETTINGS.model_copy(update={"weight_decay": 0.1}))
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
            self.pack_hook = lambda kept: (copied.append(kept.untyped_storage().data_ptr()), pack(kept))[1]

    monkeypatch.setattr(torch.autograd.graph, "save_on_cpu", Watched)
    model, row = student.load(tiny_model_dir, torch.float32, attention.NAME), packing.pack(samples(3))
    grads = []
    for settings in (SETTINGS, SETTINGS.model_copy(update={"offload_activations": True})):
        with activations.offloaded(settings, torch.device("cuda")):  # without one, no memory is pinned
            loss = packed_loss(model, row)
        grads.append(torch.autograd.grad(loss, list(model.parameters())))
    assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))
    assert len(copied) > 10
    assert not {p.untyped_storage().data_ptr() for p in model.parameters()} & set(copied)


def test_rows_do_not_change_the_step(tiny_model_dir, tmp_path):
    """The loss is per trained token of the whole step, into however many rows it is split."""
    reports = {}
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
    done = train.train(tiny_model_dir, encoded, settings, seed=0, workdir=tmp_path, on_step=lambda _: None)
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
    for mine, theirs in zip(done.model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-4)


def test_the_rate_warms_up_and_falls_to_nought():
    settings = SETTINGS.model_copy(update={"warmup_fraction": 0.1, "lr": 1.0})
    rates = [train.learning_rate(step, 100, settings) for step in range(101)]
    assert rates[:10] == pytest.approx([0.1 * (i + 1) for i in range(10)])
    assert rates[10] == 1.0
    assert rates[55] == pytest.approx(0.5)
    assert rates[100] == pytest.approx(0)
    assert sorted(rates[10:], reverse=True) == rates[10:]


def test_training_learns_and_reports(tiny_model_dir, tmp_path):
    reports = []
    run(tiny_model_dir, tmp_path, encoded=samples(6) * 4, epochs=6, on_step=reports.append)
    assert reports[-1].loss < 0.7 * reports[0].loss
    assert [r.step for r in reports] == list(range(reports[0].steps))
    assert all(r.trained_tokens < r.tokens and r.seconds > 0 and r.tokens_per_second > 0 for r in reports)


# what is refused


def test_a_model_whose_packed_loss_differs_is_refused(tmp_path):
    """Granite divides its logits by a factor that the chunked loss does not know of."""
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = GraniteConfig(vocab_size=300, num_key_value_heads=1, logits_scaling=8.0, initializer_range=0.5, **sizes)
    GraniteForCausalLM(config).save_pretrained(tmp_path / "model")
    with pytest.raises(TennerError, match="GraniteForCausalLM cannot be trained on packed rows"):
        run(tmp_path / "model", tmp_path)


def test_a_sliding_window_shorter_than_a_sample_is_refused(tmp_path):
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = MistralConfig(vocab_size=300, num_key_value_heads=1, sliding_window=60, **sizes)
    MistralForCausalLM(config).save_pretrained(tmp_path / "model")
    with pytest.raises(TennerError, match="looks back 60 tokens only"):
        run(tmp_path / "model", tmp_path)


def test_a_loss_that_is_not_finite_stops_before_the_step(tiny_model_dir, tmp_path):
    reports = []
    with pytest.raises(TennerError, match="loss is not finite") as caught:
        run(tiny_model_dir, tmp_path, lr=1e38, warmup_fraction=0, on_step=reports.append)
    assert len(reports) == 1
    second = packing.plan([len(e.ids) for e in samples()], SETTINGS.tokens_per_step, epochs=2, seed=0)[1]
    assert {samples()[i].sample_id for i in second} == set(caught.value.hint.split(": ")[1].split(", "))


# what survives


@pytest.mark.parametrize("error", [BudgetReached("cap"), KeyboardInterrupt()], ids=["budget", "ctrl-c"])
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


def test_killed_and_resumed_is_bit_identical(tiny_model_dir, tmp_path, unbroken):
    script = f"""
import sys, time, torch
torch.set_num_threads(1)
sys.path.insert(0, {os.path.dirname(__file__)!r})
from pathlib import Path
import test_train
def slowly(report):
    print(report.step, flush=True)
    time.sleep(0.25)
test_train.run(Path({str(tiny_model_dir)!r}), Path({str(tmp_path)!r}), on_step=slowly, checkpoint_seconds=1)
"""
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    while resumes_at(tmp_path) == 0 and process.poll() is None:
        time.sleep(0.05)
    process.stdout.readline()
    process.send_signal(signal.SIGKILL)
    process.communicate()
    first_step = resumes_at(tmp_path)
    assert 0 < first_step < STEPS
    losses = []
    result = run(tiny_model_dir, tmp_path, on_step=lambda r: losses.append(r.loss))
    assert losses == unbroken[0][first_step:]
    assert same(weights(result), unbroken[1])


def test_finished_but_not_saved_still_saves(tiny_model_dir, tmp_path, unbroken):
    def stop(report):
        if report.step == STEPS - 1:
            raise BudgetReached("cap")

    with pytest.raises(BudgetReached):
        run(tiny_model_dir, tmp_path / "work", on_step=stop)
    result = run(tiny_model_dir, tmp_path / "work")
    assert (result.first_step, result.steps, result.loss) == (STEPS, STEPS, None)
    train.finish(result, tiny_model_dir, tmp_path / "student", tmp_path / "work", base_model="tiny")
    assert resumes_at(tmp_path / "work") == 0
    saved = AutoModelForCausalLM.from_pretrained(tmp_path / "student")
    assert same(dict(saved.named_parameters()), unbroken[1])


def test_another_training_does_not_go_on_from_this_checkpoint(tiny_model_dir, tmp_path):
    def stop(_):
        raise BudgetReached("cap")

    with pytest.raises(BudgetReached):
        run(tiny_model_dir, tmp_path, on_step=stop)
    with pytest.raises(TennerError, match="other samples, seed or settings"):
        run(tiny_model_dir, tmp_path, lr=1e-3)
