"""Training by several processes, launched by the real torchrun, against the same training by one."""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import families
import pytest
import torch
from paths import SUPPORT
from tiny_training import JOB, assert_same_curve, random_qwen2, run, torchrun, trained
from transformers import Qwen2Config, Qwen2ForCausalLM

from tenner.core.errors import TennerError
from tenner.training import distributed, loop, stored_weights, student

pytestmark = pytest.mark.slow
LONG = {"precision": "fp32", "epochs": 3}
METHODS = {"full": LONG, "lora": {**LONG, "method": "lora", "lora_rank": 2, "lr": 1e-3}}
EIGHT_BIT = ("llama", {"optimizer": "adamw-8bit", "epochs": 1})


@pytest.fixture(scope="module")
def qwen_dir(tiny_model_dir, tmp_path_factory):
    """Three heads, so that no split is even."""
    return random_qwen2(tmp_path_factory.mktemp("qwen") / "model", tiny_model_dir, heads=3, key_heads=1, positions=256)


@pytest.fixture(scope="module")
def model_dirs(tiny_model_dir, qwen_dir):
    return {"llama": tiny_model_dir, "qwen2": qwen_dir}


@pytest.fixture(scope="module")
def alone(model_dirs, tmp_path_factory):
    """(family, method) -> the reports of an unbroken training by one process; computed once."""
    known: dict[tuple[str, str], list[Any]] = {}

    def reports_of(family, method):
        if (family, method) not in known:
            reports = known[family, method] = []
            run(model_dirs[family], tmp_path_factory.mktemp("alone"), on_step=reports.append, **METHODS[method])
        return known[family, method]

    return reports_of


STOPPED = {"llama-full": ("llama", METHODS["full"]), "qwen2-lora": ("qwen2", METHODS["lora"]), "8bit": EIGHT_BIT}
STOPPED_AT = 3


@pytest.fixture(scope="module")
def stopped(model_dirs, tmp_path_factory):
    """name -> the folder and the rows of a training by two processes that was stopped; one launch for all."""
    folders = {name: tmp_path_factory.mktemp(name) / "work" for name in STOPPED}
    trainings = [(model_dirs[family], folders[name], settings) for name, (family, settings) in STOPPED.items()]
    rows = trained(*trainings, options=("--stop-at", STOPPED_AT))
    return {name: (folder, r) for (name, folder), r in zip(folders.items(), rows, strict=True)}


@pytest.fixture(scope="module")
def by_three(model_dirs, stopped, tmp_path_factory):
    """name -> the folder and the rows of what three processes make of it; one launch for all."""
    folders = {name: tmp_path_factory.mktemp("three") / name for name in ("llama-full", "qwen2-lora")}
    for name, folder in folders.items():
        shutil.copytree(stopped[name][0], folder)
    trainings = [(model_dirs[STOPPED[name][0]], folder, STOPPED[name][1]) for name, folder in folders.items()]
    rows = trained(*trainings, processes=3, options=["--save"])
    return {name: (folder, r) for (name, folder), r in zip(folders.items(), rows, strict=True)}


@pytest.fixture(scope="module")
def by_two(model_dirs, stopped, tmp_path_factory):
    """name -> the rows of a training by two processes: one launch for all of them."""
    cases = {
        **{f"{family}-{method}": (family, METHODS[method]) for family in model_dirs for method in METHODS},
        **{f"bf16-{method}": ("llama", METHODS[method] | {"precision": "bf16"}) for method in METHODS},
        "8bit": EIGHT_BIT,
    }
    trainings = [(model_dirs[family], tmp_path_factory.mktemp("two"), settings) for family, settings in cases.values()]
    goes_on = tmp_path_factory.mktemp("two") / "8bit"
    shutil.copytree(stopped["8bit"][0], goes_on)
    trainings.append((model_dirs["llama"], goes_on, EIGHT_BIT[1]))
    return dict(zip([*cases, "8bit that went on"], trained(*trainings), strict=True))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_two_processes_give_the_curve_of_one(alone, by_two, family, method):
    reports = alone(family, method)
    assert len(reports) >= 20
    assert len({r.loss for r in reports}) == len(reports)
    assert_same_curve(by_two[f"{family}-{method}"], reports)


@pytest.mark.parametrize("model_type", ["gemma4_text", "qwen3_moe", "glm4_moe", "mixtral"])
def test_buffers_and_experts_come_from_the_folder(model_type, tmp_path):
    """Gemma 4 multiplies each layer's output by a number that a new model has as 1, routers of GLM add a bias that is
    nought in a new one; and a folder has a matrix for each expert, where the model has one for all.
    """
    model = families.model_of(families.family(model_type))
    for name, buffer in model.named_buffers():
        if name.endswith(("layer_scalar", "e_score_correction_bias")):
            buffer.copy_(torch.linspace(0.7, 0.9, len(buffer)))
    model.save_pretrained(tmp_path / "model")
    settings: dict[str, Any] = {"precision": "fp32", "epochs": 1}
    reports: list[Any] = []
    run(tmp_path / "model", tmp_path / "one", on_step=reports.append, **settings)
    (rows,) = trained((tmp_path / "model", tmp_path / "two", settings))
    assert_same_curve(rows, reports)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("model_type", ["llama", "gemma4_text", "qwen3_moe", "glm4_moe", "deepseek_v3", "gpt_oss"])
