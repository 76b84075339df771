"""The whole pipeline on a tiny random student: every stage real, uninterrupted and killed."""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import forked
import pytest
import s1_tables
from chat_server import ChatServer, usage_of
from commands import tenner_here

from tenner import api, cli, pipeline
from tenner.budget.ledger_database import read_spend
from tenner.commands import export as exportjob
from tenner.commands import show, watch
from tenner.core import default_policy, recipe
from tenner.core.chat_template import encode_prompt
from tenner.core.errors import TennerError
from tenner.core.progress import Screen
from tenner.core.records import (
    Completion,
    Counterfactual,
    Difficulty,
    Drop,
    EarlyExit,
    Grace,
    Label,
    Pick,
    Policy,
    Question,
    Sample,
    Score,
    SelectStep,
    Setting,
    StageForecast,
    StageHardware,
    Trace,
    TrainStep,
)
from tenner.core.run import open_run, render, stored_recipe
from tenner.core.run_folder import RunFolder
from tenner.core.stage_markers import StageMarkers
from tenner.core.stage_names import SELECT_FIRST
from tenner.evaluation import benchmarks
from tenner.evaluation.report.facts import TUNING
from tenner.measurement import MeasureOptions
from tenner.stages.resolve_student import StudentOptions, resolve_student
from tenner.tuning import TuneOptions

KINDS = {
    "questions": Question, "benchmark": Question, "clean": Question, "attempts": Completion, "selected": Question,
    "traces": Trace, "samples": Sample, "training": TrainStep, "completions": Completion, "scores": Score,
    "hardware": StageHardware, "forecast": StageForecast,
}  # fmt: skip


def run_to_the_end(tiny_recipe, path):
    with open_run(path, recipe.load(str(tiny_recipe)), Screen(), budget_usd=None) as run:
        pipeline.run_stages(run, pipeline.STAGES)
    return RunFolder(path)


@pytest.fixture(scope="module")
def unbroken(tiny_recipe, tmp_path_factory):
    return run_to_the_end(tiny_recipe, tmp_path_factory.mktemp("runs") / "unbroken")


def test_every_stage_leaves_its_records_and_its_marker(unbroken):
    assert all(unbroken.done(stage) for stage in pipeline.STAGES)
    assert {name: len(unbroken.read(name, kind)) > 0 for name, kind in KINDS.items()} == dict.fromkeys(KINDS, True)
    assert len(unbroken.read("samples", Sample)) == 24
    assert len(unbroken.read("completions", Completion)) == 12 * 5 * 2
    for name in ("report.html", "report.md", "accuracy.svg", "student/README.md", "student/model.safetensors"):
        assert (unbroken.path / name).stat().st_size > 500
    assert not (unbroken.path / "checkpoint").exists()
    assert [row.stage for row in unbroken.read("hardware", StageHardware)] == ["attempt", "train", "evaluate"]
    assert {f.stage for f in unbroken.read("forecast", StageForecast)} == {"attempt", "train", "evaluate"}
    assert "| train | cpu (" in (unbroken.path / "report.md").read_text()


def test_the_budget_is_exact_and_every_cut_closed(unbroken):
    for c in unbroken.read("completions", Completion):
        assert c.thinking_tokens <= c.policy.thinking_tokens_max
        kinds = [i.kind for i in c.interventions]
        assert ("cut" in kinds) == ("cue" in kinds) or c.student == "base"


def test_held_out_questions_are_in_no_sample(unbroken):
    heldout = {q.question for q in unbroken.read("benchmark", Question)}
    assert not heldout & {s.question for s in unbroken.read("samples", Sample)}


