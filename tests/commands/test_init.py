"""`tenner init`: from a file of questions to a recipe that runs."""

import json
import os
import pty

import pytest
from chat_server import ChatServer
from commands import tenner_here

from tenner.clients.openai import presets
from tenner.core import recipe

PAID = ("--teacher", "deepseek", "--teacher-model", "deepseek-flash", "--budget-usd", "1")


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """Fifty questions as a spreadsheet saves them, with a byte order mark, and a benchmark beside them."""
    rows = [f'q{i},"What is {i}+{i}?",{2 * i},sums' for i in range(50)]
    (tmp_path / "mine.csv").write_text("\ufeffid,problem,answer,topic\n" + "\n".join(rows), "utf-8")
    lines = [json.dumps({"question": f"What is {i}+1?", "answer": i + 1}) for i in range(100, 104)]
    (tmp_path / "bench.jsonl").write_text("\n".join(lines))
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DEEPSEEK_API_KEY", raising=False)
    return tmp_path


def refused(*args):
    done = tenner_here("init", *args)
    assert (done.returncode, done.stdout) == (2, "")
    return done.stderr


def test_a_file_and_four_facts_are_a_recipe_that_is_read(mine):
    done = tenner_here("init", "mine.csv", *PAID, "--benchmark", "bench.jsonl")
    assert (done.returncode, done.stdout) == (0, "mine.toml\n"), done.stderr
    for told in (
        "50 questions, 0 of them without an answer; the first ones:\n  q0: What is 0+0? -> 0\n  q1: What is 1+1? -> 2",
        "40 traces of at most 4,000 tokens, at $1.20 a million: at most $0.20",
        "the key in DEEPSEEK_API_KEY is not set: export DEEPSEEK_API_KEY=… before the run",
        "next: tenner plan mine.toml; tenner run mine.toml",
    ):
        assert told in done.stderr
    made = recipe.load("mine.toml")
    (source,), (benchmark,) = made.gather.sources, made.evaluate.benchmarks
    assert (source.file, source.columns.question, source.columns.answer) == ("mine.csv", "problem", "answer")
    assert (benchmark.name, benchmark.file) == ("bench", "bench.jsonl")
    assert (made.select.samples, made.budget_usd, made.trace.preset) == (40, 1.0, "deepseek")
    assert "# the cap over the whole run" in (mine / "mine.toml").read_text()
    assert "is there already" in refused("mine.csv", *PAID, "--benchmark", "bench.jsonl")


def test_an_answer_column_that_is_not_found_can_be_named_for_both_files(mine):
    (mine / "points.csv").write_text("problem,points\nWhat is 1+1?,2\n")
    (mine / "other.csv").write_text("problem,points\nWhat is 2+2?,4\n")
    options = (*PAID, "--benchmark", "other.csv", "--samples", "1")
    assert "name their column with --answer: there are problem, points" in refused("points.csv", *options)
    done = tenner_here("init", "points.csv", *options, "--answer", "points")
    assert done.returncode == 0, done.stderr
    assert recipe.load("points.toml").evaluate.benchmarks[0].columns.answer == "points"
    (mine / "points.toml").unlink()
    done = tenner_here("init", "points.csv", *PAID, "--benchmark", "bench.jsonl", "--samples", "1")
    assert "if one of the columns problem, points holds the answers, name it with --answer" in done.stderr


def test_ids_of_ones_own_stay_whatever_their_column_is_called(mine):
    (mine / "trains.csv").write_text("Nr,problem,answer\nT1,What is 1+1?,2\n")
    (mine / "other.csv").write_text("Nr,problem,answer\nB1,What is 2+2?,4\n")
    options = ("trains.csv", *PAID, "--benchmark", "other.csv", "--samples", "1")
    assert "there are Nr, problem, answer" in refused(*options, "--id", "nr")
    done = tenner_here("init", *options, "--id", "Nr")
    assert "\n  T1: What is 1+1? -> 2\n" in done.stderr
    made = recipe.load("trains.toml")
    assert made.gather.sources[0].columns.id == made.evaluate.benchmarks[0].columns.id == "Nr"


