from pathlib import Path

from tenner.core.followed_file import FollowedFile


def test_it_counts_whole_lines_and_keeps_the_last_objects(tmp_path: Path) -> None:
    file = FollowedFile(tmp_path / "a.jsonl", keep=2)
    file.update()
    assert (file.count, list(file.last)) == (0, [])
    file.path.write_bytes(b'{"a": 1}\n{"a": 2}\n{"a"')
    file.update()
    assert (file.count, list(file.last)) == (2, [{"a": 1}, {"a": 2}])
    with file.path.open("ab") as more:
        more.write(b': 3}\nnot json\n{"a": 5}\n')
    file.update()
    assert (file.count, list(file.last)) == (5, [{"a": 2}, {"a": 5}])


def test_a_file_that_was_written_anew_is_read_anew(tmp_path: Path) -> None:
    file = FollowedFile(tmp_path / "a.jsonl", keep=2)
    file.path.write_bytes(b'{"a": 1}\n{"a": 2}\n')
    file.update()
    file.path.write_bytes(b'{"b": 1}\n')
    file.update()
    assert (file.count, list(file.last)) == (1, [{"b": 1}])
    file.path.unlink()
    file.update()
    assert (file.count, list(file.last)) == (0, [])
