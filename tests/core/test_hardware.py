"""What is computed on, and in which precision: as the processor is, as it is played, and as it is named."""

import json
import os
import subprocess
import sys
from typing import cast

import pytest

from tenner import cli
from tenner.core import hardware, recipe
from tenner.core.errors import TennerError
from tenner.core.progress import Screen
from tenner.core.records import StageHardware
from tenner.core.run import open_run
from tenner.core.run_folder import RunFolder
from tenner.inference import engine_registry

AVX2 = {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"}
CHOICE = "from tenner.core import hardware; print(*hardware.choose('cpu'), *hardware.speeds('cpu'), sep='|')"


def chosen(**environment):
    child = subprocess.run(
        [sys.executable, "-c", CHOICE], env=os.environ | environment, capture_output=True, text=True, check=True
    )
    device, _, threads, precision, bf16, fp32 = child.stdout.strip().split("|")
    assert (device, int(threads) > 0) == ("cpu", True)
    return precision, float(bf16), float(fp32)


@pytest.mark.slow  # 2 s
def test_without_native_bfloat16_it_is_float32_and_that_is_faster():
    precision, bf16, fp32 = chosen(**AVX2)
    assert precision == "fp32"
    assert fp32 > 2 * bf16


@pytest.mark.slow  # 2 s
def test_it_is_the_faster_of_the_two():
    precision, bf16, fp32 = chosen()
    assert precision == ("bf16" if bf16 > fp32 else "fp32")


def test_what_is_named_is_honoured():
    assert hardware.choose("cpu", "bf16").precision == "bf16"
    assert hardware.choose("cpu", "fp32").precision == "fp32"
    assert hardware.choose("cpu", "pure-bf16").precision == "pure-bf16"


def test_trials_that_all_find_bfloat16_far_slower_overrule_the_processor(monkeypatch):
    monkeypatch.setattr(hardware, "has_native_bf16", lambda _: True)
    monkeypatch.setattr(hardware, "PAUSE_SECONDS", 0.0)
    for bf16, precision in ((49.0, "fp32"), (51.0, "bf16")):
        for name in ("speeds", "measured_speeds"):
            monkeypatch.setattr(hardware, name, lambda _, bf16=bf16: hardware.Speeds(bf16, 100.0))
        assert hardware.best_precision("cpu") == precision


def test_a_trial_that_other_work_has_disturbed_does_not(monkeypatch):
    monkeypatch.setattr(hardware, "has_native_bf16", lambda _: True)
    monkeypatch.setattr(hardware, "PAUSE_SECONDS", 0.0)
    trials = iter([(10.0, 100.0), (30.0, 100.0), (700.0, 180.0)])
    monkeypatch.setattr(hardware, "speeds", lambda _: hardware.Speeds(*next(trials)))
    monkeypatch.setattr(hardware, "measured_speeds", lambda _: hardware.Speeds(*next(trials)))
    assert hardware.best_precision("cpu") == "bf16"


def test_a_named_precision_that_is_slow_is_told(monkeypatch):
    monkeypatch.setattr(hardware, "speeds", lambda _: hardware.Speeds(10.0, 100.0))
    assert "fp32 multiplies matrices 10 times as fast" in (hardware.slowness("cpu", "bf16") or "")
    assert "fp32 multiplies matrices 10 times as fast" in (hardware.slowness("cpu", "pure-bf16") or "")
    assert hardware.slowness("cpu", "fp32") is None
    monkeypatch.setattr(hardware, "has_native_bf16", lambda _: True)
    monkeypatch.setattr(hardware, "speeds", lambda _: hardware.Speeds(400.0, 100.0))
    assert "bf16 multiplies matrices 4 times as fast" in (hardware.slowness("cpu", "fp32") or "")
    assert hardware.slowness("cpu", "bf16") is None


GPUS: tuple[hardware.DeviceKind, ...] = ("mps", "cuda")
MISSING = next(kind for kind in GPUS if kind != hardware.device_kind())


def test_a_device_that_is_not_there_is_refused(tiny_recipe, tiny_model_dir, tmp_path, capsys):
    with pytest.raises(TennerError, match=f"no {MISSING} device"):
        hardware.device_kind(MISSING)
    with pytest.raises(TennerError, match=f"no {MISSING} device"):
        engine_registry.load("hf", tiny_model_dir, rows=1, wait_text="Wait", device=MISSING)
    for command in (
        ["run", str(tiny_recipe), "--run-dir", str(tmp_path / "run"), "--device", MISSING],
        ["chat", str(tiny_model_dir), "--format", "plain", "--engine", "hf", "--device", MISSING],
    ):
        with pytest.raises(SystemExit) as ended:
            cli.main(command)
        assert ended.value.code == 2
        said = capsys.readouterr().err
        assert f"PyTorch finds no {MISSING} device on this machine" in said
        assert "hint: there is" in said
    assert not (tmp_path / "run").exists()


def test_a_stage_goes_on_in_the_precision_that_it_began_in(tiny_recipe, tmp_path, capsys):
    path, other = tmp_path / "run", "fp32" if hardware.best_precision("cpu") == "bf16" else "bf16"
    described = recipe.load(str(tiny_recipe), overrides=["machine.device=cpu"])
    with open_run(path, described, Screen(), budget_usd=None) as run:
        began = StageHardware(stage="train", device="cuda", name="another machine", threads=9, precision=other)
        run.folder.append("hardware", [began])
        assert run.hardware("train", "auto").precision == other
        assert run.hardware("evaluate", "auto").precision == hardware.best_precision("cpu")
        run.hardware("evaluate", "auto")  # the same machine again
    rows = RunFolder(path).read("hardware", StageHardware)
    assert [(row.stage, row.device, row.precision) for row in rows] == [
        ("train", "cuda", other),
        ("train", "cpu", other),
        ("evaluate", "cpu", hardware.best_precision("cpu")),
    ]
    assert f"train: on cpu ({hardware.processor_name()}" in capsys.readouterr().err


def test_the_device_may_change_when_a_run_goes_on(tiny_recipe, tmp_path):
    described = recipe.load(str(tiny_recipe))
    with open_run(tmp_path, described, Screen(), budget_usd=None):
        pass
    with open_run(tmp_path, cast("recipe.Recipe | None", None), Screen(), budget_usd=None, device="cpu") as run:
        assert run.recipe.machine.device == "cpu"
    with open_run(tmp_path, described, Screen(), budget_usd=None) as run:
        assert run.recipe.machine.device == "auto"


def test_memory_and_cores_are_told():
    assert hardware.cores() >= 1
    free = hardware.free_memory_bytes("cpu")
    assert free is None or 10**8 < free < 10**13
    assert json.dumps(hardware.processor_name())


def test_peak_memory_is_of_this_process_alone():
    """getrusage's is not: a child starts with the most that its parent had."""
    ballast = bytearray(400_000_000)
    ballast[::4096] = b"x" * len(ballast[::4096])
    program = "from tenner.core.hardware import peak_memory_bytes as p; a = p(); b = b'x' * 100_000_000; print(a, p())"
    before, after = map(int, subprocess.check_output([sys.executable, "-c", program]).split())
    assert before < 300_000_000
    assert 90_000_000 < after - before < 110_000_000


@pytest.mark.parametrize(
    ("load", "own", "all_cores", "free"),
    [(0.0, 8, 8, 8), (0.3, 8, 8, 8), (3.2, 8, 8, 5), (7.9, 8, 8, 1), (30.0, 8, 8, 1), (1.0, 2, 2, 1), (32.0, 8, 64, 4)],
)
def test_free_cores_are_what_the_load_leaves(monkeypatch, load, own, all_cores, free):
    monkeypatch.setattr(os, "getloadavg", lambda: (load, 0.0, 0.0))
    monkeypatch.setattr(os, "cpu_count", lambda: all_cores)
    monkeypatch.setattr(hardware, "cores", lambda: own)
    assert hardware.free_cores() == free


def test_threads_follow_the_free_cores_unless_they_are_set(monkeypatch):
    import torch

    before = torch.get_num_threads()
    try:
        torch.set_num_threads(4)
        monkeypatch.setattr(hardware, "free_cores", lambda: 2)
        monkeypatch.setenv("OMP_NUM_THREADS", "4")
        assert (hardware.use_free_cores(), torch.get_num_threads()) == (None, 4)
        monkeypatch.delenv("OMP_NUM_THREADS")
        line = hardware.use_free_cores()
        assert line is not None
        assert line.startswith("2 threads")
        assert (torch.get_num_threads(), hardware.use_free_cores()) == (2, None)
    finally:
        torch.set_num_threads(before)
