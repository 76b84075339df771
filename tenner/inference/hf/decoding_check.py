"""The check at load that a decoder is right for a model: it computes what the model's own forward pass does, and no row
depends on another.

A few random rows are fed as the continuous batch would feed them: prefill, single tokens, injected text, and a fork.

1. The logits must be those of transformers' own forward pass over each row alone, without a cache, but for rounding.
2. With other ids in the other rows, a row's logits, and what every part of every layer gives for its tokens, must stay
   the same to the last bit, in the dtype and kernels of this model.

In a mixture of experts, other ids change how many tokens an expert gets, and so the shapes of products and their
rounding. There the two other rows exchange their ids instead, which keeps all shapes: this proves that a row does not
depend on which ids are where in the other rows. Where the rounding of a product depends on the place of a token among
those of its expert, the other rows keep their ids and their embeddings are changed by so little that no token goes to
another expert. That a row does not depend on the others otherwise follows from 1, but only as far as rounding lets one
see.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from tenner.inference.hf.decoder import Decoder, RowFeed

DEVIATION_MAX = {torch.float32: 1e-3, torch.float16: 3e-2, torch.bfloat16: 1e-1}
"""Of the logits after an id, relative to their spread (both as root mean squares over the vocabulary).

In float32 it holds for all ids of a step, otherwise for half of them: where a router's choice is close, rounding can
change it, and with it everything that follows."""
NUDGES = {torch.float32: (2**-6, 2**-8, 2**-10, 2**-12, 2**-14)}
"""Relative, the largest first. In narrower dtypes a small leak would not show in what comes of so little."""
PREFILL_TOKENS, INJECTED_TOKENS, FORKED_TOKENS = 7, 3, 4
FIRST, LAST = 0, 3
"""The rows whose results are observed, beside the fork of the last one. The ids of the two between them change."""


class Rows(NamedTuple):
    """The ids of four rows, and of a fork of the last one, which shares its prompt."""

    ids: list[list[int]]
    fork: list[int]

    @classmethod
    def draw(cls, vocabulary: int, *, seed: int) -> "Rows":
        """Random ids below `vocabulary`."""
        rng = random.Random(seed)
        lengths = (PREFILL_TOKENS + 1, PREFILL_TOKENS + 2, PREFILL_TOKENS + 2, PREFILL_TOKENS + 1 + INJECTED_TOKENS)
        ids = [[rng.randrange(vocabulary) for _ in range(n)] for n in lengths]
        return cls(ids, ids[LAST][:PREFILL_TOKENS] + [rng.randrange(vocabulary) for _ in range(FORKED_TOKENS)])

    def between(self, others: Sequence[list[int]]) -> "Rows":
        """The same rows with `others` between the first and the last."""
        return self._replace(ids=[self.ids[FIRST], *others, self.ids[LAST]])


class Reference(NamedTuple):
    """The rows of the check, and the logits (tokens, V) of each step for those that are observed."""

    rows: Rows
    logits: list[Tensor]


class _Observed(NamedTuple):
    """The logits of the observed rows in each step, and what the parts of the layers gave for their tokens."""

    logits: list[Tensor]
    layers: list[Tensor]

    def same_bits(self, other: "_Observed") -> bool:
        pairs = zip(self.logits + self.layers, other.logits + other.layers, strict=True)
        return all(torch.equal(a, b) for a, b in pairs)


@torch.inference_mode()
def compute_reference(model: PreTrainedModel, *, vocabulary: int) -> Reference:
    """Each observed row alone, in one forward pass without a cache, with transformers' own attention."""
    rows = Rows.draw(vocabulary, seed=0)
    first, last, fork = (
        model(input_ids=torch.tensor([ids], device=model.device), use_cache=False).logits[0]
        for ids in (rows.ids[FIRST], rows.ids[LAST], rows.fork)
    )
    before, prompt = PREFILL_TOKENS - 1, PREFILL_TOKENS
    steps = [
        torch.cat([first[:before], last[:prompt]]),
        torch.cat([first[before : before + 1], last[prompt : prompt + 1]]),
        torch.cat([first[-1:], last[-1:], fork[-1:]]),
    ]
    return Reference(rows, steps)


@torch.inference_mode()
def find_fault(
    model: PreTrainedModel, new_decoder: Callable[[], Decoder], expected: Reference, *, vocabulary: int
) -> str | None:
    """What is wrong with a decoder for this model, in a few words; None where it passes the check."""
    rows = expected.rows
    try:
        found = _observe(model, new_decoder(), rows)
        if not all(_close(a, b, model.dtype) for a, b in zip(found.logits, expected.logits, strict=True)):
            return "the logits are not those of the model's own forward pass"
        others = Rows.draw(vocabulary, seed=1).ids[FIRST + 1 : LAST]
        if found.same_bits(_observe(model, new_decoder(), rows.between(others))):
            return None
        exchanged = rows.ids[FIRST + 1 : LAST][::-1]
        if _has_experts(model) and found.same_bits(_observe(model, new_decoder(), rows.between(exchanged))):
            return None
        nudges = NUDGES.get(model.dtype, ()) if _has_experts(model) else ()
        if any(found.same_bits(_observe(model, new_decoder(), rows, nudge=nudge)) for nudge in nudges):
            return None
        return "a row depends on the ids of other rows"
    except Exception as error:  # noqa: BLE001 a model's own code raises anything where it is called in another way
        return f"{type(error).__name__}: {error}".splitlines()[0]


