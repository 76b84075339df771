"""The random numbers of one completion: each belongs to a position, not to an order of calls."""

from collections.abc import Sequence

from tenner.core.records import Sampling
from tenner.core.seeds import digest

HEX_DIGITS = 13
"""52 bits: all of them fit into a float64."""


class PositionalRNG:
    """What the sampling of one completion uniforms. Two prompts of one seed have nothing in common."""

    def __init__(self, sampling: Sampling, prompt_ids: Sequence[int]) -> None:
        self.sampling = sampling
        self._key = digest(sampling.seed, *prompt_ids)

    def uniform(self, position: int) -> float:
        """Uniform in [0, 1) for the token at `position` of the completion."""
        share: float = int(digest(self._key, position)[:HEX_DIGITS], 16) / 16**HEX_DIGITS
        return share
