"""`tenner trace QUESTIONS.jsonl` as a person meets it: the command with its output, a server on loopback."""

import json
import os
import re
import socket
from collections import Counter
from typing import Any

import damaged_replies  # noqa: F401  its behaviours
import datasets
import pytest
from chat_server import ChatServer, usage_of
from commands import tenner, tenner_here

from tenner import cli, tracing
from tenner.clients import registry
from tenner.core import progress
from tenner.distill import reply_watch

QUESTIONS: list[dict[str, Any]] = [
    {"id": f"q{i}", "question": f"What is {i}+{i}?", "answer": 2 * i, "domain": "sums"} for i in range(12)
]


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "questions.jsonl"
    path.write_text("".join(json.dumps(q) + "\n" for q in QUESTIONS))
    return path


def words(file, server, *options, budget_usd=1):
    out = file.parent / "out"
    return [
        "trace", file, "--out", out, "--client", "openai", "--model", "m",
        "--base-url", getattr(server, "url", server), "--price-in", "1", "--price-out", "2",
        "--max-output-tokens", "100", "--concurrency", "4", "--budget-usd", budget_usd, *options,
    ]  # fmt: skip


def trace(*args, **kwargs):
    return tenner_here(*words(*args, **kwargs))


def trace_alone(*args, environment=None, **kwargs):
    """In a process of its own."""
    return tenner(*words(*args, **kwargs), env=os.environ | (environment or {}))


def rows(file, name="traces"):
    return [json.loads(line) for line in (file.parent / "out" / f"{name}.jsonl").read_text().splitlines()]


def refused(done):
    """The message and the hint of a refusal."""
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    return "\n".join(line for line in done.stderr.splitlines() if line.startswith(("tenner:", "hint:")))


def test_traces_are_flat_and_chats_and_graded(file):
    with ChatServer({"What is 3+3?": ["wrong"]}) as server:
        done = trace(file, server, "--suffix", "", "--parameter", "temperature=0.6")
        assert all(a.body["temperature"] == 0.6 and a.body["max_tokens"] == 100 for a in server.asked)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[:2] == ["12 traces: complete 12", "answers: correct 11, wrong 1"]
    by_id = {row["question_id"]: row for row in rows(file)}
    row = by_id["q2"]
    usage = usage_of("What is 2+2?")
    assert row["messages"] == [
        {"role": "user", "content": "What is 2+2?", "reasoning_content": None},
        {"role": "assistant", "content": row["answer"], "reasoning_content": row["thinking"]},
    ]
    assert (row["outcome"], row["domain"], row["grade"]) == (
        "complete",
        "sums",
        {"verdict": "correct", "extracted": "4", "reason": "exact verifier: the same text"},
    )
    assert row["usage"]["output_tokens"] == usage["completion_tokens"]
    assert round(row["cost_usd"] * 1e6) == usage["prompt_tokens"] + 2 * usage["completion_tokens"]
    assert by_id["q3"]["grade"]["verdict"] == "wrong"


def test_traces_load_as_a_dataset_whatever_became_of_them(file, tmp_path):
    # The first rows lack what later ones have, and the other way round.
    script = {"What is 0+0?": ["no usage"], "What is 1+1?": ["truncated"], "What is 2+2?": ["nothing said"],
              "What is 11+11?": ["cached"]}  # fmt: skip
    bare = [{"id": f"b{i}", "question": f"Why {i}+{i}?"} for i in range(3)]
    file.write_text("".join(json.dumps(q) + "\n" for q in [bare[0], *QUESTIONS, *bare[1:]]))
    with ChatServer(script) as server:
        assert trace(file, server).returncode == 0
    path = str(file.parent / "out" / "traces.jsonl")
    table: Any = datasets.load_dataset("json", data_files=path, split="train", cache_dir=str(tmp_path / "cache"))
    assert {"question_id", "thinking", "answer", "outcome", "usage", "cost_usd", "messages"} <= set(table.column_names)
    assert sorted(table["question_id"]) == sorted(q["id"] for q in [*QUESTIONS, *bare])
    by_id = {row["question_id"]: row for row in table}
    assert {by_id[f"q{i}"]["outcome"] for i in (1, 2, 3)} == {"truncated", "empty", "complete"}
    assert by_id["b0"]["domain"] is by_id["b0"]["grade"] is by_id["q0"]["usage"]["input_tokens"] is None
    assert by_id["q11"]["usage"]["cached_input_tokens"] == 64
    assert by_id["q3"]["messages"][-1]["reasoning_content"] == by_id["q3"]["thinking"] != ""


