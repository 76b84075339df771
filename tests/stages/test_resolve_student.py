"""Resolving a student, and the refusals of `tenner serve` and `tenner chat` before a model is loaded."""

import io
import shutil
import socket
from pathlib import Path
from typing import Any

import pytest
from chat_families import GEMMA2, QWEN35

from tenner.commands import chat
from tenner.commands import serve as serve_command
from tenner.core import default_policy, recipe
from tenner.core.default_policy import DefaultPolicy
from tenner.core.errors import TennerError
from tenner.core.progress import Screen
from tenner.core.records import EarlyExit, Grace, Policy
from tenner.core.run import open_run
from tenner.stages.resolve_student import StudentOptions, resolve_student, with_format

CHOSEN = DefaultPolicy(
    policy=Policy(thinking_tokens_max=48, early_exit=EarlyExit(every_tokens=8)), full=Policy(thinking_tokens_max=64),
    margin=0.02, n=600, tried=2, accuracy=0.9, full_accuracy=0.9, difference=0.0, ci_low=-0.01, ci_high=0.01,
    thinking_tokens_mean=20.0, full_thinking_tokens_mean=30.0,
)  # fmt: skip


@pytest.fixture
def opening_model_dir(tiny_model_dir: Path, tmp_path: Path) -> Path:
    """The tiny model, with a chat template that opens the thinking unless it is told otherwise."""
    shutil.copytree(tiny_model_dir, tmp_path / "opening")
    (tmp_path / "opening" / "chat_template.jinja").write_text(QWEN35)
    return tmp_path / "opening"


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """A run that has a recipe, and a student's folder."""
    with open_run(tmp_path / "run", recipe.load("demo"), Screen(), budget_usd=None):
        pass
    (tmp_path / "run" / "student").mkdir()
    return tmp_path / "run"


def test_a_run_sets_the_defaults_of_its_student(run_dir: Path) -> None:
    student, price_usd_per_hour = resolve_student(str(run_dir), StudentOptions())
    assert (student.name, student.model_dir, student.fmt.name) == ("demo", run_dir / "student", "s1")
    assert (student.system_prompt, student.wait_text, student.keeps_history) == ("", "Wait", False)
    assert (student.thinking_tokens_max, student.answer_tokens_max, price_usd_per_hour) == (64, 12, 0.10)


def test_options_override_the_settings_of_a_run(run_dir: Path) -> None:
    options = StudentOptions("s1", "it", thinking_tokens_max=0, answer_tokens_max=5, price_usd_per_hour=0.0)
    student, price_usd_per_hour = resolve_student(str(run_dir), options)
    assert (student.name, student.thinking_tokens_max, student.answer_tokens_max) == ("it", 0, 5)
    assert price_usd_per_hour == 0.0


def test_a_model_has_no_price_and_needs_a_format(tiny_model_dir: Path) -> None:
    student, price_usd_per_hour = resolve_student(str(tiny_model_dir), StudentOptions(format="think"))
    assert (student.name, student.fmt.name, student.keeps_history) == ("model", "think", True)
    assert price_usd_per_hour is None
    with pytest.raises(TennerError, match="not a run folder, and its chat template does not tell") as refused:
        resolve_student(str(tiny_model_dir), StudentOptions())
    assert refused.value.hint == "give a run's folder, or say --format s1|think|plain|harmony|gemma4"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (StudentOptions("thnk"), "no think format is called thnk"),
        (StudentOptions("think"), "was trained with the format s1, not think"),
        (StudentOptions(thinking_tokens_max=-1), "--thinking -1 is less than 0"),
        (StudentOptions(answer_tokens_max=0), "--answer 0 is less than 1"),
        (StudentOptions(price_usd_per_hour=float("nan")), "--price-usd-per-hour nan is less than 0"),
    ],
)
def test_invalid_options_are_refused(run_dir: Path, options: StudentOptions, message: str) -> None:
    with pytest.raises(TennerError, match=message):
        resolve_student(str(run_dir), options)


def test_a_run_without_a_student_yet(run_dir: Path) -> None:
    (run_dir / "student").rmdir()
    with pytest.raises(TennerError, match="has no distilled student yet"):
        resolve_student(str(run_dir), StudentOptions())


