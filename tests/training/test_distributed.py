"""Training by several processes, launched by the real torchrun, against the same training by one."""

import json
import shutil
import subprocess
import sys
from itertools import pairwise
from typing import Any

import pytest
import torch
from paths import SUPPORT
from tiny_training import run, torchrun
from transformers import AutoTokenizer, Qwen2Config, Qwen2ForCausalLM

from tenner.training import loop

pytestmark = pytest.mark.slow
JOB = SUPPORT / "train_job.py"
LONG = {"precision": "fp32", "epochs": 3}
METHODS = {"full": LONG, "lora": {**LONG, "method": "lora", "lora_rank": 2, "lr": 1e-3}}


@pytest.fixture(scope="module")
def qwen_dir(tiny_model_dir, tmp_path_factory):
    """A random Qwen2: biases, which are random too, and a head of its own; three heads, so that no split is even."""
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=301, hidden_size=48, intermediate_size=80, num_hidden_layers=2, num_attention_heads=3,
        num_key_value_heads=1, max_position_embeddings=256, tie_word_embeddings=False,
    )  # fmt: skip
    model = Qwen2ForCausalLM(config)
    with torch.no_grad():
        for p in model.parameters():
            if p.ndim == 1:
                p.add_(torch.randn_like(p) * 0.1)
    folder = tmp_path_factory.mktemp("qwen") / "model"
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny_model_dir).save_pretrained(folder)
    return folder


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


def trained(*arguments, ends_well=True, **how):
    """The rows that the first process printed."""
    done = torchrun(JOB, *arguments, **how)
    assert all((d.returncode == 0) == ends_well for d in done), "\n".join(d.stderr for d in done)
    return [json.loads(line) for d in done for line in d.stdout.splitlines()]


def assert_same_curve(rows, reports, *, first_step=0):
    assert [row["step"] for row in rows] == [r.step for r in reports[first_step:]]
    for name, theirs in (("loss", "loss"), ("norm", "grad_norm")):
        wanted = [getattr(r, theirs) for r in reports[first_step:]]
        assert [row[name] for row in rows] == pytest.approx(wanted, rel=1e-5 if name == "loss" else 1e-3)


@pytest.fixture(scope="module")
def by_two(model_dirs, tmp_path_factory):
    """(family, method, precision) -> the rows of a training by two processes: one launch for all of them."""
    cases = {
        **{(family, method, "fp32"): METHODS[method] for family in model_dirs for method in METHODS},
        **{("llama", method, "bf16"): METHODS[method] | {"precision": "bf16"} for method in METHODS},
    }
    words: list[Any] = []
    for (family, _, _), settings in cases.items():
        words += [model_dirs[family], tmp_path_factory.mktemp("two"), json.dumps(settings)]
    rows = trained(*words)
    begins = [i for i, row in enumerate(rows) if row["step"] == 0] + [len(rows)]
    return {case: rows[begin:end] for case, (begin, end) in zip(cases, pairwise(begins), strict=True)}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_two_processes_give_the_curve_of_one(alone, by_two, family, method):
    reports = alone(family, method)
    assert len(reports) >= 20
    assert len({r.loss for r in reports}) == len(reports)
    assert_same_curve(by_two[family, method, "fp32"], reports)


@pytest.mark.parametrize(("family", "method"), [("llama", "full")])
def test_two_machines_give_the_curve_of_one(alone, model_dirs, tmp_path, family, method):
    assert_same_curve(
        trained(model_dirs[family], tmp_path, json.dumps(METHODS[method]), agents=2), alone(family, method)
    )


def test_copies_of_the_weights_each_in_parts_give_the_curve_of_one(alone, qwen_dir, tmp_path):
    settings = json.dumps({**METHODS["full"], "shard_over": 2, "checkpoint_seconds": 1})
    rows = trained(qwen_dir, tmp_path, settings, "--stop-at", 9, ends_well=False, processes=4)
    assert len(list((tmp_path / "step-00000010").iterdir())) == 2  # one copy is kept
    rows += trained(qwen_dir, tmp_path, settings, processes=4)
    assert_same_curve(rows, alone("qwen2", "full"))


@pytest.mark.parametrize(("family", "method"), [("llama", "full"), ("qwen2", "lora")])
def test_saved_by_two_goes_on_by_one_and_by_three(alone, model_dirs, tmp_path, family, method):
    """Adapters of rank 2 leave the third process without rows of theirs."""
    model_dir, settings = model_dirs[family], METHODS[method]
    words = json.dumps(settings)
    rows = trained(model_dir, tmp_path / "two", words, "--stop-at", 7, ends_well=False)
    assert len(rows) == 8
    shutil.copytree(tmp_path / "two", tmp_path / "three")
    by_three = trained(model_dir, tmp_path / "three", words, "--student", tmp_path / "student", processes=3)
    assert_same_curve(rows + by_three, alone(family, method))
    by_one: list[Any] = []
    result = run(model_dir, tmp_path / "two", on_step=by_one.append, **settings)
    assert result.first_step == 8
    assert [r.loss for r in by_one] == pytest.approx([r.loss for r in alone(family, method)[8:]], rel=1e-5)
    loop.finish(result, model_dir, tmp_path / "one" / "student", tmp_path / "two", base_model="tiny")
    Models = type(result.model)
    ones, threes = (Models.from_pretrained(tmp_path / p / "student").state_dict() for p in ("one", "."))
    for name, tensor in ones.items():
        torch.testing.assert_close(threes[name], tensor, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("method", METHODS)
def test_in_bfloat16_two_are_close_to_one(tiny_model_dir, by_two, tmp_path, method):
    """Adapters' masters are in float32 beside frozen weights in bfloat16, in one group that is gathered together."""
    reports: list[Any] = []
    run(tiny_model_dir, tmp_path, on_step=reports.append, **METHODS[method] | {"precision": "bf16"})
    rows = by_two["llama", method, "bf16"]
    assert [row["loss"] for row in rows] == pytest.approx([r.loss for r in reports], rel=3e-3)


def test_eight_bit_moments_go_on_with_as_many_processes_only(tiny_model_dir, tmp_path):
    settings = {"optimizer": "adamw-8bit", "epochs": 1}
    words = json.dumps(settings)
    rows = trained(tiny_model_dir, tmp_path / "work", words, "--stop-at", 3, ends_well=False)
    with pytest.raises(ValueError, match="8-bit moments of 2 processes"):
        run(tiny_model_dir, tmp_path / "work", **settings)
    both = trained(tiny_model_dir, tmp_path / "work", words, tiny_model_dir, tmp_path / "whole", words)
    begin = next(i for i, row in enumerate(both) if row["step"] == 0)
    assert rows + both[:begin] == both[begin:]


def test_a_number_of_processes_that_cannot_share_is_told_in_a_line(tiny_model_dir, tmp_path):
    (done,) = torchrun(JOB, tiny_model_dir, tmp_path, json.dumps({"shard_over": 3}))
    assert done.returncode != 0
    assert "2 processes cannot share copies of the weights over 3 each" in done.stderr
    assert 'File "' + str(JOB) not in done.stderr


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