@pytest.mark.slow
def test_what_is_done_spent_and_still_to_come_is_told_on_the_way(file, monkeypatch, capsys):
    monkeypatch.setattr(progress, "LINE_EVERY_SECONDS", 0.2)
    monkeypatch.setattr(registry, "SHOW_EVERY_SECONDS", 0.05)
    script = {"What is 0+0?": ["refused"], "What is 1+1?": ["server error", "good"]}
    with ChatServer(script, latency_seconds=(0.2, 0.3)) as server, pytest.raises(SystemExit) as e:
        cli.main(list(map(str, words(file, server))))
    assert e.value.code == 4
    told = [line for line in capsys.readouterr().err.splitlines() if re.match(r"trace \d+/12 ", line)]
    assert any(
        re.fullmatch(
            r"trace \d+/12 \$0\.\d{4} spent, \$0\.\d{4} in flight, \$0\.\d{4} in the end  [1-9]\d* tokens/s"
            r"  failed: refused 1  retried: server_error 1  \d+\.\d min left",
            line,
        )
        for line in told
    ), told


def test_a_spreadsheet_with_its_own_column_names_is_a_file_of_questions(file):
    table = file.with_suffix(".csv")
    table.write_text(
        "\ufeffnr,problem,answer\n" + "".join(f"{i},What is {i}+{i}?,{2 * i}\n" for i in range(3)), "utf-8"
    )
    with ChatServer() as server:
        done = trace(table, server, "--column", "id=nr", "--column", "question=problem")
    assert done.stdout.startswith("3 traces: complete 3\nanswers: correct 3\n"), done.stderr
    assert {row["question_id"] for row in rows(file)} == {"0", "1", "2"}
    for option, message in (
        ("question=probem", "row 1 has no column probem\nhint: did you mean problem?"),
        ("qestion=problem", "there is no field qestion\nhint: did you mean question?"),
        ("question", "names no column"),
        ("question=problem", "row 1 has no id\nhint: every line needs id and question; a column with another name"),
    ):
        assert message in refused(trace(table, "http://127.0.0.1:9", "--column", option))


def test_a_folder_in_which_the_cap_let_nothing_be_bought_takes_another_job(file):
    with ChatServer() as server:
        assert trace(file, server, budget_usd=0.0000001).returncode == 3
        done = trace(file, server, "--suffix", " Be brief.", budget_usd=1)
        assert done.returncode == 0, done.stderr
        assert "holds nothing yet that was bought: it begins again with these settings" in done.stderr
        locked = trace(file, server, "--suffix", "", budget_usd=1)
        assert "holds the traces of a file of questions with other settings" in refused(locked)
        assert "hint: choose another --out; this one stays as it is" in locked.stderr


@pytest.mark.slow
def test_the_same_command_goes_on_where_the_cap_stopped_it(file):
    with ChatServer() as server:
        stopped = trace_alone(file, server, budget_usd=0.0007)
        assert stopped.returncode == 3
        assert stopped.stderr.startswith("tenner: the cap of $0.0007 is reached in trace")
        assert "hint: " in stopped.stderr
        assert "--budget-usd" in stopped.stderr
        bought = len(rows(file))
        assert 0 < bought < 12
        done = trace_alone(file, server, budget_usd=1)
        assert done.returncode == 0, done.stderr
        assert len(server.asked) == 12
    assert sorted(row["question_id"] for row in rows(file)) == sorted(q["id"] for q in QUESTIONS)
    cost = sum(
        u["prompt_tokens"] + 2 * u["completion_tokens"] for u in map(usage_of, (q["question"] for q in QUESTIONS))
    )
    assert f"${cost / 1e6:.6f} spent" in done.stdout


