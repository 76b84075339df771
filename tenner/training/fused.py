"""Chains of elementwise operations that run as one kernel on a GPU, by torch.compile; elsewhere they run as written.

Between matrix products a training step reads and writes its activations some thirty times over, and each pass takes as
long as the memory of the GPU allows. Compiled, a chain reads its inputs once and writes its results once.
"""

from collections.abc import Callable
from functools import lru_cache, wraps
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

P = ParamSpec("P")
R = TypeVar("R")
COMPILER_ERRORS = (RuntimeError, OSError, ImportError, ValueError)
"""Of Dynamo and Inductor, which wrap what others raise; of a Triton or a C compiler that is not there."""
TRIAL_NUMBERS = 1 << 12
TRIAL_TOLERANCE = 1e-5


def one_kernel(chain: Callable[P, R]) -> Callable[P, R]:
    """Make one kernel of a function of tensors, the first argument among them, where these are on such a GPU.

    A chain holds no matrix product, and no loop over anything; it may change its arguments. Numbers that change from
    step to step come as tensors (see `number`): each other one would be compiled anew.
    """

    @wraps(chain)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        first: Any = args[0]
        return compiled(chain)(*args, **kwargs) if runs_on(first.device) else chain(*args, **kwargs)

    return run


def one_kernel_by_row(chain: Callable[P, R]) -> Callable[P, R]:
    """The same of a chain that sums over the last axis of its first argument, whose length belongs to the model.

    It is compiled as a number, once for each that there is: of a row of unknown length a softmax would take the
    largest and the sum in two passes, of a known one it takes both in one.
    """
    whole = one_kernel(chain)

    @wraps(chain)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        first: Any = args[0]
        if runs_on(first.device):
            torch._dynamo.mark_static(first, first.ndim - 1)
        return whole(*args, **kwargs)

    return run


def runs_on(device: torch.device) -> bool:
    """Whether chains run as one kernel on this device."""
    return device.type == "cuda" and not torch.are_deterministic_algorithms_enabled() and failure(device) is None


def number(value: float, device: torch.device) -> Any:
    """A number that a chain multiplies or divides by: as it is, or as a tensor where the chain is compiled."""
    return torch.full((), value, device=device) if runs_on(device) else value


@lru_cache
def compiled(chain: Callable[..., Any]) -> Callable[..., Any]:
    """The chain for tensors of all sizes."""
    return torch.compile(chain, dynamic=True, fullgraph=True)


@lru_cache
def failure(device: torch.device) -> str | None:
    """Why a chain cannot be compiled on this device, found out by trying; None where it can.

    A GPU may be too old for the compiler, and the compiler needs another one, of C.
    """
    numbers = torch.linspace(-3, 3, TRIAL_NUMBERS, device=device)
    try:
        done = compiled(_trial)(numbers)
    except COMPILER_ERRORS as error:
        return " ".join(str(error).split())[:200] or type(error).__name__
    if not torch.allclose(done, _trial(numbers), rtol=TRIAL_TOLERANCE, atol=TRIAL_TOLERANCE):
        return "what the compiler makes computes something else"
    return None


def _trial(numbers: Tensor) -> Tensor:
    return numbers.mul(0.5).sigmoid().add_(numbers)
