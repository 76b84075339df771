import pytest

from tenner.core.errors import TennerError
from tenner.core.jsonl import read_objects


def test_objects_come_with_their_lines(tmp_path):
    file = tmp_path / "a.jsonl"
    file.write_bytes(b'\xef\xbb\xbf{"a": 1}\n\n  \n{"a": 2}')
    assert [(line.number, line.fields) for line in read_objects(file)] == [(1, {"a": 1}), (4, {"a": 2})]


def test_half_a_character_is_the_replacement_character(tmp_path):
    file = tmp_path / "a.jsonl"
    file.write_text('{"cut": ["half \\ud83d a?"], "\\uDE00": 1, "whole": "\\ud83d\\ude00", "text": "\\\\ud83d"}')
    (line,) = read_objects(file)
    assert line.fields == {"cut": ["half \ufffd a?"], "\ufffd": 1, "whole": "\U0001f600", "text": "\\ud83d"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"a": 1}\n{"a"\n', r"a\.jsonl, line 2 is not JSON"),
        (b"[1]\n", r"a\.jsonl, line 1 is not an object"),
        (b"[" * 100_000, r"a\.jsonl, line 1 is not JSON"),
        (b'{"a": 1}\n{"a": "\xff"}\n', r"a\.jsonl, line 2 cannot be read: it is not UTF-8 text"),
    ],
)
def test_what_cannot_be_read_is_one_line(tmp_path, content, message):
    file = tmp_path / "a.jsonl"
    file.write_bytes(content)
    with pytest.raises(TennerError, match=message) as caught:
        list(read_objects(file))
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(TennerError, match="cannot be read: No such file"):
        list(read_objects(tmp_path / "a.jsonl"))