def test_failed_calls_are_told_and_made_again(file):
    script = {"What is 3+3?": ["server error", "server error", "good"], "What is 4+4?": ["refused"]}
    with ChatServer(script) as server:
        done = trace(file, server, "--attempts", "2")
        assert done.returncode == 4, done.stderr
        assert "tenner: 2 calls failed: " in done.stderr
        assert {(f["question_id"], f["kind"]) for f in rows(file, "failed")} == {
            ("q3", "server_error"), ("q4", "refused"),
        }  # fmt: skip
        assert len(rows(file)) == 10
        again = trace(file, server, "--attempts", "2")
    assert again.returncode == 4, again.stderr
    assert "1 call failed for good: refused 1" in again.stdout
    assert "tenner: 1 call of trace failed for good: refused 1\nhint: what was bought is kept" in again.stderr
    assert len(rows(file)) == 11


@pytest.mark.parametrize("mode", [(), pytest.param(("--batch", "--batch-multiplier", "0.5"), marks=pytest.mark.slow)])
def test_an_empty_account_has_an_exit_code_of_its_own(mode, file):
    script = {q["question"]: ["no quota"] for q in QUESTIONS[0 if mode else 3 :]}
    with ChatServer(script) as server:
        done = trace(file, server, *mode, "--concurrency", "1")
        assert len(server.asked) == (12 if mode else 4)
    assert done.returncode == 5, done.stderr
    assert "tenner: billing: HTTP 429: You exceeded your current quota\nhint: top up the account" in done.stderr
    assert mode or len(rows(file)) == 3


def test_only_as_many_samples_as_the_first_correct_one_needs(file):
    with ChatServer({"What is 3+3?": ["wrong", "wrong", "good"]}) as server:
        done = trace(file, server, "--samples", "4")
        assert done.returncode == 0, done.stderr
        assert len(server.asked) == 14
        everything = trace(file, server, "--samples", "2", "--keep", "all-correct", "--out", file.parent / "all")
        assert everything.returncode == 0, everything.stderr
        assert len(server.asked) == 14 + 24
    assert [r["grade"]["verdict"] for r in rows(file) if r["question_id"] == "q3"] == ["wrong", "wrong", "correct"]


def test_without_references_all_samples_are_bought(file):
    file.write_text('{"id": "q0", "question": "0+0?"}\n')
    with ChatServer() as server:
        assert trace(file, server, "--samples", "3").returncode == 0
    assert [row["sample_index"] for row in rows(file)] == [0, 1, 2]


def test_words_that_are_no_reference_are_none_and_told(file):
    answers = ["NaN", float("nan"), "proof", "N/A", "", 2e-5, [3, 4]]
    file.write_text("".join(json.dumps({"id": i, "question": f"{i}+1?", "answer": a}) + "\n"
                            for i, a in enumerate(answers)))  # fmt: skip
    with ChatServer() as server:
        done = trace(file, server)
    assert done.returncode == 0, done.stderr
    assert "answers: no reference 5, wrong 2" in done.stdout
    told = "these answers are no reference answers: 'NaN' 1, nan 1, 'proof' 1, 'N/A' 1, '' 1"
    assert f"questions.jsonl: {told}" in done.stderr


def test_a_truncated_trace_is_kept_and_a_longer_one_bought_only_on_request(file):
    with ChatServer({"What is 3+3?": ["truncated", "good"]}) as server:
        done = trace(file, server)
        assert done.returncode == 0
        assert "answers: correct 11, no answer 1\n" in done.stdout  # its question has a reference
        assert len(server.asked) == 12
        longer = trace(file, server, "--longer-output-tokens", "500", "--out", file.parent / "longer")
        assert longer.returncode == 0, longer.stderr
        server.scripts["What is 3+3?"] = ["truncated"]
    assert {r["question_id"] for r in rows(file) if r["outcome"] == "truncated"} == {"q3"}


