import json
import os
import re
import shutil
import string
import subprocess
import sys
from decimal import Decimal
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import datasets
import pyarrow.parquet
import pytest
from hub_server import HubServer
from paths import DATA
from s1_tables import ROWS, save

from tenner import pipeline
from tenner.core import recipe
from tenner.core.errors import TennerError
from tenner.core.sections import Columns, Condition, Source
from tenner.data import sources
from tenner.evaluation import benchmarks

S1 = recipe.load("s1")
TABLES = {s.name: s for s in (*S1.gather.sources, *map(benchmarks.resolve, S1.evaluate.benchmarks))}
QUESTIONS = [{"id": "a", "question": "1+2?", "answer": 3, "tags": {"domain": ["sums"]}, "level": 5},
             {"id": "b", "question": "2+2?", "answer": 4, "tags": {"domain": ["sums"]}, "level": 1}]  # fmt: skip

QUESTION_COLUMN = 'name = "a"\nfile = "a.jsonl"\ncolumns.question = "q"\n'


def jsonl(path, rows):
    path.write_text("".join(row if isinstance(row, str) else json.dumps(row) + "\n" for row in rows), "utf-8")
    return str(path)


def source(columns=None, **fields):
    given: dict[str, Any] = {"name": "mine", "columns": columns or Columns(question="question")}
    return Source(**given | fields)


def gather(*of, seed=0):
    sources.check(of)
    return sources.gather(of, seed=seed)


def refusal(*of):
    with pytest.raises(TennerError) as e:
        gather(*of)
    assert "\n" not in str(e.value)
    return str(e.value), e.value.hint


# -- ids -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
def test_own_ids_are_kept_without_a_word_in_the_recipe(suffix, tmp_path):
    path = tmp_path / f"mine.{suffix}"
    path.write_text('{"id": 7, "question": "1+2?"}\n' if suffix == "jsonl" else "id,question\n7,1+2?\n")
    (kept,) = gather(source(file=str(path))).questions
    assert kept.id == "7"
    (hashed,) = gather(source(Columns(question="question", id=""), file=str(path))).questions
    (bare,) = gather(source(file=jsonl(tmp_path / "bare.jsonl", [{"question": "1+2?"}]))).questions
    assert hashed.id == bare.id
    assert len(bare.id) == sources.ID_CHARS


def test_an_own_id_that_occurs_twice_is_refused(tmp_path):
    first, other = {"id": "a", "question": "1+2?"}, {"id": "a", "question": "2+2?"}
    path = jsonl(tmp_path / "mine.jsonl", [first, {"id": "b", "question": "3+3?"}, other])
    said, hint = refusal(source(file=path))
    assert said == f"source mine: rows 1 and 3 of {path} have the same id a"
    assert 'columns.id = ""' in hint
    one, two = (
        source(name=f"s{i}", file=jsonl(tmp_path / f"{i}.jsonl", [row])) for i, row in enumerate([first, other])
    )
    assert refusal(one, two)[0] == "source s1: the id a is that of a question of s0, too"


def test_a_row_that_lacks_a_column_which_others_have_is_named(tmp_path):
    path = jsonl(tmp_path / "a.jsonl", [{"question": "1+2?", "answer": 3}, {"question": "2+2?"}])
    said, _ = refusal(source(Columns(question="question", answer="answer"), file=path))
    assert said == "source mine: row 2 has no column answer, which others have"


# -- s1's sources --------------------------------------------------------------------------------------------------


def test_the_recipe_names_all_sources_of_the_paper_with_their_counts():
    assert len({name.split()[0] for name in (s.name for s in S1.gather.sources)}) == 16
    assert sum(s.published or 0 for s in S1.gather.sources) == 59_029


def on_disk(table, folder, **changes):
    """A source of s1 that is read where `save` wrote it."""
    return table.model_copy(update={"dataset": str(folder), "file": None, "revision": None} | changes)


@pytest.mark.parametrize("name", TABLES)
def test_every_source_of_s1_is_read_in_its_schema(name, tmp_path):
    save(TABLES[name], tmp_path)
    here = on_disk(TABLES[name], tmp_path, expect=None)
    found = gather(here)
    (count,) = found.counts
    pieces = max(1, len(here.configs)) * len(here.splits)
    assert count.rows == len(ROWS[name]) * pieces
    assert found.questions
    assert {(q.source, q.license) for q in found.questions} == {(name, here.license)}
    assert all(q.question.strip() for q in found.questions)


