import json
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tenner.core import hardware
from tenner.core.errors import StorageFull, TennerError
from tenner.training import checkpoint
from tenner.training.background_checkpoint import CheckpointWriter, interval_seconds
from tenner.training.checkpoint import Found, Part
from tenner.training.distributed import World

NEWEST = "step-00000012"
ONLY_PART = f"{NEWEST}/part-00000-of-00001.safetensors"


def state(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {
        "a": torch.randn(7, 3, generator=generator),
        "b": torch.randn(5, generator=generator).bfloat16(),
        "c": torch.randint(256, (4, 2, 2), generator=generator, dtype=torch.uint8),
    }


def parts_of(tensors):
    return {name: Part(tensor) for name, tensor in tensors.items()}


def empty():
    return {name: torch.zeros_like(tensor) for name, tensor in state().items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture
def saved(tmp_path):
    """Two checkpoints: of seed 11 before step 11, and of seed 12 before step 12."""
    for step in (10, 11, 12):
        checkpoint.write(tmp_path, parts_of(state(step)), step=step, fingerprint="f")
    return tmp_path


def test_round_trip_is_exact_and_plain_safetensors(saved):
    found = empty()
    assert checkpoint.read(saved, parts_of(found), fingerprint="f") == Found(12, ())
    assert same(found, state(12))
    assert same(load_file(saved / ONLY_PART), state(12))
    assert sorted(path.name for path in saved.iterdir()) == ["step-00000011", NEWEST]
    checkpoint.delete(saved)
    assert not saved.exists()


def test_what_is_written_in_the_background_is_the_state_of_when_it_was_saved(tmp_path, saved):
    tensors = state(12)
    writer = CheckpointWriter(tmp_path / "copy", fingerprint="f", world=checkpoint.ALONE, in_background=True)
    writer.save(parts_of(tensors), step=12)
    for tensor in tensors.values():
        tensor.zero_()  # the next step
    assert not (tmp_path / "copy" / NEWEST).exists(), "it has no name before all processes have written"
    writer.end()
    assert (tmp_path / "copy" / ONLY_PART).read_bytes() == (saved / ONLY_PART).read_bytes()
    assert not writer.is_written
    writer.end()  # nothing is left to do


@pytest.mark.parametrize(("free_bytes", "here", "copies"), [(330, 2, True), (330, 4, False), (330, None, False)])
def test_a_machine_has_room_for_the_copies_of_its_own_ranks(free_bytes, here, copies, tmp_path, monkeypatch):
    """80 bytes of each of four ranks, two or four of which are on a machine: half of what is free may be taken."""

    class Ranks(World):
        def sum(self, *values):
            return list(values)

    monkeypatch.setattr(hardware, "free_memory_bytes", lambda _: free_bytes)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    if here:
        monkeypatch.setenv("LOCAL_WORLD_SIZE", str(here))
    world = Ranks(0, 4, torch.device("cpu"))
    writer = CheckpointWriter(tmp_path, fingerprint="f", world=world, in_background=True)
    assert writer._has_room({"a": Part(torch.zeros(20))}) is copies


def test_checkpoints_that_cost_more_are_further_apart():
    assert interval_seconds(600, 0.0, 16) == 600
    assert interval_seconds(600, 0.1, 16) == pytest.approx((2 * 0.1 * 50_000 * 3600 / 16) ** 0.5)
    assert interval_seconds(600, 60.0, 16) == 3600
    assert interval_seconds(7200, 60.0, 16) == 7200, "the recipe's own stands where it is longer"


def test_no_checkpoint_is_step_0(tmp_path):
    found = empty()
    assert checkpoint.read(tmp_path / "none", parts_of(found), fingerprint="f") == Found(0, ())
    assert same(found, empty())


def test_another_training_is_refused(saved):
    with pytest.raises(TennerError, match="belongs to another training"):
        checkpoint.read(saved, parts_of(empty()), fingerprint="g")


DAMAGE = {
    "flip": lambda data: data[:-6] + bytes([data[-6] ^ 1]) + data[-5:],
    "cut": lambda data: data[:-4],
    "grow": lambda data: data + b"\0",
    "header": lambda data: data[:10] + bytes([data[10] ^ 0x7F]) + data[11:],
    "step": lambda data: data.replace(b'"step": "12"', b'"step": "13"'),
    "length": lambda data: b"\xff" * 8 + data[8:],
    "empty": lambda _: b"",
    "another": lambda _: b"\2\0\0\0\0\0\0\0[]",
}


def damage(path, how):
    data = path.read_bytes()
    path.write_bytes(DAMAGE[how](data))
    assert path.read_bytes() != data


@pytest.mark.parametrize("how", [*DAMAGE, "missing"])
def test_damage_is_refused_by_name_and_the_previous_checkpoint_used(saved, how):
    path = saved / ONLY_PART
    path.unlink() if how == "missing" else damage(path, how)
    found = empty()
    step, refused = checkpoint.read(saved, parts_of(found), fingerprint="f")
    assert step == 11
    assert same(found, state(11))
    name = f"{saved / NEWEST} is not whole: it holds 0 parts" if how == "missing" else f"{path} is damaged"
    assert refused == (f"the checkpoint {name}",)


def test_where_all_are_damaged_training_does_not_begin_anew_by_itself(saved):
    for path in saved.rglob("part-*"):
        damage(path, "flip")
    with pytest.raises(TennerError, match=r"step-00000012/.* is damaged; .*step-00000011/.* is damaged") as caught:
        checkpoint.read(saved, parts_of(empty()), fingerprint="f")
    assert f"delete {saved}" in (caught.value.hint or "")


def test_a_damaged_checkpoint_goes_when_an_earlier_step_is_saved(tmp_path):
    for step in (8, 12):
        checkpoint.write(tmp_path, parts_of(state(step)), step=step, fingerprint="f")
    damage(tmp_path / ONLY_PART, "flip")
    checkpoint.write(tmp_path, parts_of(state(10)), step=10, fingerprint="f")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000008", "step-00000010"]


def test_the_next_checkpoint_takes_the_place_of_a_damaged_one_not_of_the_whole_one_before(saved):
    damage(saved / ONLY_PART, "flip")
    checkpoint.read(saved, parts_of(empty()), fingerprint="f")
    checkpoint.write(saved, parts_of(state(13)), step=13, fingerprint="f")
    assert sorted(path.name for path in saved.iterdir()) == ["step-00000011", "step-00000013"]


def test_what_a_kill_left_half_written_goes_with_the_next_checkpoint(saved):
    killed = checkpoint.Writing(saved, step=13, fingerprint="f", world=checkpoint.ALONE)
    killed.begin()
    assert killed.put(parts_of(state(13))) is None
    checkpoint.write(saved, parts_of(state(14)), step=14, fingerprint="f")
    assert sorted(path.name for path in saved.iterdir()) == [NEWEST, "step-00000014"]


@pytest.mark.parametrize("other", [torch.zeros(8, 3), torch.zeros(7, 4), torch.zeros(7, 3).half()])
def test_another_model_is_refused(saved, other):
    with pytest.raises(TennerError, match="is of another model"):
        checkpoint.read(saved, parts_of({**empty(), "a": other}), fingerprint="f")


# by several processes


@dataclass(frozen=True)
class Thread(World):
    """A process' place in a training, held by a thread: the same rules, and sums over what the threads say."""

    barrier: threading.Barrier = field(kw_only=True)
    said: dict = field(kw_only=True)

    shard_index = property(lambda self: self.rank)
    shards = property(lambda self: self.size)

    def sum(self, *values):
        self.said[self.rank] = values
        self.barrier.wait(10)
        total = [sum(column) for column in zip(*self.said.values(), strict=True)]
        self.barrier.wait(10)
        return total


def together(size, doing):
    """What `doing(world)` gives, or raises, in each of so many threads."""
    barrier = threading.Barrier(size)
    said: dict[int, Any] = {}
    worlds = [Thread(rank, size, torch.device("cpu"), barrier=barrier, said=said) for rank in range(size)]
    with ThreadPoolExecutor(size) as pool:
        futures = [pool.submit(doing, world) for world in worlds]
    return [future.exception() or future.result() for future in futures]


def dealt(tensors, world, *, divisible=True):
    """Each process' rows, as torch.chunk deals them out; the last processes may get none."""
    parts = {}
    for name, tensor in tensors.items():
        share = -(-len(tensor) // world.size)
        first = min(len(tensor), share * world.rank)
        parts[name] = Part(tensor[first : first + share], first, divisible)
    return parts


def written_by(size, folder, **how):
    def write(world):
        checkpoint.write(folder, dealt(state(), world, **how), step=12, fingerprint="f", world=world)

    assert together(size, write) == [None] * size


@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 3), (3, 2), (6, 4), (2, 2)])
def test_rows_are_dealt_out_anew(tmp_path, before, after):
    written_by(before, tmp_path)
    assert len(list((tmp_path / NEWEST).iterdir())) == before
    found = empty()  # its rows are the parts' memory

    def read(world):
        return checkpoint.read(tmp_path, dealt(found, world), fingerprint="f", world=world)

    assert together(after, read) == [Found(12, ())] * after
    assert same(found, state())


