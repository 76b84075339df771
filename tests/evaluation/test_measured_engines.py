"""`tenner measure` on real questions with SmolLM2: by the embedded engine, by vLLM, and through a server's API."""

import json
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import paths
import pytest
from commands import tenner_here
from divergence import ReferenceModel
from vllm_server import PROGRAM, VLLMServer, environment

from tenner.budget.ledger_database import read_spend
from tenner.core import recipe
from tenner.core.recipe import Measurement, stored
from tenner.core.records import Completion, Policy, Question, Setting
from tenner.core.run import render
from tenner.core.run_folder import RunFolder
from tenner.training import student, student_address

DATA = paths.DATA / "math500.jsonl"
IDS = (
    "prealgebra/1922", "intermediate_algebra/1407", "algebra/791", "precalculus/441", "algebra/892", "geometry/615",
    "intermediate_algebra/1422", "prealgebra/951",
)  # fmt: skip
LOGIT_GAP_MAX = 1e-3
"""In float32; in bfloat16 200 questions of GSM8K parted where logits differed by up to 0.4."""
pytestmark = [
    pytest.mark.vllm,
    pytest.mark.skipif(not PROGRAM, reason="TENNER_VLLM names no vllm program (see scripts/install_vllm.sh)"),
    pytest.mark.skipif(not DATA.is_file(), reason="the questions are not here"),
]


def described(path: Path, *lines: str) -> Path:
    """A measurement of some rows of MATH500, by their ids."""
    ids = [f"test/{name}.json" for name in IDS]
    path.write_text("\n".join([
        'name = "smollm2"', "seed = 0", "budget_usd = 1.0", *lines,
        "[[evaluate.benchmarks]]", 'task = "MATH500"', f'file = "{DATA}"',
        f'where = [{{column = "unique_id", one_of = {json.dumps(ids)}}}]',
        "[evaluate.benchmarks.columns]", 'id = "unique_id"', 'question = "problem"', 'answer = "answer"',
    ]))  # fmt: skip
    return path


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = recipe.load("demo").student.model
    return described(
        tmp_path_factory.mktemp("measured") / "local.toml",
        "[student]", f'model = "{model}"', 'format = "plain"',
        "[evaluate]", 'precision = "fp32"', "rows = 4", "thinking_tokens_max = [0, 64]", "answer_tokens_max = 24",
    )  # fmt: skip


def killed_after(command: Sequence[str | Path], heldout: Path, count: int) -> bytes:
    """Run `command` until `heldout` has `count` lines, kill it, and give what it has kept."""
    process = subprocess.Popen(list(map(str, command)), env=environment())
    try:
        deadline = time.monotonic() + 300
        while not heldout.exists() or heldout.read_bytes().count(b"\n") < count:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
    finally:
        process.kill()
        assert process.wait() == -signal.SIGKILL
    kept = heldout.read_bytes()
    return kept[: kept.rfind(b"\n") + 1]


def completions(folder: RunFolder) -> dict[tuple[str, Policy], Completion]:
    done = folder.read("completions", Completion)
    by_key = {(c.question_id, c.policy): c for c in done}
    assert len(by_key) == len(done) == 2 * len(IDS)
    return by_key


def test_both_engines_come_to_the_same_verdicts_one_of_them_killed_on_the_way(local: Path, tmp_path: Path) -> None:
    hf, vllm = RunFolder(tmp_path / "hf"), RunFolder(tmp_path / "vllm")
    assert tenner_here("measure", local, "--run-dir", hf.path).returncode == 0
    command: list[str | Path] = [
        Path(PROGRAM).parent / "python",
        "-m",
        "tenner",
        "measure",
        local,
        "--run-dir",
        vllm.path,
        "--engine",
        "vllm",
    ]
    for option in ("enforce_eager=true", "max_model_len=2048", f"kv_cache_memory_bytes={1 << 30}"):
        command += ["--set", f"evaluate.vllm.{option}"]
    kept = killed_after(command, vllm.path / "completions.jsonl", 5)
    done = subprocess.run([*command, "--json"], check=True, env=environment(), stdout=subprocess.PIPE)
    assert {s["n"] for s in json.loads(done.stdout)["scores"] if s["domain"] is None} == {len(IDS)}
    assert (vllm.path / "completions.jsonl").read_bytes().startswith(kept)
    assert 5 <= kept.count(b"\n") < 2 * len(IDS)

    (by_hf,), (by_vllm,) = hf.read("settings", Setting), vllm.read("settings", Setting)
    assert (by_hf.engine, by_vllm.engine) == ("hf", "vllm")
    assert by_hf.precision == by_vllm.precision == "float32"
    assert by_hf.template_sha256 == by_vllm.template_sha256
    assert "vllm" in by_vllm.versions

    ours, theirs = completions(hf), completions(vllm)
    parted = [key for key in ours if ours[key].token_ids != theirs[key].token_ids]
    same = sum(ours[key].grade.verdict == theirs[key].grade.verdict for key in ours)
    print(f"\n{len(ours) - len(parted)} of {len(ours)} completions are the same, and {same} verdicts")
    asked = {q.id: q for q in hf.read("benchmark", Question)}
    measurement = stored(hf)
    assert isinstance(measurement, Measurement)
    assert measurement.student is not None
    model_dir = student_address.resolve(recipe.load("demo").student.model)
    reference, tokenizer = ReferenceModel(model_dir), student.load_tokenizer(model_dir)
    for key in parted:
        q = asked[key[0]]
        prompt = render(tokenizer, q, measurement.student.form, measurement)
        at, gap = reference.first_divergence(prompt.text, ours[key].token_ids, theirs[key].token_ids)
        verdicts = ours[key].grade.verdict, theirs[key].grade.verdict
        print(f"  {q.id}, {key[1]!r}: they part at id {at}, between logits that differ by {gap:.2e}: {verdicts}")
        assert gap < LOGIT_GAP_MAX


@pytest.mark.xdist_group("vllm server")
def test_a_server_s_own_count_is_what_its_answers_are_paid_by(vllm_server: VLLMServer, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "api")
    file = described(
        tmp_path / "api.toml",
        "[[evaluate.models]]", 'name = "served"', f'base_url = "{vllm_server.url}"', 'model = "m"',
        "output_tokens_max = 96", "parameters = { temperature = 0 }",
        "price = { input_usd_per_mtok = 0.1, output_usd_per_mtok = 0.4 }",
    )  # fmt: skip
    before = vllm_server.tokens()
    command = ["measure", file, "--run-dir", folder.path]
    assert tenner_here(*command).returncode == 0
    counted = vllm_server.tokens() - before
    (folder.path / "stages" / "evaluate.json").unlink()
    assert tenner_here(*command).returncode == 0  # all is there
    assert vllm_server.tokens() - before == counted
    (spend,) = read_spend(folder.path / "run.db")
    assert (spend.stage, spend.calls) == ("evaluate", len(IDS))
    assert (spend.input_tokens, spend.output_tokens) == (counted.prompt, counted.generated)
    done = folder.read("completions", Completion)
    assert sum(c.answer_tokens for c in done) == counted.generated
    assert round(sum(c.cost_usd or 0 for c in done), 6) == spend.cost_usd
    exact_microusd = (counted.prompt + 4 * counted.generated) / 10
    assert exact_microusd <= 1e6 * spend.cost_usd < exact_microusd + len(IDS)  # each call is rounded up
