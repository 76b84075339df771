"""Token prices: dated rows with a source, in `prices.toml`. An unknown price is an error, never zero.

The user's file comes first, then `prices.toml`, then genai-prices where it is installed (`library_prices.py`).
"""

import datetime
import math
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Annotated, NamedTuple, Protocol

from annotated_types import Ge, Le
from pydantic import AfterValidator, TypeAdapter

from tenner.budget import price_files
from tenner.core.dollars import in_dollars
from tenner.core.errors import TennerError
from tenner.core.records import Usage

MICROUSD_PER_USD = 1_000_000
MICROUSD_MAX = 2e15
"""Above every cap, and what the ledger's integers can add up: a provider may claim any cost."""
HOUR, DAY = datetime.timedelta(hours=1), datetime.timedelta(days=1)
HOURS_PER_WEEK = 7 * 24
TINKER = "tinker"
"""The provider name of Thinking Machines' service."""
ROUTING_SUFFIXES = (":nitro", ":floor", ":exacto")
PRICE_HINT = (
    "give it in dollars per million tokens: --price-in and --price-out, or [trace.price] in the recipe; 0 for a server "
    "of your own"
)


UsdPerMtok = Annotated[float, Ge(0), Le(1e6)]
Multiplier = Annotated[float, Ge(0), Le(100)]
Surcharge = Annotated[float, Ge(1), Le(100)]
"""A factor that is not known before the call: the prices of the row itself are the low ones."""


def _hours(pair: Sequence[int]) -> Sequence[int]:
    if len(pair) != 2 or not 0 <= pair[0] < pair[1] <= 24:
        raise ValueError("not two hours of one day, the earlier first: over midnight write [[22, 24], [0, 2]]")
    return pair


class Peak(NamedTuple):
    """Hours of the working week in which a provider charges more."""

    multiplier: Surcharge
    """For every price of the row."""
    hours_utc: Sequence[Annotated[Sequence[int], AfterValidator(_hours)]]
    """Pairs of whole hours, the second excluded: [[1, 4], [6, 10]]."""
    weekdays: Sequence[Annotated[int, Ge(0), Le(6)]]
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


class LongPrompt(NamedTuple):
    """What a prompt above a number of tokens costs."""

    above_tokens: int
    multiplier: Surcharge
    """For every price of the call."""


class Price(NamedTuple):
    """The price of a model's tokens at one provider, and where and when it was read."""

    provider: str
    model: str
    input_usd_per_mtok: UsdPerMtok
    output_usd_per_mtok: UsdPerMtok
    source: str
    checked: datetime.date
    cached_input_usd_per_mtok: UsdPerMtok | None = None
    """None: a cached input token costs as much as any other input token."""
    batch_multiplier: Multiplier | None = None
    """The factor for every price of the row in batch mode (0.5 is half); None: not known."""
    train_usd_per_mtok: UsdPerMtok | None = None
    """Of a service that trains by the token; None: it does not, or its price is not known."""
    peak: Peak | None = None
    long_prompt: LongPrompt | None = None
    since: datetime.date | None = None
    until: datetime.date | None = None
    """The first and the last day on which the row holds, both included, in UTC."""
    following: "Price | None" = None
    """The row that holds from a later day on, set by `find`."""

    def microusd(self, usage: Usage, *moments: datetime.datetime, batch: bool = False) -> int:
        """The cost of a call, in micro-dollars, rounded up. Dollars per million tokens are micro-dollars per token.

        `moments` are those of sending and receiving: if any time between them lies in the peak, the whole call has the
        peak's price, and if a new price holds between them, the whole call has the dearer one. A batch may be worked on
        at any hour, so its price is the peak's; where its moments are not known yet, it is the dearest that is
        announced. Where the cached tokens are not known, as before the call, they are those that cost most.

        Raises:
            ValueError: the usage has no counts of tokens.
            TennerError: no price is known for one of the moments.
        """
        if usage.input_tokens is None or usage.output_tokens is None:
            raise ValueError(f"{self.provider}/{self.model} did not report its tokens, so its cost is unknown")
        return max(row._microusd(usage, *moments, batch=batch) for row in self._in_force(moments, batch=batch))

    def _in_force(self, moments: Sequence[datetime.datetime], *, batch: bool) -> list["Price"]:
        """The rows that hold at some time between the moments; before the first row it is the first."""
        rows = list(self._rows())
        if not moments:
            return rows if batch else rows[:1]
        first, last = (price_files.utc_day(f(moments)) for f in (min, max))
        if (ends := rows[-1].until) is not None and last > ends:
            raise TennerError(f"the price of {self.provider}/{self.model} is known until {ends} only", hint=PRICE_HINT)
        for row in rows[:-1]:  # each has its last day, set by `in_force`
            assert row.until is not None
            assert row.following is not None
            assert row.following.since is not None
            start, end = row.until + DAY, row.following.since - DAY
            if max(first, start) <= min(last, end):
                what = f"the price of {self.provider}/{self.model} is not known from {start} to {end}"
                raise TennerError(what, hint=PRICE_HINT)
        found = [r for r in rows if (r.since is None or r.since <= last) and (r.until is None or first <= r.until)]
        return found or rows[:1]

    def _rows(self) -> Iterator["Price"]:
        row: Price | None = self
        while row is not None:
            yield row
            row = row.following

    def _microusd(self, usage: Usage, *moments: datetime.datetime, batch: bool) -> int:
        assert usage.input_tokens is not None
        assert usage.output_tokens is not None
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
        if self.long_prompt and usage.input_tokens > self.long_prompt.above_tokens:
            cost *= self.long_prompt.multiplier
        return ceil_microusd(cost)

    def label(self, *, batch: bool = False) -> str:
        """The row as short text, for the ledger."""
        times = f", times {self.batch_multiplier:g} in a batch" if batch else ""
        tokens_in, tokens_out = in_dollars(self.input_usd_per_mtok), in_dollars(self.output_usd_per_mtok)
        return f"{tokens_in} in, {tokens_out} out per million tokens{times}, {self.checked}, {self.source}" + (
            f"; from {self.following.since}: {self.following.label(batch=batch)}" if self.following else ""
        )


