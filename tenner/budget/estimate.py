"""A quantity that is not known yet, as a low, an expected and a high value."""

from collections.abc import Iterable
from typing import NamedTuple


class Estimate(NamedTuple):
    """Low and high are what an informed reader would be surprised to see crossed, not a confidence interval."""

    low: float
    expected: float
    high: float

    @classmethod
    def exactly(cls, value: float) -> "Estimate":
        """A quantity that is known."""
        return cls(value, value, value)

    @classmethod
    def total(cls, parts: "Iterable[Estimate]") -> "Estimate":
        """The sum; all parts are taken to be low, or high, together."""
        rows = list(parts)
        return cls(sum(r.low for r in rows), sum(r.expected for r in rows), sum(r.high for r in rows))

    def times(self, factor: "Estimate | float") -> "Estimate":
        """The product; both factors are taken to be low, or high, together."""
        other = factor if isinstance(factor, Estimate) else Estimate.exactly(factor)
        return Estimate(self.low * other.low, self.expected * other.expected, self.high * other.high)

    def at_most(self, limit: "Estimate | float") -> "Estimate":
        """No value above the limit."""
        other = limit if isinstance(limit, Estimate) else Estimate.exactly(limit)
        return Estimate(*(min(own, most) for own, most in zip(self, other, strict=True)))