def test_the_longer_one_is_asked_with_the_higher_limit(file):
    with ChatServer({"What is 3+3?": ["truncated", "good"]}) as server:
        assert trace(file, server, "--longer-output-tokens", "500").returncode == 0
        assert [a.body["max_tokens"] for a in server.asked if a.question == "What is 3+3?"] == [100, 500]
        assert len(server.asked) == 13
        assert trace(file, server, "--longer-output-tokens", "500").returncode == 0  # and neither is bought again
        assert len(server.asked) == 13
    assert {r["outcome"] for r in rows(file)} == {"complete"}


@pytest.mark.parametrize(
    ("behaviour", "message"),
    [
        ("damaged: no thinking", "they hold no thinking (the fields content, role)"),
        ("damaged: an unknown word", "they ended in a way that is not known (finish_reason is paused)"),
        ("damaged: no answer", "they hold no answer (it has thinking and no answer)"),
        ("invalid json", "they are no chat completions"),
        ("damaged: a second block", "they hold control tokens (the answer holds <think>)"),
    ],
)
def test_replies_that_are_of_no_use_stop_the_run_after_the_first_few(file, behaviour, message):
    with ChatServer({q["question"]: [behaviour] for q in QUESTIONS}) as server:
        stopped = trace(file, server, "--concurrency", "1")
        assert len(server.asked) == reply_watch.UNUSABLE_REPLIES_MAX
        assert f"the first 5 replies of 127.0.0.1/m are of no use: {message}" in refused(stopped)
        assert len(rows(file)) == len(server.asked)  # what was bought is kept
        server.scripts = {}
        assert trace(file, server).returncode == 0
        assert len(server.asked) == len(QUESTIONS)
    assert Counter(row["outcome"] == "complete" for row in rows(file)) == {True: 7, False: 5}


def test_one_good_reply_shows_that_the_teacher_can_think(file):
    script = {q["question"]: ["damaged: no thinking"] for q in QUESTIONS[1:]}
    with ChatServer(script) as server:
        done = trace(file, server, "--concurrency", "1")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("12 traces: no_reasoning 11, complete 1")


def test_traces_with_an_unknown_end_or_damage_are_counted_and_told_with_the_reason(file):
    script = {"What is 1+1?": ["damaged: an unknown word"], "What is 2+2?": ["damaged: an unknown word"],
              "What is 3+3?": ["damaged: null"], "What is 4+4?": ["damaged: </think> in the answer"]}  # fmt: skip
    with ChatServer(script) as server:
        done = trace(file, server)
    assert done.returncode == 0, done.stderr
    assert "12 traces: complete 8, unknown_finish 3, damaged 1" in done.stdout
    assert (
        "traces that are not trained on: unknown finish (finish_reason is paused) 2, damaged (the answer holds "
        "</think>) 1, unknown finish (it has no finish_reason) 1"
    ) in done.stderr
    assert {row["evidence"] for row in rows(file) if row["outcome"] == "complete"} == {None}


@pytest.mark.slow
def test_another_run_can_be_replayed_for_nothing(file):
    with ChatServer() as server:
        assert trace(file, server).returncode == 0
    out, copy = file.parent / "out", file.parent / "copy"
    done = tenner("trace", file, "--out", copy, "--replay-from", out, "--budget-usd", "0")
    assert done.returncode == 0, done.stderr
    assert "$0.000000 spent" in done.stdout
    copied = [json.loads(line) for line in (copy / "traces.jsonl").read_text().splitlines()]
    assert {(r["id"], r["thinking"]) for r in copied} == {(r["id"], r["thinking"]) for r in rows(file)}


