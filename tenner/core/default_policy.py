"""The thinking policy that a student's folder names for itself: `tenner tune` writes it, whoever answers reads it."""

from pathlib import Path

from pydantic import ValidationError, model_validator

from tenner.core import disk, policy_text
from tenner.core.errors import TennerError
from tenner.core.records import Policy, Record

FILE = "thinking_policy.json"
"""In the folder of the model, so that it goes wherever the model goes."""


class DefaultPolicy(Record):
    """A policy, and the test by which it was chosen over the full budget. Shares and differences are of 1."""

    policy: Policy
    full: Policy
    """The full budget, which it was compared with."""
    margin: float
    """How much less accurate it may be: the interval of the difference lies above minus this."""
    n: int
    """Held-out questions that both have answered."""
    tried: int
    """How many policies it was chosen from."""
    accuracy: float
    full_accuracy: float
    difference: float
    ci_low: float
    ci_high: float
    thinking_tokens_mean: float
    """This and the next count trial answers."""
    full_thinking_tokens_mean: float

    @model_validator(mode="after")
    def _can_be_served(self) -> "DefaultPolicy":
        if self.policy.waits or self.policy.thinking_tokens_min:
            raise ValueError("a student's own policy has neither a minimum nor waits: requests name these")
        return self

    @property
    def is_full(self) -> bool:
        """Whether nothing cheaper was good enough."""
        return self.policy == self.full

    @property
    def saved(self) -> float:
        """The share of the full budget's thinking tokens that it saves."""
        full = self.full_thinking_tokens_mean
        return 1 - self.thinking_tokens_mean / full if full else 0.0

    @property
    def sentence(self) -> str:
        """What it is and why, for people."""
        what, margin = policy_text.words(self.policy), f"{100 * self.margin:g} points"
        if self.is_full:
            return (
                f"{what}: none of {self.tried - 1:,} others was shown to be cheaper and within {margin} of it "
                f"({self.n:,} held-out questions)"
            )
        tokens = f"{self.full_thinking_tokens_mean:.1f} to {self.thinking_tokens_mean:.1f}"
        difference = f"{100 * self.difference:+.1f} points ({100 * self.ci_low:+.1f} to {100 * self.ci_high:+.1f})"
        return (
            f"{what}: of {self.tried:,} policies the cheapest that was shown to be within {margin} of the full "
            f"budget; {self.saved:.0%} fewer thinking tokens ({tokens}, trial answers counted), {difference} on "
            f"{self.n:,} held-out questions"
        )


def read(model_dir: Path) -> DefaultPolicy | None:
    """The policy that a model's folder names; None where it names none. Raises TennerError for a damaged file."""
    path = model_dir / FILE
    try:
        return DefaultPolicy.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as e:
        raise TennerError(f"{path} is damaged", hint="delete it, or choose a policy anew: tenner tune RUN") from e


def write(model_dir: Path, chosen: DefaultPolicy) -> None:
    """Write the policy into the model's folder."""
    disk.replace_text(model_dir / FILE, chosen.model_dump_json(indent=1) + "\n")
