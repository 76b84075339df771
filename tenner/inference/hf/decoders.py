"""The choice of the decoder for a loaded model: the fastest that passes the check."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import transformers
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DummyLayer, DynamicLayer, DynamicSlidingWindowLayer, LinearAttentionCacheLayerMixin

from tenner.core.errors import TennerError
from tenner.inference.hf.decoder import Decoder
from tenner.inference.hf.decoding_check import Reference, compute_reference, find_fault
from tenner.inference.hf.kv_cache import ATTENTION_NAME
from tenner.inference.hf.library_decoder import LibraryDecoder
from tenner.inference.hf.slot_decoder import SlotDecoder

PLAIN_LAYERS = (DynamicLayer, DynamicSlidingWindowLayer, DummyLayer)
"""The cache layers of transformers that hold keys and values only, or nothing."""


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
    slot_fault = _slot_fault(model, expected, vocabulary)
    if slot_fault is None:
        return Choice(partial(SlotDecoder, model, rows_max=rows_max))
    for one_by_one in (False, True):
        new = partial(LibraryDecoder, model, one_by_one=one_by_one)
        fault = find_fault(model, new, expected, vocabulary=vocabulary)
        if fault is None:
            return Choice(new, f"{name}: the embedded engine decodes one row at a time, because {slot_fault}", False)
    assert fault is not None
    raise _refusal(name, fault)


def _slot_fault(model: PreTrainedModel, expected: Reference, vocabulary: int) -> str | None:
    """Why the engine's own KV cache cannot be used for the model; None where it can, and is its attention now."""
    try:
        layers = DynamicCache(config=model.config).layers
    except Exception as error:  # noqa: BLE001 a config of an unknown shape
        return f"its cache has an unknown layout ({type(error).__name__})"
    if any(isinstance(layer, LinearAttentionCacheLayerMixin) for layer in layers):
        return "its layers keep a recurrent state"
    if other := {type(layer).__name__ for layer in layers if type(layer) not in PLAIN_LAYERS}:
        return f"its layers keep more than keys and values ({min(other)})"
    own = model.config._attn_implementation
    _set_attention(model, ATTENTION_NAME)
    if model.config.get_text_config()._attn_implementation == ATTENTION_NAME:
        fault = find_fault(model, partial(SlotDecoder, model, rows_max=8), expected, vocabulary=vocabulary)
    else:
        fault = "its attention cannot be replaced"
    if fault is not None:
        _set_attention(model, own)
    return fault


def _set_attention(model: PreTrainedModel, name: str) -> None:
    """Without transformers' warning where a model does not support it."""
    verbosity = transformers.utils.logging.get_verbosity()
    transformers.utils.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    try:
        model.set_attn_implementation(name)
    finally:
        transformers.utils.logging.set_verbosity(verbosity)


def _refusal(name: str, fault: str) -> TennerError:
    return TennerError(
        f"the embedded engine cannot decode this {name} model: {fault}".splitlines()[0],
        hint="decode it with vLLM, or behind a URL",
    )
