"""Cross entropy straight from hidden states: the head runs at trained positions only, a chunk of them at a time.

Letters in names: P trained positions, C of them in a chunk, b in a block of it, D hidden size, V vocabulary.
"""

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from tenner.training import fused
from tenner.training.kernel_shapes import ROW_MULTIPLE, missing

CHUNK_LOGITS = {"cpu": 1 << 25, "cuda": 1 << 28, "mps": 1 << 26}
"""Logits of a chunk (C x V), in the compute dtype: 67 MB in bfloat16 on a CPU. On a GPU 537 MB, because every chunk
adds to the whole gradient of the head, and for a short chunk that addition takes longer than the product. For Apple's
GPUs it is an unmeasured value between the two: they share the machine's memory."""
BLOCK_LOGITS = {"cpu": 1 << 22, "cuda": 1 << 26, "mps": 1 << 24}
"""Logits of a block (b x V), in float32: few enough to stay in a CPU's cache."""


class _SummedCrossEntropy(torch.autograd.Function):
    """The gradients are made in forward, while a chunk's logits are at hand; backward only hands them out."""

    @staticmethod
    def forward(ctx: Any, hidden_PD: Tensor, head_VD: Tensor, targets_P: Tensor, weight: float, chunk: int) -> Tensor:
        loss = torch.zeros((), dtype=torch.float32, device=hidden_PD.device)
        trained = len(targets_P)
        hidden_PD = _filled(hidden_PD)
        grad_hidden_PD = torch.empty_like(hidden_PD)
        grad_head_VD: Tensor | None = None
        for start in range(0, hidden_PD.shape[0], chunk):
            hidden_CD, targets_C1 = hidden_PD[start : start + chunk], targets_P[start : start + chunk, None]
            logits_CV = hidden_CD @ head_VD.T
            own_CV = logits_CV[: len(targets_C1)]  # of others, which fill the last chunk, logits and gradients are 0
            if fused.runs_on(head_VD.device):
                loss -= _to_gradients(own_CV, targets_C1, fused.number(weight, head_VD.device))
            else:
                _to_gradients_in_blocks(own_CV, targets_C1, weight, loss)
            grad_CV = logits_CV
            torch.mm(grad_CV, head_VD, out=grad_hidden_PD[start : start + chunk])
            if ctx.needs_input_grad[1]:  # not a frozen head
                grad_head_VD = _summed(grad_head_VD, grad_CV, hidden_CD, whole=hidden_PD.shape[0] <= chunk)
            del logits_CV, own_CV, grad_CV  # before the next one's come
        grad_head_VD = None if grad_head_VD is None else grad_head_VD.to(head_VD.dtype)
        ctx.save_for_backward(grad_hidden_PD[:trained], grad_head_VD)
        return loss.mul_(weight)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor | None, None, None, None]:
        grad_hidden_PD, grad_head_VD = ctx.saved_tensors
        scale = grads[0].item()
        if scale != 1:  # a pass over the head's gradient that `weight` spares
            grad_hidden_PD = grad_hidden_PD * scale
            grad_head_VD = None if grad_head_VD is None else grad_head_VD * scale
        return grad_hidden_PD, grad_head_VD, None, None, None


def _summed(sum_VD: Tensor | None, grad_CV: Tensor, hidden_CD: Tensor, *, whole: bool) -> Tensor:
    """The head's gradient with a chunk's part of it: in float32, but for a chunk that is the whole."""
    if whole or not adds_in_float32(hidden_CD.device, hidden_CD.dtype):
        part_VD = grad_CV.T @ hidden_CD
        return part_VD if sum_VD is None else sum_VD.float().add_(part_VD)
    if sum_VD is None:
        return torch.mm(grad_CV.T, hidden_CD, out_dtype=torch.float32)
    return torch.addmm(sum_VD, grad_CV.T, hidden_CD, out_dtype=torch.float32, out=sum_VD)


@lru_cache
def adds_in_float32(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether products of numbers in 16 bits are added to a float32 matrix as they are made, found out by trying.

    CUDA's can, with recent PyTorch: no part of a sum is written, read again and rounded.
    """
    if device.type != "cuda" or dtype == torch.float32:
        return False
    ones = torch.ones(ROW_MULTIPLE, ROW_MULTIPLE, device=device, dtype=dtype)
    try:
        sums = torch.mm(ones, ones, out_dtype=torch.float32)
        torch.addmm(sums, ones, ones, out_dtype=torch.float32, out=sums)
    except (TypeError, RuntimeError):  # an older PyTorch knows no such argument, or no float32 beside 16 bits
        return False
    return bool((sums == 2 * ROW_MULTIPLE).all())


def _filled(hidden_PD: Tensor) -> Tensor:
    """With zeros behind them, up to a number of positions that kernels are made for."""
    more = missing(hidden_PD.shape[0], ROW_MULTIPLE, hidden_PD.device, hidden_PD.dtype)
    return functional.pad(hidden_PD, (0, 0, 0, more)) if more else hidden_PD


def _to_gradients_in_blocks(logits_CV: Tensor, targets_C1: Tensor, weight: float, loss: Tensor) -> None:
    """Put `weight` times the gradients of the logits in their place, and subtract the targets' logarithms from `loss`.

    The gradient is softmax - onehot(target).
    """
    block = max(1, BLOCK_LOGITS[logits_CV.device.type] // logits_CV.shape[1])
    for logits_bV, targets_b1 in zip(torch.split(logits_CV, block), torch.split(targets_C1, block), strict=True):
        logprobs_bV = functional.log_softmax(logits_bV, dim=-1, dtype=torch.float32)
        loss -= logprobs_bV.gather(1, targets_b1).sum()
        grad_bV = logprobs_bV.exp_()
        grad_bV.scatter_add_(1, targets_b1, torch.full_like(targets_b1, -1, dtype=torch.float32))
        logits_bV.copy_(grad_bV.mul_(weight))


@fused.one_kernel_by_row
def _to_gradients(logits_CV: Tensor, targets_C1: Tensor, weight: Tensor) -> Tensor:
    """The same of a whole chunk, nothing of it in float32 in memory; returns the sum of the targets' logarithms."""
    logprobs_CV = functional.log_softmax(logits_CV, dim=-1, dtype=torch.float32)
    told = logprobs_CV.gather(1, targets_C1).sum()
    is_target_CV = torch.arange(logits_CV.shape[1], device=logits_CV.device) == targets_C1
    logits_CV.copy_((logprobs_CV.exp() - is_target_CV.float()) * weight)
    return told


def summed_cross_entropy(
    hidden_PD: Tensor, head_VD: Tensor, targets_P: Tensor, *, weight: float = 1.0, chunk_logits: int | None = None
) -> Tensor:
    """`weight` times the sum over P of -log softmax(hidden head^T)[target], in nats, float32; differentiable once."""
    chunk = max(1, (chunk_logits or CHUNK_LOGITS[head_VD.device.type]) // head_VD.shape[0])
    loss: Tensor = _SummedCrossEntropy.apply(hidden_PD, head_VD, targets_P, weight, chunk)  # type: ignore[no-untyped-call]
    return loss
