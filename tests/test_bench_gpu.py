"""What the benches say of GPUs, on small shapes: the forecast of memory, and operators against a roofline."""

import sys
from typing import Any

import pytest
from paths import BENCH

from tenner.core.sections import Train

pytestmark = pytest.mark.slow
SHAPE: dict[str, Any] = {
    "model_type": "qwen2", "hidden_size": 256, "num_hidden_layers": 6, "num_attention_heads": 4,
    "num_key_value_heads": 2, "intermediate_size": 1024, "vocab_size": 4096, "max_position_embeddings": 32768,
    "tie_word_embeddings": False,
}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def _bench_on_the_path():
    sys.path.insert(0, str(BENCH))
    yield
    sys.path.remove(str(BENCH))


@pytest.mark.parametrize(
    ("changes", "ranks"),
    [
        ({"activations": "all"}, 1),
        ({"activations": "inputs", "precision": "pure-bf16"}, 8),
        ({"activations": "products", "method": "lora"}, 8),
        ({"activations": "all", "method": "lora", "fp8": True}, 1),
        ({"activations": "inputs", "fp8": True}, 8),
    ],
    ids=["full", "pure", "lora", "fp8-lora", "fp8"],
)
def test_the_forecast_is_what_a_step_takes(changes, ranks):
    import gpu_memory

    tokens = 8192
    settings = Train(
        epochs=2, lr=1e-5, tokens_per_step=2 * ranks * tokens, tokens_max=tokens, tokens_per_row=tokens,
        **{"precision": "bf16"} | changes,
    )  # fmt: skip
    taken = gpu_memory.taken(SHAPE, settings, ranks=ranks, tokens=tokens).peak_bytes
    said = gpu_memory.said(SHAPE, settings, ranks=ranks, tokens=tokens).total_bytes
    assert said == pytest.approx(taken, rel=0.1)


def test_two_depths_tell_what_a_deeper_model_takes():
    import gpu_roofline

    card, train = gpu_roofline.CARDS["H100 SXM"], {"precision": "bf16"}
    (told,), _ = gpu_roofline.probe(SHAPE, train, card, ranks=2, tokens=(1024,))
    (run,), _ = gpu_roofline._probed(SHAPE, train, card, 2, (1024,))
    assert told.flops == pytest.approx(run.flops)
    assert told.costs.keys() == run.costs.keys()
    for kind, cost in run.costs.items():
        assert tuple(told.costs[kind]) == pytest.approx(tuple(cost), rel=0.02), kind
    assert run.costs[gpu_roofline.NETWORK].seconds > 0


def test_the_optimizer_takes_few_kernels_for_each_parameter_of_a_shard():
    """One that shifts it before the model reads it and one that shifts it back, shares of what takes lists."""
    import gpu_roofline

    train = {"precision": "bf16", "activations": "inputs"}
    (told,), _ = gpu_roofline._probed(SHAPE, train, gpu_roofline.CARDS["H100 SXM"], 2, (1024,))
    parameters = 12 * SHAPE["num_hidden_layers"] + 3
    assert 2 * parameters < told.costs[gpu_roofline.OPTIMIZER].kernels < 2.5 * parameters


def test_a_collective_over_two_nodes_goes_at_the_speed_of_their_adapters():
    import gpu_roofline

    card = gpu_roofline.CARDS["H100 SXM"]
    assert card.moved_bytes_per_second(8) == pytest.approx(360e9)
    assert card.moved_bytes_per_second(16) == pytest.approx(320e9)
