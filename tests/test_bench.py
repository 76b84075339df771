"""The benchmarks that take long, or need what a test machine has not, gone through with a tiny model."""

import json
import platform
import subprocess
import sys

import pytest
from paths import BENCH

import tenner
from tenner.core import hardware

COMMANDS, PRECISIONS = {"chat", "serve", "measure", "train"}, {"auto", "bf16", "fp32"}


def test_the_version_of_what_is_not_installed_is_told(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCH))
    import evidence

    assert evidence.versions("tenner", "no-such-package") == {
        "python": platform.python_version(), "tenner": tenner.__version__, "no-such-package": "not installed",
    }  # fmt: skip


@pytest.fixture
def train_cpu(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCH))
    import train_cpu

    return train_cpu


def test_in_float32_no_configuration_of_trl_has_anything_in_bfloat16(train_cpu):
    for name, side in train_cpu.configurations("fp32").items():
        assert side.weights == "float32", name
        assert dict(side.config)["bf16"] is False, name
        assert train_cpu.TRL[name].config == side.config[:-1], name


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_both_sides_of_trl_are_in_the_grid_of_each_precision(train_cpu, precision):
    for workload in train_cpu.WORKLOADS:
        assert {train_cpu.S1[workload], train_cpu.BEST[workload]} <= train_cpu.configurations(precision).keys()


@pytest.mark.slow
def test_every_command_is_timed_in_every_precision(tiny_recipe):
    done = subprocess.run(
        [sys.executable, str(BENCH / "precision.py"), str(tiny_recipe), "--turns", "1"], capture_output=True, text=True
    )
    assert done.stdout, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["precision"] == hardware.choose().precision
    assert told["commands"].keys() == COMMANDS
    for figures in told["commands"].values():
        speeds = figures["tokens_per_second"]
        assert speeds.keys() == PRECISIONS
        assert min(speeds.values()) > 0
        assert figures["auto_share"] == pytest.approx(speeds["auto"] / max(speeds["bf16"], speeds["fp32"]), abs=0.05)
    assert done.returncode == (0 if all(told["promises"].values()) else 1)


@pytest.mark.slow
def test_gpu_training_is_rehearsed_on_a_cpu_in_pieces(tmp_path):
    names = ["7b-full-8bit", "7b-lora", "32b-lora"]  # five tries, of which not all end in half a minute
    command = [sys.executable, str(BENCH / "train_gpu.py"), "--rehearse", "--price-usd-per-hour", "3", "--only", *names]
    command += ["--results", str(tmp_path)]
    piece = subprocess.run([*command, "--minutes", "0.5"], capture_output=True, text=True)
    assert piece.returncode == 3, piece.stderr
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert len(kept) >= 1
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert all(path.stat().st_mtime_ns == written for path, written in kept.items()), "nothing is tried again"
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["rehearsed"]
    assert "promises" not in told  # nothing that a rehearsal computes is one that holds
    assert told["tenner"].keys() == set(names)
    assert told["trl"].keys() == set(names) - {"7b-full-8bit"}
    for figures in (*told["tenner"].values(), *told["trl"].values()):
        assert figures["tokens_per_second"] > 0
        assert figures["peak_gb"] > 0
    assert all(0 < f["mfu_causal"] < f["mfu_non_causal"] for f in told["tenner"].values())
    price = told["price"]
    assert price["usd_per_gpu_hour"] == 3
    tokens_per_second = told["tenner"]["32b-lora"]["tokens_per_second"]
    assert price["lora_gpu_hours"] == pytest.approx(price["tokens"] / tokens_per_second / 3600)


@pytest.mark.slow
def test_a_plan_is_compared_with_the_run_quantity_by_quantity(tiny_model_dir):
    settings = [
        f'student.model="{tiny_model_dir}"', "train.frozen_layers=1", "train.tokens_max=1000", "gather.questions=200",
        "select.samples=40", "attempt.questions=8", "evaluate.questions=12", "evaluate.rows=8",
    ]  # fmt: skip
    command = [sys.executable, str(BENCH / "plan_probe.py"), "--only", "paid", "--probe", "12"]
    command += [word for setting in settings for word in ("--set", setting)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stdout, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    found = {(f["stage"], f["quantity"]): f for f in told["runs"]["paid"]}
    assert all(f["taken"] > 0 and f["said"] for f in found.values())
    for quantity in ("seconds", "dollars"):
        assert found["together", quantity]["taken"] == pytest.approx(
            sum(f["taken"] for (stage, of), f in found.items() if of == quantity and stage != "together")
        )
    # Half of the traces are wrong, and each question is charged by its length.
    assert found["trace", "dollars"]["share"] == pytest.approx(1, abs=0.25)
    assert found["trace", "tokens"]["share"] == pytest.approx(1, abs=0.25)
    assert found["train", "tokens"]["share"] == pytest.approx(1, abs=0.15)
    assert ("train", "memory") in found
    assert len(told["promises"]) == 3
