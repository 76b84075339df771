import errno
import fcntl
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tenner.budget.ledger import Ledger
from tenner.core.errors import StorageFull, TennerError
from tenner.core.records import Drop, Question
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
    assert "local disk" in (caught.value.hint or "")


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


def cut(path):
    path.write_bytes(path.read_bytes()[:-20])


def change_a_digit(path):
    text = path.read_bytes()
    path.write_bytes(text.replace(b'"1"', b'"7"', 1))
    assert path.read_bytes() != text


DAMAGES = {
    "cut": cut,
    "emptied": lambda path: path.write_bytes(b""),
    "deleted": lambda path: path.unlink(),
    "doubled": lambda path: path.write_bytes(2 * path.read_bytes()),
    "a digit changed": change_a_digit,
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_file_of_a_finished_stage_is_not_read(damage, folder, tmp_path):
    with folder.stage("gather"):
        folder.write("d", drops(3))
    with folder.stage("clean"):
        assert folder.read("d", Drop) == drops(3)
    damage(folder.path / "d.jsonl")
    for reader in (folder, RunFolder(tmp_path / "run")):
        with pytest.raises(TennerError, match=r"d\.jsonl is damaged: it.* since the stage gather wrote it") as caught:
            reader.read("d", Drop)
        assert "delete d.jsonl and, in stages/, gather.json, clean.json" in (caught.value.hint or "")
        with pytest.raises(TennerError, match="is damaged"):
            reader.verify_stages("gather")
    folder.verify_stages("clean")


def test_a_file_that_a_later_stage_changes_is_vouched_for_by_the_later_one(folder):
    with folder.stage("gather"):
        folder.write("appended", drops(2))
        folder.write("replaced", drops(2))

    def work_and_be_interrupted():
        with folder.stage("clean"):
            folder.append("appended", drops(1))
            folder.write("replaced", drops(1))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        work_and_be_interrupted()
    folder.verify_stages()  # what an interrupted stage leaves is no damage
    change_a_digit(folder.path / "appended.jsonl")
    with pytest.raises(TennerError, match="its contents have changed since the stage gather wrote it"):
        folder.read("appended", Drop)
    folder.write("appended", drops(4))
    again = RunFolder(folder.path)
    with again.stage("clean"):  # of the next session, which finds all its work done
        assert (len(again.read("appended", Drop)), len(again.read("replaced", Drop))) == (4, 1)
    for name in ("appended", "replaced"):
        cut(folder.path / f"{name}.jsonl")
        with pytest.raises(TennerError, match="is damaged"):
            RunFolder(folder.path).read(name, Drop)


def test_a_model_folder_is_verified_but_for_its_card(folder):
    with folder.stage("train"):
        (folder.path / "student").mkdir()
        (folder.path / "student" / "model.safetensors").write_bytes(b'"1"' * 100)
        folder.wrote_folder("student")
        folder.write_text("student/README.md", "a card")
    folder.write_text("student/README.md", "an edited card")
    folder.verify_folder("student")
    folder.verify_stages()
    change_a_digit(folder.path / "student" / "model.safetensors")
    again = RunFolder(folder.path)
    again.verify_stages(contents_max_bytes=200)  # by its size alone
    with pytest.raises(TennerError, match=r"model\.safetensors is damaged: its contents have changed") as caught:
        again.verify_folder("student")
    assert "delete student and, in stages/, train.json" in (caught.value.hint or "")


def test_a_marker_of_the_version_before_has_no_hashes_and_is_read(folder):
    old = {"name": "gather", "seconds": 1.5, "items_in": 3, "items_out": 2}
    folder.write("d", drops(2))
    folder.write_text("stages/gather.json", json.dumps(old))
    again = RunFolder(folder.path)
    with again.stage("clean"):
        assert again.read("d", Drop) == drops(2)
        again.write("clean", drops(1))
    before, after = again.done("gather"), again.done("clean")
    assert before
    assert after
    assert before._asdict() == {**old, "number": 0, "files": {}}
    assert list(after.files) == ["clean.jsonl"], "whose d.jsonl is, nobody knows"


def test_a_marker_in_a_copy_vouches_for_what_was_copied(folder, tmp_path):
    with folder.stage("attempt") as clock:
        clock.items_out = 2
        folder.write("copied", drops(2))
        folder.append("left", drops(1))
    with folder.stage("evaluate"):
        folder.append("left", drops(1))
    copy = RunFolder(tmp_path / "copy")
    copy.path.mkdir()
    (copy.path / "copied.jsonl").write_bytes((folder.path / "copied.jsonl").read_bytes())
    done = folder.done("attempt")
    assert done
    copy.adopt(done)
    assert copy.read("left", Drop) == []
    adopted = copy.done("attempt")
    assert adopted
    assert (adopted.items_out, list(adopted.files)) == (2, ["copied.jsonl"])
    change_a_digit(copy.path / "copied.jsonl")
    with pytest.raises(TennerError, match="is damaged"):
        copy.read("copied", Drop)


def test_a_marker_with_another_count_is_damaged(folder):
    with folder.stage("gather") as clock:
        clock.items_in = 12
    marker = folder.path / "stages" / "gather.json"
    marker.write_text(marker.read_text().replace('"items_in": 12', '"items_in": 13'))
    with pytest.raises(TennerError, match=r"gather\.json is damaged"):
        folder.done("gather")


def test_a_lock_that_was_removed_lets_no_second_writer_in(folder):
    (folder.path / "lock").unlink()
    code = (
        "import sys; from pathlib import Path; from tenner.core.run_folder import RunFolder\n"
        "with RunFolder(Path(sys.argv[1])).writing(): pass"
    )
    other = subprocess.run([sys.executable, "-c", code, str(folder.path)], capture_output=True, text=True)
    assert "another tenner (process " in other.stderr
    assert other.returncode != 0


@pytest.mark.parametrize("name", ["d.jsonl", "run.db"])
def test_others_cannot_read_what_was_bought(name, folder):
    folder.append("d", drops(1))
    Ledger(folder.path / "run.db", budget_usd=1).close()
    assert (folder.path / name).stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    ("line", "said"),
    [(b"\xff\x00\x01", "line 1 is not a Drop"), (b'{"id": "\xff"}', "line 1 is not a Drop"),
     (b"[" * 5_000, "line 1 is not a Drop"), (b'{"id": "\\ud83d", "reason": "", "evidence": ""}', "is not a Drop")],
    ids=["binary", "latin-1", "nested", "half a character"],
)  # fmt: skip
def test_what_is_no_record_is_one_line_with_its_place(line, said, folder):
    (folder.path / "d.jsonl").write_bytes(line + b"\n")
    with pytest.raises(TennerError, match=said) as caught:
        folder.read("d", Drop)
    assert "\n" not in str(caught.value)


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
        filler = folder.path / "filler"
        filler.write_bytes(b"x" * 4096)
        with pytest.raises(StorageFull, match="the disk is full"):
            folder.append("d", drops(200, "y" * 700))
        filler.unlink()  # space that was just freed: nothing of a line may be flushed into it
        folder.append("d", drops(1))
        assert folder.read("d", Drop) == [*drops(100), *drops(1)]
        folder.write("d", drops(100))
        with pytest.raises(StorageFull):
            folder.write("whole", drops(5000))
        assert folder.read("d", Drop) == drops(100)
        assert folder.read("whole", Drop) == drops(10)
        assert not list(folder.path.glob("*.partial"))


def test_a_row_that_another_file_names_and_that_is_gone(folder):
    folder.append("d", [Question(id="1", question="?", source="s")])
    found = folder.questions_by_id("d")
    assert found["1"].question == "?"
    with pytest.raises(TennerError, match=r"d\.jsonl has no question 7"):
        found["7"]


def test_a_folder_whose_name_is_too_long_is_one_line(tmp_path):
    path = tmp_path / ("a" * 300)
    with pytest.raises(TennerError, match="is not a run folder"):
        RunFolder.existing(path)
    with pytest.raises(TennerError, match="cannot be written: File name too long"), RunFolder(path).writing():
        pass
