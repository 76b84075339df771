import asyncio
import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import datasets
import pytest
from aiohttp import web
from s1_tables import ROWS, save

from tenner import pipeline, recipe
from tenner.ask import sources
from tenner.errors import TennerError
from tenner.prove import tasks
from tenner.recipe import Columns, Condition, Source

S1 = recipe.load("s1")
TABLES = {s.name: s for s in (*S1.gather.sources, *map(tasks.resolve, S1.evaluate.benchmarks))}
QUESTIONS = [{"id": "a", "question": "1+2?", "answer": 3, "tags": {"domain": ["sums"]}, "level": 5},
             {"id": "b", "question": "2+2?", "answer": 4, "tags": {"domain": ["sums"]}, "level": 1}]  # fmt: skip


def jsonl(path, rows):
    path.write_text("".join(row if isinstance(row, str) else json.dumps(row) + "\n" for row in rows), "utf-8")
    return str(path)


def source(columns=None, **fields):
    return Source(**{"name": "mine", "columns": columns or Columns(question="question")} | fields)


def gather(*of, seed=0):
    sources.check(of)
    return sources.gather(of, seed=seed)


def refusal(*of):
    with pytest.raises(TennerError) as e:
        gather(*of)
    assert "\n" not in str(e.value)
    return str(e.value), e.value.hint


# -- s1's sources --------------------------------------------------------------------------------------------------


def test_the_recipe_names_all_sources_of_the_paper_with_their_counts():
    assert len({name.split()[0] for name in (s.name for s in S1.gather.sources)}) == 16
    assert sum(s.published or 0 for s in S1.gather.sources) == 59_029


@pytest.mark.parametrize("name", TABLES)
def test_every_source_of_s1_is_read_in_its_schema(name, tmp_path):
    save(TABLES[name], tmp_path)
    here = TABLES[name].model_copy(update={"dataset": str(tmp_path), "revision": None, "expect": None})
    found = gather(here)
    (count,) = found.counts
    pieces = max(1, len(here.configs)) * len(here.splits)
    assert count.rows == len(ROWS[name]) * pieces
    assert found.questions
    assert {(q.source, q.license) for q in found.questions} == {(name, here.license)}
    assert all(q.question.strip() for q in found.questions)


def test_what_becomes_of_the_sources_of_s1(tmp_path):
    def one(name):
        save(TABLES[name], tmp_path / name)
        return gather(TABLES[name].model_copy(update={"dataset": str(tmp_path / name)})).questions

    assert [q.origin for q in one("AIME")] == ["1983-I-1", "2021-I-1"]
    assert [q.question for q in one("NuminaMATH")] == ["Find x."]
    assert len(one("xword")) == 1000
    assert one("OlympiadBench")[0].question == "Let x be 3.\n\nProve it."
    assert one("AGIEval")[0].question == "A text.\n\nWhat follows?\n(A)this\n(B)that"
    (gpqa,) = one("GPQA")
    right = next(line for line in gpqa.question.splitlines() if line.endswith("neon"))
    assert right.startswith(f"({gpqa.answer})")
    scieval = one("SciEval")
    assert len(scieval) == 250
    assert {q.answer for q in scieval} == {"A"}


# -- files ---------------------------------------------------------------------------------------------------------


def test_files_of_three_kinds_are_one_table(tmp_path):
    import csv

    table = datasets.Dataset.from_list([{k: str(row[k]) for k in ("id", "question", "answer")} for row in QUESTIONS])
    table.to_parquet(tmp_path / "a.parquet")
    table.to_csv(tmp_path / "a.csv", index=False, quoting=csv.QUOTE_ALL)
    jsonl(tmp_path / "a.jsonl", QUESTIONS)
    columns = Columns(id="id", question="question", answer="answer")
    pools = [
        gather(source(columns, file=str(tmp_path / f"a.{kind}"))).questions for kind in ("jsonl", "csv", "parquet")
    ]
    assert pools[0] == pools[1] == pools[2]
    assert [(q.id, q.question, q.answer) for q in pools[0]] == [("a", "1+2?", "3"), ("b", "2+2?", "4")]