@pytest.mark.parametrize("name", TABLES)
def test_a_source_of_s1_that_has_changed_is_named_with_what_is_missing(name, tmp_path):
    here = on_disk(TABLES[name], tmp_path)
    column = here.columns.question or next(c for _, c, *_ in string.Formatter().parse(here.template) if c)
    save(here, tmp_path, lambda table: table.rename_column(column, f"{column}_text"))
    said = refusal(here)
    assert said == (f"source {name}: it has no column {column}", f"did you mean {column}_text?")
    shutil.rmtree(tmp_path)
    save(here, tmp_path, lambda table: table.select([]))
    said, _ = refusal(here)
    assert re.fullmatch(rf"source {re.escape(name)}: (one of its splits|the split \w+) is empty", said)


def test_what_becomes_of_the_sources_of_s1(tmp_path):
    def one(name):
        save(TABLES[name], tmp_path / name)
        return gather(on_disk(TABLES[name], tmp_path / name)).questions

    assert [q.origin for q in one("AIME")] == ["1983-I-1", "2021-I-1"]
    assert [q.question for q in one("NuminaMATH")] == ["Find x."]
    assert len(one("xword")) == 1000
    assert one("OlympiadBench")[0].question == "Let x be 3.\n\nProve it."
    assert one("AGIEval")[0].question == "A text.\n\nWhat follows?\n(A)this\n(B)that"
    assert {(q.answer, q.kind) for q in (*one("AGIEval"), *one("AGIEval AQuA-RAT"))} == {("A", "choice")}
    assert [(q.question, q.answer, q.solution) for q in one("AGIEval MATH")] == [("Hard?", "3", "S.")]
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
    assert found.questions[0].id == "b"
    kept = gather(source(file=file, without=[Condition(column="id", one_of=["a", "x"])])).questions
    assert [q.question for q in kept] == ["2+2?"]


def test_what_is_no_reference_is_counted_and_told(tmp_path):
    answers = ["7", "", "NaN", "NaN", "proof", "Not found.", None, float("nan"), "none", 0.00001, [1, 2], ["3"], True]
    file = jsonl(tmp_path / "a.jsonl", [{"question": f"{i}?", "answer": a} for i, a in enumerate(answers)])
    columns = Columns(question="question", answer="answer")
    found = gather(source(columns, file=file))
    assert [q.answer for q in found.questions] == [
        "7", None, None, None, None, None, None, None, None, "0.00001", "1, 2", "3", "true",
    ]  # fmt: skip
    assert found.counts[0].without_reference == 8
    assert found.notes == [
        "source mine: 8 of 13 rows have no reference answer: empty 3, 'NaN' 2, 'proof' 1, 'Not found.' 1, …"
    ]
    crossword = gather(source(columns, file=file, kind="text"))
    assert [q.answer for q in crossword.questions][:9] == ["7", None, "NaN", "NaN", "proof", "Not found.", None, None,
                                                           "none"]  # fmt: skip
    assert gather(source(Columns(question="question"), file=file)).notes == []
    (tmp_path / "a.csv").write_text("question,answer\n1+1?,\n1+2?,NaN\n1+3?,4\n")
    assert [q.answer for q in gather(source(columns, file=str(tmp_path / "a.csv"))).questions] == [None, None, "4"]


def test_choices_are_appended_in_a_seeded_order_and_the_first_is_the_answer(tmp_path):
    full = {"question": "Which?", "right": "r", "b": "wrong b", "c": "wrong c"}
    file = jsonl(tmp_path / "a.jsonl", [full, full | {"question": "And?", "c": " "}, full | {"right": None}])
    columns = Columns(question="question", choices=["right", "b", "c"])
    found = gather(source(columns, file=file))
    for q, texts in zip(found.questions, ({"r", "wrong b", "wrong c"}, {"r", "wrong b"}), strict=False):
        stem, *lines = q.question.splitlines()
        listed = dict(line.split(" ", 1) for line in lines[1:])
        assert (stem[-1], lines[0], q.kind) == ("?", "Answer Choices:", "choice")
        assert list(listed) == [f"({letter})" for letter in string.ascii_uppercase[: len(texts)]]
        assert set(listed.values()) == texts  # an empty one is none
        assert listed[f"({q.answer})"] == "r"
    assert found.questions[2].answer is None
    assert found.notes == ["source mine: 1 of 3 rows have no reference answer: empty 1"]
    orders = {gather(source(columns, file=file), seed=seed).questions[0].question for seed in range(20)}
    assert len(orders) > 3
    assert gather(source(columns, file=file)).questions == found.questions


