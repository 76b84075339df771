"""A weight that no gradient comes to is named, and stays as it is."""

import pytest
import torch
from tiny_training import SETTINGS
from torch import nn

from tenner.training.distributed import here
from tenner.training.optimizer import optimizer_of
from tenner.training.weights import weights_of


class OneOfTwo(nn.Module):
    """The second layer chooses and is not differentiated, as an index of keys."""

    def __init__(self):
        super().__init__()
        self.used, self.unused = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "pure-bf16"])
def test_a_weight_without_a_gradient_stays_as_it_is(precision):
    settings = SETTINGS.model_copy(update={"precision": precision, "weight_decay": 0.1})
    compute = torch.float32 if precision == "fp32" else torch.bfloat16
    model = OneOfTwo().to(compute if precision == "pure-bf16" else torch.float32)
    weights = weights_of(model, model, here("cpu"), compute)
    optimizer = optimizer_of(weights.moved, settings)
    before = {name: tensor.clone() for name, tensor in weights.moved.items()}
    for _ in range(2):
        with weights.in_model():
            model.used(torch.ones(1, 4, dtype=compute)).sum().backward()
        assert weights.collect() == ["unused.weight"]
        optimizer.step(lr=0.1, divisor=1.0)
        weights.clear()
    assert torch.equal(weights.moved["unused.weight"], before["unused.weight"])
    assert not torch.equal(weights.moved["used.weight"], before["used.weight"])
