import pytest

from tenner.ask import overlap, selection, workers
from tenner.ask.workers import LocalWorkers, RayWorkers
from tenner.recipe import Clean, Select
from tenner.records import Question

SENTENCE = "a baker in Trondheim sells 340 rye loaves and 125 buns before noon on Saturday"


def double(chunk):
    return [2 * item for item in chunk]


def flat(results):
    return [item for result in results for item in result]


@pytest.mark.parametrize("size", [0, 1, 6000, 9001])
def test_chunks_come_back_in_their_order(size, monkeypatch):
    monkeypatch.setattr(workers, "ALONE_MAX", 5000)
    expected = double(range(size))
    assert flat(LocalWorkers(2).map(double, range(size))) == expected
    assert flat(LocalWorkers(1).map(double, range(size))) == expected


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Ray's own
def test_a_ray_cluster_cleans_and_selects_the_same():
    import ray
    from ray.cluster_utils import Cluster

    pool = [
        Question(id=f"q{i}", question=f"{SENTENCE} {i % 977} {i % 53}", domain=str(i % 7), source="t")
        for i in range(12_000)
    ]
    benchmark = [Question(id="b", question=f"{SENTENCE} 7 7", source="t")]
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    try:
        cluster.add_node(num_cpus=1)
        ray.init(address=cluster.address, log_to_driver=False)
        assert len(ray.nodes()) == 2
        cleaned = [overlap.clean(pool, benchmark, Clean(), workers) for workers in (LocalWorkers(1), RayWorkers())]
    finally:
        ray.shutdown()
        cluster.shutdown()
    assert cleaned[0] == cleaned[1]
    assert cleaned[0].dropped
    assert cleaned[0].hits
    picks = [selection.select(c.kept, [], rules=Select(samples=100), seed=0).picks for c in cleaned]
    assert picks[0] == picks[1]
