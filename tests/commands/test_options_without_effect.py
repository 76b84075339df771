"""Options that would have no effect are refused with one line, and defaults are not typed by hand."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from commands import tenner_here

import tenner


def test_no_default_is_typed_by_hand() -> None:
    folder = Path(str(tenner.__file__)).parent / "commands"
    typed = [path.name for path in folder.glob("*.py") if re.search(r"(default: |, or )\d+\)", path.read_text("utf-8"))]
    assert typed == []


def refused(*words: object) -> str:
    done = tenner_here(*words)
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr


@pytest.mark.parametrize("amount", ["1e308", "nan", "0"])
def test_a_plan_needs_a_finite_amount_of_memory(amount: str) -> None:
    said = refused("plan", "s1k", "--memory-gb", amount)
    assert f"--memory-gb{' 0 is' if amount == '0' else f': {amount} is'} not a number" in said


def test_a_dry_run_has_no_cap(tmp_path: Path) -> None:
    assert "--budget-usd has no effect with --dry-run" in refused("train", tmp_path, "--dry-run", "--budget-usd", "5")


def test_responses_are_replayed_by_the_replay_client_alone(tmp_path: Path) -> None:
    words = ("--out", tmp_path / "out", "--budget-usd", "1", "--client", "openai", "--replay-from", tmp_path)
    assert "--replay-from has no effect with --client openai" in refused("trace", tmp_path / "q.jsonl", *words)


@pytest.mark.parametrize("verb", ["serve", "chat"])
def test_the_price_of_a_machine_is_finite(verb: str, tiny_model_dir: Path) -> None:
    words = (tiny_model_dir, "--format", "think", "--price-usd-per-hour", "inf")
    assert "--price-usd-per-hour: inf is not a number up to 1,000,000" in refused(verb, *words)


def test_a_served_student_has_a_name(tiny_model_dir: Path) -> None:
    assert "--name is empty" in refused("serve", tiny_model_dir, "--format", "think", "--name", "")


def test_waits_need_a_thinking_budget(tiny_model_dir: Path) -> None:
    words = ("chat", tiny_model_dir, "--format", "think", "--thinking", "0", "--waits", "2")
    assert "--waits has no effect with a thinking budget of 0" in refused(*words)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "sums.jsonl"
    path.write_text("".join(json.dumps({"question": f"{n} + {n}?", "answer": str(2 * n)}) + "\n" for n in range(3)))
    return path


def test_top_p_needs_a_temperature(tiny_model_dir: Path, data: Path, tmp_path: Path) -> None:
    words: list[Any] = ["measure", tiny_model_dir, "--format", "think", "--data", data, "--run-dir", tmp_path / "run"]
    assert "--top-p has no effect at temperature 0" in refused(*words, "--top-p", "0.9")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--engine", "hf"), ("--rows", "4"), ("--precision", "fp32"), ("--device", "cpu"), ("--answer", "9"),
        ("--temperature", "0.5"), ("--top-p", "0.5"),
    ],
)  # fmt: skip
def test_a_model_behind_an_api_has_no_engine(option: str, value: str, data: Path, tmp_path: Path) -> None:
    file = tmp_path / "asked.toml"
    file.write_text("\n".join([
        'name = "sums"', "seed = 0", "budget_usd = 1.0", "[[evaluate.benchmarks]]", 'name = "sums"',
        f'file = "{data}"', "[[evaluate.models]]", 'name = "adder"', 'base_url = "http://127.0.0.1:9/v1"',
        'model = "m"', "[evaluate.models.price]", "input_usd_per_mtok = 1.0", "output_usd_per_mtok = 2.0",
    ]))  # fmt: skip
    told = refused("measure", file, option, value, "--run-dir", tmp_path / "run")
    assert f"{option} has no effect: {file} names no student" in told
    assert not (tmp_path / "run").exists()