def test_a_run_whose_price_is_no_longer_known_can_be_replayed(file, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    prices = tmp_path / "tenner" / "prices.toml"
    prices.parent.mkdir()
    prices.write_text(
        '[[price]]\nprovider = "127.0.0.1"\nmodel = "m"\ninput_usd_per_mtok = 1\noutput_usd_per_mtok = 2\n'
        'source = "my contract"\nchecked = 2026-11-20\n'
    )
    with ChatServer() as server:
        bought = ["trace", file, "--base-url", server.url, "--model", "m", "--budget-usd", 1, "--out", tmp_path / "out"]
        assert tenner_here(*bought).returncode == 0
    prices.unlink()
    replayed = tenner_here("trace", file, "--replay-from", tmp_path / "out", "--budget-usd", 0, "--out", tmp_path / "o")
    assert replayed.returncode == 0, replayed.stderr
    assert "12 traces: complete 12" in replayed.stdout


def test_a_bad_key_is_found_before_anything_is_asked(file, monkeypatch):
    with ChatServer(key="right") as server:
        monkeypatch.setenv("THE_KEY", "sk-wrong-key-123")
        done = trace(file, server, "--api-key-env", "THE_KEY")
        assert server.asked == []
    assert refused(done) == (
        "tenner: 127.0.0.1: bad_key: HTTP 401: Incorrect API key provided: Bearer [key]\n"
        "hint: check the key in $THE_KEY"
    )
    assert "sk-wrong-key-123" not in done.stderr


def test_a_key_is_written_nowhere_even_where_the_server_repeats_it(file):
    key = "sk-right-key-456"
    script = {"What is 3+3?": ["reset", "good"], "What is 4+4?": ["refused"]}
    with ChatServer(script, key=key, tells_headers=True) as server:
        done = trace_alone(file, server, "--api-key-env", "THE_KEY", environment={"THE_KEY": key})
    assert done.returncode == 0, done.stderr
    assert any("Bearer [key]" in row["thinking"] for row in rows(file))
    assert key not in done.stdout + done.stderr
    folder = file.parent / "out"
    assert [path for path in folder.rglob("*") if path.is_file() and key.encode() in path.read_bytes()] == []


def test_a_key_that_is_not_there(file):
    with ChatServer() as server:
        message = refused(trace(file, server, "--api-key-env", "NO_SUCH_KEY"))
    assert "tenner: the environment variable NO_SUCH_KEY holds no key" in message


def test_an_unknown_model_is_found_before_anything_is_asked(file):
    with ChatServer(models=("small", "large")) as server:
        message = refused(trace(file, server))
        assert server.asked == []
    assert message == "tenner: 127.0.0.1 has no model m\nhint: it has large, small"


def test_no_server(file):
    with ChatServer() as server:
        url = server.url
    message = refused(trace(file, url))
    assert message.startswith(f"tenner: no server answers at {url}: ")
    assert message.endswith("hint: check the base URL, and that the server runs")


def test_a_list_of_models_that_does_not_come_is_not_waited_for(file, monkeypatch):
    monkeypatch.setattr("tenner.clients.openai.CHECK_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/v1"
        told = tenner_here("trace", file, "--out", file.with_name("out"), "--model", "m", "--base-url", url,
                           "--price-in", 1, "--price-out", 2, "--budget-usd", 1)  # fmt: skip
    assert told.returncode == 2
    assert "no list of models within 0.2 s" in told.stderr
    assert not file.with_name("out").exists()


@pytest.mark.parametrize(
    ("option", "value"),
    [("--budget-usd", "nan"), ("--budget-usd", "inf"), ("--budget-usd", "1e308"), ("--budget-usd", "-1"),
     ("--price-in", "nan"), ("--price-out", "1e308"), ("--price-in", "inf"), ("--deadline-seconds", "nan"),
     ("--deadline-seconds", "1e308"), ("--batch-multiplier", "inf"), ("--max-output-tokens", "9" * 400),
     ("--parameter", "temperature=nan"), ("--parameter", "api_key=sk-1"), ("--base-url", "http://u:p@h/v1")],
)  # fmt: skip
def test_what_no_ledger_counts_and_no_folder_should_hold_is_one_line(option, value, file):
    options = {"--model": "m", "--base-url": "http://127.0.0.1:9/v1", "--price-in": "1", "--price-out": "2",
               "--budget-usd": "1"} | {option: value}  # fmt: skip
    told = tenner_here("trace", file, "--out", file.with_name("out"), *(w for pair in options.items() for w in pair))
    assert told.returncode == 2
    assert "Traceback" not in told.stderr
    assert "127.0.0.1:9" not in told.stderr  # it was not asked
    assert not file.with_name("out").exists()


@pytest.mark.parametrize("content", [b"", b"no database" * 99])
def test_a_run_without_responses_cannot_be_replayed(content, file):
    with ChatServer() as server:
        assert trace(file, server).returncode == 0
    for database in file.parent.rglob("run.db"):
        database.write_bytes(content)
        told = tenner_here("trace", file, "--out", file.with_name("other"), "--replay-from", database.parent,
                           "--budget-usd", 1)  # fmt: skip
        assert told.returncode == 2
        assert "run.db holds no responses" in told.stderr or "run.db is damaged" in told.stderr


def test_a_server_without_a_list_of_models_is_taken_at_its_word(file):
    with ChatServer(lists_models=False) as server:
        assert trace(file, server).returncode == 0


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"id": 1}', "line 2 has no question"),
        ('{"question": "1+1?"}', "line 2 has no id"),
        ('{"id": 1, "question": " "}', "line 2: the question is empty"),
        ('{"id": 1, "question": ["1+1?"]}', "line 2: question is neither text nor a number"),
        ('{"id": 1, "question": "1+1?", "kind": "essay"}', "line 2: no kind is called essay"),
        ('{"id": "q0", "question": "1+1?"}', "the id q0 occurs more than once"),
        ('{"id": 1, "question": "1', "line 2 is not JSON"),
        ("[1]", "line 2 is not an object"),
    ],
)
def test_questions_that_cannot_be_used(line, message, tmp_path):
    file = tmp_path / "questions.jsonl"
    file.write_text('{"id": "q0", "question": "0+0?"}\n' + line + "\n")
    assert message in refused(trace(file, "http://127.0.0.1:9/v1"))
    assert not (tmp_path / "out").exists()