def serve(address: Path, **options: Any) -> None:
    usual: dict[str, Any] = {
        "host": "127.0.0.1",
        "port": 0,
        "api_key_env": None,
        "concurrency_max": 8,
        "request_bytes_max": 1000,
    }
    serve_command.run(str(address), StudentOptions(format="think"), **(usual | options))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"api_key_env": "NO_SUCH_KEY"}, "the environment variable NO_SUCH_KEY holds no key"),
        ({"port": 70_000}, "--port 70000 is not a port"),
        ({"concurrency_max": 0}, "--concurrency-max 0 is too small"),
        ({"request_bytes_max": 0}, "--request-bytes-max 0 is too small"),
    ],
)
def test_invalid_server_options_are_refused(tiny_model_dir: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(TennerError, match=message):
        serve(tiny_model_dir, **options)


def test_a_port_in_use_is_refused(tiny_model_dir: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(TennerError, match=f"cannot listen on 127.0.0.1:{port}"):
            serve(tiny_model_dir, port=port)


def test_chat_answers_each_line_and_reports_its_usage(
    tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("Hi\nAgain\n"))
    options = StudentOptions("think", thinking_tokens_max=3, answer_tokens_max=4, price_usd_per_hour=1.0)
    chat.talk(str(tiny_model_dir), options, waits=0)
    out, err = capsys.readouterr()
    assert out.count("Answer:") == 2
    assert err.count("3 tokens of thinking, 4 of answer, $") == 2


def test_chat_with_a_template_that_opens_the_thinking(
    opening_model_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The format is read off the template; a second opening would be shown as thinking."""
    monkeypatch.setattr("sys.stdin", io.StringIO("Hi\n"))
    chat.talk(str(opening_model_dir), StudentOptions(thinking_tokens_max=0, answer_tokens_max=4), waits=0)
    out, err = capsys.readouterr()
    assert out.startswith("Answer:")
    assert f"think format think, as the chat template of {opening_model_dir} has it" in err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (StudentOptions("s1"), "opens the thinking itself, as in format think"),
        (StudentOptions("think", chat_template_kwargs={"enable_thinking": False}), "ends the thinking before it"),
        (StudentOptions("think", chat_template_kwargs={"effort": 1}), "effort has no effect"),
        (StudentOptions("think", chat_template="chatmel"), "chatmel is neither a file that can be read nor one of"),
    ],
)
def test_a_student_that_cannot_be_asked_so_is_refused_before_it_is_loaded(
    opening_model_dir: Path, options: StudentOptions, message: str
) -> None:
    (opening_model_dir / "model.safetensors").unlink()
    with pytest.raises(TennerError, match=message):
        chat.talk(str(opening_model_dir), options, waits=0)


def test_no_system_role_is_said(
    tiny_recipe: Path, tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    described = recipe.load(str(tiny_recipe), overrides=['student.system_prompt="Be brief."'])
    with open_run(tmp_path / "run", described, Screen(), budget_usd=None):
        pass
    shutil.copytree(tiny_model_dir, tmp_path / "run" / "student")
    (tmp_path / "run" / "student" / "chat_template.jinja").write_text(GEMMA2)
    monkeypatch.setattr("sys.stdin", io.StringIO("Hi\n"))
    chat.talk(str(tmp_path / "run"), StudentOptions(), waits=0)
    assert "has no system role: the system prompt begins the first user turn" in capsys.readouterr().err
    with pytest.raises(TennerError, match="was trained with its own chat template"):
        resolve_student(str(tmp_path / "run"), StudentOptions(chat_template="chatml"))


def test_a_recipe_may_leave_the_format_to_the_template(
    tiny_recipe: Path, tiny_model_dir: Path, opening_model_dir: Path
) -> None:
    auto = ['student.format="auto"', 'attempt.prompts=[{name="own", format="auto"}, {name="bare", format="plain"}]']
    described = recipe.load(str(tiny_recipe), overrides=[*auto, f'student.model="{opening_model_dir}"'])
    known = with_format(described)
    assert (known.student.format, [form.format for form in known.attempt.prompts]) == ("think", ["think", "plain"])
    assert with_format(known) is known
    with pytest.raises(TennerError, match=r"the chat template of .* does not tell the think format"):
        with_format(recipe.load(str(tiny_recipe), overrides=[*auto, f'student.model="{tiny_model_dir}"']))


def test_a_student_answers_by_its_own_policy_unless_options_name_one(
    run_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    default_policy.write(run_dir / "student", CHOSEN)
    student, _ = resolve_student(str(run_dir), StudentOptions())
    assert student.policy() == CHOSEN.policy
    assert "thinking_policy.json: at most 48 thinking tokens, ended early every 8 tokens" in capsys.readouterr().err
    named: list[tuple[StudentOptions, Policy]] = [
        (StudentOptions(thinking_tokens_max=32), Policy(thinking_tokens_max=32)),
        (StudentOptions(grace={"tokens": 8}), Policy(thinking_tokens_max=64, grace=Grace(tokens=8))),
        (StudentOptions(takes_own_policy=False), Policy(thinking_tokens_max=64)),
    ]
    for options, policy in named:
        assert resolve_student(str(run_dir), options).student.policy() == policy
    assert capsys.readouterr().err == ""
    with pytest.raises(TennerError, match="--early-exit: every_tokens"):
        resolve_student(str(run_dir), StudentOptions(early_exit={}))
