"""Rows are filled, so that a CPU makes few kernels in bfloat16, and what fills them changes nothing."""

import pytest
import torch

from tenner.training import attention, cross_entropy, documents, kernel_shapes, packed_loss, packing, student
from tenner.training.loss_mask import Encoded
from tenner.training.packing_check import choose_packing


def samples(*lengths):
    draw = torch.Generator().manual_seed(sum(lengths))
    ids = [tuple(torch.randint(3, 250, (length,), generator=draw).tolist()) for length in lengths]
    return [Encoded(f"s{i}", each, (False,) * 5 + (True,) * (len(each) - 5)) for i, each in enumerate(ids)]


def test_rows_of_many_lengths_are_of_few_shapes(tiny_model_dir):
    model = student.load(tiny_model_dir, torch.bfloat16, attention.NAME)
    shapes = set()
    for module in model.model.modules():
        if isinstance(module, torch.nn.Linear):
            module.register_forward_pre_hook(lambda _m, args: shapes.add(args[0].shape))
    for length in range(20, 51):
        packed_loss.packed_loss(model, packing.pack(samples(length, 14)))
    assert {shape[1] for shape in shapes} == {64}


@pytest.mark.parametrize("lengths", [(40, 31, 17), (33,), (32, 32), (300, 41)], ids=str)
def test_what_fills_a_row_changes_neither_loss_nor_gradients(tiny_model_dir, monkeypatch, lengths):
    model = student.load(tiny_model_dir, torch.float32, attention.NAME)
    found = []
    for multiple in (1, 64):
        for module in (cross_entropy, documents, packed_loss):
            monkeypatch.setattr(module, "missing", lambda count, *_, multiple=multiple: -count % multiple)
        model.zero_grad()
        loss = packed_loss.packed_loss(model, packing.pack(samples(*lengths)), weight=0.01)
        loss.backward()
        found.append([loss.detach(), *(p.grad for p in model.parameters())])
    torch.testing.assert_close(found[1], found[0], atol=1e-7, rtol=1e-5)


@pytest.mark.parametrize("lengths", [(40, 31, 17), (33,), (300, 41)], ids=str)
def test_a_row_that_is_filled_has_the_fast_attention(tiny_model_dir, monkeypatch, lengths):
    """What fills it has one position again and again, which transformers takes for documents of one token each."""
    monkeypatch.setattr(attention, "masked_attention", lambda *_, **__: pytest.fail("the slow one"))
    model = student.load(tiny_model_dir, torch.bfloat16, attention.NAME)
    packed_loss.packed_loss(model, packing.pack(samples(*lengths)))


def test_rows_that_are_filled_are_isolated(tiny_model_dir):
    loss = packed_loss.PackedLoss(student.load(tiny_model_dir, torch.bfloat16, attention.NAME))
    why = choose_packing(loss, samples(40, 31, 300), device=loss.model.device, dtype=torch.bfloat16, alone=True)
    assert why is None


def test_only_products_in_bfloat16_on_a_cpu_are_filled():
    cpu, other = torch.device("cpu"), torch.device("meta")
    assert kernel_shapes.missing(33, 32, cpu, torch.bfloat16) == 31
    assert kernel_shapes.missing(64, 32, cpu, torch.bfloat16) == 0
    assert kernel_shapes.missing(33, 32, cpu, torch.float32) == 0
    assert kernel_shapes.missing(33, 32, other, torch.bfloat16) == 0
