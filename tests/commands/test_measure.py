"""A benchmark asked without a training: by an engine with a tiny model, and through the API of a server on loopback."""

import json
import os
import re
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from chat_families import QWEN35_SMALL
from chat_server import ChatServer, usage_of

from tenner import cli, measurement
from tenner.budget.ledger_database import read_spend
from tenner.clients.registry import client_for
from tenner.commands import compare as comparejob
from tenner.commands import export as exportjob
from tenner.commands import grade as gradejob
from tenner.core import hardware
from tenner.core import recipe as recipes
from tenner.core.errors import TennerError
from tenner.core.records import Completion, Question, Score, Setting
from tenner.core.run_folder import RunFolder
from tenner.core.sections import ApiModel, PriceSection, TraceSection

QUESTIONS = 10


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Sums, of which the last has another answer than the server gives."""
    path = tmp_path_factory.mktemp("data") / "sums.jsonl"
    rows = [{"question": f"What is {n} plus {n}?", "answer": str(2 * n)} for n in range(QUESTIONS)]
    rows[-1]["answer"] = "0"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def measured(*args, code=0):
    """Say `tenner measure …` in this process."""
    with pytest.raises(SystemExit) as ended:
        cli.main(["measure", *map(str, args)])
    assert ended.value.code == code


def options(data, path, **more):
    """The options of a sweep over two budgets."""
    given = {"format": "think", "data": data, "thinking": "0,4", "answer": 4, "rows": 4, "run-dir": path} | more
    return [part for name, value in given.items() for part in (f"--{name}", str(value))]


@pytest.mark.parametrize("place", ["the data", "a task's data", "its folder", "a column", "the model"])
def test_names_that_are_not_utf_8_are_refused_in_a_line(place, data, tiny_model_dir, tmp_path, capsys):
    odd = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))
    odd.mkdir()
    model, args = tiny_model_dir, options(data, tmp_path / "m")
    match place:
        case "the model":
            model = shutil.copytree(model, odd / "model")
        case "a column":
            args += ["--column", f"answer={odd.name}"]
        case "its folder":
            args += ["--data", shutil.copy(data, odd)]
        case _:
            args += ["--data", shutil.copy(data, odd / f"{odd.name}.jsonl"), "--questions", 1]
            args += ["--task", "GSM8K"] if "task" in place else []
    measured(model, *args, code=2)
    said = capsys.readouterr().err
    assert said.startswith("tenner: ")
    assert "\\udce9" in said
    assert "not UTF-8, and cannot be written down" in said
    assert len(said.splitlines()) <= 2


@pytest.fixture(scope="module")
def sampled(tiny_model_dir, data, tmp_path_factory):
    """The tiny model, three answers to each question."""
    path = tmp_path_factory.mktemp("measured") / "sampled"
    measured(tiny_model_dir, *options(data, path, samples=3, temperature=0.9, waits=1))
    return RunFolder(path)


def test_each_question_is_answered_so_often_under_every_policy_and_scored_as_one_cluster(sampled):
    done = sampled.read("completions", Completion)
    assert len({(c.question_id, c.policy, c.sample_index) for c in done}) == len(done) == QUESTIONS * 3 * 3
    assert {c.student for c in done} == {"model"}
    first, second = ([c.token_ids for c in done if c.sample_index == k] for k in (0, 1))
    assert first != second
    for s in sampled.read("scores", Score):
        assert (s.n, s.samples, s.missing) == (QUESTIONS, 3, 0)
        assert s.majority is not None
        assert s.solved is not None
    (setting,) = sampled.read("settings", Setting)
    precision = {"bf16": "bfloat16", "fp32": "float32"}[hardware.best_precision("cpu")]
    assert (setting.engine, setting.precision, setting.device) == ("hf", precision, "cpu")
    assert len(set(setting.seeds)) == setting.samples == 3
    assert setting.parameters == {"temperature": 0.9, "top_p": 1.0}
    assert setting.template_sha256 is not None
    assert {"torch", "transformers", "commit"} <= setting.versions.keys()
    report = (sampled.path / "report.md").read_text()
    page = (sampled.path / "report.html").read_text()
    assert "<script" not in page
    assert "<caption>Spend by stage</caption>" in page
    assert all(
        word in report for word in ("majority right", "How the answers came about", setting.template_sha256[:12])
    )


def test_the_same_command_goes_on_and_repeats_nothing(sampled, tiny_model_dir, data, capsys):
    """As after a kill between two groups: what is missing is answered with the same tokens, what is there is kept."""
    whole = (sampled.path / "completions.jsonl").read_text().splitlines(keepends=True)
    (sampled.path / "completions.jsonl").write_text("".join(whole[:12]))  # the first group
    (sampled.path / "stages" / "evaluate.json").unlink()
    command = [tiny_model_dir, *options(data, sampled.path, samples=3, temperature=0.9, waits=1), "--json"]
    measured(*command)
    assert (sampled.path / "completions.jsonl").read_text() == "".join(whole)
    assert len(sampled.read("settings", Setting)) == 1
    said = json.loads(capsys.readouterr().out)
    assert [s["name"] for s in said["stages"]] == ["gather", "evaluate", "report"]
    assert len(said["scores"]) == 3
    measured(*command[:-1], "--seed", "1", code=2)
    assert "seed is 0 there and 1 here" in capsys.readouterr().err


def test_compare_export_and_grade_read_it(sampled, tmp_path, capsys):
    found = json.loads(comparejob.run(sampled.path, sampled.path, students=[], policy="0", as_json=True))
    assert (found["tasks"][0]["n"], found["tasks"][0]["a"]["student"]) == (QUESTIONS, "model")
    written = exportjob.run(sampled.path, tmp_path / "log").splitlines()
    assert len(written) == 3
    assert all(len(json.loads(line)["resps"][0]) == 3 for line in Path(written[0]).read_text().splitlines())
    again = {id_: grade.verdict for id_, grade in gradejob.run(sampled.path)}
    assert len(again) == QUESTIONS * 9
    assert sum(v == "correct" for v in again.values()) == sum(
        c.grade.verdict == "correct" for c in sampled.read("completions", Completion)
    )
    with pytest.raises(SystemExit) as refused:
        cli.main(["train", str(sampled.path)])
    assert (refused.value.code, "holds a measurement, not a run" in capsys.readouterr().err) == (2, True)


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--task", "GSM9K"], "no task is called GSM9K\nhint: did you mean GSM8K?"),
        (["--data", "none.jsonl"], "none.jsonl"),
        ([], "no questions are named"),
        (["--data", "DATA", "--samples", "2"], "evaluate.samples is 2 at temperature 0"),
        (["--data", "DATA", "--early-exit", "{}"], 'every_tokens and at = "tokens" belong together'),
        (["--data", "DATA", "--grace", "5"], "--grace 5 is not a JSON object"),
        (
            ["--data", "DATA", "--questions", "0"],
            "sample: Input should be greater than 0 (got 0)",
        ),
        (["--data", "DATA", "--budget-usd", "nan"], "--budget-usd nan is not an amount of dollars"),
        (["--data", "DATA", "--price-usd-per-hour", "inf", "--budget-usd", "1"], "inf"),
        (
            ["--data", "DATA", "--temperature", "nan", "--samples", "2"],
            "--temperature: nan is not a number up to",
        ),
        (["--data", "DATA", "--thinking", "much"], "--thinking much is no list of numbers"),
        (["--data", "DATA", "--thinking", "4,0"], "thinking_tokens_max must ascend"),
        (["--data", "DATA", "--price-usd-per-hour", "1"], "--budget-usd is missing"),
        (["--data", "DATA", "--set", "evaluate.vllm.enforce_eager=true"], "evaluate.vllm is for vLLM"),
        (["--data", "DATA", "--set", "evaluate.enginge=hf"], "--set: unknown key evaluate.enginge\nhint: did you mean"),
    ],
)
def test_what_cannot_be_measured_is_refused_in_a_line(args, said, tiny_model_dir, data, tmp_path, capsys):
    given = [str(data) if arg == "DATA" else arg for arg in args]
    measured(tiny_model_dir, "--format", "think", "--run-dir", tmp_path / "run", *given, code=2)
    out, err = capsys.readouterr()
    assert (out, said in err) == ("", True), err
    assert not (tmp_path / "run").exists()


def test_a_model_is_not_fetched_for_what_cannot_be(data, capsys):
    """Nobody answers to this name, and nobody is asked."""
    measured("hf:nobody/nothing", "--format", "think", "--data", str(data), "--samples", "2", code=2)
    assert "evaluate.samples is 2 at temperature 0" in capsys.readouterr().err


@pytest.mark.skipif(find_spec("vllm") is not None, reason="it is installed here")
def test_an_engine_that_is_not_installed_is_found_out_before_anything(tiny_model_dir, data, tmp_path, capsys):
    measured(tiny_model_dir, *options(data, tmp_path / "run", engine="vllm"), code=2)
    assert "vLLM is not installed here\nhint: pip install vllm" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def described(server, data, tmp_path, **model):
    """A file in which only a model behind an API is asked."""
    fields = {"name": "adder", "base_url": server.url, "model": "m", "output_tokens_max": 500, "concurrency": 4} | model
    lines = [f"{name} = {json.dumps(value)}" for name, value in fields.items()]
    path = tmp_path / "adder.toml"
    path.write_text("\n".join([
        'name = "sums"', "seed = 0", "budget_usd = 1.0",
        "[[evaluate.benchmarks]]", 'name = "sums"', f'file = "{data}"', 'suffix = " In a box."',
        "[[evaluate.models]]", *lines, "[evaluate.models.price]",
        "input_usd_per_mtok = 1.0", "output_usd_per_mtok = 2.0",
    ]))  # fmt: skip
    return path


def microusd(usages):
    return sum(u["prompt_tokens"] + 2 * u["completion_tokens"] for u in usages)


def test_a_model_behind_an_api_is_asked_the_same_and_its_bill_is_the_server_s(data, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("THE_KEY", "sk-right-key-345")
    folder = RunFolder(tmp_path / "run")
    with ChatServer(key="sk-right-key-345") as server:
        file = described(server, data, tmp_path, api_key_env="THE_KEY")
        measured(file, "--run-dir", folder.path, "--budget-usd", "0.0017", code=3)
        first = folder.read("completions", Completion)
        assert 0 < len(first) < QUESTIONS  # what the cap let through is kept
        measured(file, "--run-dir", folder.path, "--budget-usd", "1")
        asked = [a.question for a in server.asked]
    questions = {q.id: q.question + q.suffix for q in folder.read("benchmark", Question)}
    assert sorted(asked) == sorted(questions.values())  # each once
    done = folder.read("completions", Completion)
    wrong = [questions[c.question_id] for c in done if c.grade.verdict != "correct"]
    assert wrong == ["What is 9 plus 9? In a box."]
    assert all(c.answer and c.thinking and c.thinking_tokens is None for c in done)
    (spend,) = read_spend(folder.path / "run.db")
    paid = microusd(map(usage_of, asked))
    assert (spend.stage, spend.calls, round(spend.cost_usd * 1e6)) == ("evaluate", QUESTIONS, paid)
    assert round(sum(c.cost_usd or 0 for c in done) * 1e6) == paid
    assert sum(c.answer_tokens for c in done) == spend.output_tokens
    report = (folder.path / "report.md").read_text()
    assert (
        f"| adder | 90.0\u00a0% | 59.6\u201398.2\u00a0% | 10 | {spend.output_tokens / 10:.1f} | \\${paid / 1e6:.6f}"
        in report
    )
    (setting,) = folder.read("settings", Setting)
    assert (setting.engine, setting.model, setting.precision) == ("openai", f"{server.url}/m", None)
    written = exportjob.run(folder.path, tmp_path / "log").splitlines()
    rows = [json.loads(line) for line in Path(written[0]).read_text().splitlines()]
    assert {row["arguments"]["gen_args_0"]["arg_0"] for row in rows} == set(questions.values())
    assert all("thinking_tokens" not in (*row, *row["metrics"]) for row in rows)  # it did not tell, and that is not 0
    assert "sk-right-key-345" not in "".join(p.read_text(errors="ignore") for p in folder.path.iterdir() if p.is_file())
    capsys.readouterr()


@pytest.mark.parametrize("bound", ["evaluate.waits=[1]", "evaluate.thinking_tokens_min=5"])
def test_models_behind_apis_are_not_forced(bound, data, tmp_path, capsys):
    with ChatServer() as server:
        measured(described(server, data, tmp_path), "--run-dir", tmp_path / "run", "--set", bound, code=2)
    assert "the largest of thinking_tokens_max" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_no_key_is_found_before_anything_is_asked(data, tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("NO_KEY", raising=False)
    with ChatServer() as server:
        measured(described(server, data, tmp_path, api_key_env="NO_KEY"), "--run-dir", tmp_path / "run", code=2)
        assert server.asked == []
    assert "NO_KEY" in capsys.readouterr().err


def test_a_model_that_hides_its_thinking_can_be_measured_and_cannot_teach(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-any")
    fields: dict[str, Any] = {"client": "openai", "preset": "openai", "model": "o1"}
    fields["price"] = PriceSection(input_usd_per_mtok=15.0, output_usd_per_mtok=60.0)
    assert client_for(ApiModel(name="o1", **fields)).price.model == "o1"
    with pytest.raises(TennerError, match="does not show the reasoning"):
        client_for(TraceSection(**fields))


def test_what_is_no_answer_is_missing_or_unparsed_but_never_wrong(data, tmp_path, capsys):
    behaviours = ["not a completion", "content filter", "refused"]
    scripts = {f"What is {n} plus {n}? In a box.": [b] for n, b in enumerate(behaviours)}
    folder = RunFolder(tmp_path / "run")
    with ChatServer(scripts=scripts) as server:
        measured(described(server, data, tmp_path), "--run-dir", folder.path, code=4)
    questions = {q.id: q.question + q.suffix for q in folder.read("benchmark", Question)}
    verdicts = {questions[c.question_id]: c.grade.verdict for c in folder.read("completions", Completion)}
    assert [verdicts.get(question) for question in scripts] == [None, "unparsed", None]
    (score,) = folder.read("scores", Score)
    assert (score.n, score.missing, score.unparsed) == (8, 2, 1)
    told = capsys.readouterr()
    assert "adder: 2 answers are missing" in told.err
    assert "tenner: 2 calls of evaluate failed for good: refused 1, unreadable 1" in told.err
    assert "adder" in told.out  # what it came to is printed all the same


def test_a_model_beside_a_run_s_students_needs_a_name_of_its_own():
    model = {"name": "o9", "base_url": "http://127.0.0.1:1/v1", "model": "m"}
    text = recipes.built_in()["demo"]

    def asked(**changes):
        fields = "\n".join(f"{name} = {json.dumps(value)}" for name, value in (model | changes).items())
        return recipes.parse(f"{text}\n[[evaluate.models]]\n{fields}\n", where="r").evaluate.models

    assert [m.name for m in asked()] == ["o9"]
    with pytest.raises(TennerError, match="the name base belongs to a student"):
        asked(name="base")
    with pytest.raises(TennerError, match="client: Input should be 'openai' or 'gemini'"):
        asked(client="reference-solution")


def test_the_chat_template_is_asked_as_the_options_say(tiny_model_dir, data, tmp_path, capsys):
    model = tmp_path / "model"
    shutil.copytree(tiny_model_dir, model)
    (model / "chat_template.jinja").write_text(QWEN35_SMALL)
    given = [model, "--data", data, "--thinking", "2", "--answer", "2", "--run-dir", tmp_path / "run"]
    measured(*given, code=2)
    assert "ends the thinking before it begins" in capsys.readouterr().err
    for kwargs, said in (("{", "is not a JSON object"), ('{"thinks": 1}', "thinks has no effect")):
        measured(*given, "--chat-template-kwargs", kwargs, "--run-dir", tmp_path / "wrong", code=2)
        assert said in capsys.readouterr().err
    right = ["--chat-template-kwargs", '{"enable_thinking": true}', "--run-dir", tmp_path / "right"]
    measured(*given, *right)
    (setting,) = RunFolder(tmp_path / "right").read("settings", Setting)
    assert setting.chat_template_kwargs == {"enable_thinking": True}
    report = (tmp_path / "right" / "report.md").read_text()
    assert re.search(r"template arguments +\| enable\\?_thinking True", report)
    for c in RunFolder(tmp_path / "right").read("completions", Completion):
        assert c.thinking_tokens == 2
        assert [i.kind for i in c.interventions] == ["cut", "close", "cue"]
    (model / "chat_template.jinja").unlink()
    measured(*given, "--format", "think", "--run-dir", tmp_path / "base", code=2)
    assert "the student's tokenizer has no chat template" in capsys.readouterr().err
    measured(*given, "--format", "think", "--chat-template", "chatml", "--run-dir", tmp_path / "named")
    assert len(RunFolder(tmp_path / "named").read("completions", Completion)) == QUESTIONS


@pytest.mark.parametrize(
    "text",
    ["evaluate = 3", "machine = 3", "[evaluate]\nsampling = 3", "[evaluate]\napi = 3", "[evaluate]\nbenchmarks = [3]"],
)
def test_a_file_whose_tables_are_none_is_refused(text, tmp_path):
    (tmp_path / "m.toml").write_text(text)
    with pytest.raises(TennerError, match=r"m\.toml: (evaluate|machine).* is not a "):
        measurement.describe(str(tmp_path / "m.toml"), measurement.MeasureOptions(questions=1, temperature=1.0))
