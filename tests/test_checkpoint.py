import subprocess

import pytest
import torch
from safetensors.torch import load_file

from tenner.errors import StorageFull, TennerError
from tenner.learn import checkpoint


def state(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {"a": torch.randn(7, 3, generator=generator), "b": torch.randn(5, generator=generator)}


@pytest.fixture
def saved(tmp_path):
    checkpoint.write(tmp_path, state(), step=12, fingerprint="f")
    return tmp_path


def test_round_trip_is_exact_and_plain_safetensors(saved):
    found = {name: torch.zeros_like(t) for name, t in state().items()}
    assert checkpoint.resumes_at(saved) == 12
    assert checkpoint.read(saved, found, fingerprint="f") == 12
    foreign = load_file(saved / checkpoint.FILE)
    for name, tensor in state().items():
        assert torch.equal(found[name], tensor)
        assert torch.equal(foreign[name], tensor)
    checkpoint.delete(saved)
    assert list(saved.iterdir()) == []


def test_no_checkpoint_is_step_0(tmp_path):
    assert checkpoint.resumes_at(tmp_path) == 0
    assert checkpoint.read(tmp_path, state(), fingerprint="f") == 0


def test_another_training_is_refused(saved):
    with pytest.raises(TennerError, match="belongs to a training with other"):
        checkpoint.read(saved, state(), fingerprint="g")


@pytest.mark.parametrize("damage", ["flip", "cut", "grow", "header", "empty"])
def test_damage_is_refused_by_name(saved, damage):
    path = saved / checkpoint.FILE
    data = bytearray(path.read_bytes())
    if damage == "flip":
        data[-6] ^= 1
    elif damage == "header":
        data[10] ^= 0x7F
    path.write_bytes({"cut": data[:-4], "grow": data + b"\0", "empty": b""}.get(damage, data))
    with pytest.raises(TennerError, match=r"checkpoint\.safetensors is damaged"):
        checkpoint.read(saved, state(1), fingerprint="f")


def test_other_shapes_are_refused(saved):
    with pytest.raises(TennerError, match="damaged"):
        checkpoint.read(saved, {"a": torch.zeros(7, 3), "b": torch.zeros(6)}, fingerprint="f")


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 64 KiB (tmpfs); needs the right to mount, which an ordinary user does not have."""
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", tmp_path], capture_output=True)
    if mount.returncode:
        pytest.skip("this user may not mount a tmpfs")
    yield tmp_path
    subprocess.run(["umount", "--lazy", tmp_path], check=True)


def test_a_full_disk_keeps_the_previous_checkpoint(small_disk):
    checkpoint.write(small_disk, state(), step=12, fingerprint="f")
    with pytest.raises(StorageFull, match=r"checkpoint\.safetensors"):
        checkpoint.write(small_disk, {"a": torch.zeros(50_000)}, step=13, fingerprint="f")
    assert checkpoint.resumes_at(small_disk) == 12
    assert [p.name for p in small_disk.iterdir()] == [checkpoint.FILE]
