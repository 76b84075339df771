"""The training against TRL's SFTTrainer: the same samples in the same order give the same losses."""

from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM as Models
from transformers import AutoTokenizer, LlamaConfig, Qwen2Config

from tenner.core.sections import Train
from tenner.core.seeds import rng
from tenner.training import loop, packing
from tenner.training.loss_mask import Encoded

pytestmark = pytest.mark.slow
STEPS, SAMPLES_PER_STEP, TOKENS = 20, 4, 48
SIZES = {
    "vocab_size": 300, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 256, "initializer_range": 0.1,
}  # fmt: skip


@pytest.fixture(params=[LlamaConfig, Qwen2Config], ids=["llama", "qwen2"])
def model_dir(request, tmp_path, tiny_model_dir):
    """A random model; its biases and norms are random too, so that forgetting one of them would show."""
    torch.manual_seed(0)
    model = Models.from_config(request.param(tie_word_embeddings=request.param is LlamaConfig, **SIZES))
    with torch.no_grad():
        for p in model.parameters():
            if p.ndim == 1:
                p.add_(torch.randn_like(p) * 0.1)
    model.save_pretrained(tmp_path / "model")
    AutoTokenizer.from_pretrained(tiny_model_dir).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def samples():
    """Prompts of many lengths in samples of one length, so that every step has as many samples."""
    draw = rng(0, "samples for both")
    return [
        Encoded(
            f"s{i}", tuple(draw.randrange(3, 30) for _ in range(TOKENS)), tuple(at >= start for at in range(TOKENS))
        )
        for i in range(STEPS * SAMPLES_PER_STEP)
        for start in [draw.randint(4, TOKENS - 4)]
    ]


def trl_losses(model_dir, workdir, encoded, settings):
    """Of every step, as SFTTrainer logs them: over the trained tokens of all of the step's micro-batches."""
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer  # seconds, which a run without the slow tests need not wait

    labels = [[token if trained else -100 for token, trained in zip(e.ids, e.loss_mask, strict=True)] for e in encoded]
    trainer = SFTTrainer(
        model=Models.from_pretrained(model_dir, dtype=torch.float32, attn_implementation="eager"),
        args=SFTConfig(
            output_dir=str(workdir), num_train_epochs=1, train_sampling_strategy="sequential",
            per_device_train_batch_size=SAMPLES_PER_STEP // 2, gradient_accumulation_steps=2,
            learning_rate=settings.lr, lr_scheduler_type="cosine", warmup_steps=0, logging_steps=1,
            max_grad_norm=settings.grad_clip_norm, weight_decay=settings.weight_decay,
            adam_beta1=settings.beta1, adam_beta2=settings.beta2,
            max_length=None, dataset_kwargs={"skip_prepare_dataset": True}, bf16=False,
            activation_checkpointing=False, use_cpu=True, dataloader_pin_memory=False,
            report_to="none", save_strategy="no", disable_tqdm=True,
        ),
        train_dataset=Dataset.from_dict({"input_ids": [list(e.ids) for e in encoded], "labels": labels}),
        processing_class=AutoTokenizer.from_pretrained(model_dir),
    )  # fmt: skip
    trainer.train()
    return [row["loss"] for row in trainer.state.log_history if "grad_norm" in row]


@pytest.mark.parametrize("weight_decay", [1e-4, 0.5], ids=["s1", "strong"])
def test_the_losses_are_trls(model_dir, tmp_path, weight_decay):
    """Strong decay shows what is decayed: matrices, on both sides, and neither norms nor biases."""
    encoded = samples()
    # No warm-up: transformers' starts with a step at rate 0, tenner's does not.
    settings = Train(
        epochs=1, lr=3e-3, warmup_fraction=0, weight_decay=weight_decay, precision="fp32",
        tokens_per_step=SAMPLES_PER_STEP * TOKENS, tokens_max=TOKENS,
    )  # fmt: skip
    steps = packing.plan([TOKENS] * len(encoded), settings.tokens_per_step, epochs=1, seed=0)
    assert [len(step) for step in steps] == [SAMPLES_PER_STEP] * STEPS
    reports: list[Any] = []
    loop.train(model_dir, encoded, settings, seed=0, workdir=tmp_path / "work", on_step=reports.append)
    wanted = trl_losses(model_dir, tmp_path / "trl", [encoded[i] for step in steps for i in step], settings)
    assert len(wanted) == STEPS
    assert max(r.grad_norm for r in reports) > settings.grad_clip_norm  # so that clipping is seen
    assert abs(wanted[-1] - wanted[0]) > 0.2 * wanted[0]
    assert [r.loss for r in reports] == pytest.approx(wanted, rel=1e-4)
