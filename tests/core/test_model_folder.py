import json

import pytest

from tenner.core import model_folder
from tenner.core.errors import TennerError
from tenner.evaluation.report.lm_eval_log import folder_name

CONFIG = {"model_type": "llama", "hidden_size": 32, "num_hidden_layers": 2, "vocab_size": 100}


def safetensors(data_bytes=8, end=8):
    header = json.dumps({"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, end]}}).encode()
    return len(header).to_bytes(8, "little") + header + bytes(data_bytes)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    (tmp_path / "model.safetensors").write_bytes(safetensors())
    return tmp_path


def test_a_whole_folder(folder):
    model_folder.check(folder)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[]", "is no JSON object"),
        ("{", "cannot be read"),
        ("[" * 5000, "cannot be read"),
        (json.dumps(CONFIG | {"hidden_size": -32}), "hidden_size is -32"),
        (json.dumps(CONFIG | {"num_hidden_layers": 10**9}), "num_hidden_layers is 1000000000"),
        (json.dumps(CONFIG | {"vocab_size": "many"}), "vocab_size is many"),
        (json.dumps(CONFIG | {"text_config": {"num_attention_heads": -1}}), "num_attention_heads is -1"),
    ],
)
def test_a_config_that_is_no_models(text, said, folder):
    (folder / "config.json").write_text(text)
    with pytest.raises(TennerError, match=f"config.json.* {said}") as caught:
        model_folder.check(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json"])
def test_a_file_of_a_size_that_no_models_has_is_refused_unread(name, folder):
    with (folder / name).open("ab") as file:
        file.truncate(10**12)  # sparse: it takes no room, but would take all memory
    with pytest.raises(TennerError, match=rf"{name} has 1,000,000,000,000 bytes"):
        model_folder.check(folder)
    with pytest.raises(TennerError, match=rf"{name} has 1,000,000,000,000 bytes"):
        model_folder.read_json(folder / name)


@pytest.mark.parametrize(
    "data",
    [b"", b"\xff" * 100, safetensors()[:-1], safetensors() + b"x", safetensors(end=10**12), safetensors(end="x"),
     (10**6).to_bytes(8, "little") + b"{}"],
    ids=["empty", "noise", "cut", "grown", "far", "no number", "a header that is cut"],
)  # fmt: skip
def test_weights_that_are_not_as_long_as_they_say(data, folder):
    (folder / "model.safetensors").write_bytes(data)
    with pytest.raises(TennerError, match=r"model\.safetensors is damaged: "):
        model_folder.check(folder)


def test_what_a_library_raises_is_one_line(folder):
    with (
        pytest.raises(TennerError, match=r"cannot be loaded: no such key") as caught,
        model_folder.loading(folder, "cannot be loaded"),
    ):
        raise AttributeError("no such\nkey")
    assert isinstance(caught.value.__cause__, AttributeError)


@pytest.mark.parametrize("name", ["..", ".", "...", "../..", "/"])
def test_no_name_of_a_model_leaves_the_folder_of_an_export(name):
    made = folder_name(name)
    assert "/" not in made
    assert made.strip(".")
