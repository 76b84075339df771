"""Machine prices: cards with their sizes, and dated offers of them in dollars an hour, in `machines.toml`."""

import datetime
from functools import cache
from typing import Annotated, Literal, NamedTuple

from annotated_types import Gt
from pydantic import TypeAdapter

from tenner.budget import price_files
from tenner.core.errors import TennerError
from tenner.core.suggest import did_you_mean

Terms = Literal["on-demand", "spot"]
USUAL_PROVIDER = "RunPod"
"""Charged where a recipe names no provider and the user's file has no row: it rents most of the cards."""
FILE = "machines.toml"


class Card(NamedTuple):
    """An accelerator, as its data sheet has it."""

    name: str
    device_name: str
    """Part of the name that its driver gives it."""
    memory_gb: Annotated[float, Gt(0)]
    """Of 10^9 bytes, as sold."""
    peak_tflops: Annotated[float, Gt(0)]
    """bfloat16, without sparsity."""
    bandwidth_gb_per_second: Annotated[float, Gt(0)]
    """Of its memory."""


class Offer(NamedTuple):
    """What one provider asks for an hour of one card."""

    provider: str
    card: str
    low_usd_per_hour: Annotated[float, Gt(0)]
    high_usd_per_hour: Annotated[float, Gt(0)]
    """Of several kinds of machine with this card; charged where the kind is not known."""
    source: str
    checked: datetime.date
    terms: Terms = "on-demand"
    since: datetime.date | None = None
    until: datetime.date | None = None
    """The first and the last day on which it holds, in UTC."""

    @property
    def label(self) -> str:
        """For people and for the ledger."""
        return f"{self.card} at {self.provider}, {self.terms}, {self.checked}, {self.source}"


CARD, OFFER = TypeAdapter(Card), TypeAdapter(Offer)


@cache
def _built_in_cards() -> dict[str, Card]:
    rows = price_files.built_in(FILE)["card"]
    return {name: price_files.validated(CARD, row, f"{FILE}: {name}") for name, row in rows.items()}


@cache
def _built_in_offers() -> tuple[Offer, ...]:
    return tuple(price_files.validated(OFFER, row, FILE) for row in price_files.built_in(FILE)["machine"])


def cards() -> dict[str, Card]:
    """All cards by the names that a recipe calls them by; the user's file may add some."""
    own = price_files.user_tables().get("card", {})
    if not isinstance(own, dict):
        raise TennerError(f"{price_files.user_file()}: card is not a table", hint="write [card.NAME] above every card")
    where = f"{price_files.user_file()}: [card.{{}}]"
    return _built_in_cards() | {name: price_files.validated(CARD, row, where.format(name)) for name, row in own.items()}


def card(name: str) -> Card:
    """The card of a name. Raises TennerError where there is none."""
    known = cards()
    if name not in known:
        raise TennerError(f"no card is called {name}", hint=did_you_mean(name, known))
    return known[name]


def offers() -> list[Offer]:
    """All offers, the user's first; those that have ended too. Raises TennerError for one of an unknown card."""
    own = price_files.user_rows("machine", OFFER)
    for row in own:
        card(row.card)
    return [*own, *_built_in_offers()]


def offers_of(
    name: str, *, terms: Terms = "on-demand", provider: str | None = None, at: datetime.datetime | None = None
) -> list[Offer]:
    """The offers of a card that hold at a moment (now), the user's first.

    Raises TennerError where there are none.
    """
    card(name)
    rows = [row for row in offers() if (row.card, row.terms) == (name, terms)]
    if provider is not None:
        rows_of = [row for row in rows if row.provider.lower() == provider.lower()]
        if not rows_of:
            others = dict.fromkeys(row.provider for row in rows)
            hint = did_you_mean(provider, others) if others else "give machine.price_usd_per_hour"
            raise TennerError(f"what {provider} asks for {name}, {terms}, is not known", hint=hint)
        rows = rows_of
    day = price_files.utc_day(at)
    current = [row for row in rows if price_files.holds(day, row.since, row.until)]
    if not current:
        ended = max((row.until for row in rows if row.until is not None), default=None)
        what = f"the price of {name}, {terms}, " + ("is not known" if ended is None else f"is known until {ended} only")
        raise TennerError(what, hint=f"give machine.price_usd_per_hour, or a row in {price_files.user_file()}")
    return current


def charged(
    name: str, *, terms: Terms = "on-demand", provider: str | None = None, at: datetime.datetime | None = None
) -> Offer:
    """The offer by which a machine with this card is charged: the user's, else the usual provider's, else the dearest.

    Raises TennerError where none is known.
    """
    found = offers_of(name, terms=terms, provider=provider, at=at)
    own = set(price_files.user_rows("machine", OFFER))
    return (
        next((row for row in found if row in own), None)
        or next((row for row in found if row.provider == USUAL_PROVIDER), None)
        or max(found, key=lambda row: row.high_usd_per_hour)
    )


def price_usd_per_hour(name: str, count: int, *, terms: Terms = "on-demand", provider: str | None = None) -> float:
    """What an hour of `count` cards is charged: the higher price of `charged`. Raises as `charged` does."""
    return round(count * charged(name, terms=terms, provider=provider).high_usd_per_hour, 6)