def test_a_row_whose_right_choice_is_not_the_only_right_one_or_the_only_one_has_no_reference(tmp_path):
    full = {"question": "Which?", "right": "4", "b": "5", "c": "6"}
    others: list[dict[str, Any]] = [{"b": "", "c": None}, {"b": "4 "}, {"right": ""}, {"b": "6"}, {"b": "4", "c": "4"}]
    rows = [full | other | {"question": f"Which of {i}?"} for i, other in enumerate(others)]
    file = jsonl(tmp_path / "a.jsonl", [full, *rows])
    found = gather(source(Columns(question="question", choices=["right", "b", "c"]), file=file))
    assert [q.answer is None for q in found.questions] == [False, True, True, True, False, True]
    assert found.notes == [
        "source mine: 4 of 6 rows have no reference answer: right choice repeated 2, no other choice 1, empty 1"
    ]


def test_nothing_is_lost_without_a_word(tmp_path):
    file = jsonl(tmp_path / "a.jsonl", [{"question": text} for text in ("1+2?", "2+2?", "1+2?", " ")])
    found = gather(source(file=file))
    assert [q.question for q in found.questions] == ["1+2?", "2+2?"]
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
    for column in ("question.²", "question." + "9" * 5000):
        assert refusal(source(Columns(question=column), file=file))[0].startswith(
            "source mine: it has no column question."
        )
    datasets.Dataset.from_list([{"Problem": "x", "b": 1}]).save_to_disk(str(tmp_path / "d"))
    assert refusal(source(Columns(question="problem"), dataset=str(tmp_path / "d")))[1] == "did you mean Problem?"


