"""The door as a person meets it: the command, what it says and its exit code."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from typing import Any

import openai
import pytest
from commands import tenner, tenner_here

from tenner import cli, pipeline
from tenner.core import recipe
from tenner.core.errors import BudgetReached
from tenner.core.progress import Screen
from tenner.core.run import open_run
from tenner.core.run_folder import RunFolder
from tenner.core.stage_names import SELECT_FIRST, TRACE_FIRST


def refused(*args, by=tenner_here, exit_code=2):
    """The two lines that a refusal prints (message and hint), and nothing on stdout."""
    done = by(*args)
    assert done.returncode == exit_code, done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith(("tenner:", "hint:"))]
    assert lines, done.stderr
    return "\n".join(lines)


@pytest.fixture(scope="module")
def gathered(tiny_recipe, tmp_path_factory):
    """A run whose first two stages are done, stopped by the cap before it computes."""
    return stopped(tiny_recipe, tmp_path_factory.mktemp("runs") / "run")


def stopped(tiny_recipe, path):
    with (
        pytest.raises(BudgetReached),
        open_run(path, recipe.load(str(tiny_recipe)), Screen(), budget_usd=0.0) as run,
    ):
        pipeline.run_stages(run, ["gather", "clean", "attempt"])
    return path


def test_standard_streams_that_the_parent_closed_are_opened(monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    with pytest.raises(SystemExit) as ended:
        cli.main(["prices"])
    assert sys.stdout is not None
    sys.stdout.close()
    assert ended.value.code == 0


@pytest.mark.slow  # 6 s
def test_a_cap_below_the_low_estimate_is_refused_before_anything_starts(tiny_recipe, tmp_path):
    message = refused("run", tiny_recipe, "--run-dir", tmp_path / "run", "--budget-usd", "0", by=tenner)
    assert "the cap of $0 is below what the run takes at least: $" in message
    assert "hint: raise it (--budget-usd), or see `tenner plan`" in message
    assert not (tmp_path / "run").exists()


def test_the_cap_stops_with_exit_code_3_and_says_how_to_go_on(gathered):
    done = tenner_here("attempt", gathered)
    assert done.returncode == 3
    assert "the cap of $0.0000 is reached in attempt" in done.stderr
    assert "hint: nothing is lost: the same command with a higher --budget-usd goes on from here" in done.stderr


def test_a_misspelt_recipe_key(tiny_recipe, tmp_path):
    wrong = tmp_path / "wrong.toml"
    wrong.write_text(tiny_recipe.read_text().replace("epochs", "epoch"))
    line = next(i for i, text in enumerate(wrong.read_text().splitlines(), 1) if text.startswith("epoch"))
    assert refused("run", wrong, "--run-dir", tmp_path / "run") == (
        f"tenner: {wrong}, line {line}: unknown key train.epoch\nhint: did you mean epochs?"
    )
    assert not (tmp_path / "run").exists()


def test_a_missing_recipe_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "recipe none.toml cannot be read: No such file" in refused("run", "none.toml")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("", "no command is named\nhint: `tenner --help` has them all; `tenner run demo` is the first"),
        ("fork", "the following arguments are required: RUN\nhint: see `tenner fork --help`"),
        ("show RUN --jsn", "tenner: show does not take --jsn\nhint: did you mean --json?"),
        ("show RUN --why=q --xyz=3", "tenner: show does not take --xyz=3\nhint: see `tenner show --help`"),
        ("show RUN OTHER", "tenner: show does not take OTHER\nhint: see `tenner show --help`"),
        ("export RUN --out D --format x", "invalid choice: 'x'"),
    ],
)
def test_a_wrong_command_line(words, told):
    assert told in refused(*words.split())


def test_an_unknown_family(tmp_path):
    message = refused("run", "demo", "--run-dir", tmp_path / "run", "--set", 'gather.families=["shoping"]')
    assert message.endswith("no family is called shoping\nhint: did you mean shopping?")


@pytest.mark.slow
def test_a_student_that_is_not_there(tiny_recipe, tmp_path):
    message = refused("run", tiny_recipe, "--run-dir", tmp_path / "run", "--set", "student.model=/no/such/folder")
    assert "/no/such/folder does not exist" in message


@pytest.mark.parametrize("verb", ["show", "train", "chat"])
def test_a_folder_that_is_no_run(verb, tmp_path):
    assert f"{tmp_path} is not a run folder" in refused(verb, tmp_path)


LONG = "a" * 300
"""More characters than the name of a file may have."""


@pytest.mark.parametrize(
    "words",
    [
        ["show", LONG], ["watch", LONG], ["run", LONG], ["run", f"{LONG}.toml"], ["plan", LONG], ["overlap", LONG],
        ["grade", f"{LONG}.jsonl"], ["export", LONG, "--format", "sft", "--out", "out"], ["compare", LONG, LONG],
        ["trace", f"{LONG}.jsonl", "--out", LONG, "--budget-usd", "1", "--base-url", "http://127.0.0.1:1/v1"],
        ["measure", f"{LONG}.toml"], ["init", f"{LONG}.jsonl"], ["push", LONG], ["fork", LONG], ["tune", LONG],
    ],
    ids=lambda words: " ".join(word.replace(LONG, "LONG") for word in words),
)  # fmt: skip
def test_a_name_that_no_file_can_have_is_told_in_one_line(words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = tenner_here(*words)
    assert (done.returncode, done.stdout) == (2, "")
    assert "Traceback" not in done.stderr


def test_the_run_folder_of_another_recipe(gathered, tiny_recipe):
    message = refused("run", tiny_recipe, "--run-dir", gathered, "--set", "train.lr=0.1")
    assert "holds a run with other settings: train.lr is 0.0005 there and 0.1 here" in message


def test_a_stage_whose_turn_has_not_come(gathered):
    assert refused("train", gathered) == (
        f"tenner: train needs attempt, which is not done\nhint: tenner attempt {gathered}"
    )


@pytest.mark.slow  # 7 s
def test_a_file_that_was_changed(tiny_recipe, tmp_path):
    path = stopped(tiny_recipe, tmp_path / "run")
    good = (path / "clean.jsonl").read_text()
    lines = good.splitlines(keepends=True)
    lines[4] = lines[4].replace("{", "[", 1)
    (path / "clean.jsonl").write_text("".join(lines))
    message = refused("run", tiny_recipe, "--run-dir", path, "--budget-usd", "1", by=tenner)
    assert f"{path}/clean.jsonl is damaged: its contents have changed since the stage clean wrote it" in message
    assert "hint: restore it from a copy; or delete clean.jsonl and, in stages/, clean.json" in message
    for name in ("clean.jsonl", "stages/clean.json"):
        (path / name).unlink()
    assert tenner_here("run", tiny_recipe, "--run-dir", path, "--budget-usd", "0").returncode == 3
    assert (path / "clean.jsonl").read_text() == good


@pytest.mark.slow  # 7 s
def test_two_runs_on_one_folder(gathered):
    with RunFolder(gathered).writing():
        assert f"another tenner (process {os.getpid()}) is writing to {gathered}" in refused(
            "attempt", gathered, by=tenner
        )


@pytest.mark.slow
def test_a_full_disk(tiny_recipe, tmp_path):
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=192k", "tmpfs", tmp_path], capture_output=True)
    if mount.returncode:
        pytest.skip("this user may not mount a tmpfs")
    try:
        message = refused("run", tiny_recipe, "--run-dir", tmp_path / "run", by=tenner)
        assert "GB on disk, and 0.0 GB are free" in message
        message = refused("gather", tmp_path / "run", by=tenner)  # which the training's need does not stop
        assert "tenner: the disk is full: " in message
        assert "hint: free some space and give the same command again" in message
        assert json.loads(tenner("show", tmp_path / "run", "--json").stdout)["stages"][0]["name"] == "gather"
    finally:
        subprocess.run(["umount", "--lazy", tmp_path], check=True)


@pytest.mark.slow
def test_ctrl_c(tiny_recipe, tmp_path):
    command = [sys.executable, "-m", "tenner", "run", str(tiny_recipe), "--run-dir", str(tmp_path / "run")]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not (tmp_path / "run" / "stages" / "clean.json").exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, stderr
    assert stderr.splitlines()[-1] == "tenner: interrupted; the same command goes on from here"
    assert "Traceback" not in stderr
    assert stdout == ""


def test_show_prints_one_json_object(gathered):
    facts = json.loads(tenner("show", gathered, "--json").stdout)
    assert [s["name"] for s in facts["stages"]] == [
        "gather", "clean", "attempt", "select", "trace", "verify", "train", "evaluate", "report",
    ]  # fmt: skip
    assert [s["state"] for s in facts["stages"][:4]] == ["done", "done", "begun", "pending"]
    assert facts["stages"][0]["items_out"] == 2000
    assert facts["spend_usd"] == {"total": 0, "by_stage": {}}


def test_the_door_and_the_pipeline_name_the_same_stages():
    assert tuple(pipeline.STAGES) == SELECT_FIRST
    assert sorted(SELECT_FIRST) == sorted(TRACE_FIRST)


def test_recipes_are_listed():
    assert "demo" in json.loads(tenner("recipes", "--json").stdout)
    assert tenner_here("recipes").stdout.startswith("demo: ")


def test_a_reader_that_leaves_is_no_error(gathered):
    command = f"{sys.executable} -m tenner show {gathered} | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


@contextmanager
def serving(*args, **kwargs):
    """A server in a process of its own, and the address that it prints when it answers."""
    command = [sys.executable, "-m", "tenner", "serve", *map(str, args), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **kwargs) as process:
        try:
            assert process.stdout
            yield process, process.stdout.readline().strip()
        finally:
            process.kill()


@pytest.mark.slow
@pytest.mark.parametrize(("number", "exit_code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_a_server_with_a_key_ends_cleanly_when_told(tiny_model_dir, number, exit_code):
    options = ("--format", "think", "--name", "it", "--api-key-env", "SERVER_KEY", "--answer", "150", "--thinking", "0")
    environment = os.environ | {"SERVER_KEY": "sesame"}
    with (
        serving(tiny_model_dir, *options, env=environment) as (process, url),
        openai.OpenAI(base_url=f"{url}/v1", api_key="sesame", max_retries=0) as client,
    ):
        (model,) = client.models.list().data
        assert model.id == "it"
        question: Any = [{"role": "user", "content": "Hi"}]
        stream: Any = client.chat.completions.create(model="it", messages=question, stream=True)
        next(stream)
        process.send_signal(number)
        assert [chunk.choices[0].finish_reason for chunk in stream][-1] == "length", "it may finish what it has begun"
        stdout, stderr = process.communicate(timeout=60)
        assert process.returncode == exit_code, stderr
        assert "Traceback" not in stderr
        assert "sesame" not in stdout + stderr


def test_a_misspelt_command_gets_the_right_one():
    assert refused("trian") == "tenner: there is no command trian\nhint: did you mean train?"


def test_a_recipe_is_shown_as_it_is_written():
    text = recipe.built_in()["demo"]
    assert tenner_here("recipes", "--show", "demo").stdout == tenner_here("recipes", "demo").stdout == text
    assert "did you mean demo?" in refused("recipes", "--show", "dmo")
    assert "separate questions" in refused("recipes", "demo", "--keys")


def test_the_keys_of_a_recipe_are_told_with_type_default_and_meaning():
    lines = tenner_here("recipes", "--keys", "trace").stdout.splitlines()
    assert "trace.output_tokens_max: integer, default 32000" in lines
    assert "thinking and answer together" in lines[lines.index("trace.output_tokens_max: integer, default 32000") + 1]
    facts = json.loads(tenner_here("recipes", "--keys", "--json").stdout)
    assert facts["train.lr"] == {
        "type": "number",
        "required": True,
        "default": None,
        "may_change": False,
        "meaning": "",
    }
    assert facts["gather.sources"]["type"] == "tables [[…]]"
    assert facts["train.method"]["type"] == '"full" | "lora"'
    assert facts["budget_usd"]["may_change"]
    assert "did you mean train?" in refused("recipes", "--keys", "trian")


def test_a_pool_that_is_too_small_is_refused_before_anything_computes(tiny_recipe, tmp_path):
    message = refused(
        "run", tiny_recipe, "--run-dir", tmp_path / "run", "--set", "select.samples=1999",
        "--set", 'gather.families=["weekdays"]',
    )  # fmt: skip
    assert re.search(r"\d+ questions are left after cleaning, and select.samples = 1,999", message)
    assert "nothing has been paid yet" in message