def test_questions_are_shown_in_one_line_each(mine, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    (mine / "long.csv").write_text(f"question,answer\n{'How many sheep are there? ' * 9},12\n")
    done = tenner_here("init", "long.csv", *PAID, "--benchmark", "bench.jsonl", "--samples", "1")
    (shown,) = (line for line in done.stderr.splitlines() if "sheep" in line)
    assert len(shown) == 60
    assert shown.endswith("… -> 12")


@pytest.mark.usefixtures("mine")
def test_all_that_is_missing_is_named_at_once_with_an_example():
    said = refused("mine.csv", "--teacher", "deepseek")
    assert said.splitlines() == [
        "tenner: --teacher-model, --benchmark and --budget-usd are missing",
        "hint: for example --teacher-model deepseek-flash --benchmark GSM8K --budget-usd 5",
    ]


@pytest.mark.usefixtures("mine")
def test_a_file_that_cannot_be_read_is_refused_before_anything_is_asked():
    assert "nosuch.csv" in refused("nosuch.csv")


def test_a_benchmark_with_other_columns_is_told_how_to_name_them(mine):
    (mine / "other.csv").write_text("Aufgabe,Loesung\nWas ist 2+2?,4\n")
    assert refused("mine.csv", *PAID, "--benchmark", "other.csv").splitlines()[1] == (
        "hint: there are Aufgabe, Loesung: rename them as in mine.csv, or to question and answer"
    )


def test_columns_that_are_called_otherwise_are_asked_for_on_a_terminal(mine, terminal):
    (mine / "trains.csv").write_text("Nr,Task,Minutes\nT1,What is 1+1?,2\nT2,What is 2+1?,3\n")
    (mine / "other.csv").write_text("Task,Minutes\nWhat is 2+2?,4\n")
    terminal("task", "Task", "Minutes", "other.csv")  # the first of them with a slip
    done = tenner_here("init", "trains.csv", *PAID, "--samples", "1")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("the column of the questions (there are Nr, Task, Minutes): ") == 2
    (source,) = recipe.load("trains.toml").gather.sources
    assert (source.columns.question, source.columns.answer) == ("Task", "Minutes")


def test_questions_without_answers_need_no_column_on_a_terminal(mine, terminal):
    (mine / "open.csv").write_text("problem,topic\nWhat is 1+1?,sums\nWhat is 2+1?,sums\n")
    terminal("")
    done = tenner_here("init", "open.csv", *PAID, "--samples", "1", "--benchmark", "bench.jsonl")
    assert "2 questions, 2 of them without an answer" in done.stderr
    assert recipe.load("open.toml").gather.sources[0].columns.answer is None


@pytest.fixture
def terminal(monkeypatch):
    """Standard input is a terminal; the fixture types lines on it."""
    keyboard, screen = pty.openpty()
    with open(screen, encoding="utf-8") as stdin:
        monkeypatch.setattr("sys.stdin", stdin)
        yield lambda *lines: os.write(keyboard, "".join(f"{line}\n" for line in lines).encode())
    os.close(keyboard)


def test_the_help_names_every_provider():
    said = " ".join(tenner_here("init", "--help").stdout.split())
    assert f"a provider ({', '.join(presets())}) or" in said


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((*PAID,), "--benchmark is missing"),
        ((*PAID, "--benchmark", "bnch.jsonl"), "is neither a known benchmark nor a file"),
        ((*PAID, "--benchmark", "GSM8k"), "did you mean GSM8K?"),
        ((*PAID, "--benchmark", "GSM8K", "--answer", "answr"), "did you mean answer?"),
        ((*PAID, "--benchmark", "GSM8K", "--teacher", "deepsek"), "did you mean deepseek?"),
        ((*PAID, "--benchmark", "GSM8K", "--teacher-model", "x9"), "the price of deepseek/x9 is not known"),
        ((*PAID, "--benchmark", "GSM8K", "--budget-usd", "much"), "is not an amount of dollars"),
        ((*PAID, "--benchmark", "GSM8K", "--samples", "51"), "select.samples = 51"),
    ],
)
def test_what_the_run_would_refuse_is_refused_at_once(mine, options, message):
    assert message in refused("mine.csv", *options)
    assert not (mine / "mine.toml").exists()


@pytest.mark.slow
def test_the_recipe_runs_from_another_folder_to_its_report(mine, tiny_model_dir, monkeypatch):
    with ChatServer() as server:
        done = tenner_here(
            "init", "mine.csv", "--teacher", server.url, "--teacher-model", "m", "--budget-usd", "1",
            "--benchmark", "bench.jsonl", "--student", tiny_model_dir, "--samples", "10",
        )  # fmt: skip
        assert "the teacher's tokens cost nothing" in done.stderr
        monkeypatch.chdir("/")
        run = tenner_here(
            "run", mine / "mine.toml", "--run-dir", mine / "run", "--set", "evaluate.thinking_tokens_max=[0, 16]",
            "--set", "attempt.questions=2", "--set", "evaluate.answer_tokens_max=8", "--set", "train.tokens_max=900",
        )  # fmt: skip
        assert run.returncode == 0, run.stderr
    assert (mine / "run" / "report.html").is_file()
    why = tenner_here("show", mine / "run", "--why", "q5")
    assert "q5: What is 5+5?" in why.stdout
