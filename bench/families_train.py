"""Every family of models is trained as a plain transformers loop trains it: five steps of each, full and with adapters.

    python bench/families_train.py [--only llama qwen3 ...]

Both sides begin with the same tiny random model in float32. The plain loop feeds one sample at a time to transformers'
own model with its own attention, adds up cross entropy over the trained tokens, divides by their number in the step,
and moves the weights by PyTorch's AdamW. What is compared is the loss of each step; what is printed is the largest
relative difference, wanted at most 1e-5. The last line is one JSON object; the exit code is 1 where one is larger, or
where more than three families are not supported.
"""

import argparse
import json
import sys
import tempfile
import time
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import evidence
import torch
from torch.nn import functional
from transformers import PreTrainedModel

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))
from families import FAMILIES, MORE_FAMILIES, VOCABULARY, Family, model_of

from tenner.core.errors import TennerError
from tenner.core.sections import Train
from tenner.core.seeds import rng
from tenner.training import loop, lora, packing
from tenner.training.loss_mask import Encoded

LENGTHS = (30, 45, 12, 60, 25, 38)
"""Of the samples; longer than the windows of windowed layers."""
PROMPT_TOKENS = 5
STEPS = 5
SEED = 0
TOLERANCE = 1e-5
UNSUPPORTED_MAX = 3
EPSILON = 1e-8
"""AdamW's, on both sides."""


class Outcome(NamedTuple):
    """Of one family and method."""

    packed: bool
    why: str
    """Why not, where each sample has a row of its own."""
    losses: list[float]
    difference: float
    """The largest relative one of a step's loss to the plain loop's."""
    seconds: float


def settings(method: str) -> Train:
    return Train.model_validate(
        {"method": method, "epochs": STEPS, "lr": 1e-4, "tokens_per_step": 1000, "tokens_per_row": 1000}
        | {"tokens_max": 100, "precision": "fp32", "lora_rank": 4}
    )


def samples() -> list[Encoded]:
    draw = rng(SEED, "families")
    return [
        Encoded(
            str(i), tuple(draw.randrange(3, VOCABULARY) for _ in range(tokens)),
            tuple(place >= PROMPT_TOKENS for place in range(tokens)),
        )
        for i, tokens in enumerate(LENGTHS)
    ]  # fmt: skip


def by_tenner(family: Family, method: str) -> tuple[list[float], list[str]]:
    """The losses, and what was said."""
    reports: list[loop.StepReport] = []
    said: list[str] = []
    with tempfile.TemporaryDirectory() as workdir:
        loop.train(
            model_of(family), samples(), settings(method), seed=SEED, workdir=Path(workdir) / "checkpoint",
            on_step=reports.append, say=said.append,
        )  # fmt: skip
    return [report.loss for report in reports], said


def by_plain_loop(family: Family, method: str) -> list[float]:
    """The same by transformers and PyTorch alone."""
    train, encoded, model = settings(method), samples(), model_of(family)
    model.set_attn_implementation("eager")
    if method == "lora":
        adapters = lora.Adapters(model, train)
        for name, p in model.named_parameters():
            if ".lora_" in name:
                p.data = lora.init_lora(name, p.shape, seed=SEED)
        assert adapters
    moved = [p for p in model.parameters() if p.requires_grad]
    groups: list[dict[str, Any]] = [
        {"params": [p for p in moved if p.ndim > 1], "weight_decay": train.weight_decay},
        {"params": [p for p in moved if p.ndim <= 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=0.0, betas=(train.beta1, train.beta2), eps=EPSILON)
    plan = packing.plan([len(e.ids) for e in encoded], train.tokens_per_step, epochs=train.epochs, seed=SEED)
    losses = []
    for step, indices in enumerate(plan):
        trained = sum(sum(encoded[i].loss_mask[1:]) for i in indices)
        total = 0.0
        for i in indices:
            loss = summed_loss(model, encoded[i]) / trained
            loss.backward()
            total += loss.item()
        losses.append(total)
        torch.nn.utils.clip_grad_norm_(moved, train.grad_clip_norm)
        for group in optimizer.param_groups:
            group["lr"] = loop.learning_rate(step, len(plan), train)
        optimizer.step()
        optimizer.zero_grad()
    return losses


def summed_loss(model: PreTrainedModel, sample: Encoded) -> torch.Tensor:
    """Cross entropy over the trained tokens of one sample, and the auxiliary loss, by transformers' forward pass."""
    ids = torch.tensor(sample.ids)
    out = model(input_ids=ids[None], use_cache=False)
    mask = torch.tensor(sample.loss_mask[1:])
    loss = functional.cross_entropy(out.logits[0, :-1].float()[mask], ids[1:][mask], reduction="sum")
    if getattr(out, "aux_loss", None) is None:
        return loss
    weight: Any = model.router_aux_loss_coef
    return loss + mask.sum() * weight * out.aux_loss  # transformers adds it to the mean


def outcome(family: Family, method: str) -> Outcome:
    """Both sides, compared."""
    began = time.monotonic()
    losses, said = by_tenner(family, method)
    plain = by_plain_loop(family, method)
    difference = max(abs(a - b) / abs(b) for a, b in zip(losses, plain, strict=True))
    alone = [line for line in said if line.startswith("each sample has a row of its own")]
    return Outcome(not alone, " ".join(alone).rpartition(": ")[2], losses, difference, time.monotonic() - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--only", nargs="+", metavar="MODEL_TYPE", help="these families alone")
    args = parser.parse_args()
    print(f"{'family':32}{'layers':14}{'method':8}{'rows':10}{'difference':>12}{'seconds':>9}")
    found: dict[str, Any] = {}
    unsupported: dict[str, str] = {}
    families = [f for f in (*FAMILIES, *MORE_FAMILIES) if not args.only or f.model_type in args.only]
    for family, method in product(families, ("full", "lora")):
        head = f"{family.name:32}{family.kind:14}{method:8}"
        try:
            it = outcome(family, method)
        except TennerError as error:
            print(f"{head}not supported: {error}", flush=True)
            unsupported[f"{family.name} {method}"] = str(error)
            continue
        print(f"{head}{'packed' if it.packed else 'singly':10}{it.difference:12.1e}{it.seconds:9.1f}", flush=True)
        found[f"{family.name} {method}"] = {"packed": it.packed, "difference": it.difference}
    wrong = [name for name, row in found.items() if not row["difference"] <= TOLERANCE]
    line: dict[str, Any] = {"families": len({f.model_type for f in families}), "unsupported": unsupported}
    line |= {"above_tolerance": wrong, "tolerance": TOLERANCE, "found": found}
    line |= {"versions": evidence.versions("tenner", "torch", "transformers", "peft"), "machine": evidence.machine()}
    print(json.dumps(line))
    sys.exit(1 if wrong or len({name.rpartition(" ")[0] for name in unsupported}) > UNSUPPORTED_MAX else 0)


if __name__ == "__main__":
    main()