def test_nested_columns_conditions_and_constants(tmp_path):
    file = jsonl(tmp_path / "a.jsonl", QUESTIONS)
    columns = Columns(question="question", domain="tags.domain.0")
    found = gather(
        source(columns, file=file, where=[Condition(column="level", at_most=3)], license="mit", origin="here")
    )
    assert [(q.question, q.domain, q.license, q.origin) for q in found.questions] == [("2+2?", "sums", "mit", "here")]
    assert len(found.questions[0].id) == 16
    kept = gather(source(file=file, without=[Condition(column="id", one_of=["a", "x"])])).questions
    assert [q.question for q in kept] == ["2+2?"]


def test_nothing_is_lost_without_a_word(tmp_path):
    file = jsonl(tmp_path / "a.jsonl", [*QUESTIONS, {"id": "a", "question": "3+3?"}, {"id": "c", "question": " "}])
    found = gather(source(Columns(id="id", question="question"), file=file))
    assert [q.id for q in found.questions] == ["a", "b"]
    assert [(d.reason, d.evidence) for d in found.dropped] == [
        ("no question", "mine, row 4 has no question"), ("id taken", "mine: mine has a question of this id")
    ]  # fmt: skip
    assert [(c.rows, c.questions) for c in found.counts] == [(4, 3)]


def test_a_sample_is_seeded_exact_and_in_proportion(tmp_path):
    rows = [{"question": f"{i}?", "kind": "abc"[min(2, i % 4)]} for i in range(400)]  # a, b, c, c
    drawn = source(file=jsonl(tmp_path / "a.jsonl", rows), sample=10, stratify=["kind"])
    first = gather(drawn).questions
    assert [q.id for q in first] == [q.id for q in gather(drawn).questions]
    assert {q.id for q in first} != {q.id for q in gather(drawn, seed=1).questions}
    kinds = [rows[int(q.question[:-1])]["kind"] for q in first]
    assert len(kinds) == 10
    assert kinds.count("c") == 5
    assert "fewer than sample = 999" in refusal(drawn.model_copy(update={"sample": 999}))[0]


# -- what is wrong is said in one line, with the source --------------------------------------------------------------


def test_a_renamed_column_is_named_with_the_nearest(tmp_path):
    file = jsonl(tmp_path / "a.jsonl", QUESTIONS)
    assert refusal(source(Columns(question="questions"), file=file)) == (
        "source mine: it has no column questions", "did you mean question?"
    )  # fmt: skip
    datasets.Dataset.from_list([{"Problem": "x", "b": 1}]).save_to_disk(str(tmp_path / "d"))
    assert refusal(source(Columns(question="problem"), dataset=str(tmp_path / "d")))[1] == "did you mean Problem?"


def test_files_that_cannot_be_read(tmp_path):
    (tmp_path / "a.csv").write_text("question,answer\n1,2\n3\n")
    (tmp_path / "a.parquet").write_text("no")
    for name, message in (
        ("none.jsonl", "is not there"), ("a.txt", "is none of .jsonl, .csv, .parquet"),
        ("a.csv", "line 3 has another number of fields"), ("a.parquet", "is not Parquet"),
    ):  # fmt: skip
        said, _ = refusal(source(file=str(tmp_path / name)))
        assert said.startswith("source mine: ")
        assert message in said
    for row, message in (
        ("{\n", "line 2 is not JSON"), ("[1]\n", "line 2 is not an object"),
        ({"question": {"en": "x"}}, "column question holds a dict"),
        ({"question": True}, "column question holds a bool"),
    ):  # fmt: skip
        assert message in refusal(source(file=jsonl(tmp_path / "a.jsonl", [QUESTIONS[0], row])))[0]


