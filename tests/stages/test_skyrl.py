"""Training by a real server of the Tinker protocol, SkyRL's: killed at ten moments, and from questions to report."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import skyrl_server
import torch
from safetensors.torch import load_file
from tinker_proxy import TinkerProxy
from transformers import AutoModelForCausalLM, AutoTokenizer

from tenner import pipeline
from tenner.budget.ledger import read_spend
from tenner.clients.tinker import TinkerClient
from tenner.core import recipe
from tenner.core.chat_template import encode_prompt
from tenner.core.progress import Screen
from tenner.core.records import Question, Sample, TrainStep
from tenner.core.run import chat_template_of, open_run
from tenner.core.run_folder import RunFolder
from tenner.stages import managed_training, training
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
        _, encoded, _ = training.prepare(run)
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


def test_from_questions_to_report_and_the_student_answers_as_the_service_does(tmp_path):
    base = tmp_path / "base"
    source = student_address.resolve(recipe.load("demo").student.model)
    AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32).save_pretrained(base)
    AutoTokenizer.from_pretrained(source).save_pretrained(base)
    run_dir = tmp_path / "run"
    with (
        skyrl_server.serving(Path(os.environ["TENNER_SKYRL"]), base, tmp_path / "server") as url,
        TinkerProxy(url) as proxy,
    ):
        more = {
            "student.model": f'"{base}"', "gather.questions": 400, "gather.families": '["running_sum", "coin_flips"]',
            "attempt.questions": 4, "attempt.thinking_tokens_max": 8, "select.samples": 48, "budget_usd": 0.05,
            "train.tokens_per_step": 600, "evaluate.questions": QUESTIONS, "evaluate.thinking_tokens_max": "[0, 16]",
            "evaluate.waits": "[]", "evaluate.answer_tokens_max": 8, "evaluate.precision": '"fp32"',
        }  # fmt: skip
        described = recipe.load("demo", overrides=served_by(proxy.url, base, **more))
        with open_run(run_dir, described, Screen(), budget_usd=None) as run:
            pipeline.run_stages(run, described.stages)
        assert (run_dir / "report.html").stat().st_size > 10_000
        tokens, _, unsettled_usd = tinker_spend(run_dir)
        assert (tokens, unsettled_usd) == (proxy.tokens, 0)
        path = json.loads((run_dir / managed_training.SERVICE_FILE).read_text())["adapter"]
        questions = RunFolder(run_dir).read("benchmark", Question)
        assert len(questions) == QUESTIONS
        tokenizer = AutoTokenizer.from_pretrained(run_dir / "student")
        template = chat_template_of(tokenizer, described)
        prompts = [encode_prompt(tokenizer, template.question(q.question)) for q in questions]
        end_id = tokenizer.eos_token_id
        with TinkerClient(url, key="") as client:
            of_service = [
                client.sample(path, prompt, max_tokens=24, stop_ids=[end_id], seed=0) for prompt in prompts
            ]  # fmt: skip
    model: Any = AutoModelForCausalLM.from_pretrained(run_dir / "student", dtype=torch.float32)
    of_student = []
    for prompt in prompts:
        said = model.generate(torch.tensor([prompt]), max_new_tokens=24, do_sample=False)[0, len(prompt) :].tolist()
        of_student.append(said)
    assert of_student == of_service
