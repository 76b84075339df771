"""A training process that ends right after its last exchange, while gloo's threads run only where nothing else does.

python late_threads_job.py, by torchrun
"""

import os
from pathlib import Path

import torch
from torch import nn

from tenner.training import distributed


def make_late() -> None:
    """Give gloo's threads the core of the thread that they answer to, and what time it leaves there."""
    core = min(os.sched_getaffinity(0))
    for task in Path("/proc/self/task").iterdir():
        os.sched_setaffinity(int(task.name), {core})
        if "gloo" in (task / "comm").read_text():
            os.sched_setscheduler(int(task.name), os.SCHED_IDLE, os.sched_param(0))


def main() -> None:
    torch.set_num_threads(1)
    with distributed.join() as world:
        layers = [nn.Linear(64, 64) for _ in range(4)]
        root = nn.Sequential(*layers)
        world.shard(root, layers, compute=torch.float32)
        world.sum(1.0)  # the threads are there from now on
        make_late()
        for p in root.parameters():
            distributed.whole(p.detach())


main()