def test_files_that_cannot_be_read(tmp_path):
    (tmp_path / "a.csv").write_text("question,answer\n1,2\n3\n")
    (tmp_path / "a.parquet").write_text("no")
    for name, message in (
        ("none.jsonl", "does not exist"), ("a.txt", "is not one of .jsonl, .csv, .parquet"),
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


@pytest.fixture(scope="module")
def hub():
    """The URL of a hub on loopback."""
    with HubServer() as server:
        yield server.url


FROM_HUB = """
import json, sys
from tenner.data import sources
from tenner.core.errors import TennerError
from tenner.core.sections import Source
for line in sys.stdin:
    try:
        gathered = sources.gather([Source.model_validate_json(line)], seed=0)
        print(json.dumps([(q.question, q.answer) for q in gathered.questions]))
    except TennerError as e:
        print(json.dumps([str(e), e.hint]))
"""


def from_hub(url, folder, *changes):
    """What a process of its own gathers from a hub, source by source: the questions, or the error and its hint."""
    wanted = {"dataset": "some/good", "columns": Columns(question="problem", answer="answer"), "revision": "v1"}
    asked = "".join(source(**wanted | changed).model_dump_json() + "\n" for changed in changes)
    env = {**os.environ, "HF_ENDPOINT": url, "HF_HOME": str(folder), "HF_HUB_DOWNLOAD_TIMEOUT": "2"}
    env |= dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "")
    command = [sys.executable, "-c", FROM_HUB]
    done = subprocess.run(command, env=env, input=asked, capture_output=True, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.slow
def test_a_hub_dataset_is_read_by_configuration_split_and_revision(hub, tmp_path):
    both = {"configs": ["algebra", "geometry"]}
    test = {"configs": ["algebra"], "splits": ["test"]}
    assert from_hub(hub, tmp_path, both, test) == [[["1+1?", "2"], ["How many sides?", "3"]], [["1+2?", "3"]]]


@pytest.mark.slow
def test_hub_datasets_that_cannot_be_had_or_are_not_as_the_recipe_says(hub, tmp_path):
    refused = {
        "some/gated is gated": ({"dataset": "some/gated", "revision": None}, "set HF_TOKEN"),
        "there is no dataset some/missing": ({"dataset": "some/missing", "revision": None}, "check the name"),
        "there is no dataset some/good at v2": ({"configs": ["algebra"], "revision": "v2"}, "the revision"),
        "it has no column problems": ({"configs": ["algebra"], "columns": Columns(question="problems")}, "problem?"),
        "BuilderConfig 'topology' not found": (
            {"configs": ["topology"]},
            "requested: topology configuration, split train",
        ),
        "some/script is a dataset script, which the datasets library no longer loads": (
            {"dataset": "some/script", "revision": None},
            'revision = "refs/convert/parquet"',
        ),
        'Unknown split "test"': (
            {"configs": ["geometry"], "splits": ["test"]},
            "requested: geometry configuration, split test",
        ),
    }
    told = from_hub(hub, tmp_path, *(changes for changes, _ in refused.values()))
    for (said, hinted), (message, (_, hint)) in zip(told, refused.items(), strict=True):
        assert said.startswith(f"source mine: {message}")
        assert "\n" not in said
        assert hint in hinted


def test_a_file_at_a_url(hub):
    folder = f"{hub}/datasets/some/good/resolve/v1"
    columns = Columns(question="problem", answer="answer")
    (q,) = gather(source(columns, file=f"{folder}/algebra.jsonl?download=1")).questions
    assert (q.question, q.answer) == ("1+1?", "2")
    if find_spec("pyarrow"):
        (q,) = gather(source(columns, file=f"{folder}/geometry/train.parquet")).questions
        assert q.answer == "3"
    for file, message in (
        (f"{folder}/none.jsonl", "cannot be fetched: HTTP Error 404: Not Found"),
        ("http://127.0.0.1:9/a.jsonl", "cannot be fetched: <urlopen error"),
        (f"{folder}/algebra.txt", "is not one of .jsonl, .csv, .parquet"),
    ):
        assert message in refusal(source(columns, file=file))[0]


def test_rows_that_the_library_cannot_decode_are_one_line(tmp_path):
    table = datasets.Dataset.from_dict(
        {"question": [b"no image"]}, features=datasets.Features(question=datasets.Image())
    )
    table.save_to_disk(str(tmp_path / "d"))
    said, hint = refusal(source(dataset=str(tmp_path / "d")))
    assert said.startswith("source mine: ")
    assert hint == "requested: no configuration, split train"


@pytest.mark.slow  # the library tries for 20 s
def test_no_network(tmp_path):
    ((said, hinted),) = from_hub("http://127.0.0.1:9", tmp_path, {})
    assert said == "source mine: the hub does not answer"
    assert "check the network" in hinted


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ('name = "a"\ncolumns.question = "q"', "source a needs either dataset or file"),
        ('name = "a"\nfile = "a.jsonl"\ncolumns.answer = "q"', "source a needs either columns.question or template"),
        ('name = "a"\nfile = "a.jsonl"\ncolumns.question = "q"\nwhere = [{column = "x"}]', "needs exactly one test"),
        ('name = "puzzles"\nfile = "a.jsonl"\ncolumns.question = "q"', "a source cannot be called puzzles"),
        ('name = "a"\nfile = "a.jsonl"\ncolumns.qestion = "q"', "unknown key gather.sources.0.columns.qestion"),
        (QUESTION_COLUMN + 'columns.choices = ["b"]', "choices needs 2 to 26 different columns, and has 1"),
        (QUESTION_COLUMN + 'columns.choices = ["b", "c", "b"]', "choices needs 2 to 26 different columns, and has 2"),
        (QUESTION_COLUMN + f"columns.choices = {[f'c{i}' for i in range(27)]}", "different columns, and has 27"),
        (QUESTION_COLUMN + 'columns.answer = "b"\ncolumns.choices = ["c", "d"]', "answer has no effect beside choices"),
        (QUESTION_COLUMN + 'columns.answer_after = "####"', "answer_after has no effect without answer"),
        (QUESTION_COLUMN + 'stratify = ["b"]', "source a: stratify has no effect without sample"),
        (QUESTION_COLUMN + 'configs = ["b"]', "source a: configs has no effect on a file"),
        (QUESTION_COLUMN + 'splits = ["test"]', "source a: splits has no effect on a file"),
        (QUESTION_COLUMN + 'revision = "main"', "source a: revision has no effect on a file"),
    ],
)
def test_sources_that_mean_nothing_are_refused_with_the_recipe(section, message, tmp_path):
    assert message in refusal_of_a_recipe("gather.sources", section, tmp_path)


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ('name = "a"\nfile = "a.jsonl"\ntemplate = "{q}"', "benchmark a needs either columns.question or template"),
        ('name = "a"\nfile = "a.jsonl"\ncolumns.answer = "b"', "benchmark a needs either columns.question or template"),
        ('name = "a"\nfile = "a.jsonl"\nsplits = ["test"]', "benchmark a: splits has no effect on a file"),
        ('task = "GSM8K"\ncolumns.question = "q"', "benchmark GSM8K: columns has no effect without file or dataset"),
        ('task = "GSM8K"\ntemplate = "{q}"', "benchmark GSM8K: template has no effect without file or dataset"),
        ('task = "GSM8K"\nconfigs = ["a"]', "benchmark GSM8K: configs has no effect without file or dataset"),
        ('task = "GSM8K"\nsplits = ["a"]', "benchmark GSM8K: splits has no effect without file or dataset"),
    ],
)
def test_benchmarks_that_mean_nothing_are_refused_with_the_recipe(section, message, tmp_path):
    assert message in refusal_of_a_recipe("evaluate.benchmarks", section, tmp_path)


