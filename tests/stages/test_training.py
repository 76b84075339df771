"""The train stage on samples that are too long, templates that do not fit, and a real command under torchrun."""

import json
import re
import shutil

import pytest
from tiny_training import torchrun
from transformers import AutoModelForCausalLM, AutoTokenizer

from tenner import cli, pipeline
from tenner.budget.ledger_database import read_spend
from tenner.commands import show
from tenner.core import recipe
from tenner.core.chat_template import TEMPLATES
from tenner.core.errors import TennerError
from tenner.core.progress import Screen
from tenner.core.records import Drop, Sample, TrainStep
from tenner.core.run import open_run
from tenner.core.run_folder import RunFolder
from tenner.stages import training


def sample(number, thinking="a thought"):
    return Sample(
        id=f"s{number}", question_id=f"q{number}", question=f"What is {number}+1?", thinking=thinking,
        answer=str(number + 1), domain="sums",
    )  # fmt: skip


def learn(path, tiny_recipe, samples, *overrides):
    described = recipe.load(str(tiny_recipe), overrides=list(overrides))
    with open_run(path, described, Screen(), budget_usd=None) as run:
        run.folder.write("samples", samples)
        return training.learn(run)


def test_longer_samples_are_left_out_and_told_of(tiny_recipe, tmp_path, capsys):
    samples = [*map(sample, range(6)), sample(6, "long " * 300)]
    assert learn(tmp_path / "run", tiny_recipe, samples, 'train.longer="drop"') == (7, 6)
    (drop,) = RunFolder(tmp_path / "run").read("dropped-train", Drop)
    assert (drop.id, drop.reason) == ("s6", "too_long")
    assert "train.tokens_max is 1000" in drop.evidence
    assert "1 samples are longer than train.tokens_max and left out" in "".join(capsys.readouterr())


@pytest.mark.slow
def test_held_out_samples_are_measured_and_not_trained_on(tiny_recipe, tmp_path, capsys):
    path = tmp_path / "run"
    assert learn(path, tiny_recipe, [*map(sample, range(6))], "train.validation_samples=2") == (6, 4)
    steps = RunFolder(path).read("training", TrainStep)
    assert None not in (steps[0].validation_loss, steps[-1].validation_loss)
    assert [d.reason for d in RunFolder(path).read("dropped-train", Drop)] == ["held_out"] * 2
    assert "2 samples are held out" in "".join(capsys.readouterr())


def test_a_training_of_few_steps_is_told_how_to_take_more(tiny_recipe, tmp_path, capsys):
    samples = [sample(i) for i in range(60)]

    def said(name, tokens_per_step):
        described = recipe.load(
            str(tiny_recipe), overrides=["train.epochs=3", f"train.tokens_per_step={tokens_per_step}"]
        )
        with open_run(tmp_path / name, described, Screen(), budget_usd=None) as run:
            run.folder.write("samples", samples)
            training.prepare(run)
        return " ".join("".join(capsys.readouterr()).split())

    few = r"(\d+) steps are few to learn from: with train\.tokens_per_step = (\d+) the same samples make about 100"
    ((steps, smaller),) = re.findall(few, said("large", 4000))
    assert int(steps) < 20
    assert "few to learn from" not in said("small", smaller)


def test_longer_samples_stop_the_run(tiny_recipe, tmp_path):
    with pytest.raises(TennerError, match="1 of 2 samples are longer than tokens_max = 1000: s1"):
        learn(tmp_path / "run", tiny_recipe, [sample(0), sample(1, "long " * 300)])
    with pytest.raises(TennerError, match="no sample has at most"):
        learn(tmp_path / "run2", tiny_recipe, [sample(1, "long " * 300)], 'train.longer="drop"')


@pytest.fixture
def opening_model_dir(tiny_model_dir, tmp_path):
    """The tiny model with a chat template that opens the thinking."""
    shutil.copytree(tiny_model_dir, tmp_path / "model")
    template = tmp_path / "model" / "chat_template.jinja"
    text = template.read_text()
    template.write_text(text.replace("assistant\n' }}", "assistant\n<think>\n' }}"))
    assert template.read_text() != text
    return tmp_path / "model"


def test_what_the_template_opens_is_not_opened_twice(opening_model_dir, tiny_recipe, tmp_path, capsys):
    run = tmp_path / "run"
    settings = [f'student.model="{opening_model_dir}"', 'student.format="think"', 'student.system_prompt="Be brief."']
    assert learn(run, tiny_recipe, [sample(0)], *settings) == (1, 1)
    show.print_sample(run, "s0", as_json=True)
    asked, said = json.loads(capsys.readouterr().out)["pieces"]
    assert asked["text"].endswith("assistant\n<think>\n")
    assert said == {"text": "a thought\n</think>\n\nAnswer: 1<|im_end|>", "trained_on": True}


def test_a_template_that_opens_the_thinking_in_another_format_is_refused(opening_model_dir, tiny_recipe, tmp_path):
    with pytest.raises(TennerError, match="opens the thinking itself, as in format think, and format s1 would"):
        learn(tmp_path / "run", tiny_recipe, [sample(0)], f'student.model="{opening_model_dir}"')
    assert not (tmp_path / "run" / "training.jsonl").exists()


