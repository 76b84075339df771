"""Training by a real server of the Tinker protocol, SkyRL's: killed at ten moments, and from questions to report."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import skyrl_server
import torch
from chat_server import ChatServer, usage_of
from commands import tenner_here
from safetensors.torch import load_file
from tinker_proxy import TinkerProxy
from transformers import AutoModelForCausalLM, AutoTokenizer

from tenner.budget.ledger_database import read_spend
from tenner.core import recipe
from tenner.core.progress import Screen
from tenner.core.records import Sample, ServiceComparison, TrainStep
from tenner.core.run import open_run
from tenner.core.run_folder import RunFolder
from tenner.stages import training
from tenner.training import packing, student_address

pytestmark = [
    pytest.mark.tinker,
    pytest.mark.skipif("TENNER_SKYRL" not in os.environ, reason="TENNER_SKYRL names no virtual environment"),
]
PRICE = 0.37  # micro-dollars a token
# The first optim_step and save_weights of a session are those of its recovery.
MOMENTS = [
    ("create_model", 1, "after"), ("forward_backward", 1, "before"), ("forward_backward", 1, "after"),
    ("optim_step", 2, "before"), ("optim_step", 2, "after"), ("save_weights", 2, "before"),
    ("save_weights", 2, "after"), ("retrieve_future", 6, "after"), ("save_weights_for_sampler", 1, "after"),
    ("archive", 1, "before"),
]  # fmt: skip
QUESTIONS = 20
COMPARED = [
    f"train.tinker.compare_questions={QUESTIONS}",
    "train.tinker.sampling_price={input_usd_per_mtok=0.1, output_usd_per_mtok=0.4}",
]


def served_by(url, model_dir, **more):
    """Overrides for a recipe."""
    return [
        "train.frozen_layers=0", 'train.method="lora"', "train.lora_rank=8", "train.checkpoint_seconds=600",
        'train.backend="tinker"',
        f'train.tinker={{base_url="{url}", model="{model_dir}", price_usd_per_mtok={PRICE}}}',
        *(f"{key}={value}" for key, value in more.items()),
    ]  # fmt: skip


def tinker_spend(path):
    rows = [row for row in read_spend(path / "run.db") if row.provider == "tinker"]
    return sum(r.input_tokens for r in rows), sum(r.cost_usd for r in rows), sum(r.unsettled_usd for r in rows)


def begin(path, described):
    """A run whose training is next; the tokens of its steps."""
    with open_run(path, described, Screen(), budget_usd=None) as run:
        for name in described.stages[: described.stages.index("train")]:
            with run.folder.stage(name):
                pass
        run.folder.write("samples", [
            Sample(id=f"s{n}", question_id=f"q{n}", question=f"What is {n}+1?", thinking="a thought " * (3 + n % 3),
                   answer=str(n + 1), domain="sums")
            for n in range(32)
        ])  # fmt: skip
        encoded = training.prepare(run).encoded
        lengths = [len(e.ids) for e in encoded]
        steps = packing.plan(lengths, described.train.tokens_per_step, epochs=1, seed=described.seed)
        return [sum(lengths[i] - 1 for i in step) for step in steps]


def train(path, proxy, kill=None):
    proxy.arm(kill)
    process = subprocess.Popen([sys.executable, "-m", "tenner", "train", path], stderr=subprocess.PIPE, text=True)
    proxy.pid = process.pid
    _, said = process.communicate(timeout=300)
    assert process.returncode == (-signal.SIGKILL if kill else 0), (kill, process.returncode, said)


def test_killed_at_ten_moments_no_step_is_paid_twice(tiny_recipe, tiny_model_dir, tmp_path):
    with (
        skyrl_server.serving(Path(os.environ["TENNER_SKYRL"]), tiny_model_dir, tmp_path / "server") as url,
        TinkerProxy(url) as proxy,
    ):
        more = {"train.tokens_per_step": 250, "machine.price_usd_per_hour": 0, "budget_usd": 1}
        described = recipe.load(str(tiny_recipe), overrides=served_by(proxy.url, tiny_model_dir, **more))
        steps = begin(tmp_path / "unbroken", described)
        train(tmp_path / "unbroken", proxy)
        assert proxy.tokens == sum(steps)
        proxy.tokens = 0
        assert begin(tmp_path / "killed", described) == steps
        for moment in MOMENTS:
            train(tmp_path / "killed", proxy, moment)
        train(tmp_path / "killed", proxy)
    assert len(steps) > 8
    assert proxy.tokens == sum(steps)
    tokens, cost_usd, unsettled_usd = tinker_spend(tmp_path / "killed")
    assert (tokens, unsettled_usd) == (proxy.tokens, 0)
    assert round(cost_usd * 1e6) == sum(-(-37 * step // 100) for step in steps)
    before, after = (
        load_file(tmp_path / name / "adapter/adapter_model.safetensors") for name in ("unbroken", "killed")
    )
    assert all(torch.allclose(before[name], after[name], atol=1e-6) for name in before)
    losses = [
        {row.step: row.loss for row in RunFolder(tmp_path / name).read("training", TrainStep)}
        for name in ("killed", "unbroken")
    ]
    assert losses[0].items() <= losses[1].items() or all(
        losses[0][step] == pytest.approx(losses[1][step], abs=1e-5) for step in losses[0]
    )
    assert len(losses[0]) >= len(steps) - 1, "a step whose answer is lost has no known loss"


def test_from_questions_to_report_and_the_student_answers_as_the_service_does(tmp_path, monkeypatch):
    base, run_dir = tmp_path / "base", tmp_path / "run"
    source = student_address.resolve(recipe.load("demo").student.model)
    AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32).save_pretrained(base)
    AutoTokenizer.from_pretrained(source).save_pretrained(base)
    monkeypatch.setenv("THE_KEY", key := "sk-right-key-789")
    with (
        skyrl_server.serving(Path(os.environ["TENNER_SKYRL"]), base, tmp_path / "server") as url,
        TinkerProxy(url) as proxy,
        ChatServer(key=key) as teacher,
    ):
        more = {
            "student.model": f'"{base}"', "gather.questions": 400, "gather.families": '["running_sum", "bills"]',
            "attempt.questions": 4, "attempt.thinking_tokens_max": 8, "select.samples": 32, "budget_usd": 0.1,
            "train.tokens_per_step": 600, "evaluate.questions": QUESTIONS, "evaluate.thinking_tokens_max": "[0, 16]",
            "evaluate.waits": "[]", "evaluate.answer_tokens_max": 8, "evaluate.rows": 20,
            "evaluate.precision": '"fp32"',
            "trace.client": '"openai"', "trace.base_url": f'"{teacher.url}"', "trace.model": '"m"',
            "trace.api_key_env": '"THE_KEY"', "trace.output_tokens_max": 500, "trace.keep": '"first"',
            "trace.price": "{input_usd_per_mtok=1.0, output_usd_per_mtok=2.0}",
        }  # fmt: skip
        described = recipe.load("demo", overrides=[*served_by(proxy.url, base, **more), *COMPARED])
        (tmp_path / "it.toml").write_text(described.to_toml())
        done = tenner_here("run", tmp_path / "it.toml", "--run-dir", run_dir)
        assert done.returncode == 0, done.stderr
        asked = [usage_of(a.question) for a in teacher.asked]
    assert (run_dir / "report.html").stat().st_size > 10_000
    rows = {(row.stage, row.provider): row for row in read_spend(run_dir / "run.db")}
    trained, sampled = rows["train", "tinker"], rows["evaluate", "tinker"]
    assert (trained.input_tokens, trained.unsettled_usd) == (proxy.tokens, 0)
    traced = next(row for (stage, _), row in rows.items() if stage == "trace")
    assert round(traced.cost_usd * 1e6) == sum(u["prompt_tokens"] + 2 * u["completion_tokens"] for u in asked)
    assert round(sampled.cost_usd * 1e6) == pytest.approx(
        0.1 * sampled.input_tokens + 0.4 * sampled.output_tokens, abs=2 * sampled.calls
    )
    compared = RunFolder(run_dir).read("service-comparison", ServiceComparison)
    assert len(compared) == QUESTIONS
    # A student that ends its thinking and its answer at once has said nothing to compare.
    assert all(row.tokens == row.same_tokens for row in compared)
    assert sum(row.tokens for row in compared) > 100
    said = f"the same greedy answer as the service to {QUESTIONS} of {QUESTIONS} questions"
    assert said in (run_dir / "report.md").read_text()