def test_a_revision_of_a_folder_is_refused(tmp_path):
    datasets.Dataset.from_dict({"question": ["1+2?"]}).save_to_disk(str(tmp_path / "d"))
    said, _ = refusal(source(dataset=str(tmp_path / "d"), revision="main"))
    assert said == f"source mine: revision has no effect on a folder, {tmp_path / 'd'}"


def refusal_of_a_recipe(table, section, folder):
    path = folder / "r.toml"
    path.write_text(f"{recipe.built_in()['demo']}\n[[{table}]]\n{section}\n")
    with pytest.raises(TennerError) as e:
        recipe.load(str(path))
    return str(e.value)


def test_a_missing_file_is_found_before_anything_runs():
    demo = recipe.load("demo")
    missing = demo.gather.model_copy(update={"sources": [source(file=str(Path("/nowhere/a.jsonl")))]})
    with pytest.raises(TennerError, match=r"source mine: /nowhere/a\.jsonl does not exist"):
        pipeline.check(demo.model_copy(update={"gather": missing}))


def test_a_long_field_of_csv_and_truth_values_are_read(tmp_path):
    (tmp_path / "a.csv").write_text(f"question,answer,solution\nWhat?,2,{'long ' * 40_000}\n")
    (q,) = gather(source(Columns(question="question", solution="solution"), file=str(tmp_path / "a.csv"))).questions
    assert q.solution == "long " * 40_000
    (tmp_path / "a.jsonl").write_text('{"question": "Is it?", "answer": true}\n')
    columns = Columns(question="question", answer="answer")
    (q,) = gather(source(columns, file=str(tmp_path / "a.jsonl"))).questions
    assert q.answer == "true"


UNUSABLE = {
    "a.csv": ("question,answer,answer\n1+2?,3,4\n", "a.csv has several columns answer"),
    "b.csv": ("", "b.csv has no rows"), "c.csv": ("question,answer\n", "c.csv has no rows"),
    "d.csv": ("<!DOCTYPE html><html>404</html>", "d.csv has no rows"), "e.jsonl": ("\n \n", "e.jsonl has no rows"),
    "f.jsonl": ('{"question": "a", "answer": {"value": "1"}}', "such as answer.value"),
    "h.csv": ('question,"answer\n1+2?,3\n', "h.csv, line 1 is not CSV: unexpected end of data"),
    "i.csv": ('"question"s,answer\n1+2?,3\n', "i.csv, line 1 is not CSV"),
    "g.tsv": ("question\tanswer\n", "is not one of .jsonl, .csv, .parquet"),
}  # fmt: skip


