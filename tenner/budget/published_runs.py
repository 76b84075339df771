"""Published training runs, recomputed: hours times price then and now, and the share of the cards' best (MFU)."""

import datetime
from typing import Annotated, NamedTuple

from annotated_types import Gt
from pydantic import TypeAdapter

from tenner.budget import machines, price_files, prices
from tenner.core.dollars import in_dollars
from tenner.core.errors import TennerError

FILE = "published_runs.toml"
Positive = Annotated[float, Gt(0)]


class PublishedRun(NamedTuple):
    """What was published of a run; the comments in the file say what each field is."""

    name: str
    what: str
    left_out: str
    source: str
    date: datetime.date
    card: str | None = None
    gpu_hours: Positive | None = None
    headline_usd: Positive | None = None
    headline: str = ""
    today: str | None = None
    parameters: Positive | None = None
    tokens: Positive | None = None
    flops_hours: Positive | None = None
    objection: str = ""
    managed: str | None = None
    """provider/model of a service that trains by the token, and how many tokens it was."""
    managed_tokens: Positive | None = None

    @property
    def then_usd_per_hour(self) -> float | None:
        """What the headline is for one hour of one card."""
        if self.headline_usd is None or self.gpu_hours is None:
            return None
        return self.headline_usd / self.gpu_hours

    @property
    def mfu(self) -> float | None:
        """6 N D over what the cards could have computed in bfloat16, attention not counted; None: not published."""
        if self.card is None or self.parameters is None or self.tokens is None or self.flops_hours is None:
            return None
        could_tflop = self.flops_hours * 3600 * machines.card(self.card).peak_tflops
        return 6 * self.parameters * self.tokens / (could_tflop * 1e12)

    def usd_now(self, at: datetime.datetime | None = None) -> tuple[float, float] | None:
        """By today's lowest and highest list price of the provider that is usually charged; None: nobody's is known."""
        try:
            if self.managed is not None:
                return self._managed_usd(at)
            offer = machines.charged(self.today or self.card or "", at=at)
        except TennerError:
            return None
        assert self.gpu_hours is not None, "a run is of hours or of tokens"
        return self.gpu_hours * offer.low_usd_per_hour, self.gpu_hours * offer.high_usd_per_hour

    def _managed_usd(self, at: datetime.datetime | None) -> tuple[float, float]:
        assert self.managed is not None
        assert self.managed_tokens is not None
        provider, _, model = self.managed.partition("/")
        price = prices.find(provider, model, at=at)
        assert price.train_usd_per_mtok is not None
        each = price.input_usd_per_mtok + price.output_usd_per_mtok + price.train_usd_per_mtok
        usd = self.managed_tokens * each / 1e6
        return usd, usd


RUN = TypeAdapter(PublishedRun)


def published_runs() -> list[PublishedRun]:
    """All runs of the file, in its order."""
    return [price_files.validated(RUN, row, FILE) for row in price_files.built_in(FILE)["run"]]


def as_text() -> str:
    """A paragraph for each run, for people."""
    return "\n\n".join(_paragraph(run) for run in published_runs())


def as_rows() -> list[dict[str, object]]:
    """The same as objects."""
    return [
        run._asdict() | {"then_usd_per_hour": run.then_usd_per_hour, "mfu": run.mfu, "usd_now": run.usd_now()}
        for run in published_runs()
    ]


def _paragraph(run: PublishedRun) -> str:
    lines = [f"{run.name} ({run.date}): {run.what}"]
    if run.gpu_hours is not None and run.card is not None:
        then = f", so ${run.then_usd_per_hour:.2f} an hour" if run.then_usd_per_hour else ""
        hours = f"{run.gpu_hours:,.0f}" if run.gpu_hours >= 10 else f"{run.gpu_hours:.2f}"
        lines.append(f"  then   {run.headline}: {hours} {machines.card(run.card).name}-hours{then}")
    if (now := run.usd_now()) is None:
        lines.append("  now    nobody's price is known for this card")
    else:
        usd = " to ".join(f"${each:,.0f}" for each in dict.fromkeys(now))
        lines.append(f"  now    {usd}, {_by(run)}")
    if run.mfu is not None:
        lines.append(f"  MFU    {run.mfu:.1%} of the cards' best in bfloat16, implied by 6 N D")
    lines.append(f"  not in it: {run.left_out}")
    if run.objection:
        lines.append(f"  objection: {run.objection}")
    return "\n".join([*lines, f"  source: {run.source}"])


def _by(run: PublishedRun) -> str:
    """By which price it is computed today."""
    if run.managed is not None:
        return f"{run.managed_tokens:,.0f} tokens at the price of {run.managed}"
    offer = machines.charged(run.today or run.card or "")
    stands_in = f" in place of {run.card}" if run.today else ""
    low, high = in_dollars(offer.low_usd_per_hour), in_dollars(offer.high_usd_per_hour)
    return f"{low} to {high} an hour of {offer.label}{stands_in}"
