import errno
import os

import pytest
from commands import tenner_here

from tenner.core import error_log
from tenner.core.errors import StorageFull, TennerError, Unexpected
from tenner.core.progress import Screen
from tenner.core.recipe import load
from tenner.core.run import open_run
from tenner.core.run_folder import RunFolder


def caught(error):
    try:
        raise error
    except type(error) as e:
        return e


@pytest.fixture
def folder(tmp_path):
    with open_run(tmp_path / "run", load("demo"), Screen(), budget_usd=None) as run:
        yield run.folder


def test_what_nobody_expected_is_one_line_and_a_log_in_the_run_folder(folder):
    error = caught(KeyError("row\n\x1b[2J 17"))
    error.add_note("in the stage train of runs/x")
    told = error_log.explain(error, folder.path)
    assert isinstance(told, Unexpected)
    assert str(told) == "KeyError in the stage train of runs/x: 'row\\n\\x1b[2J 17'"
    assert str(folder.path / "errors.log") in (told.hint or "")
    log = folder.path / "errors.log"
    assert "Traceback (most recent call last)" in log.read_text()
    assert log.stat().st_mode & 0o077 == 0
    folder.verify_stages()


def test_without_a_run_folder_the_log_is_a_file_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    told = error_log.explain(caught(ValueError("a\nb")), tmp_path / "none")
    (log,) = tmp_path.glob("tenner-error-*.log")
    assert str(log) in (told.hint or "")
    assert str(told) == "ValueError: a b"


@pytest.mark.parametrize(
    ("number", "kind"), [(errno.ENOSPC, StorageFull), (errno.EROFS, TennerError), (errno.EACCES, TennerError)]
)
def test_a_disk_that_refuses_is_no_fault_of_tenner(number, kind, tmp_path):
    told = error_log.explain(OSError(number, os.strerror(number), "/x/y"), tmp_path)
    assert type(told) is kind
    assert "/x/y" in str(told)
    assert told.exit_code == 2


def test_a_stage_says_its_name(folder):
    def work_and_fail():
        with folder.stage("clean"):
            raise LookupError("gone")

    with pytest.raises(LookupError) as error:
        work_and_fail()
    assert str(error_log.explain(error.value, None)) == f"LookupError in the stage clean of {folder.path}: gone"


@pytest.mark.parametrize("name", ["recipe.toml", "provenance.json", "run.json"])
def test_a_changed_file_of_the_start_is_named(name, tmp_path):
    path = tmp_path / "run"
    with open_run(path, load("demo"), Screen(), budget_usd=None):
        pass
    text = (path / name).read_text()
    (path / name).write_text(text.replace("0", "1", 1))
    assert (path / name).read_text() != text
    done = tenner_here("show", path) if name != "provenance.json" else tenner_here("run", "demo", "--run-dir", path)
    assert done.returncode == 2
    assert f"{name} is " in done.stderr
    (path / name).write_text(text)
    assert tenner_here("show", path).returncode == 0


def test_a_run_whose_provenance_was_deleted_goes_on(tmp_path):
    path = tmp_path / "run"
    for _ in range(2):
        with open_run(path, load("demo"), Screen(), budget_usd=None):
            pass
        assert "tenner" in RunFolder(path).read_start_file("provenance.json")
        (path / "provenance.json").unlink()
