"""Kernels that give the same bits every time, where the recipe asks for them and CUDA has others.

On a GPU several sums are made in the order in which their parts happen to be ready: the backward pass of attention, and
sums over all tokens in a compiled kernel. Two runs then differ in the last bits, and soon in all of them. PyTorch has a
deterministic kernel for each of these, or refuses.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from tenner.core.errors import TennerError
from tenner.core.sections import Train

CUBLAS_WORKSPACE = ":4096:8"
"""Of the two sizes with which cuBLAS is deterministic, the faster one."""


@contextmanager
def deterministic_kernels(settings: Train, device: torch.device) -> Iterator[None]:
    """Within the block, if the recipe says so. Raises TennerError where all kernels are deterministic anyway."""
    if not settings.deterministic:
        yield
        return
    if device.type != "cuda":
        raise TennerError("train.deterministic is for CUDA: here results do not differ from run to run anyway")
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", CUBLAS_WORKSPACE)
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
