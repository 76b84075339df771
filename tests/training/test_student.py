import json
import shutil
import subprocess

import families
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from tenner.core.chat_template import ChatTemplate
from tenner.core.errors import StorageFull, TennerError
from tenner.training import student


def test_saved_folder_is_a_normal_one_and_replaces(tiny_model_dir, tmp_path):
    model = student.load(tiny_model_dir, torch.float32, "eager")
    tokenizer = student.load_tokenizer(tiny_model_dir)
    folder = tmp_path / "out" / "student"
    folder.mkdir(parents=True)
    (folder / "stale").touch()
    student.save(model, tokenizer, folder, torch.bfloat16)
    assert [p.name for p in folder.parent.iterdir()] == ["student"]
    assert not (folder / "stale").exists()
    again = AutoModelForCausalLM.from_pretrained(folder)
    assert again.dtype == torch.bfloat16
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), model.parameters(), strict=True))
    assert json.loads((folder / "generation_config.json").read_text())["eos_token_id"] == tokenizer.eos_token_id
    assert AutoTokenizer.from_pretrained(folder).encode("<|im_end|>") == [tokenizer.eos_token_id]


def test_a_save_that_fails_leaves_the_old_folder(tiny_model_dir, tmp_path):
    folder = tmp_path / "student"
    model = student.load(tiny_model_dir, torch.float32, "eager")
    tokenizer = student.load_tokenizer(tiny_model_dir)
    student.save(model, tokenizer, folder, torch.float32)
    before = (folder / "model.safetensors").read_bytes()
    model.config.of_no_known_kind = {1}  # which save_pretrained cannot write, after it has begun
    with pytest.raises(TypeError):
        student.save(model, tokenizer, folder, torch.float32)
    assert (folder / "model.safetensors").read_bytes() == before
    assert list(tmp_path.iterdir()) == [folder]


def test_settings_of_generation_that_contradict_one_another_stay_as_they_came(tiny_model_dir, tmp_path):
    """Transformers reads them with a warning, and refuses to write them."""
    shutil.copytree(tiny_model_dir, tmp_path / "model")
    theirs = {"do_sample": False, "temperature": 0.6, "top_p": 0.9, "eos_token_id": 2}
    (tmp_path / "model" / "generation_config.json").write_text(json.dumps(theirs))
    model = student.load(tmp_path / "model", torch.float32, "eager")
    student.save(model, student.load_tokenizer(tmp_path / "model"), tmp_path / "student", torch.float32)
    saved = json.loads((tmp_path / "student" / "generation_config.json").read_text())
    assert theirs.items() <= saved.items()
    assert model.generation_config.temperature == 0.6
    AutoModelForCausalLM.from_pretrained(tmp_path / "student")


def test_a_tokenizer_without_an_end_of_text_leaves_the_ends_that_the_model_has(tiny_model_dir, tmp_path):
    tokenizer = student.load_tokenizer(tiny_model_dir)
    tokenizer.eos_token = None
    model = student.load(tiny_model_dir, torch.float32, "eager")
    student.save(model, tokenizer, tmp_path / "student", torch.float32, end_ids=frozenset({2}))
    for name in ("config.json", "generation_config.json"):
        assert json.loads((tmp_path / "student" / name).read_text())["eos_token_id"] == 2


def test_buffers_are_saved_as_they_are(tiny_model_dir, tmp_path):
    """A mixture's bias, in bfloat16, sends tokens to other experts."""
    name = "model.layers.1.mlp.gate.e_score_correction_bias"
    bias = torch.tensor([4.301, 4.302, 4.303, 4.304])
    model = families.model_of(families.family("glm4_moe"))
    model.get_submodule(name.rpartition(".")[0]).e_score_correction_bias = bias
    model.save_pretrained(tmp_path / "model")
    model = student.load(tmp_path / "model", torch.bfloat16, "eager")
    ids = torch.arange(3, 43)[None]
    with torch.no_grad():
        before = model(ids).logits
        student.save(model, student.load_tokenizer(tiny_model_dir), tmp_path / "student", torch.bfloat16)
        again = student.load(tmp_path / "student", torch.bfloat16, "eager")
        assert torch.equal(again.state_dict()[name], bias)
        assert torch.equal(again(ids).logits, before)


def test_a_full_disk_is_one_line_and_leaves_the_old_folder(tiny_model_dir, tmp_path):
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", tmp_path], capture_output=True)
    if mount.returncode:
        pytest.skip("this user may not mount a tmpfs")
    try:
        (tmp_path / "student").mkdir()
        model = student.load(tiny_model_dir, torch.float32, "sdpa")
        with pytest.raises(StorageFull, match=r"the disk is full: .*student could not be written"):
            student.save(model, student.load_tokenizer(tiny_model_dir), tmp_path / "student", torch.float32)
        assert [path.name for path in tmp_path.iterdir()] == ["student"]
    finally:
        subprocess.run(["umount", "--lazy", tmp_path], check=True)


def test_a_damaged_folder_is_refused(tiny_model_dir, tmp_path):
    (tmp_path / "config.json").write_bytes((tiny_model_dir / "config.json").read_bytes())
    with pytest.raises(TennerError, match="cannot be loaded"):
        student.load(tmp_path, torch.float32, "eager")


def test_a_folder_that_lacks_a_weight_is_refused(tiny_model_dir, tmp_path):
    """Transformers would draw it at random."""
    shutil.copytree(tiny_model_dir, tmp_path / "model")
    path = tmp_path / "model" / "model.safetensors"
    weights = load_file(path)
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, path, metadata={"format": "pt"})
    with pytest.raises(TennerError, match=r"lacks the weight model\.layers\.1\.mlp\.up_proj\.weight$"):
        student.load(tmp_path / "model", torch.float32, "eager")


def test_the_turn_ends_where_the_template_says(tiny_model_dir):
    tokenizer = student.load_tokenizer(tiny_model_dir)
    tokenizer.eos_token = "<|im_start|>"
    assert ChatTemplate(tokenizer).turn_end_id(frozenset()) == tokenizer.convert_tokens_to_ids("<|im_end|>")


def test_a_tokenizer_with_a_length_in_words_is_refused(tiny_model_dir, tmp_path):
    shutil.copytree(tiny_model_dir, tmp_path / "model")
    path = tmp_path / "model" / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"model_max_length": "long"}))
    with pytest.raises(TennerError, match="holds no usable tokenizer"):
        student.load_tokenizer(tmp_path / "model")
