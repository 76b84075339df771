"""`tenner prices`: what models and machines cost, with the date and the source of each price."""

import argparse
import json
from typing import Any

from tenner.core.dollars import in_dollars
from tenner.core.errors import TennerError
from tenner.core.terminal import say


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of the verb."""
    parser.add_argument(
        "search", metavar="SEARCH", nargs="*", help="words that a row must contain: a provider, a model, a card, spot"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object with the lists models, machines and cards")


def main(args: argparse.Namespace) -> None:
    """Print the rows of the user's file, of tenner's tables and, where something is searched, of genai-prices."""
    from tenner.budget import library_prices, machines, price_files, prices

    words = [word.lower() for word in args.search]

    def is_wanted(*texts: str) -> bool:
        return all(word in " ".join(texts).lower() for word in words)

    own = prices.load_prices()
    known = {(row.provider, row.model.lower()) for row in own}
    if words:  # they are over a thousand
        own += tuple(row for row in library_prices.all_rows() if (row.provider, row.model.lower()) not in known)
    models = [row for row in own if is_wanted(row.provider, row.model)]
    cards = machines.cards()
    offers = [row for row in machines.offers() if is_wanted(row.provider, row.card, cards[row.card].name, row.terms)]
    today = price_files.utc_day()
    if args.json:
        shown = {name: card._asdict() for name, card in cards.items() if is_wanted(name, card.name)}
        say(json.dumps({
            "models": [_fields(row) for row in models], "machines": [_fields(row) for row in offers], "cards": shown,
        }, default=str))  # fmt: skip
        return
    if not models and not offers:
        hint = "see `tenner prices` for all"
        if not library_prices.available():
            hint += "; pip install 'tenner[prices]' knows more models"
        raise TennerError(f"no price matches {' '.join(args.search)}", hint=hint)
    lines = [
        f"{row.provider}/{row.model}: {in_dollars(row.input_usd_per_mtok)} in, "
        + (f"{in_dollars(row.cached_input_usd_per_mtok)} cached, " if row.cached_input_usd_per_mtok is not None else "")
        + f"{in_dollars(row.output_usd_per_mtok)} out per million tokens"
        + (f", {in_dollars(row.train_usd_per_mtok)} trained" if row.train_usd_per_mtok is not None else "")
        + (f", times {row.batch_multiplier:g} in a batch" if row.batch_multiplier is not None else "")
        + (f", times {row.peak.multiplier:g} at peak hours" if row.peak else "")
        + _period(row.since, row.until)
        + f"; {row.checked}, {row.source}"
        for row in models
    ]
    lines += [
        f"{row.card} at {row.provider}, {row.terms}: "
        + " to ".join(f"${usd:.2f}" for usd in dict.fromkeys((row.low_usd_per_hour, row.high_usd_per_hour)))
        + f" an hour{_period(row.since, row.until)}; {row.checked}, {row.source}"
        for row in offers
    ]
    dated = [(f"{row.provider}/{row.model}", row.checked, row.source) for row in models]
    dated += [(f"{row.card} at {row.provider}", row.checked, row.source) for row in offers]
    say("\n".join(lines + price_files.age_warnings(dated, today)))


def _fields(row: Any) -> dict[str, Any]:
    return {name: value for name, value in row._asdict().items() if name != "following"}


def _period(since: Any, until: Any) -> str:
    return (f", from {since}" if since else "") + (f", until {until}" if until else "")
