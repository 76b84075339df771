"""Training, on a machine or by a service."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from tenner.budget import prices
from tenner.core.errors import TennerError
from tenner.core.sections.base import (
    BaseURL,
    BelowOne,
    NotNegative,
    NotNegativeNumber,
    Positive,
    PositiveNumber,
    Resume,
    Section,
    TrainPrecision,
    UnitPrice,
)
from tenner.core.sections.paid_models import PriceSection

DECIDED_BY_SERVICE = (
    "lora_alpha", "quantization", "precision", "fp8", "optimizer", "tokens_per_row", "activations",
    "offload_activations", "deterministic", "shard_over", "context_parallel", "checkpoint_seconds",
)  # fmt: skip
"""Settings of `train` that say how this machine trains."""


class TrainingService(Section):
    """A service that trains by the token, in the protocol of Tinker: Thinking Machines' own, or a SkyRL server."""

    base_url: Annotated[BaseURL, Resume.FREE]
    """Up to the protocol's own path, /api/v1: https://host, or https://host/path."""
    model: str
    """The name of the student there. Its weights are those of `student.model`."""
    price_usd_per_mtok: Annotated[UnitPrice, Resume.FREE]
    """Dollars per million tokens that are trained on, prompts included; 0 for a server of your own. Default: that of
    `model` at Thinking Machines, in tenner's table."""
    api_key_env: Annotated[str | None, Resume.FREE] = None
    """The environment variable that holds the key; left out: the service needs none."""
    delete: Annotated[bool, Resume.FREE] = False
    """Delete what the service stores of this training (storage is billed), once the adapters are downloaded."""
    compare_questions: Annotated[NotNegative, Resume.FREE] = 0
    """So many of the evaluation's questions are also answered by the service, to see that the merged student says the
    same; the report has the count. They are paid by `sampling_price`."""
    sampling_price: Annotated[PriceSection | None, Resume.FREE] = None
    """Of the service's sampling. Default: that of `model` at Thinking Machines, in tenner's table."""

    @model_validator(mode="before")
    @classmethod
    def _look_the_price_up(cls, given: Any) -> Any:
        """Fill in the price of training. Wrong types are left to the fields' own checks."""
        if not isinstance(given, dict) or not isinstance(given.get("model"), str) or "price_usd_per_mtok" in given:
            return given
        try:
            found = prices.train_usd_per_mtok(given["model"])
        except TennerError as e:
            raise ValueError(f"{e} (give price_usd_per_mtok)") from e
        return given | {"price_usd_per_mtok": found}


