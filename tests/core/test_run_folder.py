import errno
import fcntl
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tenner.core.errors import StorageFull, TennerError
from tenner.core.records import Drop
from tenner.core.run_folder import RunFolder


def drops(n, text="x"):
    return [Drop(id=str(i), reason=text, evidence="") for i in range(n)]


@pytest.fixture
def folder(tmp_path):
    run = RunFolder(tmp_path / "run")
    with run.writing():
        yield run


def test_records_come_back_as_they_were(folder):
    folder.append("d", drops(2))
    folder.append("d", drops(1, "ünïcode\nline"))
    assert folder.read("d", Drop) == [*drops(2), *drops(1, "ünïcode\nline")]
    assert folder.read("nothing", Drop) == []


def test_a_corrupt_line_is_named_with_its_place(folder):
    folder.append("d", drops(2))
    path = folder.path / "d.jsonl"
    path.write_text(path.read_text().replace('"id":"1"', '"id":1'))
    with pytest.raises(TennerError, match=r"d\.jsonl, line 2 is not a Drop") as caught:
        folder.read("d", Drop)
    assert caught.value.hint


def test_what_a_kill_left_of_a_line_is_passed_over_and_then_cut(folder, tmp_path):
    folder.append("d", drops(2))
    path = folder.path / "d.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"id":"2","rea')
    assert folder.read("d", Drop) == drops(2)
    again = RunFolder(tmp_path / "run")
    with pytest.raises(TennerError), again.writing():
        raise AssertionError("the lock is taken")
    folder._mend_tails()
    assert path.read_bytes() == whole


def test_a_second_writer_is_refused_and_told_who_has_the_lock(folder):
    code = (
        "import sys; from pathlib import Path; from tenner.core.run_folder import RunFolder\n"
        "with RunFolder(Path(sys.argv[1])).writing(): pass"
    )
    other = subprocess.run([sys.executable, "-c", code, str(folder.path)], capture_output=True, text=True)
    assert "another tenner (process " in other.stderr
    assert other.returncode != 0


def test_the_lock_is_free_when_the_writer_has_gone(tmp_path):
    for _ in range(2):
        with RunFolder(tmp_path / "run").writing():
            pass


def test_a_folder_that_is_a_file(tmp_path):
    (tmp_path / "run").write_text("")
    with pytest.raises(TennerError, match="cannot be written"), RunFolder(tmp_path / "run").writing():
        pass


@pytest.mark.parametrize("path", ["/dev/null/run", "/proc/run"])
def test_a_place_where_nothing_can_be_written(path):
    with pytest.raises(TennerError, match="cannot be written: "), RunFolder(Path(path)).writing():
        pass


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_file_system_without_locks(number, tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(TennerError, match="does not lock files") as caught, RunFolder(tmp_path / "run").writing():
        pass
    assert "local disk" in caught.value.hint


def test_a_marker_is_written_when_the_stage_has_ended_and_not_before(folder):
    with folder.stage("clean") as clock:
        clock.items_in, clock.items_out = 10, 7
        assert folder.done("clean") is None
    done = folder.done("clean")
    assert (done.name, done.items_in, done.items_out) == ("clean", 10, 7)


def test_the_time_of_an_interrupted_stage_is_kept(folder):
    def work_fifty_seconds_and_be_interrupted():
        with folder.stage("train") as clock:
            clock._started -= 50
            raise KeyboardInterrupt

    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            work_fifty_seconds_and_be_interrupted()
    assert folder.done("train") is None
    assert 100 <= folder.begun_seconds("train") < 101
    with folder.stage("train"):
        pass
    assert 100 <= folder.done("train").seconds < 101
    assert folder.begun_seconds("train") is None


def test_a_damaged_marker(folder):
    folder.write_text("stages/clean.json", json.dumps({"what": 1}))
    with pytest.raises(TennerError, match="is damaged"):
        folder.done("clean")


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 64 KiB (tmpfs); needs the right to mount, which an ordinary user does not have."""
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", tmp_path], capture_output=True)
    if mount.returncode:
        pytest.skip("this user may not mount a tmpfs")
    yield tmp_path
    subprocess.run(["umount", "--lazy", tmp_path], check=True)


def test_a_full_disk_loses_nothing(small_disk):
    folder = RunFolder(small_disk / "run")
    with folder.writing():
        folder.append("d", drops(100))
        folder.write("whole", drops(10))
        with pytest.raises(StorageFull, match="the disk is full"):
            folder.append("d", drops(5000))
        with pytest.raises(StorageFull):
            folder.write("whole", drops(5000))
        assert folder.read("d", Drop) == drops(100)
        assert folder.read("whole", Drop) == drops(10)
        assert not list(folder.path.glob("*.partial"))
