import os
import subprocess
import sys
import time

import psutil
import pytest

from tenner.core.errors import TennerError
from tenner.evaluation.grading.sandboxed_workers import Failure, SandboxedWorkers


def work(item):
    """What the workers of these tests do; importable by name."""
    if item == "hang":
        return 9**9**8  # in C, where no signal is heard
    if item == "eat":
        return len(bytes(10**10))
    if item == "raise":
        raise KeyError("x")
    if item == "die":
        os._exit(1)
    return item, os.getpid()


def prepare():
    """What they do first."""


def fail():
    raise RuntimeError("no")


@pytest.fixture
def pool(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.path.dirname(__file__))
    pools = []

    def make(**limits):
        pools.append(
            SandboxedWorkers(
                work, **{"prepare": prepare, "processes": 1, "deadline_seconds": 5.0, "memory_bytes": 2**30, **limits}
            )
        )
        return pools[-1]

    yield make
    for made in pools:
        made.close()


def test_every_request_has_its_result_whatever_becomes_of_the_others(pool):
    began = time.monotonic()
    results = dict(pool(processes=2, deadline_seconds=1.0).map(["a", "hang", "eat", "raise", "die", "b", "c"]))
    assert time.monotonic() - began < 15
    assert {results[i][0] for i in (0, 5, 6)} == {"a", "b", "c"}
    said = [results[i] for i in (1, 2, 3, 4)]
    assert said == [Failure("too slow"), Failure("out of memory"), Failure("KeyError"), Failure("died")]


def test_a_process_serves_until_it_is_closed(pool):
    workers = pool()
    (_, (_, first)), (_, (_, second)) = workers.map(["a", "b"])
    ((_, (_, third)),) = workers.map(["c"])
    assert first == second == third != os.getpid()
    assert list(workers.map([])) == []
    os.kill(first, 9)
    time.sleep(0.2)
    ((_, (_, fourth)),) = workers.map(["d"])
    assert fourth not in (first, os.getpid())
    workers.close()
    with pytest.raises(ProcessLookupError):
        os.kill(fourth, 0)


OWNER = """
import sys
from test_sandboxed_workers import prepare, work
from tenner.evaluation.grading.sandboxed_workers import SandboxedWorkers
workers = SandboxedWorkers(work, prepare=prepare, processes=1, deadline_seconds=0.5, memory_bytes=2**30)
list(workers.map(["a"]))
print(workers._workers[0].process.pid, flush=True)
list(workers.map([sys.argv[1]] if len(sys.argv) > 1 else []))
input()
"""


@pytest.mark.parametrize(
    "at_work", [pytest.param([], id="idle"), pytest.param(["hang"], id="in C", marks=pytest.mark.slow)]
)
def test_a_process_ends_after_its_owner_was_killed(at_work, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([os.path.dirname(__file__), *sys.path]))
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER, *at_work], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert owner.stdout
    assert owner.stdin
    worker = int(owner.stdout.readline())
    time.sleep(0.1)
    owner.kill()
    owner.wait()
    owner.stdout.close()
    owner.stdin.close()
    deadline = time.monotonic() + 10
    while psutil.pid_exists(worker) and psutil.Process(worker).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline, "it has outlived its owner"
        time.sleep(0.05)


def test_a_process_that_cannot_start_is_no_verdict(pool):
    with pytest.raises(TennerError, match="could not start: died"):
        list(pool(prepare=fail).map(["a"]))
