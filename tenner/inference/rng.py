"""The random numbers of one completion: each depends on its position, not on the order of calls."""

from collections.abc import Sequence

from tenner.core.records import Sampling
from tenner.core.seeds import digest

HEX_DIGITS = 13
"""52 bits, which a float64 represents exactly."""


class PositionalRNG:
    """Uniform random numbers by position, keyed by the seed and the prompt: two prompts share none."""

    def __init__(self, sampling: Sampling, prompt_ids: Sequence[int]) -> None:
        self.sampling = sampling
        self._key = digest(sampling.seed, *prompt_ids)

    def uniform(self, position: int) -> float:
        """Uniform in [0, 1) for the token at `position` of the completion."""
        number: float = int(digest(self._key, position)[:HEX_DIGITS], 16) / 16**HEX_DIGITS
        return number
