"""The machine that a run computes on, and what it costs."""

from typing import Annotated, Any, Literal

from pydantic import model_validator

from tenner.budget import machines
from tenner.core.errors import TennerError
from tenner.core.sections.base import Device, Positive, PositiveNumber, Resume, Section, UnitPrice
from tenner.core.suggest import did_you_mean


class Machine(Section):
    """The machine that the run uses."""

    card: Annotated[str | None, Resume.FREE] = None
    """The accelerator (see `tenner prices`), whose price, memory and speed are looked up. Leave out for a CPU, or a
    machine that only `price_usd_per_hour` describes."""
    count: Annotated[Positive, Resume.FREE] = 1
    """Number of cards, over all nodes."""
    terms: Annotated[Literal["on-demand", "spot"], Resume.FREE] = "on-demand"
    """Rental terms of the cards."""
    provider: Annotated[str | None, Resume.FREE] = None
    """Provider whose price is charged. Default: the user's own price file, else RunPod's secure cloud."""
    price_usd_per_hour: Annotated[UnitPrice, Resume.FREE]
    """Price of one hour of this machine in dollars, all cards together; every stage that computes is charged at it.
    Default: that of `card` in the price list."""
    device: Annotated[Device, Resume.FREE] = "auto"
    """The device for training and decoding."""
    peak_tflops: Annotated[PositiveNumber | None, Resume.FREE] = None
    """Peak bfloat16 TFLOP/s of one device, for MFU. Default: known for common GPUs."""

    @model_validator(mode="before")
    @classmethod
    def _look_the_price_up(cls, given: Any) -> Any:
        """Fill in the price where a card is named. Unknown names and wrong types are left to the fields' own checks."""
        if not isinstance(given, dict):
            return given
        name, count, price = given.get("card"), given.get("count", 1), given.get("price_usd_per_hour")
        if name is None or price is not None or not isinstance(name, str) or type(count) is not int or count < 1:
            return given
        terms = given.get("terms", "on-demand")
        try:
            machines.card(name)
            found = machines.price_usd_per_hour(name, count, terms=terms, provider=given.get("provider"))
        except TennerError as e:
            raise ValueError(f"{e}" + (f" ({e.hint})" if e.hint else "")) from e
        return given | {"price_usd_per_hour": found}

    @model_validator(mode="after")
    def _names_a_card(self) -> "Machine":
        if self.card is None and (alone := {"count", "terms", "provider"} & self.model_fields_set):
            usual = type(self).model_fields
            for name in sorted(alone):
                if getattr(self, name) != usual[name].default:
                    raise ValueError(f"machine.{name} has no effect without machine.card")
        if self.card is not None and self.card not in (known := machines.cards()):
            raise ValueError(f"no card is called {self.card} ({did_you_mean(self.card, known)})")
        return self