def _observe(model: PreTrainedModel, decoder: Decoder, rows: Rows, *, nudge: float = 0.0) -> _Observed:
    """Feed the rows as the continuous batch would: prefill, a token each, and last an injected text and the fork.

    `nudge` changes the embeddings of the rows that are not observed by this share, up or down.
    """
    ends = [PREFILL_TOKENS - 1, PREFILL_TOKENS, PREFILL_TOKENS, PREFILL_TOKENS]
    prompts = [RowFeed(ids[:end], 0) for ids, end in zip(rows.ids, ends, strict=True)]
    prompts[LAST] = prompts[LAST]._replace(restart_at=PREFILL_TOKENS)
    tokens = [RowFeed(ids[end : end + 1], end) for ids, end in zip(rows.ids, ends, strict=True)]
    rest = [RowFeed(ids[end + 1 :], end + 1) for ids, end in zip(rows.ids, ends, strict=True)]
    steps: list[Tensor] = []
    layers: list[Tensor] = []
    with _recording(model, prompts, layers, nudge):
        parts = torch.split(decoder.feed(prompts, all_positions=True), ends)
        steps.append(torch.cat([parts[FIRST], parts[LAST]]))
    with _recording(model, tokens, layers, nudge):
        steps.append(decoder.feed(tokens)[[FIRST, LAST]])
    kept = decoder.fork(LAST, LAST + 1, PREFILL_TOKENS)
    rest.append(RowFeed(rows.fork[kept:], kept))
    with _recording(model, rest, layers, nudge):
        steps.append(decoder.feed(rest)[[FIRST, LAST, LAST + 1]])
    return _Observed(steps, layers)


@contextmanager
def _recording(model: PreTrainedModel, feeds: Sequence[RowFeed], into: list[Tensor], nudge: float) -> Iterator[None]:
    """Record, for the tokens of the observed rows, the outputs of the parts of all layers, where they have an axis of
    all tokens of the step, or one of all rows with a token each (in a pass that feeds a row alone they have none).
    """
    lengths = [len(feed.ids) for feed in feeds]
    rows = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))
    observed_T = ((rows == FIRST) | (rows >= LAST)).to(model.device)
    shapes = (1, len(rows)), (len(rows), 1)  # the second is of all tokens only where each row is fed one

    def record(_module: nn.Module, _arguments: Any, output: Any) -> None:
        for tensor in output if isinstance(output, tuple) else (output,):
            if isinstance(tensor, Tensor) and tensor.ndim == 3 and tensor.shape[:2] in shapes:
                into.append(tensor.flatten(0, 1)[observed_T])

    def change(_module: nn.Module, _arguments: Any, embedded_BSD: Tensor) -> Tensor:
        """Of all tokens; those of a row that is fed alone cannot reach another through a pass."""
        if embedded_BSD.shape[:2] not in shapes:
            return embedded_BSD
        generator = torch.Generator().manual_seed(0)
        embedded_TD = embedded_BSD.flatten(0, 1)
        signs = torch.randint(0, 2, embedded_TD.shape, generator=generator).mul_(2).sub_(1).to(embedded_TD)
        changed_TD = torch.where(observed_T[:, None], embedded_TD, embedded_TD * (1 + nudge * signs))
        return changed_TD.view_as(embedded_BSD)

    parts = [part for layer in _layers(model) for part in layer.children()]
    hooks = [part.register_forward_hook(record) for part in parts]
    if nudge:
        hooks.append(model.get_input_embeddings().register_forward_hook(change))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _layers(model: PreTrainedModel) -> list[nn.Module]:
    """The decoder's layers."""
    count = getattr(model.config.get_text_config(), "num_hidden_layers", None)
    lists = (m for m in model.modules() if isinstance(m, nn.ModuleList) and len(m) == count)
    return [layer for layers in lists for layer in layers]


def _close(found: Tensor, expected: Tensor, dtype: torch.dtype) -> bool:
    """Whether two logits (tokens, V) of a model in `dtype` are the same but for rounding."""
    found, expected = found.float(), expected.float()
    spread = (expected - expected.mean(dim=-1, keepdim=True)).square().mean(dim=-1)
    deviation = ((found - expected).square().mean(dim=-1) / spread).sqrt()
    if not bool(deviation.isfinite().all()):
        return False
    typical = deviation.max() if dtype is torch.float32 else deviation.median()
    return float(typical) <= DEVIATION_MAX[dtype]


def _has_experts(model: PreTrainedModel) -> bool:
    return any("expert" in name for name, _ in model.named_parameters())