def test_a_base_model_is_trained_with_a_named_template_and_keeps_it(tiny_model_dir, tiny_recipe, tmp_path):
    shutil.copytree(tiny_model_dir, tmp_path / "model")
    (tmp_path / "model" / "chat_template.jinja").unlink()
    model = f'student.model="{tmp_path / "model"}"'
    with pytest.raises(TennerError, match="the student's tokenizer has no chat template") as refused:
        learn(tmp_path / "run", tiny_recipe, [sample(0)], model)
    assert (refused.value.hint or "").startswith("set chat_template to one of chatml, plain")
    learn(tmp_path / "other", tiny_recipe, [sample(0)], model, 'student.chat_template="chatml"')
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "other" / "student")
    assert tokenizer.chat_template != TEMPLATES["chatml"]
    assert (tmp_path / "other" / "chat_template.jinja").read_text() == TEMPLATES["chatml"]
    chat = [{"role": "user", "content": "2+2?"}]
    assert str(tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)).endswith("think\n")


def test_all_ends_of_a_turn_are_saved_and_the_templates_own_is_trained(tiny_model_dir, tiny_recipe, tmp_path, capsys):
    """The tokenizer names one end, generation_config another, and the template closes a turn with a third."""
    shutil.copytree(tiny_model_dir, tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir)
    tokenizer.add_special_tokens({"eos_token": "<|endoftext|>"})
    tokenizer.save_pretrained(tmp_path / "model")
    (tmp_path / "model" / "generation_config.json").write_text('{"eos_token_id": [1, 77]}')  # 77 is a letter
    learn(tmp_path / "run", tiny_recipe, [sample(0)], f'student.model="{tmp_path / "model"}"')
    show.print_sample(tmp_path / "run", "s0", as_json=True)
    assert json.loads(capsys.readouterr().out)["pieces"][-1]["text"].endswith("Answer: 1<|im_end|>")
    for file in ("config.json", "generation_config.json"):
        saved = json.loads((tmp_path / "run" / "student" / file).read_text())
        assert saved["eos_token_id"] == [0, 1, 2]


def test_a_tracker_that_is_not_installed_is_told_in_a_line(tiny_recipe, tmp_path):
    with pytest.raises(TennerError, match="needs the wandb library"):
        learn(tmp_path / "run", tiny_recipe, [sample(0)], 'train.tracker="wandb"')
    assert not (tmp_path / "run" / "training.jsonl").exists()
    with pytest.raises(TennerError, match="needs the wandb library"):  # and before anything is bought
        pipeline.check(recipe.load(str(tiny_recipe), overrides=['train.tracker="wandb"']))


# by the real command


@pytest.fixture(scope="module")
def ready(tiny_recipe, tmp_path_factory):
    """A run that is done up to training."""
    path = tmp_path_factory.mktemp("ready") / "run"
    described = recipe.load(str(tiny_recipe))
    with open_run(path, described, Screen(), budget_usd=None) as run:
        pipeline.run_stages(run, described.stages[: described.stages.index("train")])
    return path


def assert_trained_once(path):
    folder = RunFolder(path)
    steps = folder.read("training", TrainStep)
    assert [step.step for step in steps] == list(range(steps[0].steps))
    assert folder.done("train")
    AutoModelForCausalLM.from_pretrained(path / "student")
    assert not (path / training.FOLDER).exists()
    return steps


@pytest.mark.slow
def test_the_command_under_torchrun_trains_as_alone(ready, tmp_path):
    shutil.copytree(ready, tmp_path / "one")
    shutil.copytree(ready, tmp_path / "two")
    with pytest.raises(SystemExit, match="0"):
        cli.main(["train", str(tmp_path / "one")])
    (done,) = torchrun("-m", "tenner", "train", tmp_path / "two")
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr
    assert "Traceback" not in done.stderr
    one, two = (assert_trained_once(tmp_path / name) for name in ("one", "two"))
    assert [step.loss for step in two] == pytest.approx([step.loss for step in one], rel=3e-3)
    spent = sum(row.cost_usd for row in read_spend(tmp_path / "two" / "run.db") if row.stage == "train")
    price = recipe.parse((ready / "recipe.toml").read_text(), where="ready").machine.price_usd_per_hour
    seconds = json.loads((tmp_path / "two" / "stages" / "train.json").read_text())["seconds"]
    stretches = len(two) + 1  # each is rounded up to a whole micro-dollar
    assert 0 < spent <= seconds / 3600 * price + stretches * 1e-6


@pytest.mark.slow
def test_a_dry_run_says_what_it_takes_and_writes_nothing(ready, capsys):
    before = {path: path.stat().st_mtime_ns for path in ready.rglob("*")}
    with pytest.raises(SystemExit, match="0"):
        cli.main(["train", str(ready), "--dry-run"])
    assert {path: path.stat().st_mtime_ns for path in ready.rglob("*")} == before
    printed = capsys.readouterr().out
    assert re.search(r"a sample of \d{2,3} tokens on 1 (process|GPU)\nfits in [\d.]+ GB\n$", printed), printed


BOLD = """
from tenner import cli
from tenner.core import run
run.FIRST_STRETCH_SECONDS = 0.1
cli.main()
"""
"""The command, without a minute's reserve for the first step: else a cap that lets training begin lets it end."""


@pytest.mark.slow
def test_the_cap_in_the_middle_of_a_training_by_two_loses_no_step(ready, tmp_path):
    path = tmp_path / "run"
    shutil.copytree(ready, path)
    before = sum(row.cost_usd for row in read_spend(path / "run.db"))
    (tmp_path / "bold.py").write_text(BOLD)
    (done,) = torchrun(tmp_path / "bold.py", "train", path, "--budget-usd", f"{before + 0.00001:.6f}")
    assert done.returncode != 0
    assert "exitcode  : 3" in done.stderr
    reported = RunFolder(path).read("training", TrainStep)
    assert 0 < len(reported) < reported[0].steps
    (done,) = torchrun("-m", "tenner", "train", path, "--budget-usd", "1")
    assert done.returncode == 0, done.stderr
    assert assert_trained_once(path)[: len(reported)] == reported