PRICE: TypeAdapter[Price] = TypeAdapter(Price)


def ceil_microusd(microusd: float) -> int:
    """Round up to whole micro-dollars: what is recorded is never less than what was spent."""
    # 3.6 s at $0.10 an hour are 100.00000000000001 in floating point.
    return math.ceil(round(min(microusd, MICROUSD_MAX), 6))


@cache
def _built_in() -> tuple[Price, ...]:
    return tuple(
        price_files.validated(PRICE, row, "prices.toml") for row in price_files.built_in("prices.toml")["price"]
    )


def load_prices() -> tuple[Price, ...]:
    """All rows of the user's file and of the built-in table, in this order."""
    return (*price_files.user_rows("price", PRICE), *_built_in())


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


def find(provider: str, model: str, *, at: datetime.datetime | None = None) -> Price:
    """The row for a model, or for the model that it is another name of, that holds at a moment (now).

    Raises TennerError where there is none. `:floor` is routed to the cheapest of OpenRouter's providers, so it costs no
    more than the model without it.
    """
    from tenner.budget import library_prices  # which makes rows of this module's class

    names = (model, model.removeprefix("models/"), model.removeprefix("models/").removesuffix(":floor"))
    tables = (price_files.user_rows("price", PRICE), _built_in())
    by_name = ([p for p in rows if (p.provider, p.model) == (provider, name)] for rows in tables for name in names)
    rows = next(filter(None, by_name), [])
    rows = rows or next(filter(None, (library_prices.rows_of(provider, name) for name in names)), [])
    if rows:
        return in_force(rows, price_files.utc_day(at))._replace(model=model)
    if base_model(model) != model and any(p.model == base_model(model) for p in load_prices()):
        raise TennerError(
            f"the price of {provider}/{model} is not known: it may be more than that of {base_model(model)}",
            hint=PRICE_HINT,
        )
    hint = PRICE_HINT
    if provider in library_prices.PROVIDERS and not library_prices.available():
        hint += "; or pip install 'tenner[prices]', which knows more models"
    raise TennerError(f"the price of {provider}/{model} is not known", hint=hint)


def train_usd_per_mtok(model: str) -> float:
    """What Thinking Machines asks for training a model by the token. Raises TennerError where it is not known."""
    row = find(TINKER, model)
    if row.train_usd_per_mtok is None:
        raise TennerError(f"what {row.provider} asks for training {model} is not known")
    return row.train_usd_per_mtok


def in_force(rows: Sequence[Price], day: datetime.date) -> Price:
    """The newest row of one model that holds on `day`, with those that follow it. Raises TennerError for none."""
    held = [row for row in rows if price_files.holds(day, row.since, row.until)]
    if not held:
        begins = min((row.since for row in rows if row.since is not None and row.since > day), default=None)
        ended = max((row.until for row in rows if row.until is not None), default=None)
        known = f"until {ended} only" if begins is None else f"from {begins} on only"
        raise TennerError(f"the price of {rows[0].provider}/{rows[0].model} is known {known}", hint=PRICE_HINT)
    newest = max(held, key=lambda row: row.checked)
    later = [row for row in rows if row.since is not None and row.since > day]
    if not later:
        return newest
    changes = min(row.since for row in later if row.since is not None)
    until = min(filter(None, (newest.until, changes - DAY)))
    return newest._replace(until=until, following=in_force(later, changes))
