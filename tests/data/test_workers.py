import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tenner import pipeline
from tenner.core import recipe
from tenner.core.progress import Screen
from tenner.core.records import Question
from tenner.core.run import open_run
from tenner.core.sections import Clean, Select
from tenner.data import overlap, selection, workers
from tenner.data.workers import CHUNK, LocalWorkers, RayWorkers, workers_for

SENTENCE = "a baker in Trondheim sells 340 rye loaves and 125 buns before noon on Saturday"


def double(chunk):
    return [2 * item for item in chunk]


def flat(results):
    return [item for result in results for item in result]


@pytest.mark.parametrize("size", [0, 1, *(pytest.param(size, marks=pytest.mark.slow) for size in (6000, 9001))])
def test_chunks_come_back_in_their_order(size, monkeypatch):
    monkeypatch.setattr(workers, "ALONE_MAX", 5000)
    expected = double(range(size))
    assert flat(LocalWorkers(2).map(double, range(size))) == expected
    assert flat(LocalWorkers(1).map(double, range(size))) == expected


OWNER = """
import time
from test_workers import report_and_wait
from tenner.data import workers
workers.ALONE_MAX = 0
if __name__ == "__main__":
    list(workers.LocalWorkers(2).map(report_and_wait, range(2 * workers.CHUNK)))
"""


def report_and_wait(chunk):
    print(os.getpid(), flush=True)
    time.sleep(60)
    return chunk


@pytest.mark.slow
def test_workers_end_after_their_owner_was_killed(tmp_path):
    (tmp_path / "owner.py").write_text(OWNER)
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    owner = subprocess.Popen(
        [sys.executable, tmp_path / "owner.py"],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": path},
    )
    assert owner.stdout
    pids = [int(owner.stdout.readline()) for _ in range(2)]
    owner.kill()
    owner.wait()
    owner.stdout.close()
    deadline = time.monotonic() + 10
    while any(psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE for pid in pids):
        assert time.monotonic() < deadline, "they have outlived their owner"
        time.sleep(0.05)


def node_of(chunk):  # noqa: ARG001  where it is worked on is all that is asked
    """Where a chunk is worked on; long enough that nobody does all of it."""
    import ray

    time.sleep(0.2)
    return ray.get_runtime_context().get_node_id()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Ray's own
def test_a_ray_cluster_cleans_and_selects_the_same(tiny_recipe, tmp_path):
    import ray
    from ray.cluster_utils import Cluster

    pool = [
        Question(id=f"q{i}", question=f"{SENTENCE} {i % 977} {i % 53}", domain=str(i % 7), source="t")
        for i in range(4 * CHUNK)
    ]
    benchmark = [Question(id="b", question=f"{SENTENCE} 7 7", source="t")]
    described = [
        recipe.load(str(tiny_recipe), overrides=[f'clean.engine="{engine}"', "attempt.questions=0"])
        for engine in ("local", "ray")
    ]
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        cluster.add_node(num_cpus=1)
        here = {"env_vars": {"PYTHONPATH": str(Path(__file__).parent)}}  # where the workers find `node_of`
        ray.init(address=cluster.address, log_to_driver=False, runtime_env=here)
        assert len(ray.nodes()) == 2
        assert set(workers_for("ray").map(node_of, range(16 * CHUNK))) == {node["NodeID"] for node in ray.nodes()}
        cleaned = [overlap.clean(pool, benchmark, Clean(), workers) for workers in (LocalWorkers(1), RayWorkers())]
        for i, one in enumerate(described):
            with open_run(tmp_path / str(i), one, Screen(), budget_usd=None) as run:
                pipeline.run_stages(run, one.stages[:4])
    finally:
        ray.shutdown()
        cluster.shutdown()
    assert cleaned[0] == cleaned[1]
    assert cleaned[0].dropped
    assert cleaned[0].hits
    picks = [selection.select(c.kept, [], rules=Select(samples=100), seed=0).picks for c in cleaned]
    assert picks[0] == picks[1]
    for name in ("clean", "dropped-clean", "hits", "selected", "picks", "dropped-select"):
        local, on_ray = ((tmp_path / str(i) / f"{name}.jsonl").read_bytes() for i in range(2))
        assert local == on_ray
