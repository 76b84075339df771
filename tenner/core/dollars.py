"""How dollars are written: prices, estimates and what was spent."""

import math


def in_dollars(price_usd: float) -> str:
    """A price as it is asked, with whole cents at least: $0.10, $0.075, $2."""
    text = f"{price_usd:,.10f}".rstrip("0").rstrip(".")
    whole, point, part = text.partition(".")
    return f"${whole}{point}{part:0<2}" if point else f"${whole}"


def estimate_in_dollars(usd: float, *, digits: int = 3) -> str:
    """An estimate, rounded to so many digits: $86.30, $0.000025."""
    return in_dollars(float(f"{usd:.{digits}g}"))


def usd(amount: float) -> str:
    """What was spent; in hundredths of a cent where cents would not do."""
    return f"${amount:,.2f}" if amount >= 1 or math.isclose(amount, round(amount, 2)) else f"${amount:.4f}"
