import hashlib
import json
from pathlib import Path

import pytest
from example_run import completion

from tenner import cli
from tenner.commands import export as exportjob
from tenner.core import recipe
from tenner.core.records import Grade, Policy, Question
from tenner.core.run import start
from tenner.core.run_folder import RunFolder

LONG, WAIT = Policy(thinking_tokens_max=64), Policy(thinking_tokens_max=64, waits=1)
FIELDS = {
    "doc_id": int, "doc": dict, "target": str, "arguments": dict, "resps": list, "filtered_resps": list, "filter": str,
    "metrics": list, "doc_hash": str, "prompt_hash": str, "target_hash": str,
}  # fmt: skip
"""Of `SampleResult` in lm-eval 0.4.13; beside them stands a number for each of the metrics."""


@pytest.fixture(scope="module")
def run_dir(tiny_recipe, tiny_model_dir, tmp_path_factory):
    """A run whose two questions are answered by both students, one of them twice."""
    path = tmp_path_factory.mktemp("runs") / "run"
    path.mkdir()
    folder = RunFolder(path)
    start(folder, recipe.load(str(tiny_recipe)))
    (path / "student").symlink_to(tiny_model_dir)
    folder.write("benchmark", [
        Question(id=i, question=f"How many are “{i}”?", answer="1", source="puzzles:numbers") for i in ("z", "a")
    ])  # fmt: skip
    none = Grade(verdict="unparsed", extracted=None)
    folder.append("completions", [
        completion("a", "wrong", prompt="step by step"),
        completion("z", "correct", prompt="step by step"),
        *(completion("a", "correct", student="distilled", policy=p) for p in (LONG, WAIT)),
        completion("z", "correct", student="distilled", policy=LONG),
        completion("z", "wrong", student="distilled", policy=LONG).model_copy(
            update={"sample_index": 1, "grade": none}
        ),
    ])  # fmt: skip
    return path


def exported(run_dir, out):
    texts = {p: Path(p).read_text("utf-8") for p in exportjob.run(run_dir, out).splitlines()}
    return {p.removeprefix(f"{out}/"): [json.loads(row) for row in text.splitlines()] for p, text in texts.items()}


def test_a_file_for_every_student_and_policy_named_as_the_harness_names_them(run_dir, tmp_path):
    names = list(exported(run_dir, tmp_path))
    tasks = {}
    for name in names:
        folder, file = name.split("/")
        assert file.startswith("samples_")
        # How the harness reads a name: the task up to the last "_", and then the moment.
        tasks[folder, file[file.find("_") + 1 : file.rfind("_")]] = file[file.rfind("_") + 1 :]
    assert tasks.keys() == {
        ("HuggingFaceTB__SmolLM2-135M-Instruct", "heldout-step-by-step-thinking-none"),
        ("tenner__tiny", "heldout-s1-thinking-64"),
        ("tenner__tiny", "heldout-s1-thinking-64-waits-1"),
    }
    assert len(set(tasks.values())) == 1
    assert exported(run_dir, tmp_path).keys() == set(names)  # again, and nothing doubled


def test_every_line_has_the_harness_fields_and_its_hashes(run_dir, tmp_path):
    for rows in exported(run_dir, tmp_path).values():
        for row in rows:
            assert row.keys() == FIELDS.keys() | set(row["metrics"])
            assert all(isinstance(row[name], kind) for name, kind in FIELDS.items())
            assert all(isinstance(row[metric], int | float) for metric in row["metrics"])
            prompt = row["arguments"]["gen_args_0"]["arg_0"]
            doc = json.dumps(row["doc"], indent=2, ensure_ascii=False)
            for text, name in ((doc, "doc_hash"), (prompt, "prompt_hash"), (row["target"], "target_hash")):
                assert row[name] == hashlib.sha256(text.encode()).hexdigest()


def test_a_line_says_what_was_asked_answered_and_graded(run_dir, tmp_path):
    files = exported(run_dir, tmp_path)
    base = next(rows for name, rows in files.items() if name.startswith("Hugging"))
    assert [(row["doc_id"], row["doc"]["id"], row["exact_match"]) for row in base] == [(0, "z", 1.0), (1, "a", 0.0)]
    prompt = base[0]["arguments"]["gen_args_0"]["arg_0"]
    assert prompt.endswith("assistant\n")
    assert "How many are “z”?\nThink step by step, then give the answer." in prompt
    repeated, single = next(rows for name, rows in files.items() if "thinking-64_" in name)
    assert repeated["resps"] == [["<|im_start|>think\n…<|im_start|>answer\nAnswer: 1"] * 2]
    assert repeated["filtered_resps"] == [["1", "[invalid]"]]
    assert (repeated["exact_match"], repeated["unparsed"]) == (0.5, 0.5)
    assert single["filtered_resps"] == ["1"]
    assert "Think step by step" not in single["arguments"]["gen_args_0"]["arg_0"]
    assert single["arguments"]["gen_args_0"]["arg_1"]["thinking_tokens_max"] == 64


def test_it_loads_as_a_dataset(run_dir, tmp_path):
    from datasets import load_dataset

    paths = exportjob.run(run_dir, tmp_path / "out").splitlines()
    rows = load_dataset("json", data_files=paths[0], split="train", cache_dir=str(tmp_path / "cache"))
    assert rows["doc_id"] == [0, 1]


@pytest.mark.parametrize("nothing", ["no run", "no answers", "no folder"])
def test_what_cannot_be_exported_is_refused(nothing, run_dir, tiny_recipe, tmp_path, capsys):
    path, out = run_dir, tmp_path / "out"
    if nothing == "no folder":
        out.write_text("a file")
    elif nothing == "no answers":
        path = tmp_path / "begun"
        start(RunFolder(path), recipe.load(str(tiny_recipe)))
    else:
        path = tmp_path
    with pytest.raises(SystemExit) as e:
        cli.main(["export", str(path), "--format", "lm-eval", "--out", str(out)])
    message = {"no run": "is not a run folder", "no answers": "no answers to export", "no folder": "cannot be written"}
    said = capsys.readouterr()
    assert (e.value.code, said.out) == (2, "")
    assert message[nothing] in said.err
    assert "hint:" in said.err
