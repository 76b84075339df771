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
        ({"activations": "all", "context_parallel": 4}, 8),
        ({"activations": "all", "method": "lora", "fp8": True}, 1),
        ({"activations": "inputs", "fp8": True}, 8),
    ],
    ids=["full", "pure", "lora", "shared rows", "fp8-lora", "fp8"],
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
    (told,) = gpu_roofline.probe(SHAPE, train, card, ranks=2, tokens=(1024,)).rows
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


def test_ranks_that_share_rows_exchange_what_attention_reads_and_gives():
    import gpu_roofline

    slow = gpu_roofline.CARDS["H100 SXM"]._replace(link_gb=1e-3)
    train, tokens = {"precision": "bf16", "context_parallel": 2}, 1024
    (told,) = gpu_roofline.probe(SHAPE, train, slow, ranks=4, tokens=(tokens,)).rows
    exchanged = told.costs[gpu_roofline.EXCHANGE]
    layers, heads, key_heads, size = SHAPE["num_hidden_layers"], 4, 2, 64
    assert exchanged.kernels == 4 * layers, "before and after attention, there and back"
    sent_bytes = 2 * layers * (2 * heads + 2 * key_heads) * size * tokens / 2 * 2
    assert exchanged.seconds == pytest.approx(sent_bytes / 2 / slow.moved_bytes_per_second(2))
    (own,) = gpu_roofline.probe(SHAPE, {"precision": "bf16"}, slow, ranks=4, tokens=(tokens,)).rows
    assert told.flops == pytest.approx(own.flops / 2), "of each rank"


def test_ranks_that_share_rows_wait_less():
    import gpu_roofline

    training = gpu_roofline.TRAININGS["32b-full-16-cp8"]
    assert (training.sharing, training.groups) == (8, 2)
    row = gpu_roofline.Row({"products": gpu_roofline.Cost(1.0, 1)}, 1.0)
    rows = [row._replace(costs={"products": gpu_roofline.Cost(n / 1000, 1)}) for n in training.tokens]
    card = gpu_roofline.CARDS["H100 SXM"]
    probed = gpu_roofline.Probe(rows, {}, gpu_roofline.Roofline(card))
    shared = gpu_roofline.predict(training, card, probed)
    alone = gpu_roofline.predict(gpu_roofline.TRAININGS["32b-full-16"], card, probed)
    assert shared["idle_share"] < 0.1 < alone["idle_share"]
    for told in (shared, alone):
        assert sum(told["shares"].values()) == pytest.approx(1)


@pytest.mark.parametrize("activations", ["all", "products"])
def test_gradients_of_later_rows_are_added_within_the_products_but_for_tables_and_norms(activations):
    import gpu_roofline

    card, train = gpu_roofline.CARDS["H100 SXM"], {"precision": "pure-bf16", "activations": activations}
    later = gpu_roofline.probe(SHAPE, train, card, ranks=1, tokens=(1024,)).later
    assert later["products"].kernels == pytest.approx(0)
    norms_and_biases, tables = 5 * SHAPE["num_hidden_layers"] + 1, 2
    of_the_step = 1  # the losses of its rows are put together once
    assert later["elementwise"].kernels == pytest.approx(norms_and_biases + tables - of_the_step)
