"""The embedded engine: decodes a Hugging Face model in a continuous batch under forcing, on CPU or GPU."""

from pathlib import Path
from typing import Self, cast

import torch
import transformers
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from tenner.core import hardware
from tenner.core.errors import TennerError
from tenner.core.formats import Tokenizer
from tenner.core.sections import Device
from tenner.inference.defaults import ROWS, WAIT_TEXT
from tenner.inference.engine import EngineInfo, LocalEngine
from tenner.inference.hf.continuous_batch import ContinuousBatch
from tenner.inference.hf.kv_cache import ATTENTION_NAME
from tenner.inference.hf.packed_linear import can_pack, pack_linears


class HFEngine(LocalEngine):
    """Decodes any causal language model that uses transformers' registry of attention functions.

    The same prompts, policies and sampling, in the same order, give the same tokens, bit for bit.
    """

    def __init__(
        self, model: PreTrainedModel, tokenizer: Tokenizer, *, vocabulary: int, rows: int, wait_text: str,
        model_dir: Path | None = None,
    ) -> None:  # fmt: skip
        super().__init__(
            tokenizer, wait_text=wait_text, context_tokens=model.config.max_position_embeddings, model_dir=model_dir
        )
        self._model = model
        self._vocabulary = vocabulary
        self._rows = rows

    @property
    def info(self) -> EngineInfo:
        """What it computes with."""
        return EngineInfo("hf", str(self._model.dtype).removeprefix("torch."), self._model.device.type)

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
        config = AutoConfig.from_pretrained(model_dir, local_files_only=True)
        kinds = getattr(config, "layer_types", None)
        limited = set(kinds) != {"full_attention"} if kinds else getattr(config, "sliding_window", None) is not None
        if limited:
            raise TennerError(
                f"{model_dir}: not every layer of a {config.model_type} model has full attention, "
                "which the embedded engine requires",
                hint="use a model with full attention, such as Llama or Qwen2.5",
            )
        tokenizer = AutoTokenizer.from_pretrained(model_dir, local_files_only=True)
        vocabulary = len(tokenizer)
        if vocabulary > config.vocab_size:
            raise TennerError(
                f"{model_dir}: the tokenizer has {vocabulary} ids but the model only {config.vocab_size}",
                hint="the tokenizer and the weights are not of the same model",
            )
        chosen = hardware.choose(device)
        dtype = dtype or (torch.float32 if chosen.precision == "fp32" else torch.bfloat16)
        transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
        model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
            model_dir, dtype=dtype, attn_implementation=ATTENTION_NAME, local_files_only=True
        )
        if chosen.device != "cpu":
            cast(nn.Module, model).to(chosen.device)
        elif dtype is torch.bfloat16 and can_pack():
            pack_linears(model)
        return cls(
            model, cast(Tokenizer, tokenizer), vocabulary=vocabulary, rows=rows, wait_text=wait_text,
            model_dir=model_dir,
        )  # fmt: skip

    def batch(self) -> ContinuousBatch:
        """A new continuous batch with its own cache."""
        return ContinuousBatch(self._model, rows_max=self._rows, vocabulary=self._vocabulary)