def test_a_paid_teacher_replaces_the_reference_solutions(tiny_recipe, tmp_path, monkeypatch):
    monkeypatch.setenv("THE_KEY", key := "sk-right-key-789")
    with ChatServer(key=key) as server:
        paid = recipe.load(
            str(tiny_recipe),
            overrides=[
                'gather.families=["running_sum", "coin_flips"]', "select.samples=20", 'trace.client="openai"',
                f'trace.base_url="{server.url}"', 'trace.model="m"', 'trace.api_key_env="THE_KEY"',
                "trace.output_tokens_max=500",
                "trace.price.input_usd_per_mtok=1.0", "trace.price.output_usd_per_mtok=2.0",
            ],
        )  # fmt: skip
        with open_run(tmp_path / "run", paid, Screen(), budget_usd=None) as run:
            pipeline.run_stages(run, list(pipeline.STAGES)[:6])  # up to verify
            usages = [usage_of(a.question) for a in server.asked]
            spent = {row.stage: row.cost_usd for row in run.ledger.rows()}
    assert round(spent["trace"] * 1e6) == sum(u["prompt_tokens"] + 2 * u["completion_tokens"] for u in usages)
    folder = RunFolder(tmp_path / "run")
    domains = {t.id: t.domain for t in folder.read("traces", Trace)}
    samples = folder.read("samples", Sample)
    assert {domains[s.id] for s in samples} == {"running_sum"}  # the server can only add
    dropped = folder.read("dropped-verify", Drop)
    assert {(domains[d.id], d.reason) for d in dropped} == {("coin_flips", "wrong answer")}
    # What was wrong was made up for, by the next questions of the same draw; each was asked once.
    assert len(samples) == 20
    assert len(usages) == 20 + len(dropped) == len(folder.read("selected", Question))
    picks = folder.read("picks", Pick)
    assert [p.place for p in picks] == list(range(len(usages)))
    (told,) = folder.read("counterfactual", Counterfactual)
    assert (told.bought, round(told.spent_usd * 1e6)) == (len(usages), round(spent["trace"] * 1e6))
    assert told.other_bought == len(folder.read("clean", Question)) - sum(
        d.reason == "too easy" for d in folder.read("dropped-select", Drop)
    )


def test_a_question_tells_why_it_is_in_or_out(unbroken, capsys):
    kept, fallen = unbroken.read("samples", Sample)[0], unbroken.read("dropped-select", Drop)[0]
    told = show.why(unbroken.path, kept.question_id)
    assert "select: picked as number" in told
    assert told.endswith(f"trained on: {kept.id}")
    told = show.why(unbroken.path, fallen.id)
    assert f"select: dropped, {fallen.reason}: {fallen.evidence}" in told
    assert told.endswith("not trained on")
    as_json = json.loads(show.why(unbroken.path, kept.question_id, as_json=True))
    assert (as_json["id"], as_json["trained_on"]) == (kept.question_id, [kept.id])
    assert any(line.startswith("select: picked as number") for line in as_json["told"])
    with pytest.raises(SystemExit) as e:
        cli.main(["show", str(unbroken.path), "--why", "nobody"])
    assert (e.value.code, "has no question nobody" in capsys.readouterr().err) == (2, True)


def test_a_sample_is_shown_as_json_too(unbroken, capsys):
    sample = unbroken.read("samples", Sample)[0]
    show.print_sample(unbroken.path, sample.id, as_json=True)
    shown = json.loads(capsys.readouterr().out)
    assert shown["id"] == sample.id
    trained = "".join(piece["text"] for piece in shown["pieces"] if piece["trained_on"])
    assert sample.thinking in trained
    assert sample.question in "".join(piece["text"] for piece in shown["pieces"] if not piece["trained_on"])
    assert 0 < shown["trained_tokens"] < shown["tokens"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["trace", "RUN", "--model", "new", "--concurrency", "64"], "--model has no effect on a run"),
        (["trace", "RUN", "--batch"], "--batch has no effect on a run"),
        (["trace", "RUN", "--budget-usd", "nan"], "--budget-usd nan is not an amount of dollars"),
        (["show", "RUN", "--sample", "a", "--why", "b"], "--sample and --why are two questions"),
        (["show", "RUN", "--why", ""], "has no question "),
    ],
)
def test_an_option_without_effect_is_refused(unbroken, options, said, capsys):
    with pytest.raises(SystemExit) as e:
        cli.main([str(unbroken.path) if word == "RUN" else word for word in options])
    assert (e.value.code, said in capsys.readouterr().err) == (2, True)