class Train(Section):
    """s1's schedule (AdamW, linear warm-up, cosine to 0) at the scale of the student."""

    backend: Literal["tinker"] | None = None
    """`tinker`: a service trains (see `train.tinker`). Left out: this machine."""
    tinker: TrainingService | None = None
    """The service of backend `tinker`."""
    method: Literal["full", "lora"] = "full"
    """`lora` freezes the student's weights and trains adapters on its linear layers."""
    frozen_layers: NotNegative = 0
    """Freeze the embedding and this many of the first layers (full fine-tuning only). No gradient flows through them,
    so freezing half of the layers saves a third of the work."""
    lora_rank: Positive = 32
    lora_alpha: Positive = 64
    quantization: Literal["nf4"] | None = None
    """`nf4` keeps LoRA's frozen weights in 4 bits (QLoRA, arXiv 2305.14314), in a single process; the adapters are
    merged into the original weights. Default: the compute precision."""
    epochs: Annotated[int, Field(gt=0, le=10_000)]
    lr: PositiveNumber
    warmup_fraction: BelowOne = 0.05
    weight_decay: NotNegativeNumber = 1e-4
    beta1: BelowOne = 0.9
    beta2: BelowOne = 0.95
    grad_clip_norm: PositiveNumber = 1.0
    tokens_per_step: Positive
    tokens_max: Positive
    """Longest sample that is accepted, in tokens; samples are never truncated."""
    longer: Literal["stop", "drop"] = "stop"
    """What happens to a longer sample: it stops the run before training, or is dropped and reported."""
    validation_samples: Positive | None = None
    """So many samples are not trained on: their loss is measured eleven times, evenly over the training, which takes
    the time of training on each of them four times. Default: all samples are trained on."""
    tokens_per_row: Annotated[Positive, Resume.FREE] = 1024
    """Tokens per forward pass on one device (a longer sample gets a row of its own); more takes more memory. With
    `context_parallel` a row has so many for each of its devices."""
    precision: TrainPrecision = "auto"
    """`bf16` computes in bfloat16 with float32 master weights; `pure-bf16` has no master weights and compensates
    rounding errors (see `training/optimizer.py`)."""
    fp8: bool = False
    """The linear layers multiply in float8, forward and back to their inputs, beside `bf16` or `pure-bf16` for all
    else; LoRA in a single process keeps its frozen weights so. For CUDA cards from Ada and Hopper on; untried."""
    optimizer: Literal["adamw", "adamw-8bit"] = "adamw"
    activations: Annotated[Literal["all", "products", "inputs"], Resume.FREE] = "all"
    """Activations kept for the backward pass: all, those of matrix products, or each layer's input only."""
    offload_activations: Annotated[bool, Resume.FREE] = False
    """Keep activations in host memory (GPUs)."""
    deterministic: Annotated[bool, Resume.FREE] = False
    """Use only kernels whose results do not differ from run to run (GPUs; slower). On a CPU none do."""
    shard_over: Annotated[Positive | None, Resume.FREE] = None
    """How many processes share one copy of the weights. Default: all of them."""
    context_parallel: Annotated[Positive, Resume.FREE] = 1
    """So many neighbouring processes share each row, split along its tokens: for long samples, of which a step has too
    few for all GPUs. It must divide the number of processes and that of the heads of attention."""
    checkpoint_seconds: Annotated[Positive, Resume.FREE] = 600
    tracker: Annotated[Literal["none", "trackio", "wandb"], Resume.FREE] = "none"
    """Experiment tracker that also gets the loss curve of `training.jsonl`."""

    @model_validator(mode="after")
    def _service_trains_adapters(self) -> "Train":
        if (self.backend == "tinker") != (self.tinker is not None):
            raise ValueError('train.tinker and train.backend = "tinker" belong together')
        if self.tinker is None:
            return self
        if self.validation_samples is not None:
            raise ValueError('train.validation_samples is for training on a machine: backend "tinker" measures no loss')
        if self.method != "lora":
            raise ValueError('backend "tinker" trains adapters: set train.method = "lora"')
        for name in DECIDED_BY_SERVICE:
            if getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f'train.{name} has no effect with backend "tinker": the service decides it')
        return self

    @model_validator(mode="after")
    def _is_possible(self) -> "Train":
        if self.precision == "pure-bf16" and self.method == "lora":
            raise ValueError("pure-bf16 is for full fine-tuning: LoRA's frozen weights are in bfloat16 already")
        if self.precision == "pure-bf16" and self.optimizer != "adamw":
            raise ValueError("pure-bf16 has an optimizer of its own: leave train.optimizer out")
        if self.quantization and self.method != "lora":
            raise ValueError('quantization is for method = "lora": weights in 4 bits cannot be trained themselves')
        if self.quantization and self.context_parallel > 1:
            raise ValueError("context_parallel is for several processes, and weights in 4 bits are trained by one")
        if self.fp8 and self.quantization:
            raise ValueError("fp8 is not for weights in 4 bits: leave train.fp8 or train.quantization out")
        if self.fp8 and self.precision == "fp32":
            raise ValueError("fp8 goes with bf16 or pure-bf16: leave train.fp8 out, or train.precision")
        if self.frozen_layers and self.method == "lora":
            raise ValueError("frozen_layers is for full fine-tuning: LoRA freezes all layers already")
        return self
