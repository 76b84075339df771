import json
import subprocess
import sys

import pytest
from paths import DATA

from tenner import cli
from tenner.commands.grade import read_rows
from tenner.core.errors import TennerError
from tenner.core.records import Question
from tenner.evaluation.grading.grader import grade_trace
from tenner.evaluation.grading.maths import symbolic

ROWS = [
    {"id": "a", "response": r"So \boxed{0.5}", "answer": r"\frac12"},
    {"id": "b", "response": r"So \boxed{025}", "answer": 25, "kind": "integer"},
    {"id": "c", "response": "**Answer: D**", "answer": "C", "kind": "choice"},
    {"id": "d", "response": "Who\nknows?", "answer": "7"},
    {"id": "e", "response": "The answer is Tuesday", "answer": "tuesday", "kind": "text"},
    {"id": 6, "response": r"\boxed{2,9,9}", "answer": "2, 9"},
    {"id": 7, "response": r"\boxed{7}", "answer": float("nan")},
    {"id": 8, "response": None, "answer": [7]},
]
VERDICTS = ["correct", "correct", "wrong", "unparsed", "correct", "wrong", "unparsed", "unparsed"]


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS) + "\n", "utf-8")
    return path


def grade(*args):
    with pytest.raises(SystemExit) as e:
        cli.main(["grade", *map(str, args)])
    return e.value.code


def test_one_object_a_row_with_its_verdict_and_why(file):
    done = subprocess.run([sys.executable, "-m", "tenner", "grade", file, "--json"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["verdict"] for row in rows] == VERDICTS
    assert [row["id"] for row in rows] == ["a", "b", "c", "d", "e", "6", "7", "8"]
    assert {tuple(row) for row in rows} == {("id", "verdict", "extracted", "reason")}
    assert [row["extracted"] for row in rows[:4]] == ["0.5", "25", "D", None]
    assert rows[5]["reason"].startswith("the verifiers disagree")
    assert [row["reason"] for row in rows[6:]] == ["there is no reference answer", "no answer is stated"]


def test_counts_and_what_is_not_correct_as_text(file, capsys, monkeypatch):
    assert grade(file) == 0
    out = capsys.readouterr().out
    assert "8 rows: 3 correct, 2 wrong, 3 unparsed; the verifiers disagree on 1" in out
    assert "Tuesday" not in out
    monkeypatch.setattr(symbolic, "is_available", lambda: False)
    assert grade(file) == 0
    assert "by the exact verifier alone" in capsys.readouterr().out


BAD = [
    ("{", "line 2 is not JSON"), ("[]", "line 2 is not an object"),
    ('{"id": 1, "response": "x"}', "line 2 has no answer"),
    ('{"id": 1, "answer": "x"}', "line 2 has no response"), ('{"response": "x", "answer": "x"}', "line 2 has no id"),
    ('{"id": 1, "response": 5, "answer": "x"}', "line 2: response is no text"),
    ('{"id": 1, "response": "x", "answer": [{}]}', "line 2: answer is a dict"),
    ('{"id": true, "response": "x", "answer": "x"}', "line 2: id is no text"),
    ('{"id": 1, "response": "x", "answer": "x", "kind": "essay"}', "line 2: no kind is called essay"),
    ('{"id": 1, "response": "x", "answer": "x", "kind": ["maths"]}', "line 2: no kind"),
    ('{"id": 1, "response": "x", "answer": "x", "kind": "integer"}', "line 2: the answer 'x' is no integer"),
]  # fmt: skip


@pytest.mark.parametrize(("line", "message"), BAD)
def test_a_bad_row_is_refused_with_its_line(line, message, tmp_path, capsys):
    path = tmp_path / "bad.jsonl"
    path.write_text(json.dumps({"id": 0, "response": "7", "answer": "7"}) + "\n" + line + "\n", "utf-8")
    assert grade(path, "--json") == 2
    out, err = capsys.readouterr()
    assert (out, message in err) == ("", True), err


def test_a_file_without_rows_or_none_at_all_is_refused(tmp_path, capsys):
    (tmp_path / "empty.jsonl").write_text("\n")
    assert [grade(tmp_path / "empty.jsonl"), grade(tmp_path / "none.jsonl"), grade(tmp_path)] == [2, 2, 2]
    assert "holds no rows" in capsys.readouterr().err


STRANGERS = {
    "bom": ["correct"], "crlf": ["correct", "correct"], "list_answer": ["correct"], "bool_answer": ["wrong"],
    "nested_boxes": ["correct", "correct"], "null_response": ["correct", "unparsed"], "lone_surrogate": ["wrong"],
    "number_answers": ["correct", "correct", "correct", "no reference", "correct"],
    "empty_answer": ["correct", "no reference"],
    "array.json": "array.json, line 1 is not an object", "missing_key": "line 1 has no id",
}  # fmt: skip
"""Files of others, and the exact verifier's verdicts or the refusal. What a box holds is an answer, whatever it is."""


@pytest.mark.skipif(not (DATA / "strangers").exists(), reason="the files of others are not here")
def test_the_files_of_others_are_graded_row_by_row_or_refused_in_one_line():
    for name, expected in STRANGERS.items():
        path = DATA / "strangers/files" / (name if "." in name else f"{name}.jsonl")
        if isinstance(expected, str):
            with pytest.raises(TennerError) as refused:
                read_rows(path)
            assert expected in str(refused.value)
            continue
        verdicts = []
        for id_, asked, has_reference in read_rows(path):
            question = Question(id=id_, question="?", answer=asked.reference, kind=asked.kind, source="t")
            verdicts.append(grade_trace(asked.response, question).verdict if has_reference else "no reference")
        assert verdicts == expected, name
