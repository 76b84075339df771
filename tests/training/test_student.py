import json
import shutil
import subprocess

import pytest
import torch
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
    model.generation_config.temperature = -1.0  # which save_pretrained refuses, after it has begun
    with pytest.raises(ValueError):
        student.save(model, tokenizer, folder, torch.float32)
    assert (folder / "model.safetensors").read_bytes() == before
    assert list(tmp_path.iterdir()) == [folder]


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
