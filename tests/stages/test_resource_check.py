"""Too little memory or disk is said before anything starts."""

import shutil

import pytest
import torch

from tenner import cli
from tenner.core import hardware, recipe
from tenner.core.errors import TennerError
from tenner.core.sections import Train
from tenner.stages import resource_check
from tenner.training import student
from tenner.training.architecture import Architecture
from tenner.training.plan import read_config

TRAIN = Train(epochs=1, lr=1e-3, tokens_per_step=100, tokens_max=100, precision="fp32")


@pytest.fixture
def described(tiny_recipe):
    return recipe.load(str(tiny_recipe), overrides=["train.precision=fp32"])


def test_what_fits_is_let_through(described, tiny_model_dir, tmp_path):
    resource_check.check(described, tmp_path / "not" / "there" / "yet", tiny_model_dir)


def test_too_little_memory_is_refused_with_what_would_help(described, tiny_model_dir, tmp_path, monkeypatch):
    monkeypatch.setattr(hardware, "free_memory_bytes", lambda _: 300_000_000)
    with pytest.raises(TennerError, match=r"training takes 0\.\d GB, and 0\.3 GB of memory are free"):
        resource_check.check(described, tmp_path, tiny_model_dir)
    monkeypatch.setattr(hardware, "free_memory_bytes", lambda _: None)
    resource_check.check(described, tmp_path, tiny_model_dir)


def test_too_little_disk_is_refused_before_anything_starts(tiny_recipe, tmp_path, monkeypatch, capsys):
    usage = shutil.disk_usage(tmp_path)._replace(free=50_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(SystemExit) as ended:
        cli.main(["run", str(tiny_recipe), "--run-dir", str(tmp_path / "run")])
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert "the run takes 0.1 GB on disk, and 0.1 GB are free" in said
    assert not (tmp_path / "run" / "questions.jsonl").exists()


def test_the_disk_holds_two_checkpoints_and_a_third_that_is_written_or_the_student(tiny_model_dir):
    architecture = read_config(tiny_model_dir / "config.json")
    assert isinstance(architecture, Architecture)
    n, others = architecture.parameters, resource_check.OTHER_FILES_BYTES
    assert resource_check.disk_bytes(architecture, TRAIN) == 24 * n + 12 * n + others
    assert resource_check.disk_bytes(architecture, TRAIN, students=2) == 4 * n + 24 * n + 12 * n + others
    frozen = TRAIN.model_copy(update={"frozen_layers": 1})
    trained = architecture.layers[0].parameters + architecture.hidden
    assert resource_check.disk_bytes(architecture, frozen) == 24 * trained + max(4 * n, 12 * trained) + others
    lora = TRAIN.model_copy(update={"method": "lora", "optimizer": "adamw-8bit", "lora_rank": 1})
    assert 4 * n < resource_check.disk_bytes(architecture, lora) - others < 4 * n + 24 * trained


def test_what_a_run_that_goes_on_has_on_the_disk_already_is_not_asked_for_again(
    described, tiny_model_dir, tmp_path, monkeypatch
):
    architecture = read_config(tiny_model_dir / "config.json")
    assert isinstance(architecture, Architecture)
    part = tmp_path / "checkpoint" / "step-00000008" / "part-00000-of-00001.safetensors"
    part.parent.mkdir(parents=True)
    part.write_bytes(bytes(12 * architecture.parameters))
    free = resource_check.disk_bytes(architecture, described.train) - part.stat().st_size
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=free))
    resource_check.check(described, tmp_path, tiny_model_dir)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=free - 1))
    with pytest.raises(TennerError, match=r"the run takes 0\.1 GB on disk, and 0\.1 GB are free"):
        resource_check.check(described, tmp_path, tiny_model_dir)


def test_a_student_with_an_adapter_is_refused_before_anything_starts(described, tiny_model_dir, tmp_path):
    shutil.copytree(tiny_model_dir, tmp_path / "model")
    (tmp_path / "model" / "adapter_config.json").write_text("{}")
    with pytest.raises(TennerError, match="holds an adapter, which cannot be trained on"):
        resource_check.check(described, tmp_path / "run", tmp_path / "model")
    with pytest.raises(TennerError, match="holds an adapter, which cannot be trained on"):
        student.load(tmp_path / "model", torch.float32, "eager")
