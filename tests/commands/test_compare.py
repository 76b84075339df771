import json
import random

import pytest
from example_run import completion

from tenner import cli
from tenner.commands import compare as comparejob
from tenner.core import recipe
from tenner.core.errors import TennerError
from tenner.core.records import EarlyExit, Policy, Question
from tenner.core.run import start
from tenner.core.run_folder import RunFolder
from tenner.evaluation.statistics.paired import mcnemar

SHORT, LONG = Policy(thinking_tokens_max=8), Policy(thinking_tokens_max=64)
WAIT = Policy(thinking_tokens_max=64, waits=1)
EXIT = WAIT.model_copy(update={"early_exit": EarlyExit(every_tokens=8)})
VERDICTS = {"c": "correct", "w": "wrong"}


def run_folder(path, verdicts, *, samples=1, text="What is {}?"):
    """A run that has answered question 0, 1, … at its largest limit right (c), wrong (w) or not (-), else by chance."""
    path.mkdir()
    folder, r = RunFolder(path), random.Random(path.name)
    start(folder, recipe.load("demo"))
    folder.write("benchmark", [
        Question(id=str(i), question=text.format(i), answer="1", source="made up") for i in range(len(verdicts))
    ])  # fmt: skip

    def answer(i, v, policy, k):
        verdict = VERDICTS[v] if policy == LONG else r.choice(["correct", "wrong"])
        done = completion(str(i), verdict, student="distilled", policy=policy)
        return done.model_copy(update={"sample_index": k})

    folder.append("completions", [
        answer(i, v, policy, k)
        for policy in (SHORT, LONG, WAIT, EXIT) for i, v in enumerate(verdicts) if v != "-" for k in range(samples)
    ])  # fmt: skip
    return path


def compared(a, b, **options):
    options = {"students": [], "policy": None, "as_json": True} | options
    (task,) = json.loads(comparejob.run(a, b, **options))["tasks"]
    return task


def test_the_largest_limits_are_compared_and_what_one_has_not_answered_is_missing(tmp_path):
    a, b = run_folder(tmp_path / "a", "cwwwc-c"), run_folder(tmp_path / "b", "ccccc-" + "-")
    found = compared(a, b)
    assert (found["n"], found["more_a"], found["more_b"], found["both"], found["neither"]) == (5, 0, 3, 2, 0)
    assert (found["a"]["accuracy"], found["b"]["accuracy"], found["difference"]) == (0.4, 1.0, pytest.approx(0.6))
    assert (found["test"], found["p_value"]) == ("McNemar", mcnemar(0, 3))
    assert found["a"]["policy"]["thinking_tokens_max"] == 64
    assert found["a"]["policy"]["waits"] == 0
    assert (found["missing_a"], found["missing_b"]) == ([], ["6"])
    assert found["smallest_difference_seen"] == 1
    text = comparejob.run(a, b, students=[], policy=None, as_json=False)
    assert "heldout: 5 questions that both have answered" in text
    assert "B minus A: +60.0 points" in text
    assert "missing in B, and not compared: 1 (6)" in text


def test_several_answers_are_compared_by_questions(tmp_path):
    a, b = run_folder(tmp_path / "a", "cw" * 10, samples=4), run_folder(tmp_path / "b", "cc" * 10, samples=4)
    found = compared(a, b)
    assert (found["test"], found["n"], found["difference"]) == ("bootstrap", 20, 0.5)
    assert 0 < found["ci_low"] < 0.5 < found["ci_high"] <= 1
    assert found["p_value"] < 0.01


def test_a_policy_can_be_named(tmp_path):
    a, b = run_folder(tmp_path / "a", "cw" * 10), run_folder(tmp_path / "b", "cw" * 10)
    assert compared(a, b)["difference"] == 0
    assert compared(a, b, policy="8")["a"]["policy"] == SHORT.model_dump()
    assert compared(a, b, policy="64+1")["b"]["policy"] == WAIT.model_dump()
    assert compared(a, b, policy="64+1,early-exit")["b"]["policy"] == EXIT.model_dump()
    assert compared(a, b, policy=EXIT.model_dump_json())["b"]["policy"] == EXIT.model_dump()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"policy": "much"}, "--policy much is no policy"),
        ({"policy": "16"}, "has no answers under the policy 16"),
        ({"students": ["base"]}, "has no answers of untrained student"),
    ],
)
def test_what_is_not_there_is_refused_with_what_is(options, message, tmp_path):
    a, b = run_folder(tmp_path / "a", "cw"), run_folder(tmp_path / "b", "cw")
    with pytest.raises(TennerError, match=message) as e:
        compared(a, b, **options)
    assert e.value.hint


def test_one_id_for_two_questions_is_no_common_question(tmp_path, capsys):
    a = run_folder(tmp_path / "a", "cwc")
    b = run_folder(tmp_path / "b", "ccc", text="How many are {}?")
    with pytest.raises(SystemExit) as e:
        cli.main(["compare", str(a), str(b)])
    said = capsys.readouterr()
    assert (e.value.code, said.out) == (2, "")
    assert "have no answered question in common" in said.err
    assert "hint:" in said.err


def test_the_door_prints_one_json_object(tmp_path, capsys):
    a, b = run_folder(tmp_path / "a", "cwc"), run_folder(tmp_path / "b", "ccc")
    with pytest.raises(SystemExit) as e:
        cli.main(["compare", str(a), str(b), "--json"])
    assert e.value.code == 0
    assert json.loads(capsys.readouterr().out)["tasks"][0]["n"] == 3


def test_as_a_page_with_the_questions_that_differ(tmp_path, capsys):
    a = run_folder(tmp_path / "a", "cwc", text="<script>alert({})</script>")
    b = run_folder(tmp_path / "b", "ccc", text="<script>alert({})</script>")
    page = tmp_path / "both.html"
    with pytest.raises(SystemExit) as left:
        cli.main(["compare", str(a), str(b), "--html", str(page)])
    assert left.value.code == 0
    assert capsys.readouterr().out.strip() == str(page)
    text = page.read_text("utf-8")
    assert "B minus A: +33.3 points" in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text.replace("<wbr>", "")
    assert "alert(0)" not in text, "both are right there"
    assert "<script" not in text
