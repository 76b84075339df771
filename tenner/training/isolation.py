"""Proves that the documents of a packed row do not see one another, in the precision and the kernels of the run.

A document is changed, and what comes out for every other one must stay the same to the last bit. A comparison of
losses is no proof: in bfloat16 a leak is smaller than rounding. Where a document's ids decide which products are
computed together (a mixture of experts), the last bits may differ without a leak; there the document's embeddings are
changed by so little that it is sent to the same experts, and the others' gradients there must be nought.

Letters in names: T tokens of a row, D hidden size.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from tenner.core.seeds import rng
from tenner.training.documents import SHORT_LENGTH_MAX

SHORT_LENGTHS = (3, 41, 17)
LONG_LENGTHS = (5, 300, 141)
"""Of more than one block of attention, and with one that is too long for the kernel of short ones."""
NUDGES = (2**-6, 2**-7, 2**-10, 2**-14)
"""Relative, the largest first: where tokens are sent to other experts by one, a smaller one may leave them. bfloat16
knows the first two only."""

Run = Callable[[Sequence[int], Sequence[int]], Tensor]
"""Ids of a row and the lengths of its documents to the hidden states (T, D)."""


class NotIsolated(Exception):
    """A document's results depend on another document, or it cannot be shown that they do not."""


def prove(run: Run, embedding: nn.Module, ids: Sequence[int], *, longest: int, gradients: bool) -> None:
    """Raise NotIsolated where it cannot be shown that the documents of a row are isolated.

    `ids` are tokens to make documents of, and `longest` how long those of the run are. `gradients` False: the model
    cannot go backward here, as where its weights are spread over several processes.
    """
    for lengths in (SHORT_LENGTHS, LONG_LENGTHS) if longest > SHORT_LENGTH_MAX else (SHORT_LENGTHS,):
        _prove(run, embedding, ids, lengths, gradients=gradients)


def _prove(run: Run, embedding: nn.Module, ids: Sequence[int], lengths: tuple[int, ...], *, gradients: bool) -> None:
    draw = rng(0, "isolation")
    row = [draw.choice(ids) for _ in range(sum(lengths))]
    alternatives = sorted(set(ids))
    if len(alternatives) < 2:
        raise NotIsolated("its samples hold one token only")
    with torch.no_grad():
        before_TD = run(row, lengths)
        if not torch.equal(before_TD, run(row, lengths)):
            raise NotIsolated("its results differ from run to run")
        end = 0
        for length in lengths:
            start, end = end, end + length
            changed = [draw.choice([i for i in alternatives if i != old]) for old in row[start:end]]
            after_TD = run([*row[:start], *changed, *row[end:]], lengths)
            if torch.equal(before_TD[start:end], after_TD[start:end]):
                raise NotIsolated("its results do not depend on what it reads")
            if _only_it_changes(before_TD, after_TD, start, end):
                continue
            if not gradients:
                raise NotIsolated("documents change one another's results")
            for nudge in NUDGES:
                with _nudged(embedding, start, end, nudge):
                    after_TD = run(row, lengths)
                if _only_it_changes(before_TD, after_TD, start, end):
                    break
            else:
                raise NotIsolated("documents change one another's results")
    if gradients:
        _prove_by_gradients(run, embedding, row, lengths)


def _only_it_changes(before_TD: Tensor, after_TD: Tensor, start: int, end: int) -> bool:
    """Whether what comes out is another from `start` to `end`, and the same to the last bit elsewhere."""
    others_stay = torch.equal(before_TD[:start], after_TD[:start]) and torch.equal(before_TD[end:], after_TD[end:])
    return others_stay and not torch.equal(before_TD[start:end], after_TD[start:end])


def _prove_by_gradients(run: Run, embedding: nn.Module, row: Sequence[int], lengths: tuple[int, ...]) -> None:
    """What comes out for a document has a gradient of exactly nought at the embeddings of all others."""
    end = 0
    for length in lengths:
        start, end = end, end + length
        with torch.enable_grad(), _leaf(embedding) as leaves:  # anew: what was checkpointed goes backward once
            hidden_TD = run(row, lengths)
            (leaf_1TD,) = leaves
            (grad_1TD,) = torch.autograd.grad(hidden_TD[start:end].float().square().sum(), leaf_1TD)
        grad_TD = grad_1TD.reshape(-1, grad_1TD.shape[-1])
        if grad_TD[:start].any() or grad_TD[end:].any():
            raise NotIsolated("the results of a document have gradients at another one")
        if not grad_TD[start:end].any():
            raise NotIsolated("the results of a document have no gradient at what it reads")


@contextmanager
def _nudged(embedding: nn.Module, start: int, end: int, by: float) -> Iterator[None]:
    """The embeddings of the tokens from `start` to `end`, each number a little larger or smaller."""

    def nudge(_module: nn.Module, _inputs: object, out_1TD: Tensor) -> Tensor:
        generator = torch.Generator().manual_seed(0)
        signs = torch.randint(0, 2, out_1TD[:, start:end].shape, generator=generator).mul_(2).sub_(1)
        nudged = out_1TD.clone()
        nudged[:, start:end] *= 1 + by * signs.to(out_1TD)
        return nudged

    handle = embedding.register_forward_hook(nudge)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def _leaf(embedding: nn.Module) -> Iterator[list[Tensor]]:
    """The embeddings as leaves of the graph, so that a gradient ends there."""
    leaves: list[Tensor] = []

    def cut(_module: nn.Module, _inputs: object, out_1TD: Tensor) -> Tensor:
        leaves.append(out_1TD.detach().requires_grad_())
        return leaves[-1]

    handle = embedding.register_forward_hook(cut)
    try:
        yield leaves
    finally:
        handle.remove()
