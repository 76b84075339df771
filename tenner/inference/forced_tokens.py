"""A forcing machine for an engine that owns its tokens: it is asked, before each, which one must come next."""

from tenner.inference.forcing import ForcingMachine, Phase
from tenner.inference.rng import PositionalRNG


class ForcedRow:
    """One completion whose ids come out of an engine one by one, the injected ones too.

    A token is drawn by `take`, which says what has to come out for it; the machine hears of it only when the engine
    asks for the next, since an engine may throw away what it has sampled (after a part of a long prompt, say).
    """

    def __init__(self, machine: ForcingMachine, rng: PositionalRNG, *, prompted: int) -> None:
        """`prompted` of the machine's ids are in the engine's prompt, and do not come out."""
        assert prompted <= len(machine.ids)
        self.machine = machine
        self.rng = rng
        self._prompted = prompted
        self._drawn: tuple[int, int] | None = None
        self._end_of_text = min(machine.format_ids.eos)

    def due(self, out: int) -> int | None:
        """The id that has to come next, now that `out` have come out; None where it is to be drawn."""
        position = self._prompted + out
        if self._drawn is not None and position > self._drawn[0]:
            self.machine.push(self._drawn[1])
        self._drawn = None
        if position < len(self.machine.ids):
            return self.machine.ids[position]
        return self._end_of_text if self.machine.phase is Phase.DONE else None

    def uniform(self) -> float:
        """The random number of the token that is to be drawn."""
        return self.rng.uniform(len(self.machine.ids)) if self.rng.sampling.temperature > 0 else 0.0

    def take(self, token: int) -> int:
        """What has to come out where `token` has been drawn."""
        self._drawn = len(self.machine.ids), token
        following = self.machine.following(token)
        return self._end_of_text if following is None else following

    def finish(self, out: int) -> None:
        """The engine has ended it, at an end of text or because the answer has reached its limit."""
        self.due(out)
        if self.machine.phase is not Phase.DONE:
            self.machine.push(self._end_of_text)
        assert self.machine.phase is Phase.DONE, "the engine has ended a completion too early"
