"""The arithmetic behind MFU: by hand, and as PyTorch counts it in a real step."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM

from tenner.core.sections import Train
from tenner.training import attention, lora, model_loading, student
from tenner.training.flops import Arithmetic, Work, peak_tflops

# The tiny Llama: hidden 32, 2 layers, 4 heads of 8 with 2 for keys, feed-forward 64, vocabulary 259.
LAYER = 32 * 32 + 2 * 32 * 16 + 32 * 32 + 3 * 32 * 64
HEAD = 259 * 32


def test_by_hand(tiny_model_dir):
    model = student.load(tiny_model_dir, torch.float32, attention.NAME)
    counted = Arithmetic.of(model, model.model.layers)
    assert counted == (6 * 2 * LAYER, 6 * HEAD, 12 * 2 * 4 * 8, ())
    work = counted.work([10, 30], trained=25)
    products = 6 * 2 * LAYER * 40 + 6 * HEAD * 25
    pairs = 12 * 2 * 4 * 8 * (10 * 10 + 30 * 30)
    assert work == Work(products + pairs / 2, products + pairs)
    assert work + work == (2 * work.causal, 2 * work.non_causal)
    assert peak_tflops(torch.device("cpu")) is None


def test_frozen_weights_take_no_gradient(tiny_model_dir):
    model = student.load(tiny_model_dir, torch.float32, attention.NAME)
    layers = list(model.model.layers)
    lora.Adapters(model, Train(method="lora", lora_rank=4, epochs=1, lr=1, tokens_per_step=1, tokens_max=1))
    # Into and out of each linear layer of rank 4: the sums of their sizes, 6 operations each.
    sizes = 2 * (32 + 32) + 2 * (32 + 16) + 3 * (32 + 64)
    assert Arithmetic.of(model, layers)[:2] == (4 * 2 * LAYER + 6 * 2 * 4 * sizes, 4 * HEAD)


def test_nothing_goes_backward_through_frozen_layers(tiny_model_dir):
    model = student.load(tiny_model_dir, torch.float32, attention.NAME)
    model_loading.freeze(model, list(model.model.layers), 1)
    counted = Arithmetic.of(model, model.model.layers, frozen_layers=1)
    # One layer 2 operations a weight, the other 6; the head is the embedding: its input alone needs a gradient.
    assert counted == ((2 + 6) * LAYER, 4 * HEAD, (4 + 12) * 4 * 8, ())


def test_as_pytorch_counts_a_real_step(tiny_model_dir):
    """PyTorch counts all pairs of tokens, and multiplies keys and values once for each head that uses them."""
    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir, dtype=torch.float32, attn_implementation="eager")
    ids = torch.arange(3, 103)[None]
    with FlopCounterMode(display=False) as counter:
        model(input_ids=ids, use_cache=False).logits.float().logsumexp(-1).sum().backward()
    work = Arithmetic.of(model, model.model.layers).work([100], trained=100)
    assert counter.get_total_flops() == pytest.approx(work.non_causal, rel=0.01)
