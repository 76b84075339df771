"""A training of a tiny model: its settings and samples, alone or by the real torchrun."""

import json
import socket
import subprocess
import sys
from typing import Any

import pytest
import torch
from paths import SUPPORT
from transformers import AutoTokenizer, Qwen2Config, Qwen2ForCausalLM

from tenner.core.sections import Train
from tenner.core.seeds import rng
from tenner.training import loop
from tenner.training.loss_mask import Encoded

JOB = SUPPORT / "train_job.py"
SETTINGS = Train(epochs=2, lr=1e-2, tokens_per_step=200, tokens_max=400)


def samples(count=24, longest=80):
    draw = rng(0, "test samples")
    encoded = []
    for i in range(count):
        length = draw.randint(20, longest)
        ids = tuple(draw.randrange(3, 250) for _ in range(length))
        encoded.append(Encoded(f"s{i}", ids, tuple(at >= length // 3 for at in range(length))))
    return encoded


def run(model_dir, workdir, encoded=None, on_step=lambda _: None, validation=(), say=lambda _: None, **changed):
    settings = SETTINGS.model_copy(update=changed)
    return loop.train(
        model_dir, encoded or samples(), settings, seed=0, workdir=workdir, validation=validation, on_step=on_step,
        say=say,
    )  # fmt: skip


def random_qwen2(folder, tokenizer_dir, *, heads, key_heads, positions):
    """A Qwen2 with biases, which are random too, and a head of its own, in `folder`, which is returned."""
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=301, hidden_size=48, intermediate_size=80, num_hidden_layers=2, num_attention_heads=heads,
        num_key_value_heads=key_heads, max_position_embeddings=positions, tie_word_embeddings=False,
    )  # fmt: skip
    model = Qwen2ForCausalLM(config)
    with torch.no_grad():
        for p in model.parameters():
            if p.ndim == 1:
                p.add_(torch.randn_like(p) * 0.1)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(tokenizer_dir).save_pretrained(folder)
    return folder


def free_port():
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        return listener.getsockname()[1]


def torchrun(*arguments, agents=1, processes=2):
    """The finished torchruns (one for each agent), with what they said."""
    meeting = ["--nnodes", str(agents), "--rdzv-backend", "c10d", "--rdzv-endpoint", f"localhost:{free_port()}"]
    command = [
        sys.executable, "-m", "torch.distributed.run", *(meeting if agents > 1 else ["--standalone"]),
        "--nproc-per-node", str(processes // agents), *map(str, arguments),
    ]  # fmt: skip
    started = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(agents)
    ]
    said = [process.communicate(timeout=240) for process in started]
    return [
        subprocess.CompletedProcess(command, process.returncode, out, err)
        for process, (out, err) in zip(started, said, strict=True)
    ]


def trained(*trainings, options=(), **how):
    """The rows that the first process printed for each training, of a model, a folder and settings; one launch."""
    words = [word for *paths, settings in trainings for word in (*paths, json.dumps(settings))]
    done = torchrun(JOB, *words, *options, **how)
    assert all(d.returncode == 0 for d in done), "\n".join(d.stderr for d in done)
    rows: list[list[Any]] = [[] for _ in trainings]
    for line in (line for d in done for line in d.stdout.splitlines()):
        row = json.loads(line)
        rows[row.pop("training")].append(row)
    return rows


def assert_same_curve(rows, reports):
    assert [row["step"] for row in rows] == [r.step for r in reports]
    for name, theirs in (("loss", "loss"), ("norm", "grad_norm")):
        wanted = [getattr(r, theirs) for r in reports]
        assert [row[name] for row in rows] == pytest.approx(wanted, rel=1e-5 if name == "loss" else 1e-3)
