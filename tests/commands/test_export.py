import hashlib
import json
from pathlib import Path

import pytest
from commands import tenner_here
from example_run import completion

from tenner import cli
from tenner.commands import export as exportjob
from tenner.core import recipe
from tenner.core.errors import TennerError
from tenner.core.records import Grade, Message, Policy, Question, Sample, Trace, Usage
from tenner.core.run import start
from tenner.core.run_folder import RunFolder
from tenner.distill import sft_chats
from tenner.tracing import describe

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


SAMPLE = Sample(
    id="q1-0", question_id="q1", question="What is 2 + 2?", thinking="Two and two.", answer="It is 4.", domain=None
)
TEACHER = {"client": "openai", "model": "m", "base_url": "http://127.0.0.1:9/v1"}


def a_trace(question_id, outcome="complete", verdict="correct"):
    answer = "" if outcome == "truncated" else "It is 4."
    turns = (
        Message(role="user", content="What is 2 + 2? Be brief."),
        Message(role="assistant", content=answer, reasoning_content="Two and two."),
    )
    grade = Grade.model_validate({"verdict": verdict, "extracted": "4"}) if answer and verdict else None
    return Trace(
        id=f"{question_id}-0", question_id=question_id, sample_index=0, teacher="p/m", question="What is 2 + 2?",
        domain=None, thinking="Two and two.", answer=answer, messages=turns, outcome=outcome,
        reasoning_is_summary=False, grade=grade, usage=Usage(), cost_usd=0.0, metered=True,
    )  # fmt: skip


@pytest.fixture
def traces_dir(tmp_path):
    """Four traces of a file of questions, one cut and one wrong."""
    folder = RunFolder(tmp_path / "traces")
    start(folder, describe(TEACHER, budget_usd=1.0))
    folder.append("traces", [
        a_trace("q1"), a_trace("q2", "truncated"), a_trace("q3", verdict="wrong"), a_trace("q4", verdict=None),
    ])  # fmt: skip
    return folder.path


def chats(path):
    return [json.loads(line) for line in Path(path).read_text("utf-8").splitlines()]


def test_traces_become_chats_with_the_thinking_inside_the_content(traces_dir, tmp_path):
    done = tenner_here("export", traces_dir, "--format", "sft", "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert done.stderr == "2 of 4 traces are exported; left out: truncated 1, wrong answer 1\n"
    first, second = chats(done.stdout.strip())
    assert (first["id"], first["question_id"], second["question_id"]) == ("q1-0", "q1", "q4")
    assert first["messages"] == [
        {"role": "user", "content": "What is 2 + 2?"},  # without what was asked of the teacher besides
        {"role": "assistant", "content": "<think>\nTwo and two.\n</think>\n\nIt is 4."},
    ]


@pytest.mark.parametrize(
    ("tags", "content"),
    [
        ("<thought>", "<thought>\nTwo and two.\n</thought>\n\nIt is 4."),
        ("[T] [/T]", "[T]\nTwo and two.\n[/T]\n\nIt is 4."),
    ],
)
def test_other_tags_may_be_named(tags, content):
    assert sft_chats.row(SAMPLE, sft_chats.in_tags(tags))["messages"][1]["content"] == content


@pytest.mark.parametrize("tags", ["think", "<think> </think> <x>", "", "<a> <a>", "<\udcff>"])
def test_what_are_no_tags_is_refused(tags):
    with pytest.raises(TennerError, match="--think-tags"):
        sft_chats.in_tags(tags)


def test_thinking_that_closes_itself_is_refused():
    broken = SAMPLE.model_copy(update={"thinking": "So </think> it is."})
    with pytest.raises(TennerError, match="q1-0 contains </think> itself"):
        sft_chats.in_tags("<think>")(broken)


def test_a_runs_samples_are_chats_as_it_trained_on_them(run_dir, tmp_path):
    RunFolder(run_dir).write("samples", [SAMPLE])
    done = tenner_here("export", run_dir, "--format", "sft", "--out", tmp_path / "out")
    (row,) = chats(done.stdout.strip())
    assert row["messages"] == [
        {"role": "system", "content": ""},  # as the recipe has it, so that a template's own does not come in
        {"role": "user", "content": "What is 2 + 2?"},
        {"role": "assistant",
         "content": "<|im_start|>think\nTwo and two.\n<|im_start|>answer\nAnswer: It is 4."},
    ]  # fmt: skip


def test_tags_have_no_effect_on_a_log_of_answers(run_dir, tmp_path):
    done = tenner_here("export", run_dir, "--format", "lm-eval", "--think-tags", "<think>", "--out", tmp_path / "out")
    assert (done.returncode, done.stdout) == (2, "")
    assert "--think-tags has no effect with --format lm-eval" in done.stderr


@pytest.mark.slow
def test_trl_trains_on_the_thinking_of_an_export_and_not_on_that_of_traces(traces_dir, tiny_model_dir, tmp_path):
    """What SFTTrainer puts into its batches, decoded: of `traces.jsonl` the answer alone, without a word about it."""
    from datasets import load_dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir)

    def trained_on(path):
        rows = load_dataset("json", data_files=str(path), split="train", cache_dir=str(tmp_path / "cache"))
        args = SFTConfig(
            output_dir=str(tmp_path / "trl"), max_length=None, bf16=False, use_cpu=True, report_to="none",
            dataloader_pin_memory=False,
            activation_checkpointing=False,
        )  # fmt: skip
        model = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
        trainer = SFTTrainer(
            model=model, args=args, train_dataset=rows.select_columns(["messages"]), processing_class=tokenizer
        )
        batch = next(iter(trainer.get_train_dataloader()))
        return [tokenizer.decode(row[row != -100]) for row in batch["labels"]]

    exported = tenner_here("export", traces_dir, "--format", "sft", "--out", tmp_path / "out").stdout.strip()
    assert any("<think>\nTwo and two.\n</think>\n\nIt is 4.<|im_end|>" in text for text in trained_on(exported))
    texts = trained_on(traces_dir / "traces.jsonl")
    assert any("It is 4." in text for text in texts)
    assert not any("Two and two" in text for text in texts)
