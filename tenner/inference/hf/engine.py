"""The embedded engine: decodes a Hugging Face model in a continuous batch under forcing, on CPU or GPU."""

from pathlib import Path
from typing import Self, cast

import torch
import transformers
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedConfig, PreTrainedModel

from tenner.core import hardware, model_folder
from tenner.core.errors import TennerError
from tenner.core.formats import Tokenizer
from tenner.core.sections import Device
from tenner.inference.defaults import ROWS, WAIT_TEXT
from tenner.inference.engine import EngineInfo, LocalEngine
from tenner.inference.hf.continuous_batch import ContinuousBatch
from tenner.inference.hf.decoders import Choice, choose_decoder
from tenner.inference.hf.packed_linear import can_pack, pack_linears

UNLIMITED_CONTEXT_TOKENS = 131_072
"""The context of a model whose positions have no limit, as where all layers are recurrent."""


class HFEngine(LocalEngine):
    """Decodes any causal language model of transformers that passes the check at load (see `decoding_check`).

    The same prompts, policies and sampling, in the same order, give the same tokens, bit for bit.
    """

    def __init__(
        self, model: PreTrainedModel, tokenizer: Tokenizer, decoder: Choice, *, vocabulary: int, rows: int,
        wait_text: str, model_dir: Path | None = None,
    ) -> None:  # fmt: skip
        context_tokens, self._context_notice = _context(model.config)
        super().__init__(tokenizer, wait_text=wait_text, context_tokens=context_tokens, model_dir=model_dir)
        self._model = model
        self._decoder = decoder
        self._vocabulary = vocabulary
        self._rows = rows

    @property
    def notice(self) -> str | None:
        """One line for the user where this model is not decoded in the fastest way, or not in its whole context."""
        return "; ".join(filter(None, (self._decoder.notice, self._context_notice))) or None

    @property
    def info(self) -> EngineInfo:
        """What it computes with."""
        return EngineInfo("hf", str(self._model.dtype).removeprefix("torch."), self._model.device.type)

    @property
    def exits_early(self) -> bool:
        """Where the state of a row can go back to the thinking after a trial answer."""
        return self._decoder.shortens

    @classmethod
    def load(
        cls,
        model_dir: Path,
        *,
        rows: int = ROWS,
        wait_text: str = WAIT_TEXT,
        dtype: torch.dtype | None = None,
        device: Device = "auto",
    ) -> Self:
        """Load a model folder onto a device. `rows` completions are decoded at a time.

        `dtype` None: the dtype that the device computes fastest in.

        Raise TennerError where the folder holds no model, or one that this engine cannot decode correctly.
        """
        if not (model_dir / "config.json").is_file():
            raise TennerError(
                f"{model_dir} is not a model folder: it has no config.json",
                hint="give the folder that save_pretrained wrote, or run the train stage first",
            )
        model_folder.check(model_dir)
        try:
            config = AutoConfig.from_pretrained(model_dir, local_files_only=True, trust_remote_code=False)
        except (OSError, ValueError) as error:
            raise TennerError(
                f"{model_dir}/config.json: {error}".splitlines()[0],
                hint="a newer version of transformers may know this kind of model",
            ) from error
        with model_folder.loading(model_dir, "holds no usable tokenizer"):
            tokenizer = AutoTokenizer.from_pretrained(model_dir, local_files_only=True, trust_remote_code=False)
        vocabulary, embedded = len(tokenizer), config.get_text_config().vocab_size
        if vocabulary > embedded:
            raise TennerError(
                f"{model_dir}: the tokenizer has {vocabulary} ids but the model only {embedded}",
                hint="the tokenizer and the weights are not of the same model",
            )
        chosen = hardware.choose(device)
        dtype = dtype or (torch.float32 if chosen.precision == "fp32" else torch.bfloat16)
        transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
        with model_folder.loading(model_dir, "cannot be loaded as a causal language model"):
            model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
                model_dir, dtype=dtype, local_files_only=True, trust_remote_code=False
            )
        if chosen.device != "cpu":
            cast(nn.Module, model).to(chosen.device)
        elif can_pack(dtype):
            pack_linears(model)
        return cls(
            model, cast(Tokenizer, tokenizer), choose_decoder(model, vocabulary=vocabulary, rows_max=rows),
            vocabulary=vocabulary, rows=rows, wait_text=wait_text, model_dir=model_dir,
        )  # fmt: skip

    def batch(self) -> ContinuousBatch:
        """A new continuous batch with its own cache."""
        return ContinuousBatch(self._decoder.new(), rows_max=self._rows, vocabulary=self._vocabulary)


def _context(config: PreTrainedConfig) -> tuple[int, str | None]:
    """The context in tokens, and one line where it is shorter than the model's.

    LongRoPE (arXiv 2402.13753) as transformers computes it changes the frequencies of all rows, and not those of the
    keys in the cache, as soon as one row is longer than the original context: no row may be.
    """
    text = config.get_text_config()
    positions = getattr(text, "max_position_embeddings", None) or UNLIMITED_CONTEXT_TOKENS
    rope = getattr(text, "rope_parameters", None) or {}
    by_layer_type = [rope] if "rope_type" in rope else [r for r in rope.values() if isinstance(r, dict)]
    longs = [r["original_max_position_embeddings"] for r in by_layer_type if r.get("rope_type") == "longrope"]
    if not longs or min(longs) >= positions:
        return positions, None
    return min(
        longs
    ), f"{config.model_type}: the embedded engine decodes up to {min(longs)} tokens, LongRoPE's first range"