def test_an_empty_split_an_unknown_split_and_a_wrong_count(tmp_path):
    table = datasets.Dataset.from_list([{"question": "x"}])
    empty = datasets.Dataset.from_dict({"question": []})
    datasets.DatasetDict({"train": empty, "test": table}).save_to_disk(str(tmp_path / "d"))
    here = source(dataset=str(tmp_path / "d"))
    assert refusal(here)[0] == "source mine: one of its splits is empty"
    shutil.rmtree(tmp_path / "d")
    datasets.DatasetDict({"test": table}).save_to_disk(str(tmp_path / "d"))
    said = refusal(here.model_copy(update={"splits": ["dev"]}))
    assert said == ("source mine: it has no split dev", "there are test")
    said, hint = refusal(here.model_copy(update={"splits": ["test"], "expect": 2}))
    assert (said, hint) == ("source mine: 1 questions, where 2 are expected", "pin its revision, or change expect")


async def _refuse(request):
    """A hub with one gated dataset and no other."""
    if "gated" in request.path:
        headers = {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access to dataset is restricted"}
        return web.json_response({"error": "Access to dataset is restricted"}, status=403, headers=headers)
    headers = {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"}
    return web.json_response({"error": "Repository not found"}, status=404, headers=headers)


@pytest.fixture(scope="module")
def hub():
    """The URL of a hub on loopback, in a thread."""
    loop, ready, found = asyncio.new_event_loop(), threading.Event(), {}

    async def start():
        app = web.Application()
        app.router.add_route("*", "/{tail:.*}", _refuse)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        found["url"], found["runner"] = "http://{}:{}".format(*runner.addresses[0]), runner
        ready.set()

    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    asyncio.run_coroutine_threadsafe(start(), loop)
    ready.wait(10)
    yield found["url"]
    asyncio.run_coroutine_threadsafe(found["runner"].cleanup(), loop).result(10)
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


@pytest.mark.parametrize(
    ("dataset", "url", "message", "hint"),
    [
        ("some/gated", None, "some/gated is gated", "set HF_TOKEN"),
        ("some/missing", None, "there is no dataset some/missing", "check the name"),
        pytest.param(
            "some/gated",
            "http://127.0.0.1:9",
            "the hub does not answer",
            "check the network",
            marks=pytest.mark.slow,  # the library tries for 20 s
        ),
    ],
)
def test_hub_datasets_that_cannot_be_had(dataset, url, message, hint, hub, tmp_path):
    code = (
        "import sys; from tenner.ask import sources; from tenner.recipe import Source, Columns; "
        "from tenner.errors import TennerError\n"
        f"s = Source(name='mine', dataset='{dataset}', columns=Columns(question='q'))\n"
        "try: sources.gather([s], seed=0)\n"
        "except TennerError as e: print(e); print(e.hint)"
    )
    env = {**os.environ, "HF_ENDPOINT": url or hub, "HF_HOME": str(tmp_path), "HF_HUB_DOWNLOAD_TIMEOUT": "2"}
    env |= dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "")
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    said, hinted = done.stdout.splitlines()
    assert said == f"source mine: {message}"
    assert hint in hinted


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ('name = "a"\ncolumns.question = "q"', "source a needs either dataset or file"),
        ('name = "a"\nfile = "a.jsonl"\ncolumns.answer = "q"', "source a needs either columns.question or template"),
        ('name = "a"\nfile = "a.jsonl"\ncolumns.question = "q"\nwhere = [{column = "x"}]', "needs exactly one test"),
        ('name = "worked"\nfile = "a.jsonl"\ncolumns.question = "q"', "a source cannot be called worked"),
        ('name = "a"\nfile = "a.jsonl"\ncolumns.qestion = "q"', "unknown key gather.sources.0.columns.qestion"),
    ],
)
def test_sources_that_mean_nothing_are_refused_with_the_recipe(section, message, tmp_path):
    demo = recipe.built_in()["demo"]
    path = tmp_path / "r.toml"
    path.write_text(f"{demo}\n[[gather.sources]]\n{section}\n")
    with pytest.raises(TennerError) as e:
        recipe.load(str(path))
    assert message in str(e.value)


def test_a_missing_file_is_found_before_anything_runs():
    demo = recipe.load("demo")
    missing = demo.gather.model_copy(update={"sources": [source(file=str(Path("/nowhere/a.jsonl")))]})
    with pytest.raises(TennerError, match=r"source mine: /nowhere/a\.jsonl is not there"):
        pipeline.check(demo.model_copy(update={"gather": missing}))
