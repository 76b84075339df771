"""On which machines or services a recipe's training fits, and what it takes there."""

import math
from collections.abc import Iterator
from itertools import product
from typing import NamedTuple, get_args

from tenner.budget import machines, price_files, prices
from tenner.budget.estimate import Estimate
from tenner.core.errors import TennerError
from tenner.core.recipe import Recipe
from tenner.core.sections import Train
from tenner.stages import run_plan
from tenner.stages.plan_speeds import Machine, Size
from tenner.training import plan as memory

COUNTS = (1, 2, 4, 8, 16)
MANAGED = ("tinker", "prime")
"""Services that train by the token; their prices have `train_usd_per_mtok`."""
LORA = {"method": "lora", "activations": "inputs", "optimizer": "adamw", "frozen_layers": 0, "context_parallel": 1}
SHOWN = 6


class Option(NamedTuple):
    """One way to train."""

    what: str
    seconds: Estimate | None
    """None: a service tells none."""
    usd: Estimate
    """By the lowest and the highest list price of one provider, at the expected time; 0 for a machine of one's own."""
    source: str


def options(recipe: Recipe, size: Size, own: Machine, lengths: run_plan.Tokens) -> list[Option]:
    """The cheapest first: of each card the fewest that hold the recipe's own training, one with LoRA, services, and
    this machine where the recipe names no card. The recipe's own card is always among them, if it fits there.

    Without an architecture only services and this machine are listed: whether it fits cannot be told.
    """
    found = list(_managed(recipe, lengths))
    if own.card is None:
        seconds = run_plan.train_plan(recipe, size, own, lengths).seconds
        assert seconds is not None
        usd = seconds.times(recipe.machine.price_usd_per_hour / 3600)
        found.append(Option("this machine", seconds, usd, "the recipe's price"))
    for name, terms in product(machines.cards(), get_args(machines.Terms)):
        try:
            offer = machines.charged(name, terms=terms)
        except TennerError:  # nobody's price is known today
            continue
        found += _of_card(recipe, size, offer, lengths)
    found.sort(key=lambda option: option.usd.expected)
    own_name = own.card.name if own.card else "this machine"
    return [option for i, option in enumerate(found) if i < SHOWN or own_name in option.what]


def _of_card(recipe: Recipe, size: Size, offer: machines.Offer, lengths: run_plan.Tokens) -> Iterator[Option]:
    own = recipe.train
    tries: list[tuple[Train, str, tuple[int, ...]]] = [(own, "", COUNTS)]
    if own.activations != "inputs":
        less = own.model_copy(update={"activations": "inputs"})
        tries.append((less, ", with train.activations=inputs", COUNTS))
    if own.method == "full":
        tries.append((own.model_copy(update=LORA), ", LoRA", (1,)))
        if own.precision != "pure-bf16":
            tries.append((own.model_copy(update=LORA | {"quantization": "nf4"}), ", LoRA beside 4 bits", (1,)))
    fitted: set[str] = set()  # methods: of each the first way that fits, with the fewest changes
    for train, label, counts in tries:
        method = "LoRA" if "LoRA" in label else "own"
        if method in fitted or (count := _fewest(train, size, offer.card, counts)) is None:
            continue
        fitted.add(method)
        changed = recipe.model_copy(update={"train": train})
        seconds = run_plan.train_plan(changed, size, Machine(machines.card(offer.card), count), lengths).seconds
        assert seconds is not None
        hours = count * seconds.expected / 3600
        usd = Estimate(
            hours * offer.low_usd_per_hour,
            hours * (offer.low_usd_per_hour + offer.high_usd_per_hour) / 2,
            hours * offer.high_usd_per_hour,
        )
        spot = ", spot" if offer.terms == "spot" else ""
        name = machines.card(offer.card).name
        yield Option(f"{count} {name}{spot}{label}", seconds, usd, f"{offer.provider}, {offer.checked}")


def _fewest(train: Train, size: Size, card: str, counts: tuple[int, ...]) -> int | None:
    """The fewest of the cards whose memory holds the training, None where none of the counts does."""
    if size.architecture is None:
        return None
    for count in counts:
        together = math.lcm(train.shard_over or 1, train.context_parallel)
        if count % together or (count > 1 and train.quantization):
            continue
        machine = memory.Machine(count, on_gpu=True, memory_gb=None)
        made = memory.plan(size.architecture, train, machine, longest_tokens=train.tokens_max)
        if made.forecast.total_bytes <= machines.card(card).memory_gb * memory.GB:
            return count
    return None


def _managed(recipe: Recipe, lengths: run_plan.Tokens) -> Iterator[Option]:
    """Services that train this student by the token."""
    tokens = lengths.sample.at_most(recipe.train.tokens_max).times(recipe.select.samples * recipe.train.epochs)
    for row in prices.load_prices():
        known = row.provider in MANAGED and row.model.lower() == recipe.student.base_model.lower()
        if not known or row.train_usd_per_mtok is None:
            continue
        if not price_files.holds(price_files.utc_day(), row.since, row.until):
            continue
        usd = tokens.times(row.train_usd_per_mtok / 1e6)
        yield Option(f"{row.provider}, LoRA by the token", None, usd, f"{row.source}, {row.checked}")
