"""Draw the next token: the most likely one, or by temperature and top-p with a given uniform random number.

Shape suffixes: R rows, V vocabulary, K most likely tokens.
"""

from collections.abc import Collection, Sequence

import torch
from torch import Tensor

from tenner.core.records import Sampling
from tenner.inference.forcing import Measured

NUCLEUS_TOKENS = 512
"""The nucleus is searched among the most likely tokens first: a tenth of the time to sort 50,000 tokens."""
TEMPERATURE_MIN = 1e-30
"""Below it the most likely token is taken: logits that are divided by less may be infinite in float32. No other token
has a probability there, unless its logit is the same."""


def measure(logits_RV: Tensor, tokens: Sequence[int], ends: Sequence[Collection[int]]) -> list[Measured]:
    """What is measured where each row samples its token; `ends` are the ids that end the thinking of each row."""
    token_R1 = torch.tensor(tokens, device=logits_RV.device)[:, None]
    log_probability_R = logits_RV.gather(1, token_R1)[:, 0].float() - logits_RV.float().logsumexp(dim=-1)
    best_end_R = torch.stack([logits_RV[i, list(ids)].max() for i, ids in enumerate(ends)])
    # Summed as int32: the default, int64, takes twice as long on a CPU.
    rank_R = (logits_RV > best_end_R[:, None]).sum(dim=-1, dtype=torch.int32)
    return [Measured(*pair) for pair in zip(log_probability_R.tolist(), rank_R.tolist(), strict=True)]


def draw(logits_RV: Tensor, samplings: Sequence[Sampling], uniforms: Sequence[float]) -> list[int]:
    """One token for each row, independent of the other rows."""
    # The maximum with its index is twice as fast as argmax on a CPU.
    tokens: list[int] = logits_RV.max(dim=-1).indices.tolist()
    for narrow in (False, True):
        rows = [i for i, s in enumerate(samplings) if s.temperature >= TEMPERATURE_MIN and (s.top_p < 1) == narrow]
        if not rows:
            continue
        device = logits_RV.device
        temperature_R = torch.tensor([samplings[i].temperature for i in rows], device=device)
        uniform_R = torch.tensor([uniforms[i] for i in rows], dtype=torch.float64, device=device)
        weight_RV = torch.softmax(logits_RV[rows].float() / temperature_R[:, None], dim=-1)
        if narrow:
            top_p_R = torch.tensor([samplings[i].top_p for i in rows], dtype=torch.float64, device=device)
            drawn_R = _from_nucleus(weight_RV, top_p_R, uniform_R)
        else:
            drawn_R = _at(weight_RV.double().cumsum(dim=-1), uniform_R)
        for i, token in zip(rows, drawn_R.tolist(), strict=True):
            tokens[i] = token
    return tokens


def _from_nucleus(weight_RV: Tensor, top_p_R: Tensor, uniform_R: Tensor) -> Tensor:
    """Draw from the smallest set that reaches `top_p`, the more likely first and the lower id first among equals."""
    for tokens in (min(NUCLEUS_TOKENS, weight_RV.shape[1]), weight_RV.shape[1]):
        id_RK = weight_RV.topk(tokens, dim=-1).indices.sort(dim=-1).values
        weight_RK, order_RK = weight_RV.gather(1, id_RK).sort(dim=-1, descending=True, stable=True)
        sum_RK = weight_RK.double().cumsum(dim=-1)
        if bool((sum_RK[:, -1] >= top_p_R).all()):
            break
    inside_RK = sum_RK - weight_RK < top_p_R[:, None]
    drawn_R = _at(sum_RK.where(inside_RK, sum_RK.where(inside_RK, 0).amax(dim=-1, keepdim=True)), uniform_R)
    return id_RK.gather(1, order_RK).gather(1, drawn_R[:, None])[:, 0]


def _at(sum_RK: Tensor, uniform_R: Tensor) -> Tensor:
    """The index whose interval of the cumulative sum contains the random number; never one of probability 0."""
    return torch.searchsorted(sum_RK, (uniform_R * sum_RK[:, -1])[:, None], right=True)[:, 0]