def test_questions_that_can_be_read_only_once_are_refused(file):
    """They are read to be checked, counted and asked: a pipe would be empty by then."""
    reading, writing = os.pipe()
    with open(reading), open(writing, "w") as source:
        source.write(file.read_text())
        source.close()
        words_of_it = ["--base-url", "http://127.0.0.1:9/v1", "--model", "m", "--price-in", 1, "--price-out", 1]
        done = tenner_here("trace", f"/dev/fd/{reading}", "--out", file.parent / "out", "--budget-usd", 1, *words_of_it)
    assert refused(done).startswith(f"tenner: /dev/fd/{reading} can be read only once, and is needed again\nhint: ")
    assert not (file.parent / "out").exists()


def test_what_is_missing_is_named(tmp_path):
    def run(*args):
        return refused(tenner_here("trace", *args))

    file = tmp_path / "q.jsonl"
    assert f"{file} cannot be read: No such file" in run(
        file, "--out", tmp_path / "o", "--budget-usd", 1, "--preset", "local", "--model", "m"
    )
    assert "--budget-usd is missing" in run(file, "--out", tmp_path / "o")
    assert "--out is missing" in run(file, "--budget-usd", 1)
    assert "client needs model" in run(file, "--out", tmp_path / "o", "--budget-usd", 1)
    file.write_text('{"id": "q0", "question": "0+0?"}\n')
    unpriced = run(file, "--out", tmp_path / "o", "--budget-usd", 1, "--preset", "local", "--model", "m")
    assert "the price of local/m is not known" in unpriced
    assert "no provider is called nobody" in run(
        file, "--out", tmp_path / "o", "--budget-usd", 1, "--preset", "nobody", "--model", "m"
    )
    assert "does not show the reasoning" in run(
        file, "--out", tmp_path / "o", "--budget-usd", 1, "--preset", "openai", "--model", "m"
    )


def test_the_folder_of_another_job(file):
    with ChatServer() as server:
        assert trace(file, server).returncode == 0
        message = refused(trace(file, server, "--suffix", " Think."))
        assert (
            "holds the traces of a file of questions with other settings: trace.suffix is '' there and ' Think.' here"
            in message
        )
        assert trace(file, server, "--concurrency", "2").returncode == 0  # how fast may change


def test_the_ending_of_a_table_may_be_in_capitals(tmp_path):
    (tmp_path / "Q.CSV").write_text("id,question\n1,What?\n")
    assert tracing.check_questions(tmp_path / "Q.CSV") == {}
