"""A saved student as one GGUF file in float16, for llama.cpp and Ollama."""

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from gguf import GGUFWriter, LlamaFileType, TokenType
from gguf.constants import MODEL_ARCH, MODEL_ARCH_NAMES
from gguf.tensor_mapping import get_tensor_name_map
from numpy.typing import NDArray
from torch import Tensor

from tenner.core import model_folder
from tenner.core.disk import disk_errors
from tenner.core.errors import TennerError

ARCHITECTURES = {
    "LlamaForCausalLM": MODEL_ARCH.LLAMA,
    "Qwen2ForCausalLM": MODEL_ARCH.QWEN2,
    "Qwen3ForCausalLM": MODEL_ARCH.QWEN3,
}
"""Families by the class that config.json names: dense, with rotary positions that are not scaled."""
PERMUTED = {"LlamaForCausalLM": ("q_proj.weight", "q_proj.bias", "k_proj.weight", "k_proj.bias")}
"""What has its rows in another order in llama.cpp: it rotates neighbours, transformers halves."""
LLAMA3_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2_PATTERN = LLAMA3_PATTERN.replace(r"\p{N}{1,3}", r"\p{N}")
PATTERNS = {LLAMA3_PATTERN: "llama-bpe", QWEN2_PATTERN: "qwen2"}
"""llama.cpp's names of how a text is split before its pairs of bytes are merged."""
KNOWN = f"there are {', '.join(ARCHITECTURES)}"


def write(folder: Path, out: Path, *, name: str) -> None:
    """Write the model in `folder` to the file `out`: matrices in float16, vectors in float32.

    Raises:
        TennerError: a family, a tokenizer, windows or scaled positions that this does not know; nothing is written.
    """
    with model_folder.loading(folder, "cannot be read"):
        config = model_folder.read_json(folder / "config.json")
        tokenizer = model_folder.read_json(folder / "tokenizer.json")
        family = str((config.get("architectures") or ["unknown"])[0])
        if family not in ARCHITECTURES:
            raise TennerError(f"a {family} cannot be written as GGUF", hint=KNOWN)
        rope = config.get("rope_parameters") or {}
        if rope.get("rope_type", "default") != "default" or config.get("rope_scaling"):
            raise TennerError(
                "scaled rotary positions cannot be written as GGUF", hint="llama.cpp's own converter may do it"
            )
        if set(config.get("layer_types") or ()) - {"full_attention"}:
            raise TennerError(
                f"layers of a {family} that see a window cannot be written as GGUF: llama.cpp would show them all",
                hint="this student stays in safetensors",
            )
        if (gate := config.get("hidden_act", "silu")) != "silu":
            raise TennerError(
                f"a {family} with the gate {gate} cannot be written as GGUF: llama.cpp would compute silu",
                hint="this student stays in safetensors",
            )
        splitting = _splitting(tokenizer)
    with model_folder.loading(folder, "cannot be written as GGUF"), _writer(out, ARCHITECTURES[family]) as writer:
        writer.add_name(name)
        writer.add_file_type(LlamaFileType.MOSTLY_F16)
        _add_sizes(writer, config, rope)
        _add_tokenizer(writer, tokenizer, config, folder, splitting)
        for stored, weight in _named_weights(folder, config, family):
            writer.add_tensor(stored, _array(weight))


@contextlib.contextmanager
def _writer(out: Path, arch: MODEL_ARCH) -> Iterator[GGUFWriter]:
    """A writer whose file becomes `out` only when all of it is there."""
    partial = out.with_name(f".{out.name}.partial")
    writer = GGUFWriter(partial, arch=MODEL_ARCH_NAMES[arch])
    try:
        with disk_errors(out):
            yield writer
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_tensors_to_file()
            writer.close()
            partial.rename(out)
    finally:
        writer.close()
        partial.unlink(missing_ok=True)


def _named_weights(folder: Path, config: Mapping[str, Any], family: str) -> Iterator[tuple[str, Tensor]]:
    """The weights by llama.cpp's names, their rows in its order."""
    names = get_tensor_name_map(ARCHITECTURES[family], config["num_hidden_layers"])
    for stored, weight in _weights(folder):
        if stored == "lm_head.weight" and config.get("tie_word_embeddings"):
            continue
        if (found := names.get_name(stored, try_suffixes=(".weight", ".bias"))) is None:
            raise TennerError(f"the weight {stored} of a {family} has no place in a GGUF file", hint=KNOWN)
        if stored.endswith(PERMUTED.get(family, ())):
            heads = config["num_attention_heads" if "q_proj" in stored else "num_key_value_heads"]
            weight = _neighbours(weight, heads)
        yield found, weight