@pytest.mark.parametrize("name", UNUSABLE)
def test_files_without_rows_or_with_columns_of_one_name_are_refused(name, tmp_path):
    written, message = UNUSABLE[name]
    (tmp_path / name).write_text(written)
    columns = Columns(question="question", answer="answer")
    assert message in " ".join(map(str, refusal(source(columns, file=str(tmp_path / name)))))


def test_parquet_of_databases_and_a_damaged_one(tmp_path):
    path, columns = tmp_path / "A.PARQUET", Columns(question="question", answer="answer")
    table = pyarrow.table({"question": ["1+2?"], "answer": [Decimal("3.50")]})
    pyarrow.parquet.write_table(table, path)
    (q,) = gather(source(columns, file=str(path))).questions
    assert q.answer == "3.50"
    body = path.read_bytes()
    path.write_bytes(body[:30] + b"\xff\xff" + body[32:])
    assert "cannot be read" in refusal(source(columns, file=str(path)))[0]
    twice = pyarrow.Table.from_arrays([pyarrow.array(["1"])] * 2, names=["question", "question"])
    pyarrow.parquet.write_table(twice, path)
    assert "has several columns question" in refusal(source(columns, file=str(path)))[0]
    for far in (pyarrow.array([2**31 - 1], pyarrow.date32()), pyarrow.array([2**62], pyarrow.duration("s"))):
        pyarrow.parquet.write_table(pyarrow.table({"question": ["1"], "answer": ["2"], "asked": far}), path)
        assert "holds a value that Python has no type for" in refusal(source(columns, file=str(path)))[0]


def test_a_file_in_another_encoding_is_one_line(tmp_path):
    (tmp_path / "a.csv").write_bytes("question\nÉcole?\n".encode("latin-1"))
    with pytest.raises(TennerError, match="is not UTF-8 text") as caught:
        gather(source(Columns(question="question"), file=str(tmp_path / "a.csv")))
    assert caught.value.hint == "save it as UTF-8"


STRANGERS = {
    "bom_src.jsonl": ["2"], "crlf.jsonl": "no column question", "dotted.jsonl": "did you mean extra_info.answer?",
    "empty_ans.csv": [None, None], "intlist.parquet": ["1, 2"], "latin1.csv": "save it as UTF-8",
    "list_answer_src.jsonl": ["1, 2"], "long_field.csv": ["2"], "missing_key.jsonl": "row 2 has no column answer",
    "msg_question.jsonl": "there are messages, answer", "nan_answer.jsonl": [None], "newlines.csv": ["2", "hi"],
    "nul.csv": ["2"], "null_q.jsonl": [None], "num_answer.jsonl": ["25.0", "0.00001", "true"],
    "parts_question.jsonl": "question.0", "questions_odd.jsonl": [None, None, "9", "10"], "rs.jsonl": "is not JSON",
    "same_ids.jsonl": "same id 0", "semicolon.csv": "has ';' between its fields", "surrogate_q.jsonl": ["1"],
    "six.jsonl": "row 6 has no column answer", "binary.parquet": "holds a bytes", "date.parquet": "holds a date",
    "verl.parquet": "there are prompt, reward_model", "array.json": "is not one of .jsonl, .csv, .parquet",
}  # fmt: skip
"""Files of others, and the reference answers of their questions, or words of the refusal and its hint."""


@pytest.mark.skipif(not (DATA / "strangers").exists(), reason="the files of others are not here")
@pytest.mark.parametrize("name", STRANGERS)
def test_the_files_of_others_are_read_or_refused_in_one_line(name):
    expected = STRANGERS[name]
    here = source(Columns(question="question", answer="answer"), file=str(DATA / "strangers/files" / name))
    if isinstance(expected, str):
        assert expected in " ".join(map(str, refusal(here)))
    else:
        assert [q.answer for q in gather(here).questions] == expected


@pytest.mark.skipif(not (DATA / "strangers").exists(), reason="the files of others are not here")
def test_nested_columns_of_others_are_read_by_their_paths():
    path = str(DATA / "strangers/files/verl.parquet")
    columns = Columns(question="prompt.0.content", answer="reward_model.ground_truth")
    (q,) = gather(source(columns, file=path)).questions
    assert (q.question, q.answer) == ("a?", "34")