def test_rows_that_are_read_are_those_of_the_model(model_type, dtype, tmp_path):
    families.model_of(families.family(model_type)).save_pretrained(tmp_path)
    model, empty = student.load(tmp_path, dtype, "eager"), student.load_empty(tmp_path, dtype, "eager")
    read = stored_weights.StoredWeights(tmp_path, empty, empty.state_dict())
    for name, weight in model.state_dict().items():
        assert torch.equal(read.whole(name).to(weight.dtype), weight)
        assert torch.equal(read.rows(name, 1, 2).to(weight.dtype), weight[1:3])


def test_two_machines_give_the_curve_of_one(alone, tiny_model_dir, tmp_path):
    (rows,) = trained((tiny_model_dir, tmp_path, METHODS["full"]), agents=2)
    assert_same_curve(rows, alone("llama", "full"))


def test_copies_of_the_weights_each_in_parts_give_the_curve_of_one(alone, qwen_dir, tmp_path):
    """Stopped, and gone on with from the checkpoint by the same launch."""
    training = (qwen_dir, tmp_path, {**METHODS["full"], "shard_over": 2, "checkpoint_seconds": 1})
    before, after = trained(training, training, processes=4, options=("--stop-at", 9))
    assert len(before) == 10
    assert {len(list(folder.iterdir())) for folder in tmp_path.glob("step-*")} == {2}  # one copy is kept
    assert_same_curve(before + after, alone("qwen2", "full"))


@pytest.mark.parametrize(("family", "method"), [("llama", "full"), ("qwen2", "lora")])
def test_saved_by_two_goes_on_by_one_and_by_three(alone, model_dirs, stopped, by_three, tmp_path, family, method):
    """Adapters of rank 2 leave the third process without rows of theirs."""
    folder, rows = stopped[f"{family}-{method}"]
    assert len(rows) == STOPPED_AT + 1
    threes_folder, threes_rows = by_three[f"{family}-{method}"]
    assert_same_curve(rows + threes_rows, alone(family, method))
    by_one: list[Any] = []
    result = run(model_dirs[family], folder, on_step=by_one.append, **METHODS[method])
    assert result.first_step == len(rows)
    assert [r.loss for r in by_one] == pytest.approx([r.loss for r in alone(family, method)[len(rows) :]], rel=1e-5)
    loop.finish(result, model_dirs[family], tmp_path / "student", folder, base_model="tiny")
    students = (tmp_path / "student", Path(f"{threes_folder}-student"))
    ones, threes = (type(result.model).from_pretrained(student).state_dict() for student in students)
    for name, tensor in ones.items():
        torch.testing.assert_close(threes[name], tensor, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("method", METHODS)
def test_in_bfloat16_two_are_close_to_one(tiny_model_dir, by_two, tmp_path, method):
    """Adapters' masters are in float32 beside frozen weights in bfloat16, in one group that is gathered together."""
    reports: list[Any] = []
    run(tiny_model_dir, tmp_path, on_step=reports.append, **METHODS[method] | {"precision": "bf16"})
    assert [row["loss"] for row in by_two[f"bf16-{method}"]] == pytest.approx([r.loss for r in reports], rel=3e-3)


def test_a_student_is_put_together_without_a_copy_in_float32(tmp_path):
    """The first process holds it once, beside one weight at a time; in float32 it would be twice as large again."""
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=1000, hidden_size=1024, intermediate_size=4096, num_hidden_layers=8, num_attention_heads=8,
        num_key_value_heads=8, tie_word_embeddings=False,
    )  # fmt: skip
    model = Qwen2ForCausalLM(config).bfloat16()
    model.save_pretrained(tmp_path / "model")
    size = 2 * model.num_parameters()
    (done,) = torchrun(SUPPORT / "gathered_job.py", tmp_path / "model")
    assert done.returncode == 0, done.stderr
    assert 0.9 * size < int(done.stdout.split()[-1]) < 2.5 * size


@pytest.mark.skipif(sys.platform != "linux", reason="threads are made late by Linux's scheduler")
def test_threads_that_are_late_end_no_process():
    """A last tensor that they let go of while Python shuts down would: in four of five such runs."""
    for _ in range(2):
        (done,) = torchrun(SUPPORT / "late_threads_job.py")
        assert done.returncode == 0, done.stderr


def test_eight_bit_moments_go_on_with_as_many_processes_only(tiny_model_dir, stopped, by_two):
    folder, rows = stopped["8bit"]
    with pytest.raises(ValueError, match="8-bit moments of 2 processes"):
        run(tiny_model_dir, folder, **EIGHT_BIT[1])
    assert rows + by_two["8bit that went on"] == by_two["8bit"]


def test_a_number_of_processes_that_cannot_share_is_told_before_they_meet(monkeypatch):
    for name, value in (("RANK", "0"), ("WORLD_SIZE", "2")):  # as torchrun tells each of its processes
        monkeypatch.setenv(name, value)
    with (
        pytest.raises(TennerError, match="2 processes cannot share copies of the weights over 3 each") as refused,
        distributed.join(shard_over=3),
    ):
        pytest.fail("they have met")
    assert "shard_over must divide the number of processes" in str(refused.value.hint)


def test_sigterm_to_torchrun_loses_no_step(tiny_model_dir, tmp_path):
    """torchrun hands the signal on to its processes; its own exit code is 1, whatever theirs are."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    process = subprocess.Popen(
        [*command, JOB, tiny_model_dir, tmp_path, "{}", "--pause", "0.2"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout
    rows = [process.stdout.readline() for _ in range(3)]
    process.terminate()
    rest, said = process.communicate(timeout=60)
    assert process.returncode != 0
    steps = len(rows) + len(rest.splitlines())
    assert f"the system asked to stop after step {steps} of 14: everything is saved" in said
    assert [path.name for path in tmp_path.iterdir()] == [f"step-{steps:08d}"]
