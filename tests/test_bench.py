"""The benchmarks that need what a test machine has not, gone through with a tiny model."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).parents[1] / "bench"


@pytest.mark.slow
def test_gpu_training_is_rehearsed_on_a_cpu():
    names = ["7b-full", "7b-full-8bit", "32b-lora", "32b-lora-16k"]
    done = subprocess.run(
        [sys.executable, str(BENCH / "train_gpu.py"), "--rehearse", "--price-usd-per-hour", "3", "--only", *names],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["rehearsed"]
    assert "promises" not in told  # nothing that a rehearsal computes is one that holds
    assert told["tenner"].keys() == set(names)
    assert told["trl"].keys() == set(names) - {"7b-full-8bit"}
    for figures in (*told["tenner"].values(), *told["trl"].values()):
        assert figures["tokens_per_second"] > 0
        assert figures["peak_gb"] > 0
    assert all(0 < f["mfu_causal"] < f["mfu_non_causal"] for f in told["tenner"].values())
    price = told["price"]
    assert price["usd_per_gpu_hour"] == 3
    tokens_per_second = told["tenner"]["32b-lora"]["tokens_per_second"]
    assert price["lora_gpu_hours"] == pytest.approx(price["tokens"] / tokens_per_second / 3600)
