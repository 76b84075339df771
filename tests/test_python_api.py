"""The Python API: its names, its types, and the scripts in `examples/`."""

import json
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from chat_server import ChatServer
from paths import ROOT

import tenner

EXAMPLES = ROOT / "examples"


def example(name: str, *args: object) -> str:
    command = [sys.executable, EXAMPLES / name, *args]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_name_is_there_and_no_other():
    assert sorted(tenner.__all__) == tenner.__all__ or set(tenner.__all__) == set(dir(tenner))
    assert all(getattr(tenner, name) is not None for name in tenner.__all__)
    with pytest.raises(AttributeError, match="no attribute 'runn'"):
        tenner.runn  # noqa: B018


def test_importing_it_imports_nothing_heavy():
    code = "import sys, tenner; sys.exit(any(name in sys.modules for name in ('torch', 'pydantic', 'rich')))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_answers_are_graded(tmp_path: Path):
    file = tmp_path / "answers.jsonl"
    rows = [("a", "So it is \\boxed{42}.", "42"), ("b", "\\boxed{41}", "42"), ("c", "I do not know", "42")]
    fields = ("id", "response", "answer")
    file.write_text("".join(json.dumps(dict(zip(fields, row, strict=True))) + "\n" for row in rows))
    said = example("grade_answers.py", file)
    assert "a: correct, read as '42'" in said
    assert said.endswith("{'correct': 1, 'wrong': 1, 'unparsed': 1}\n")


@pytest.mark.slow
def test_traces_are_bought_under_a_cap_and_once(tmp_path: Path):
    with ChatServer() as server:
        said = [example("buy_traces.py", server.url, "m", tmp_path / "out") for _ in range(2)]
        assert len(server.asked) == 2
    assert said[0] == said[1]
    assert said[0].startswith("2 traces: complete 2\n")


@pytest.mark.slow
def test_a_model_is_measured(tiny_model_dir: Path, tmp_path: Path):
    file = tmp_path / "sums.jsonl"
    file.write_text("".join(json.dumps({"question": f"{n} + {n}?", "answer": str(2 * n)}) + "\n" for n in range(4)))
    said = example("measure_model.py", tiny_model_dir, file, tmp_path / "run").splitlines()
    assert [line.partition(" thinking")[0] for line in said[:3]] == [f"sums, at most {n}" for n in (0, 8, 16)]
    assert said[-1] == f"$0.0000, {tmp_path / 'run' / 'report.html'}"
    assert tenner.result(tmp_path / "run").scores[0].n == 4


def test_a_student_is_served_until_the_block_ends(tiny_model_dir: Path):
    options = tenner.StudentOptions(format="think", name="tiny", thinking_tokens_max=4, answer_tokens_max=4)
    body = {"model": "tiny", "messages": [{"role": "user", "content": "1 + 1?"}]}
    with tenner.serve(tiny_model_dir, options, engine="hf") as server:
        request = urllib.request.Request(
            f"{server.url}/v1/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request) as response:
            said = json.load(response)
    assert (server.model, said["model"]) == ("tiny", "tiny")
    assert said["usage"]["completion_tokens"] > 0
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(server.url)


def test_a_mistake_is_an_error_with_a_hint(tmp_path: Path):
    with pytest.raises(tenner.TennerError, match="no recipe is called dmo") as caught:
        tenner.run("dmo", run_dir=tmp_path / "run")
    assert caught.value.hint == "did you mean demo?"
    with pytest.raises(tenner.TennerError, match="client: Input should be"):
        tenner.trace([], out=tmp_path, budget_usd=1, client="pigeon")


TYPED = """
import tenner
done = tenner.run("demo", budget_usd=1.0)
reveal_type(done)
reveal_type(done.scores[0].accuracy)
reveal_type(tenner.grade("42", "42").verdict)
reveal_type(tenner.load_recipe("demo").train.lr)
reveal_type(tenner.Policy(thinking_tokens_max=3))
with tenner.serve("runs/demo") as server:
    reveal_type(server.url)
tenner.run("demo", budget="much")
"""


@pytest.mark.slow
def test_its_types_are_found_by_a_strict_checker(tmp_path: Path):
    pytest.importorskip("mypy")
    file = tmp_path / "typed.py"
    file.write_text(TYPED)
    checked = subprocess.run(
        [sys.executable, "-m", "mypy", file], capture_output=True, text=True, cwd=ROOT
    )  # strict by the project's settings, whose cache has the package
    told = checked.stdout
    for type_ in ("tenner.api.RunResult", "float", "tenner.core.records.Policy", "str"):
        assert f'Revealed type is "{type_}"' in told or f'Revealed type is "builtins.{type_}"' in told, told
    assert 'Unexpected keyword argument "budget"' in told
