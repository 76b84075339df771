"""`tenner push`: what is shown, held back and uploaded, to a hub on loopback that speaks huggingface_hub's protocol."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from commands import tenner, tenner_here
from hub_uploads import TOKEN, UploadHub

from tenner.core import recipe
from tenner.core.records import Question, Sample, SourceCount
from tenner.core.run import start
from tenner.core.run_folder import RunFolder

MODEL, DATASET = "org/thinker", "org/thinker-traces"
TO = ("--model", MODEL, "--dataset", DATASET)


@pytest.fixture
def run_dir(tiny_recipe, tmp_path):
    """A finished run with a student of a few files, and one sample of each of two sources."""
    folder = RunFolder(tmp_path / "run")
    folder.path.mkdir()
    start(folder, recipe.load(str(tiny_recipe)))
    sources = {"puzzles:sums": "puzzles", "mine": "mine"}
    with folder.stage("verify") as clock:
        folder.write("questions", [Question(id=s, question="1 + 1?", answer="2", source=s) for s in sources])
        folder.write("sources", [
            SourceCount(source="puzzles", where="tenner", license="apache-2.0", rows=1, questions=1, published=None),
            SourceCount(source="mine", where="mine.csv", license=None, rows=1, questions=1, published=None),
        ])  # fmt: skip
        folder.write("benchmark", [Question(id="b", question="2 + 2?", answer="4", source="puzzles:sums")])
        folder.write("samples", [
            Sample(id=f"{s}-0", question_id=s, question="1 + 1?", thinking="One more.", answer="2", domain=None)
            for s in sources
        ])  # fmt: skip
        student = folder.path / "student"
        student.mkdir()
        (student / "README.md").write_text('---\nlicense: apache-2.0\n---\nfrom_pretrained("student")\n')
        (student / "config.json").write_text("{}")
        (student / "tokenizer.json").write_bytes(b"tokens")
        (student / "model.safetensors").write_bytes(os.urandom(1 << 20))
        folder.wrote_folder("student")
        clock.items_in = clock.items_out = 2
    with folder.stage("report") as clock:
        for name in ("report.html", "report.md", "accuracy.svg"):
            folder.write_text(name, name)
    return folder.path


def test_without_a_token_one_line_says_so(run_dir, monkeypatch, tmp_path):
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "none"))
    monkeypatch.setattr("tenner.publish.hub.get_token", lambda: None)
    done = tenner_here("push", run_dir, *TO, "--yes")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "tenner: there is no token for the Hugging Face hub\nhint: export HF_TOKEN=…, or: hf auth login\n"
    )


def test_what_would_be_uploaded_is_shown_and_unlicensed_questions_are_held_back(run_dir):
    done = tenner_here("push", run_dir, *TO, "--dry-run", "--json")
    assert done.returncode == 0, done.stderr
    planned = json.loads(done.stdout)
    assert set(planned["model"]["files"]) == {
        "README.md", "config.json", "tokenizer.json", "model.safetensors", "recipe.toml", "provenance.json",
        "report.html", "report.md", "accuracy.svg",
    }  # fmt: skip
    assert planned["dataset"]["withheld"] == {"mine": 1}
    told = tenner_here("push", run_dir, *TO, "--dry-run").stdout
    assert f"model {MODEL}, private, " in told
    assert "held back: mine: 1 questions, whose licence is not known" in told


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--model", "thinker"), "names no owner"),
        (("--model", "org/a b"), "is no name of a repository"),
        (("--model", MODEL, "--dataset", MODEL), "are the same name"),
        ((*TO, "--include", "mne"), "did you mean mine?"),
    ],
)
def test_what_cannot_be_meant_is_refused(run_dir, options, message):
    done = tenner_here("push", run_dir, *options, "--dry-run")
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr


def test_a_benchmark_that_may_not_be_shown_keeps_the_report_back(run_dir):
    folder = RunFolder(run_dir)
    folder.write("benchmark", [Question(id="b", question="?", answer="4", source="GPQA Diamond", license="cc-by-4.0")])
    done = tenner_here("push", run_dir, "--model", MODEL, "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "report.html" not in done.stdout
    assert "its authors ask that no question of it is shown in public" in done.stdout


@pytest.mark.slow
def test_an_upload_that_is_killed_goes_on_and_sends_nothing_twice(run_dir):
    with UploadHub() as hub:
        env = os.environ | {"HF_ENDPOINT": hub.url, "HF_TOKEN": TOKEN, "HF_HUB_DISABLE_XET": "1"}
        hub.stall_at_bytes = 1 << 20
        command = [sys.executable, "-m", "tenner", "push", str(run_dir), *TO, "--yes"]
        with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            assert hub.stalled.wait(60)
            deadline = time.monotonic() + 60
            while not hub.received:  # they are sent side by side
                assert time.monotonic() < deadline
                time.sleep(0.01)
            process.send_signal(signal.SIGKILL)
        assert (len(hub.received), hub.commits) == (1, 0)  # the tokenizer, while the weights were on their way
        hub.stall_at_bytes = None
        done = tenner("push", run_dir, *TO, "--yes", env=env)
        assert done.returncode == 0, done.stderr
        assert (len(hub.received), len(set(hub.received)), hub.commits) == (2, 2, 2)
        assert hub.private == {f"models/{MODEL}": True, f"datasets/{DATASET}": True}
        model, dataset = (hub.repositories[name] for name in (f"models/{MODEL}", f"datasets/{DATASET}"))
        assert model["model.safetensors"] == (run_dir / "student" / "model.safetensors").read_bytes()
        assert b'from_pretrained("org/thinker")' in model["README.md"]
        (row,) = map(json.loads, dataset["data/train.jsonl"].splitlines())
        assert (row["source"], row["license"], row["thinking"]) == ("puzzles", "apache-2.0", "One more.")
        assert b"license: apache-2.0" in dataset["README.md"]
        assert hub.validated >= 2

        again = tenner("push", run_dir, *TO, "--yes", "--json", env=env)
        assert json.loads(again.stdout).keys() == {"model", "dataset"}
        assert (len(hub.received), hub.commits) == (2, 2)  # nothing has changed, nothing is sent

        hub.private[f"models/{MODEL}"] = False
        assert "is public on the hub already" in tenner("push", run_dir, *TO, "--yes", env=env).stderr
        refused = tenner("push", run_dir, *TO, "--yes", env=env | {"HF_TOKEN": "hf_other"})
        assert (refused.returncode, refused.stdout) == (2, "")
        assert "the hub refuses to write to org/thinker (HTTP 403)" in refused.stderr
