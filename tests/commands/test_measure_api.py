"""`tenner measure --engine api`: budget forcing through a completions server on loopback."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from completions_server import CompletionsServer
from transformers import AutoTokenizer

from tenner import cli
from tenner.core import recipe as recipes
from tenner.core.errors import TennerError
from tenner.core.formats import FORMATS
from tenner.core.records import Completion, Score, Setting
from tenner.core.run_folder import RunFolder
from tenner.core.seeds import digest
from tenner.inference.forcing import ForcingMachine, Phase
from tenner.inference.format_ids import FormatIds

QUESTIONS = 5


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "sums.jsonl"
    rows = [{"question": f"What is {n} plus {n}?", "answer": str(2 * n)} for n in range(QUESTIONS)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def tokenizer(tiny_model_dir: Path) -> Any:
    return AutoTokenizer.from_pretrained(tiny_model_dir)


@pytest.fixture(scope="module")
def student(tokenizer: Any) -> Callable[[list[int]], int]:
    """Each token is drawn by a hash of all ids before it."""
    alphabet = [*tokenizer.encode("abc1", add_special_tokens=False), tokenizer.eos_token_id]
    return lambda ids: alphabet[int(digest(*ids)[:8], 16) % len(alphabet)]


def measure(*args: object, code: int = 0) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["measure", *map(str, args)])
    assert ended.value.code == code


def options(data: Path, run_dir: Path, url: str, **more: object) -> list[str]:
    given = {
        "format": "think", "data": data, "thinking": "0,6", "waits": 1, "answer": 4, "rows": 3, "run-dir": run_dir,
        "engine": "api", "base-url": url, "served-model": "m", "context-tokens": 400,
    } | more  # fmt: skip
    return [part for name, value in given.items() for part in (f"--{name}", str(value))]


@pytest.mark.parametrize("speaks", ["text", pytest.param("ids", marks=pytest.mark.slow)])
def test_a_measurement_through_a_server_forces_every_policy(
    tiny_model_dir: Path, data: Path, tokenizer: Any, student: Callable[[list[int]], int], tmp_path: Path, speaks: str
) -> None:
    with CompletionsServer(tokenizer, student, gives_ids=speaks == "ids") as server:
        measure(tiny_model_dir, *options(data, tmp_path / "run", server.url, speaks=speaks))
    folder = RunFolder(tmp_path / "run")
    completions = folder.read("completions", Completion)
    assert len(completions) == QUESTIONS * 3
    assert {r["model"] for r in server.requests} == {"m"}
    for c in completions:
        assert (c.thinking_tokens or 0) <= (c.policy.thinking_tokens_max or 0)
        assert sum(i.kind == "wait" for i in c.interventions) <= c.policy.waits
    assert any(i.kind == "wait" for c in completions for i in c.interventions)
    assert len(folder.read("scores", Score)) == 3
    (setting,) = folder.read("settings", Setting)
    assert (setting.engine, setting.precision, setting.device) == ("api", None, None)
    assert setting.model == f"{tiny_model_dir} as m at {server.url}"
    assert "openai" in setting.versions


def test_the_completions_are_those_of_the_machine(
    tiny_model_dir: Path, data: Path, tokenizer: Any, student: Callable[[list[int]], int], tmp_path: Path
) -> None:
    with CompletionsServer(tokenizer, student) as server:
        measure(tiny_model_dir, *options(data, tmp_path / "run", server.url))
    format_ids = FormatIds.resolve(tokenizer, FORMATS["think"], "Wait")
    prompts = {tuple(r["prompt"][: r["prompt"].index(format_ids.open[0])]) for r in server.requests}
    expected = set()
    for prompt in prompts:
        for c in RunFolder(tmp_path / "run").read("completions", Completion):
            machine = ForcingMachine(format_ids, c.policy, answer_tokens_max=4, thinking_room=100)
            while machine.phase is not Phase.DONE:
                machine.push(student([*prompt, *machine.ids]))
            expected.add((c.policy, tuple(machine.ids)))
    assert {(c.policy, c.token_ids) for c in RunFolder(tmp_path / "run").read("completions", Completion)} <= expected


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"engine": "hf"}, 'evaluate.api and evaluate.engine = "api" belong together'),
        ({"precision": "fp32"}, "evaluate.precision has no effect with engine api"),
        ({"device": "cpu"}, "machine.device has no effect with engine api"),
        ({"base-url": "nowhere"}, "not a URL"),
        ({"api-key-env": "NO_SUCH_KEY"}, "the environment variable NO_SUCH_KEY holds no key"),
        ({"context-tokens": 0}, "greater than 0"),
    ],
)
def test_invalid_options_are_refused_before_a_request(
    tiny_model_dir: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: Any, message: str
) -> None:
    measure(tiny_model_dir, *options(data, tmp_path / "run", "http://127.0.0.1:9/v1", **more), code=2)
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_server_that_does_not_answer_is_an_error_of_one_line(
    tiny_model_dir: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    measure(tiny_model_dir, *options(data, tmp_path / "run", "http://127.0.0.1:9/v1"), code=2)
    assert "http://127.0.0.1:9/v1/: Connection error" in capsys.readouterr().err


def test_a_run_decodes_its_own_students() -> None:
    endpoint = 'evaluate.api={base_url = "http://127.0.0.1:9/v1", model = "m", context_tokens = 400}'
    with pytest.raises(TennerError, match=r'evaluate.engine = "api" is for tenner measure'):
        recipes.load("demo", overrides=["evaluate.engine=api", endpoint])
