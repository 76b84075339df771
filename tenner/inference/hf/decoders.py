"""The choice of the decoder for a loaded model: the fastest that passes the check."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import transformers
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import LinearAttentionCacheLayerMixin

from tenner.core.errors import TennerError
from tenner.inference.hf.decoder import Decoder
from tenner.inference.hf.decoding_check import compute_reference, find_fault
from tenner.inference.hf.kv_cache import ATTENTION_NAME
from tenner.inference.hf.library_decoder import LibraryDecoder
from tenner.inference.hf.recurrent_decoder import RecurrentDecoder
from tenner.inference.hf.recurrent_states import KNOWN_LAYERS
from tenner.inference.hf.slot_decoder import SlotDecoder


class Choice(NamedTuple):
    """A decoder that has passed the check."""

    new: Callable[[], Decoder]
    notice: str | None = None
    """One line where it is not the fastest decoder, with the reason."""
    shortens: bool = True
    """Whether the state of a row can be shortened to any length at no cost."""


def choose_decoder(model: PreTrainedModel, *, vocabulary: int, rows_max: int) -> Choice:
    """Try the decoders, and set the model's attention to that of the chosen one.

    The model must have transformers' own attention. It is fed ids below `vocabulary`, up to `rows_max` rows at a time.

    Raise TennerError where none passes the check.
    """
    name = model.config.model_type
    try:
        expected = compute_reference(model, vocabulary=vocabulary)
    except Exception as error:
        raise _refusal(name, f"its forward pass raises {type(error).__name__}: {error}") from error
    own = model.config._attn_implementation
    fault: str | None
    choices, fault = _batched_choices(model, rows_max)
    if choices and not _set_attention(model, ATTENTION_NAME):
        choices, fault = [], "its attention cannot be replaced"
    for choice in choices:
        if (fault := find_fault(model, choice.new, expected, vocabulary=vocabulary)) is None:
            return choice
    _set_attention(model, own)
    notice = f"{name}: the embedded engine decodes one row at a time, because {fault}"
    for one_by_one in (False, True):
        new = partial(LibraryDecoder, model, one_by_one=one_by_one)
        if (fault := find_fault(model, new, expected, vocabulary=vocabulary)) is None:
            return Choice(new, notice, shortens=False)
    assert fault is not None
    raise _refusal(name, f"going on from transformers' own cache, {fault}")


def _batched_choices(model: PreTrainedModel, rows_max: int) -> tuple[list[Choice], str]:
    """The decoders that may decode the model's rows together, the fastest first; or why there are none."""
    try:
        layers = DynamicCache(config=model.config).layers
    except Exception as error:  # noqa: BLE001 a config of an unknown shape
        return [], f"its cache has an unknown layout ({type(error).__name__})"
    if other := {type(layer).__name__ for layer in layers if type(layer) not in KNOWN_LAYERS}:
        return [], f"its layers keep more than keys, values and recurrent states ({min(other)})"
    if not any(isinstance(layer, LinearAttentionCacheLayerMixin) for layer in layers):
        return [Choice(partial(SlotDecoder, model, rows_max=rows_max))], ""
    notice = (
        f"{model.config.model_type}: the embedded engine prefills prompts one by one and starts each policy of a sweep "
        "again from its prompt, because the layers keep a recurrent state"
    )
    new = partial(RecurrentDecoder, model, rows_max=rows_max)
    return [Choice(partial(new, one_by_one=one), notice, shortens=False) for one in (False, True)], ""


def _set_attention(model: PreTrainedModel, name: str) -> bool:
    """Without transformers' warning where a model does not support it. Whether the model has it now."""
    verbosity = transformers.utils.logging.get_verbosity()
    transformers.utils.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    try:
        model.set_attn_implementation(name)
    finally:
        transformers.utils.logging.set_verbosity(verbosity)
    return bool(model.config.get_text_config()._attn_implementation == name)


def _refusal(name: str, fault: str) -> TennerError:
    return TennerError(
        f"the embedded engine cannot decode this {name} model: {fault}".splitlines()[0],
        hint="decode it with vLLM, or behind a URL",
    )
