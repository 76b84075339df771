"""Token prices out of genai-prices (MIT, github.com/pydantic/genai-prices), which has the data in the package itself.

Optional: `pip install 'tenner[prices]'`. Only a model's exact name is looked up, for the library's own patterns also
match names that may cost more. Where it knows several prices for one day, the dearest is taken.
"""

import datetime
import importlib.util
from functools import cache
from typing import Any

from tenner.budget.prices import LongPrompt, Price

LIBRARY = "genai-prices"
PROVIDERS = {
    "deepseek": "deepseek",
    "openai": "openai",
    "openrouter": "openrouter",
    "glm": "zai",
    "kimi": "moonshotai",
    "gemini": "google",
}
"""tenner's names of providers, and the library's."""
REFRESHED_BY = "openrouter"
"""A provider whose rows are compared with its API by a program: its newest date is when that was last done."""


def available() -> bool:
    """Whether the library is installed."""
    return importlib.util.find_spec("genai_prices") is not None


def rows_of(provider: str, model: str) -> list[Price]:
    """All rows of a model, past and announced; empty where the library is not installed or does not know it."""
    if provider not in PROVIDERS or not available():
        return []
    return [row for row in all_rows() if row.provider == provider and row.model.lower() == model.lower()]


@cache
def all_rows() -> tuple[Price, ...]:
    """All rows of the providers that tenner knows."""
    if not available():
        return ()
    from genai_prices.data import providers

    by_id = {provider.id: provider for provider in providers}
    checked = _refreshed(by_id[REFRESHED_BY])
    return tuple(
        row
        for name, library_name in PROVIDERS.items()
        if library_name in by_id
        for model in by_id[library_name].models
        for row in _rows(name, model, checked)
    )


def _starts(model: Any) -> list[datetime.date]:
    conditional = model.prices if isinstance(model.prices, list) else []
    return sorted({start for c in conditional if (start := getattr(c.constraint, "start_date", None))})


def _refreshed(provider: Any) -> datetime.date:
    today = datetime.datetime.now(datetime.UTC).date()
    dates = [start for model in provider.models for start in _starts(model) if start <= today]
    return max(dates, default=datetime.date(2026, 1, 1))


def _rows(provider: str, model: Any, checked: datetime.date) -> list[Price]:
    """A row for every stretch of time between two changes; none for what is free or not priced by tokens."""
    starts: list[datetime.date | None] = [None, *_starts(model)]
    found = []
    for since, following in zip(starts, [*starts[1:], None], strict=True):
        until = following - datetime.timedelta(days=1) if following else None
        day = since or until or checked
        hours = [datetime.datetime.combine(day, datetime.time(hour), datetime.UTC) for hour in range(24)]
        dearest = max((model.get_prices(hour) for hour in hours), key=lambda price: _usd(price, "output_mtok") or 0.0)
        if (row := _row(provider, model.id, dearest, checked)) is not None:
            batch = _usd(model.get_prices(hours[0], {"processing": "batch"}), "output_mtok")
            multiplier = batch / row.output_usd_per_mtok if batch and batch < row.output_usd_per_mtok else None
            found.append(row._replace(since=since, until=until, batch_multiplier=multiplier))
    return found


def _row(provider: str, model: str, price: Any, checked: datetime.date) -> Price | None:
    input_usd, output_usd = _usd(price, "input_mtok"), _usd(price, "output_mtok")
    if not input_usd or not output_usd:
        return None
    # A prompt may be written to the provider's cache, which some charge more for.
    written_usd = _usd(price, "cache_write_mtok") or 0.0
    listed: list[Any] = [getattr(price, key, None) for key in ("input_mtok", "output_mtok", "cache_read_mtok")]
    tiers = [tier for tier in listed if hasattr(tier, "tiers")]
    long_prompt = None
    if tiers:
        ratios = [float(max(step.price for step in tier.tiers) / tier.base) for tier in tiers if tier.base]
        starts = [step.start for tier in tiers for step in tier.tiers]
        long_prompt = LongPrompt(min(starts), max(ratios))
    return Price(
        provider, model, max(input_usd, written_usd), output_usd, source=LIBRARY, checked=checked,
        cached_input_usd_per_mtok=_usd(price, "cache_read_mtok"), long_prompt=long_prompt,
    )  # fmt: skip


def _usd(price: Any, key: str) -> float | None:
    """Dollars per million tokens, of a short prompt."""
    value = getattr(price, key, None)
    return None if value is None else float(getattr(value, "base", value))
