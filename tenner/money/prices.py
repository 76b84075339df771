"""What a token costs: dated rows with a source, in `prices.toml`. An unknown price is an error, never zero."""

import datetime
import math
import tomllib
from importlib import resources
from typing import NamedTuple

from tenner.errors import TennerError
from tenner.records import Usage

MICROUSD_PER_USD = 1_000_000


class Price(NamedTuple):
    """The price of a model's tokens at one provider, and where and when it was read."""

    provider: str
    model: str
    input_usd_per_mtok: float
    output_usd_per_mtok: float
    source: str
    checked: datetime.date

    def microusd(self, usage: Usage) -> int:
        """The cost of a call, in micro-dollars, rounded up. Dollars per million tokens are micro-dollars per token."""
        if usage.input_tokens is None or usage.output_tokens is None:
            raise TennerError(f"{self.provider}/{self.model} did not report its tokens, so its cost is unknown")
        cost = usage.input_tokens * self.input_usd_per_mtok + usage.output_tokens * self.output_usd_per_mtok
        return ceil_microusd(cost)


def ceil_microusd(microusd: float) -> int:
    """Round up to whole micro-dollars: what is recorded is never less than what was spent."""
    return math.ceil(round(microusd, 6))  # 3.6 s at $0.10 an hour are 100.00000000000001 in floating point


def load_prices() -> list[Price]:
    """All rows of the table that comes with tenner."""
    text = (resources.files("tenner.money") / "prices.toml").read_text("utf-8")
    return [Price(**row) for row in tomllib.loads(text)["price"]]


def find(provider: str, model: str) -> Price:
    """The newest row for a model. Raises TennerError where there is none."""
    rows = [p for p in load_prices() if (p.provider, p.model) == (provider, model)]
    if not rows:
        raise TennerError(f"the price of {provider}/{model} is not known", hint="add a dated row to prices.toml")
    return max(rows, key=lambda p: p.checked)
