"""Token prices: dated rows with a source, in `prices.toml`. An unknown price is an error, never zero."""

import datetime
import math
import tomllib
from collections.abc import Sequence
from functools import cache
from importlib import resources
from typing import NamedTuple, Protocol

from tenner.core.errors import TennerError
from tenner.core.records import Usage

MICROUSD_PER_USD = 1_000_000
HOUR = datetime.timedelta(hours=1)
HOURS_PER_WEEK = 7 * 24
ROUTING_SUFFIXES = (":nitro", ":floor", ":exacto")
PRICE_HINT = (
    "give it in dollars per million tokens: --price-in and --price-out, or [trace.price] in the recipe; 0 for a server "
    "of your own"
)


class Peak(NamedTuple):
    """Hours of the working week in which a provider charges more."""

    multiplier: float
    """For every price of the row."""
    hours_utc: Sequence[Sequence[int]]
    """Pairs of whole hours, the second excluded: [[1, 4], [6, 10]]."""
    weekdays: Sequence[int]
    """Monday is 0. Public holidays are not known and count as working days, so the price is never too low."""

    def covers(self, at: datetime.datetime) -> bool:
        """Whether `at` lies in the peak."""
        at = at.astimezone(datetime.UTC)
        return at.weekday() in self.weekdays and any(start <= at.hour < end for start, end in self.hours_utc)

    def touches(self, *moments: datetime.datetime) -> bool:
        """Whether any time from the first to the last of these moments lies in the peak."""
        if not moments:
            return False
        first, last = min(moments), max(moments)
        hours = min(int((last - first) / HOUR), HOURS_PER_WEEK)
        return any(map(self.covers, (last, *(first + n * HOUR for n in range(hours + 1)))))


class Price(NamedTuple):
    """The price of a model's tokens at one provider, and where and when it was read."""

    provider: str
    model: str
    input_usd_per_mtok: float
    output_usd_per_mtok: float
    source: str
    checked: datetime.date
    cached_input_usd_per_mtok: float | None = None
    """None: a cached input token costs as much as any other input token."""
    batch_multiplier: float | None = None
    """The factor for every price of the row in batch mode (0.5 is half); None: not known."""
    peak: Peak | None = None

    def microusd(self, usage: Usage, *moments: datetime.datetime, batch: bool = False) -> int:
        """The cost of a call, in micro-dollars, rounded up. Dollars per million tokens are micro-dollars per token.

        `moments` are those of sending and receiving: if any time between them lies in the peak, the whole call has the
        peak's price. A batch may be worked on at any hour, so its price is the peak's. Where the cached tokens are not
        known, as before the call, they are those that cost most.

        Raises:
            ValueError: the usage has no counts of tokens.
        """
        if usage.input_tokens is None or usage.output_tokens is None:
            raise ValueError(f"{self.provider}/{self.model} did not report its tokens, so its cost is unknown")
        cached_price = self.cached_input_usd_per_mtok
        if cached_price is None:
            cached_price = self.input_usd_per_mtok
        cached_tokens = usage.cached_input_tokens
        if cached_tokens is None:
            cached_tokens = usage.input_tokens if cached_price > self.input_usd_per_mtok else 0
        cached_tokens = min(cached_tokens, usage.input_tokens)
        cost = (usage.input_tokens - cached_tokens) * self.input_usd_per_mtok
        cost += cached_tokens * cached_price
        cost += usage.output_tokens * self.output_usd_per_mtok
        if self.peak and (batch or self.peak.touches(*moments)):
            cost *= self.peak.multiplier
        if batch and self.batch_multiplier is not None:
            cost *= self.batch_multiplier
        return ceil_microusd(cost)

    def label(self, *, batch: bool = False) -> str:
        """The row as short text, for the ledger."""
        times = f", times {self.batch_multiplier:g} in a batch" if batch else ""
        return (
            f"${self.input_usd_per_mtok:g} in, ${self.output_usd_per_mtok:g} out per million tokens{times}, "
            f"{self.checked}, {self.source}"
        )


def ceil_microusd(microusd: float) -> int:
    """Round up to whole micro-dollars: what is recorded is never less than what was spent."""
    return math.ceil(round(microusd, 6))  # 3.6 s at $0.10 an hour are 100.00000000000001 in floating point


@cache
def load_prices() -> tuple[Price, ...]:
    """All rows of the built-in table."""
    rows = tomllib.loads((resources.files("tenner.budget") / "prices.toml").read_text("utf-8"))["price"]
    return tuple(Price(**{**row, "peak": Peak(**row["peak"]) if "peak" in row else None}) for row in rows)


class GivenPrice(Protocol):
    """A price that the user gives, in dollars per million tokens."""

    @property
    def input_usd_per_mtok(self) -> float: ...
    @property
    def output_usd_per_mtok(self) -> float: ...
    @property
    def cached_input_usd_per_mtok(self) -> float | None: ...
    @property
    def batch_multiplier(self) -> float | None: ...


def price_of(provider: str, model: str, given: GivenPrice | None) -> Price:
    """The given price, or else that of the table. Raises TennerError where there is neither."""
    if given is None:
        return find(provider, model)
    return Price(
        provider, model, given.input_usd_per_mtok, given.output_usd_per_mtok,
        source="given by the user", checked=datetime.datetime.now(datetime.UTC).date(),
        cached_input_usd_per_mtok=given.cached_input_usd_per_mtok, batch_multiplier=given.batch_multiplier,
    )  # fmt: skip


def base_model(model: str) -> str:
    """The name of a model without Google's prefix and OpenRouter's routing suffix: it is the same model."""
    model = model.removeprefix("models/")
    return next((model.removesuffix(suffix) for suffix in ROUTING_SUFFIXES if model.endswith(suffix)), model)


def find(provider: str, model: str) -> Price:
    """The newest row for a model, or for the model that it is another name of. Raises TennerError where there is none.

    `:floor` is routed to the cheapest of OpenRouter's providers, so it costs no more than the model without it.
    """
    names = (model, model.removeprefix("models/"), model.removeprefix("models/").removesuffix(":floor"))
    by_name = ([p for p in load_prices() if (p.provider, p.model) == (provider, name)] for name in names)
    rows = next(filter(None, by_name), [])
    if not rows and base_model(model) != model and any(p.model == base_model(model) for p in load_prices()):
        raise TennerError(
            f"the price of {provider}/{model} is not known: it may be more than that of {base_model(model)}",
            hint=PRICE_HINT,
        )
    if not rows:
        raise TennerError(
            f"the price of {provider}/{model} is not known",
            hint=PRICE_HINT,
        )
    return max(rows, key=lambda p: p.checked)._replace(model=model)
