"""Whether the folder of a model is whole, found before a library reads it: sizes in config.json, lengths of weights."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tenner.core.errors import TennerError

SIZES_MAX = {
    "num_hidden_layers": 10_000, "n_layer": 10_000, "n_layers": 10_000, "num_layers": 10_000,
    "hidden_size": 10_000_000, "n_embd": 10_000_000, "d_model": 10_000_000, "intermediate_size": 100_000_000,
    "num_attention_heads": 100_000, "n_head": 100_000, "num_key_value_heads": 100_000, "head_dim": 1_000_000,
    "vocab_size": 100_000_000, "num_experts": 100_000, "num_local_experts": 100_000, "n_routed_experts": 100_000,
}  # fmt: skip
"""Far above every model: a library that is asked for more runs out of memory, or of time."""
NESTED = ("text_config", "vision_config", "audio_config")
JSON_BYTES_MAX = 100_000_000
"""Of a file (Gemma 3's tokenizer.json has 33 MB), and of a safetensors file's header, as its own library has it."""
HINT = "fetch or save the model again, or name another folder"


def check(folder: Path) -> None:
    """Raise TennerError where config.json or a file of weights cannot be what a model's folder holds.

    Only headers are read: this takes milliseconds for any size.
    """
    config = read_json(folder / "config.json")
    for section in (config, *(config.get(name) for name in NESTED)):
        if isinstance(section, Mapping):
            check_sizes(section, str(folder / "config.json"))
    for name in ("generation_config.json", "tokenizer_config.json"):
        if (folder / name).is_file():
            read_json(folder / name)
    if (folder / "tokenizer.json").is_file():
        _check_size(folder / "tokenizer.json")  # the library reads it, in a fraction of the time
    for weights in sorted(folder.glob("*.safetensors")):
        _check_weights(weights)


def check_sizes(config: Mapping[str, Any], where: str) -> None:
    """Raise TennerError where a size of a model is no whole number, negative, or larger than any model's."""
    for name, most in SIZES_MAX.items():
        value = config.get(name)
        if value is None or isinstance(value, list):  # one for each layer
            continue
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= most:
            raise TennerError(f"{where}: {name} is {str(value)[:40]}", hint=f"a whole number up to {most:,} is needed")


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file of a model's folder. Raises TennerError where there is none."""
    try:
        _check_size(path)
        content = json.loads(path.read_text("utf-8"))
    except OSError as e:
        raise TennerError(f"{path} cannot be read: {e.strerror}", hint=HINT) from e
    except (ValueError, RecursionError) as e:
        raise TennerError(f"{path} cannot be read: {e}", hint=HINT) from e
    if not isinstance(content, dict):
        raise TennerError(f"{path} is no JSON object", hint=HINT)
    return content


def _check_size(path: Path) -> None:
    """Raise TennerError for a JSON file that is larger than any model's, OSError where there is none."""
    if (size_bytes := path.stat().st_size) > JSON_BYTES_MAX:
        raise TennerError(f"{path} has {size_bytes:,} bytes: no model's is so large", hint=HINT)


@contextmanager
def loading(folder: Path, what: str) -> Iterator[None]:
    """Convert whatever the libraries raise over a model's files to one line; `what` is what they should be."""
    try:
        yield
    except TennerError:
        raise
    except Exception as e:  # tokenizers, safetensors, torch, jinja2 and transformers each have errors of their own
        reason = " ".join(str(e).split())[:300] or type(e).__name__
        raise TennerError(f"{folder} {what}: {reason}", hint=HINT) from e


def _check_weights(path: Path) -> None:
    """Raise TennerError where a safetensors file is not as long as its header says."""
    try:
        size_bytes = path.stat().st_size
        with path.open("rb") as file:
            header_bytes = int.from_bytes(file.read(8), "little")
            if not 2 <= header_bytes <= min(JSON_BYTES_MAX, size_bytes - 8):
                raise ValueError("its header is cut")
            header = json.loads(file.read(header_bytes))
        ends = [tensor["data_offsets"][1] for name, tensor in header.items() if name != "__metadata__"]
        if 8 + header_bytes + max(ends, default=0) != size_bytes:
            raise ValueError(f"it has {size_bytes:,} bytes, and its header tells of another number")
    except (OSError, ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError) as e:
        reason = e.strerror if isinstance(e, OSError) else str(e)
        raise TennerError(f"{path} is damaged: {reason}", hint=HINT) from e
