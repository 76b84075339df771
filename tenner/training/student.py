"""The student's weights and tokenizer in and out of a Hugging Face folder."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging
from transformers.utils.quantization_config import QuantizationConfigMixin

from tenner.core import model_folder
from tenner.core.chat_template import set_template
from tenner.core.disk import FULL, REFUSED, disk_errors
from tenner.core.errors import TennerError

ADDRESS_HINT = "an address is wheel:NAME==VERSION/FILE.gguf#sha256=HEX, hf:org/name@revision, or a local folder"
DISK_ERRORS = (*FULL, *REFUSED)


def load(
    folder: Path, dtype: torch.dtype, attention: str, quantization: QuantizationConfigMixin | None = None,
    device: torch.device | None = None,
) -> PreTrainedModel:  # fmt: skip
    """The model in evaluation mode (no dropout: s1 trains without, and so no step depends on random state).

    On the CPU, or on `device`, where quantized weights are made. Raises TennerError where the folder lacks a weight,
    which transformers would draw at random, or holds an adapter.
    """
    check_no_adapter(folder)
    how: dict[str, Any] = {} if quantization is None else {"quantization_config": quantization}
    if device is not None:
        how["device_map"] = {"": device}
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    with model_folder.loading(folder, "cannot be loaded as a causal language model"):
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype, attn_implementation=attention, trust_remote_code=False, output_loading_info=True, **how
        )
    model: PreTrainedModel
    model, found = loaded
    if missing := sorted(found["missing_keys"]):
        more = f" and {len(missing) - 1} more" if missing[1:] else ""
        raise TennerError(f"{folder} lacks the weight {missing[0]}{more}", hint=model_folder.HINT)
    model.eval()  # type: ignore[no-untyped-call]
    return model


def check_no_adapter(folder: Path) -> None:
    """Raise TennerError where a model's folder holds an adapter, which transformers would put beside its weights."""
    if (folder / "adapter_config.json").exists():
        raise TennerError(
            f"{folder} holds an adapter, which cannot be trained on",
            hint="merge it into its model (merge_and_unload of peft), and name that folder",
        )


def load_empty(folder: Path, dtype: torch.dtype, attention: str) -> PreTrainedModel:
    """The model without its weights: they are on the meta device, its buffers (tables of positions) are real."""
    from accelerate import init_empty_weights

    check_no_adapter(folder)
    with model_folder.loading(folder, "cannot be loaded as a causal language model"):
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    with init_empty_weights(include_buffers=False):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(  # type: ignore[no-untyped-call]
            config, dtype=dtype, attn_implementation=attention, trust_remote_code=False
        )
    model.tie_weights()
    model.eval()  # type: ignore[no-untyped-call]
    return model


def load_tokenizer(folder: Path, chat_template: str | None = None) -> PreTrainedTokenizerBase:
    """The tokenizer that lies beside the model's weights, with another chat template if one is named.

    Raises TennerError where there is none, or no such template.
    """
    with model_folder.loading(folder, "holds no usable tokenizer"):
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        tokenizer.encode("1", add_special_tokens=False)  # which notices fields of another type, as a length in words
    set_template(tokenizer, chat_template)
    return tokenizer


def save(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path, dtype: torch.dtype, *,
    end_ids: frozenset[int] = frozenset(),
) -> None:  # fmt: skip
    """Write a normal Hugging Face folder, all or nothing; the model's weights are converted to `dtype` in place.

    Its configurations name the tokenizer's end of text, and `end_ids` beside it.
    """
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    for p in model.parameters():  # not buffers, as in training: rounded, a mixture's bias sends tokens to other experts
        p.data = p.data.to(dtype)
    generation: Any = model.generation_config
    own = tokenizer.eos_token_id
    ends = [*([] if own is None else [own]), *sorted(end_ids - {own})]
    generation.eos_token_id = model.config.eos_token_id = ends if len(ends) > 1 else next(iter(ends), None)
    if generation.pad_token_id is None:
        generation.pad_token_id = tokenizer.pad_token_id
    with whole_folder(folder) as partial, _without_generation_config(model):
        model.save_pretrained(partial)
        generation.to_json_file(partial / "generation_config.json")
        tokenizer.save_pretrained(partial)


@contextlib.contextmanager
def _without_generation_config(model: PreTrainedModel) -> Iterator[None]:
    """transformers reads settings that contradict one another (a temperature, but no sampling), and refuses to write
    them: they stay as they came, for whoever reads some of them.
    """
    own: Any = model.generation_config
    model.generation_config = GenerationConfig()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        model.generation_config = own


@contextlib.contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """A folder to fill that becomes `folder`, replacing it, only when the block ends well.

    What a killed process left behind goes at the next attempt; two at once are the caller's to prevent.
    """
    partial, old = (folder.with_name(f".{folder.name}.{what}") for what in ("partial", "old"))
    try:
        with disk_errors(folder):
            for leftover in (partial, old):
                shutil.rmtree(leftover, ignore_errors=True)
            partial.mkdir(parents=True)
            try:
                yield partial
            except SafetensorError as e:  # it has the system's message, and not its number
                found = next((number for number in DISK_ERRORS if os.strerror(number) in str(e)), None)
                if found is None:
                    raise
                raise OSError(found, os.strerror(found), str(folder)) from e
            if folder.exists():
                folder.rename(old)
            partial.rename(folder)
    finally:
        for leftover in (partial, old):
            shutil.rmtree(leftover, ignore_errors=True)