@pytest.mark.slow
def test_a_key_that_the_server_repeats_is_in_no_file_of_a_run_and_in_nothing_it_says(
    tiny_recipe, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("THE_KEY", key := "sk-right-key-012")
    with ChatServer(key=key, tells_headers=True) as server:
        paid = recipe.load(
            str(tiny_recipe),
            overrides=[
                'gather.families=["running_sum"]', "gather.questions=200", 'trace.client="openai"',
                f'trace.base_url="{server.url}"', 'trace.model="m"', 'trace.api_key_env="THE_KEY"',
                "trace.output_tokens_max=500", "select.samples=6", "train.epochs=1", "evaluate.questions=2",
                "evaluate.thinking_tokens_max=[4]", "attempt.questions=1",
                "trace.price.input_usd_per_mtok=1.0", "trace.price.output_usd_per_mtok=2.0",
                f'evaluate.models=[{{name="adder", base_url="{server.url}", model="m", api_key_env="THE_KEY",'
                "output_tokens_max=500, price={input_usd_per_mtok=1.0, output_usd_per_mtok=2.0}}]",
            ],
        )  # fmt: skip
        with open_run(tmp_path / "run", paid, Screen(), budget_usd=None) as run:
            pipeline.run_stages(run, pipeline.STAGES)
    folder = RunFolder(tmp_path / "run")
    asked = {name: setting.engine for setting in folder.read("settings", Setting) for name in [setting.student]}
    assert asked == {"base": "hf", "distilled": "hf", "adder": "openai"}
    assert {s.student: s.n for s in folder.read("scores", Score) if s.domain is None} == dict.fromkeys(asked, 2)
    assert "adder, prompt “chat”" in (folder.path / "report.md").read_text()
    assert all("Bearer [key]" in s.thinking for s in folder.read("samples", Sample))
    written = {path.name: path.read_bytes() for path in folder.path.rglob("*") if path.is_file()}
    assert {"report.html", "report.md", "run.db", "traces.jsonl", "recipe.toml"} <= written.keys()
    said = "".join(capsys.readouterr())
    assert "trace: " in said
    assert [name for name, text in {**written, "said": said.encode()}.items() if key.encode() in text] == []


def test_a_row_that_is_no_question_tells_why_too(tiny_recipe, tmp_path):
    (file := tmp_path / "rows.jsonl").write_text('{"question": "1+1?"}\n{"question": " "}\n')
    mine = f"[{{name = 'mine', file = '{file}', columns = {{question = 'question'}}}}]"
    described = recipe.load(str(tiny_recipe), overrides=[f"gather.sources={mine}"])
    with open_run(tmp_path / "run", described, Screen(), budget_usd=None) as run:
        pipeline.run_stages(run, ["gather"])
    (fallen,) = RunFolder(tmp_path / "run").read("dropped-gather", Drop)
    assert show.why(tmp_path / "run", fallen.id).splitlines() == [
        f"{fallen.id}: a row that is no question",
        "gather: dropped, no question: mine, row 2 has no question",
        "not trained on",
    ]


def test_a_finished_run_says_what_it_came_to_as_json(unbroken):
    done = tenner_here("run", unbroken.path, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == json.loads(tenner_here("show", unbroken.path, "--json").stdout)


POOL = 6000


@pytest.mark.slow
@pytest.mark.parametrize(
    ("order", "sampler"),
    [
        ("select-first", "hardest"),
        ("trace-first", "hardest"),
        ("trace-first", "s1-paper"),
        ("trace-first", "s1-notebook"),
    ],
)
def test_both_orders_come_to_the_same_number_on_a_large_pool(order, sampler, tiny_recipe, tmp_path):
    described = recipe.load(
        str(tiny_recipe),
        overrides=[
            f'order="{order}"',
            f'select.sampler="{sampler}"',
            f"gather.questions={POOL}",
            "clean.near_similarity=1.0",
            "train.epochs=1", "evaluate.questions=2", "evaluate.thinking_tokens_max=[4]", "evaluate.waits=[]",
        ],
    )  # fmt: skip
    to_the_end = sampler == "hardest"
    with open_run(tmp_path / "run", described, Screen(), budget_usd=None) as run:
        pipeline.run_stages(run, described.stages if to_the_end else described.stages[:6])
    folder = RunFolder(tmp_path / "run")
    assert len(folder.read("questions", Question)) >= POOL * 5 // 6
    assert len(folder.read("samples", Sample)) == described.select.samples == 24
    (told,) = folder.read("counterfactual", Counterfactual)
    bought = len(folder.read("traces", Trace))
    assert told.bought == bought
    assert (bought == described.select.samples) == (order == "select-first")
    assert bought >= (POOL * 2 // 3 if order == "trace-first" else 0)
    assert told.other_bought == (described.select.samples if order == "trace-first" else len(_worth(folder)))
    steps = {s.name: s.items_out for s in folder.read("select-steps", SelectStep)}
    assert steps["not drawn"] == described.select.samples
    if to_the_end:
        assert told.sentence in (folder.path / "report.md").read_text("utf-8")
        assert told.sentence in (folder.path / "report.html").read_text("utf-8")


@pytest.mark.parametrize("by", ["model", pytest.param("clusters", marks=pytest.mark.slow)])
def test_questions_without_a_domain_are_labelled_once_and_paid_once(by, tiny_recipe, tmp_path):
    file = tmp_path / "bare.jsonl"
    rows = [{"question": f"Add {a} and {b}, then {('sing', 'count apples')[i % 2]} {i}", "answer": str(a + b + i)}
            for i, (a, b) in enumerate((10 * k, 1) for k in range(40))]  # fmt: skip
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    columns = "{question = 'question', answer = 'answer'}"
    with ChatServer() as server:
        paid_model = (
            f"{{client = 'openai', base_url = '{server.url}', model = 'm', output_tokens_max = 500, "
            "price = {input_usd_per_mtok = 1.0, output_usd_per_mtok = 2.0}}"
        )
        described = recipe.load(
            str(tiny_recipe),
            overrides=[
                f"gather.sources=[{{name = 'bare', file = '{file}', columns = {columns}}}]", "gather.questions=0",
                "gather.families=[]", "evaluate.questions=0", "select.samples=10", f"trace={paid_model}",
                f"evaluate.benchmarks=[{{name = 'judge', file = '{file}', columns = {columns}, sample = 4}}]",
                "clean.near_similarity=1.0", "clean.benchmark_similarity=1.0",
                f"domains.by={by}", *([f"domains.labeller={paid_model}"] if by == "model" else ["domains.clusters=3"]),
            ],
        )  # fmt: skip
        with open_run(tmp_path / "run", described, Screen(), budget_usd=None) as run:
            pipeline.run_stages(run, described.stages[:6])
            spent = {row.stage: row.cost_usd for row in run.ledger.rows()}
        systems = [a.body["messages"][0]["role"] for a in server.asked]
    folder = RunFolder(tmp_path / "run")
    assert len(folder.read("samples", Sample)) == 10
    labels = folder.read("labels", Label)
    assert len({label.question_id for label in labels}) == len(labels) == len(folder.read("clean", Question)) == 36
    assert (systems.count("system") == 36, "select" in spent) == ((True, True) if by == "model" else (False, False))
    domains = {label.question_id: label.domain for label in labels}
    assert all(domains[q.id] == q.domain for q in folder.read("selected", Question))
    assert len(set(domains.values())) > 1


@pytest.mark.slow
def test_a_second_model_attempts_too_and_does_not_speak_for_the_student(tiny_recipe, tmp_path):
    tiny = recipe.load(str(tiny_recipe))
    two = recipe.load(str(tiny_recipe), overrides=[f'attempt.second_model="{tiny.student.model}"'])
    with open_run(tmp_path / "run", two, Screen(), budget_usd=None) as run:
        pipeline.run_stages(run, two.stages[:3])
        by_student = Counter(c.student for c in run.folder.read("attempts", Completion))
        tries = {d.tries for d in run.folder.read("difficulties", Difficulty)}
        assert pipeline.best_prompt(run) in two.attempt.prompts
    assert by_student["base"] == by_student["second"] > 0
    assert tries == {2 * 2 * len(two.attempt.prompts)}


def test_published_traces_go_straight_to_training(tiny_recipe, tmp_path):
    published, tiny = recipe.load("s1k"), recipe.load(str(tiny_recipe))
    tables = [*published.gather.sources, *map(benchmarks.resolve, published.evaluate.benchmarks)]
    for table in tables:
        s1_tables.save(table, tmp_path / table.name)
    local = [
        t.model_copy(
            update={
                "dataset": str(tmp_path / t.name),
                "revision": None,
                "expect": t.expect and len(s1_tables.ROWS[t.name]),
            }
        )
        for t in tables
    ]
    here = published.model_copy(
        update={
            "gather": published.gather.model_copy(update={"sources": local[:1]}),
            "evaluate": published.evaluate.model_copy(update={"benchmarks": local[1:], "engine": "hf", "vllm": {}}),
            "student": tiny.student,
        }
    )
    pipeline.check(here)
    with open_run(tmp_path / "run", here, Screen(), budget_usd=None) as run:
        pipeline.run_stages(run, here.stages[: here.stages.index("train")])
        assert pipeline.best_prompt(run).name == "plain"
    folder = RunFolder(tmp_path / "run")
    samples = folder.read("samples", Sample)
    assert len(samples) == 4
    assert {(s.thinking, s.answer) for s in samples} >= {("Okay, 2 hens.", "So **2**.\n\n\\boxed{2}")}
    assert read_spend(folder.path / "run.db") == [] or sum(r.cost_usd for r in read_spend(folder.path / "run.db")) == 0


def _worth(folder):
    easy = {d.id for d in folder.read("dropped-select", Drop) if d.reason == "too easy"}
    return [q for q in folder.read("clean", Question) if q.id not in easy]


def test_the_answers_export_as_they_were_given(unbroken, tmp_path):
    from tenner.training import student

    tokenizer = student.load_tokenizer(unbroken.path / "student")
    rows = [
        json.loads(line)
        for path in exportjob.run(unbroken.path, tmp_path).splitlines()
        for line in Path(path).read_text("utf-8").splitlines()
    ]
    completions = unbroken.read("completions", Completion)
    said = Counter(tokenizer.decode(list(c.token_ids), skip_special_tokens=False) for c in completions)
    assert Counter(row["resps"][0][0] for row in rows) == said
    assert sum(row["exact_match"] for row in rows) == sum(c.grade.verdict == "correct" for c in completions)


def test_several_greedy_answers_are_refused_before_anything_is_done(tiny_recipe):
    with pytest.raises(TennerError, match=r"evaluate\.samples is 4 at temperature 0"):
        pipeline.check(recipe.load(str(tiny_recipe), overrides=["evaluate.samples=4"]))


def test_the_json_summary_adds_up(unbroken):
    facts = json.loads(show.as_json(unbroken.path))
    assert {s["state"] for s in facts["stages"]} == {"done"}
    by_stage = facts["spend_usd"]["by_stage"]
    assert {"attempt", "trace", "train", "evaluate"} == by_stage.keys()
    assert facts["spend_usd"]["total"] == pytest.approx(sum(by_stage.values()), abs=1e-6)
    score = facts["scores"][0]
    assert score.keys() >= {
        "task", "student", "policy", "n", "accuracy", "ci_low", "ci_high", "thinking_tokens_mean", "truncated",
        "unparsed",
    }  # fmt: skip
    assert score["policy"].keys() >= {"thinking_tokens_max", "waits"}


def test_a_finished_run_can_be_watched(unbroken, capsys):
    watch.main(argparse.Namespace(run=unbroken.path, once=False))
    shown = capsys.readouterr().out
    steps = unbroken.read("training", TrainStep)
    for told in ("finished", f"step {len(steps)} of {len(steps)}", f"loss {steps[-1].loss:.3f}", "last answers of"):
        assert told in shown
    assert {line.split()[0] for line in shown.splitlines() if " done " in line} == set(SELECT_FIRST)


def test_a_finished_run_is_not_run_again(unbroken, tiny_recipe):
    before = {
        p: p.stat().st_mtime_ns for p in unbroken.path.rglob("*") if p.is_file() and p.suffix in (".jsonl", ".html")
    }
    run_to_the_end(tiny_recipe, unbroken.path)
    assert {p: p.stat().st_mtime_ns for p in before} == before


def test_one_sample_is_shown_with_what_is_trained_on_marked(unbroken, capsys):
    sample = unbroken.read("samples", Sample)[0]
    show.print_sample(unbroken.path, sample.id)
    shown = capsys.readouterr().out.rstrip("\n")
    prompt, trained = shown.split("⟦")
    assert sample.question in prompt
    assert "assistant" in prompt
    said = f"<|im_start|>think\n{sample.thinking}\n<|im_start|>answer\nAnswer: {sample.answer}<|im_end|>"
    assert trained == f"{said}⟧"


def test_the_student_loads_with_transformers_alone(unbroken):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from tenner.training.student import load_tokenizer

    student = AutoModelForCausalLM.from_pretrained(unbroken.path / "student")
    tokenizer = AutoTokenizer.from_pretrained(unbroken.path / "student")
    assert student.generation_config.eos_token_id == tokenizer.eos_token_id
    # Asked without a system message, it sees what it sees in the run, and its thinking is opened.
    described, question = stored_recipe(unbroken), unbroken.read("benchmark", Question)[0]
    assert described is not None
    asked: Any = tokenizer.apply_chat_template(
        [{"role": "user", "content": question.question}], add_generation_prompt=True
    )
    served = resolve_student(str(unbroken.path), StudentOptions()).student
    own = load_tokenizer(unbroken.path / "student", served.chat_template)
    prompt = encode_prompt(own, render(own, question, described.student.form, described))
    assert asked["input_ids"] == prompt + own.encode("<|im_start|>think\n", add_special_tokens=False)


@pytest.mark.slow
def test_chat_answers_what_it_is_asked(unbroken):
    done = subprocess.run(
        [sys.executable, "-m", "tenner", "chat", unbroken.path, "--thinking", "4", "--waits", "1"],
        input="What is 1+1?\n", capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Answer:" in done.stdout  # four tokens are too few: the answer is asked for


def test_the_run_folder_loads_as_a_dataset_of_plain_json(unbroken):
    lines = (unbroken.path / "samples.jsonl").read_text().splitlines()
    assert {tuple(json.loads(line)) for line in lines} == {
        ("id", "question_id", "question", "thinking", "answer", "domain")
    }


SIGN_OF_WORK = {
    "gather": "lock",
    "attempt": "attempts.jsonl",
    "trace": "traces.jsonl",
    "train": "training.jsonl",
    "evaluate": "completions.jsonl",
}
"""A file that is not empty as soon as the stage is at work."""
OWN_FILE = {
    "gather": "questions.jsonl",
    "clean": "clean.jsonl",
    "attempt": "attempts.jsonl",
    "train": "training.jsonl",
}
"""A file that the stage writes and no later one."""


def killed_at_its_marker(stage, *words):
    """The command, for stages of milliseconds, which no other process can hit: all their work is done by the kill."""
    write = StageMarkers.write

    def killed(self, done):
        if done.name == stage:
            os.kill(os.getpid(), signal.SIGKILL)
        write(self, done)

    StageMarkers.write = killed  # type: ignore[method-assign]  # in a process of its own
    cli.main(words)


def kill_in(stage, words, path):
    """Start a run, and kill it in the middle of a stage."""
    said = path.with_name("said")
    if stage in SIGN_OF_WORK:
        sign = path / SIGN_OF_WORK[stage]
        process = forked.tenner(said, *words)
        deadline = time.monotonic() + 120
        while not (sign.exists() and sign.stat().st_size):
            assert time.monotonic() < deadline, stage
            assert process.exitcode is None, (stage, said.read_text())
            time.sleep(0.002)  # shorter than a stage that is hit here
        process.kill()
    else:
        process = forked.start(said, killed_at_its_marker, stage, *words)
    process.join()
    assert process.exitcode == -signal.SIGKILL, (stage, said.read_text())
    assert not RunFolder(path).done(stage), f"killed too late: {stage}"


@pytest.mark.slow
def test_kill_9_in_the_middle_of_every_stage_changes_nothing(unbroken, tiny_recipe, tmp_path):
    path = tmp_path / "run"
    finished: dict[Path, int] = {}
    for stage in pipeline.STAGES:
        kill_in(stage, ["run", str(tiny_recipe), "--run-dir", str(path)], path)
        assert {file: file.stat().st_mtime_ns for file in finished} == finished, f"written again: {stage}"
        finished |= {
            path / file: (path / file).stat().st_mtime_ns
            for name, file in OWN_FILE.items() if RunFolder(path).done(name)
        }  # fmt: skip

    folder = run_to_the_end(tiny_recipe, path)
    assert {file: file.stat().st_mtime_ns for file in finished} == finished
    assert folder.read("selected", Question) == unbroken.read("selected", Question)
    losses = [[step.loss for step in f.read("training", TrainStep)] for f in (folder, unbroken)]
    assert losses[0] == losses[1]
    assert folder.read("scores", Score) == unbroken.read("scores", Score)


@pytest.mark.slow
def test_a_student_is_tuned_once_and_answers_by_its_policy(unbroken, tmp_path, monkeypatch):
    """The tiny student is never right: every policy loses nothing, and the cheapest is chosen."""
    run = tmp_path / "run"
    shutil.copytree(unbroken.path, run)
    options = TuneOptions(
        questions=60, margin_points=5.0, thinking_tokens_max=[4], early_exit=[{"every_tokens": 4}],
        grace=[{"tokens": 4, "candidates": 2}],
    )  # fmt: skip
    # 1. Killed after the first group of questions, it goes on behind it.
    folder = RunFolder(run)
    monkeypatch.setattr(RunFolder, "append", killed_after(1))
    with pytest.raises(KeyboardInterrupt):
        api.tune(run, options)
    monkeypatch.undo()
    before = folder.read(TUNING, Completion)
    assert 0 < len(before) < 60 * 4
    done = api.tune(run, options)
    answered = folder.read(TUNING, Completion)
    keys = [(c.question_id, c.policy) for c in answered]
    assert answered[: len(before)] == before
    assert len(set(keys)) == len(keys) == 60 * 4
    assert {q.id for q in folder.stream("benchmark", Question)}.isdisjoint(c.question_id for c in answered)
    # 2. The cheapest is chosen, named by the card and the report, and charged.
    full, least = Policy(thinking_tokens_max=16), Policy(thinking_tokens_max=4)
    assert [c.policy for c in done.candidates][:2] == [least, full]
    assert {c.policy.early_exit for c in done.candidates} == {None, EarlyExit(every_tokens=4)}
    assert {c.policy.grace for c in done.candidates} == {None, Grace(tokens=4, candidates=2)}
    assert done.chosen.policy == least
    assert (done.chosen.n, done.chosen.full) == (60, full)
    assert default_policy.read(run / "student") == done.chosen
    for name in ("student/README.md", "report.md", "report.html"):
        assert "at most 4 thinking tokens: of 4 policies the cheapest" in (run / name).read_text("utf-8")
    assert api.result(run).spent_usd > api.result(unbroken.path).spent_usd
    # 3. Once more nothing is asked; the student then answers by its policy.
    said = tenner_here("tune", run, "--questions", 60, "--margin", 5, "--thinking", 4, "--json")
    assert said.returncode == 0, said.stderr
    assert json.loads(said.stdout)["chosen"]["policy"] == least.model_dump()
    assert len(folder.read(TUNING, Completion)) == 60 * 4
    said = tenner_here("tune", run, "--questions", 60, "--margin", 5, "--thinking", 4)
    assert "at most 4 thinking tokens" in said.stdout
    assert "chosen" in said.stdout
    questions = tmp_path / "sums.jsonl"
    questions.write_text(json.dumps({"question": "2 + 2?", "answer": "4"}) + "\n")
    measured = api.measure(run, MeasureOptions(data=questions), run_dir=tmp_path / "measured")
    assert [s.policy for s in measured.scores] == [least]
    # 4. A card that was edited stays.
    card = run / "student" / "README.md"
    card.write_text("mine")
    os.utime(card, (2e9, 2e9))
    api.tune(run, options)
    assert card.read_text() == "mine"


def killed_after(groups):
    """`RunFolder.append` that is interrupted behind so many groups of completions."""
    append, seen = RunFolder.append, []

    def killed(self, name, records):
        append(self, name, records)
        seen.append(name)
        if seen.count(TUNING) == groups:
            raise KeyboardInterrupt

    return killed