@pytest.mark.parametrize("how", ["flip", "missing"])
def test_damage_in_one_part_is_refused_by_all(tmp_path, how):
    written_by(2, tmp_path)
    part = tmp_path / NEWEST / "part-00001-of-00002.safetensors"
    part.unlink() if how == "missing" else damage(part, how)
    words = "is not whole: it holds 1 parts" if how == "missing" else r"part-00001-of-00002\.safetensors is damaged"

    def read(world):
        with pytest.raises(TennerError, match=words):
            checkpoint.read(tmp_path, dealt(empty(), world), fingerprint="f", world=world)

    assert together(3, read) == [None] * 3


def test_what_cannot_be_dealt_out_anew_goes_on_with_as_many_only(tmp_path):
    written_by(2, tmp_path, divisible=False)
    found = empty()

    def read(world):
        return checkpoint.read(tmp_path, dealt(found, world, divisible=False), fingerprint="f", world=world)

    assert together(2, read) == [Found(12, ())] * 2
    assert same(found, state())
    for error in together(3, read):
        assert isinstance(error, TennerError)
        assert "8-bit moments of 2 processes" in str(error)


# a full disk


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 64 KiB (tmpfs); needs the right to mount, which an ordinary user does not have."""
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", tmp_path], capture_output=True)
    if mount.returncode:
        pytest.skip("this user may not mount a tmpfs")
    yield tmp_path
    subprocess.run(["umount", "--lazy", tmp_path], check=True)


@pytest.mark.parametrize("in_background", [False, True])
@pytest.mark.parametrize("full_for", [(0,), (1,), (0, 1)])
def test_a_full_disk_keeps_the_previous_checkpoint_and_stops_every_process(small_disk, full_for, in_background):
    written_by(2, small_disk)

    def write(world):
        parts = parts_of({"a": torch.zeros(50_000 if world.rank in full_for else 5)})
        writer = CheckpointWriter(small_disk, fingerprint="f", world=world, in_background=in_background)
        writer.save(parts, step=13)
        writer.end()

    errors = together(2, write)
    assert [type(error) for error in errors] == [StorageFull] * 2
    assert all("step-00000013" in str(error) for error in errors)
    assert [path.name for path in small_disk.iterdir()] == [NEWEST]
    header = (small_disk / NEWEST / "part-00000-of-00002.safetensors").read_bytes()
    assert json.loads(header[8 : 8 + int.from_bytes(header[:8], "little")])["__metadata__"]["step"] == "12"