def _splitting(tokenizer: Mapping[str, Any]) -> str:
    """llama.cpp's name of the tokenizer's first step. Raises TennerError where it has none."""
    steps = tokenizer["pre_tokenizer"] or {}
    steps = steps.get("pretokenizers", [steps])
    kinds = [step.get("type") for step in steps]
    if tokenizer["model"]["type"] == "BPE" and kinds and kinds[-1] == "ByteLevel":
        if kinds == ["ByteLevel"] and steps[0]["use_regex"]:
            return "gpt-2"
        if kinds == ["Digits", "ByteLevel"] and steps[0]["individual_digits"] and steps[1]["use_regex"]:
            return "smollm"
        pattern = steps[0].get("pattern", {}).get("Regex")
        if kinds == ["Split", "ByteLevel"] and not steps[1]["use_regex"] and pattern in PATTERNS:
            return PATTERNS[pattern]
    raise TennerError(
        "the student's tokenizer cannot be written as GGUF: llama.cpp would split texts otherwise",
        hint=f"known are those of GPT-2, SmolLM, {' and '.join(PATTERNS.values())}",
    )


def _add_sizes(writer: GGUFWriter, config: Mapping[str, Any], rope: Mapping[str, Any]) -> None:
    heads = config["num_attention_heads"]
    head = config.get("head_dim") or config["hidden_size"] // heads
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(config.get("num_key_value_heads", heads))
    writer.add_key_length(head)
    writer.add_value_length(head)
    writer.add_rope_dimension_count(head)
    writer.add_rope_freq_base(float(rope.get("rope_theta", config.get("rope_theta", 10_000.0))))
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])


def _add_tokenizer(
    writer: GGUFWriter, tokenizer: Mapping[str, Any], config: Mapping[str, Any], folder: Path, splitting: str
) -> None:
    """Tokens by their ids, merges, the ends of a turn, and the chat template that training used."""
    by_id: dict[int, tuple[str, TokenType]] = {
        number: (text, TokenType.NORMAL) for text, number in tokenizer["model"]["vocab"].items()
    }
    for added in tokenizer["added_tokens"]:
        kind = TokenType.CONTROL if added["special"] else TokenType.USER_DEFINED
        by_id[added["id"]] = (added["content"], kind)
    # A model may have more rows than its tokenizer has tokens.
    rows = [by_id.get(number, (f"[PAD{number}]", TokenType.UNUSED)) for number in range(config["vocab_size"])]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(splitting)
    writer.add_token_list([text for text, _ in rows])
    writer.add_token_types([kind for _, kind in rows])
    if merges := [m if isinstance(m, str) else " ".join(m) for m in tokenizer["model"]["merges"]]:
        writer.add_token_merges(merges)  # an empty list is refused
    ends = config.get("eos_token_id")
    if ends is not None:
        writer.add_eos_token_id(ends[0] if isinstance(ends, list) else ends)
    if (begin := config.get("bos_token_id")) is not None:
        writer.add_bos_token_id(begin)
    writer.add_add_bos_token(False)  # the chat template says what a text begins with
    if (template := folder / "chat_template.jinja").is_file():
        writer.add_chat_template(template.read_text("utf-8"))


def _weights(folder: Path) -> Iterator[tuple[str, Tensor]]:
    from safetensors import safe_open

    for path in sorted(folder.glob("*.safetensors")):
        with model_folder.loading(path, "cannot be read"), safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118  safe_open is no mapping
                yield name, file.get_tensor(name)


def _neighbours(weight: Tensor, heads: int) -> Tensor:
    """Rows (heads, 2 halves, half) as (heads, half, 2): each pair that is rotated together lies side by side."""
    rows, *columns = weight.shape
    return weight.reshape(heads, 2, rows // heads // 2, *columns).swapaxes(1, 2).reshape(weight.shape)


def _array(weight: Tensor) -> NDArray[Any]:
    """float16 for a matrix, float32 for a vector. A value that float16 cannot hold is refused."""
    if weight.ndim == 1:
        return weight.float().numpy()
    lowered = weight.to(torch.float16)
    if not torch.isfinite(lowered).all():
        raise TennerError("a weight is too large for float16", hint="this student stays in safetensors")
    return lowered.numpy()
